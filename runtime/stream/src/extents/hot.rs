//! Where a stream's packs are in the log, in order of their bytes.
//!
//! There may be one pack per append for as long as the log is kept, so they have to be small, and nothing may ever have to
//! move all of them at once. The newest are kept as they came; as soon as there are [`LEAF_PLACES`] of them, they become a
//! *leaf*: encoded as differences, about 7 bytes instead of 24, in a tree. A look-up decodes one leaf.

use std::collections::BTreeMap;

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::codec::{CodecError, Reader};
use crate::sink::Sink;

/// Places in a leaf.
const LEAF_PLACES: usize = 64;
/// What a leaf takes besides its bytes, about: a place in a tree that is three quarters full, and its box's header.
const LEAF_OVERHEAD_BYTES: usize = 48;

/// The bytes of a stream that are in one pack, and where that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The position of the first byte.
    pub start: u64,
    /// The position after the last byte.
    pub end: u64,
    /// The log entry.
    pub index: u64,
    /// From the batch's first byte to the pack's; the payload is the pack's last `end - start` bytes.
    pub pos: u32,
    /// The whole pack, its head included.
    pub len: u32,
}

/// Where a pack is, but for the end of its bytes in the stream: the next one's begin, or the tail, says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) index: u64,
    pub(crate) pos: u32,
    pub(crate) len: u32,
}

/// The places of one stream's packs. A stream of one pack has its place in here.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    /// Absent while there are few places.
    leaves: Option<Box<Leaves>>,
    /// Empty only when there is no place at all.
    newest: SmallVec<[Place; 1]>,
}

#[derive(Debug, Default)]
struct Leaves {
    /// By the position of their first byte.
    by_start: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
}

impl Leaves {
    fn insert(&mut self, places: &[Place]) {
        let leaf = encode(places);
        self.bytes += leaf.len() + LEAF_OVERHEAD_BYTES;
        let before = self.by_start.insert(places[0].start, leaf);
        assert!(before.is_none(), "leaves begin at different positions");
    }

    /// Takes out the leaves that begin before `position`.
    fn split_before(&mut self, position: u64) -> Leaves {
        let behind = self.by_start.split_off(&position);
        let by_start = std::mem::replace(&mut self.by_start, behind);
        let bytes = by_start.values().map(|leaf| leaf.len() + LEAF_OVERHEAD_BYTES).sum();
        self.bytes -= bytes;
        Leaves { by_start, bytes }
    }

    fn pop_last(&mut self) -> Option<(u64, Box<[u8]>)> {
        let (start, leaf) = self.by_start.pop_last()?;
        self.bytes -= leaf.len() + LEAF_OVERHEAD_BYTES;
        Some((start, leaf))
    }

    /// Takes out the first leaf, if it begins before `position`.
    fn pop_before(&mut self, position: u64) -> Option<(u64, Box<[u8]>)> {
        let first = self.by_start.first_entry().filter(|first| *first.key() < position)?;
        let (start, leaf) = first.remove_entry();
        assert!(self.bytes >= leaf.len() + LEAF_OVERHEAD_BYTES, "leaves are counted");
        self.bytes -= leaf.len() + LEAF_OVERHEAD_BYTES;
        Some((start, leaf))
    }
}

impl Hot {
    /// Adds a place behind all others.
    pub(crate) fn push(&mut self, place: Place) {
        if let Some(last) = self.newest.last() {
            assert!(last.start < place.start, "a pack holds bytes, or the next one's begin would not be its end");
            assert!((last.index, last.pos) < (place.index, place.pos), "packs are taken in as they lie in the log");
        }
        if self.newest.len() == LEAF_PLACES {
            self.leaves.get_or_insert_default().insert(&self.newest);
            self.newest.clear();
        }
        self.newest.push(place);
    }

    /// The position of the first byte; `None` when there is none.
    pub(crate) fn begin(&self) -> Option<u64> {
        let leaf = self.leaves.as_ref().and_then(|leaves| leaves.by_start.keys().next().copied());
        leaf.or_else(|| self.newest.first().map(|place| place.start))
    }

    /// Whether it has no more places than are looked at in a microsecond or so.
    pub(crate) fn is_small(&self) -> bool {
        self.leaves.is_none()
    }

    /// The position of the last place's first byte.
    pub(crate) fn last_begin(&self) -> Option<u64> {
        self.newest.last().map(|place| place.start)
    }

    /// Whether a place begins at `position`.
    pub(crate) fn begins_at(&self, position: u64) -> bool {
        if self.newest.first().is_some_and(|first| first.start <= position) {
            return self.newest.binary_search_by_key(&position, |place| place.start).is_ok();
        }
        let leaf = self.leaves.as_ref().and_then(|leaves| leaves.by_start.range(..=position).next_back());
        leaf.is_some_and(|(&start, leaf)| decode(start, leaf).any(|place| place.start == position))
    }

    /// Extents that hold bytes from `position` on, in order, of a stream that ends at `tail`.
    pub(crate) fn from(&self, position: u64, tail: u64) -> impl Iterator<Item = Extent> + '_ {
        let leaves = self.leaves.as_deref().map(|leaves| {
            let first = leaves.by_start.range(..=position).next_back().map_or(0, |(&start, _)| start);
            leaves.by_start.range(first..).flat_map(|(&start, leaf)| decode(start, leaf))
        });
        let mut places = leaves.into_iter().flatten().chain(self.newest.iter().copied()).peekable();
        std::iter::from_fn(move || {
            loop {
                let Place { start, index, pos, len } = places.next()?;
                let end = places.peek().map_or(tail, |next| next.start);
                assert!(start < end, "places rise up to the tail");
                if end > position {
                    return Some(Extent { start, end, index, pos, len });
                }
            }
        })
    }

    /// Takes out what lies before `position`, where a place begins or the last one ends; `taken` is told each one's entry
    /// and length.
    pub(crate) fn take_before(&mut self, position: u64, mut taken: impl FnMut(u64, u32)) {
        while let Some(places) = self.pop_leaf(position) {
            let gone = places.partition_point(|place| place.start < position);
            places[..gone].iter().for_each(|place| taken(place.index, place.len));
            if gone < places.len() {
                self.leaves.get_or_insert_default().insert(&places[gone..]);
                break;
            }
        }
        let gone = self.newest.partition_point(|place| place.start < position);
        self.newest.drain(..gone).for_each(|place| taken(place.index, place.len));
        // Most streams that lose their places are not written to any more.
        if gone > 0 && self.newest.len() <= 1 {
            self.newest.shrink_to_fit();
        }
    }

    /// Takes out what lies before `position`, where a place begins or the last one ends. One leaf is looked into.
    pub(crate) fn split_before(&mut self, position: u64) -> Hot {
        let mut before = Hot::default();
        if let Some(leaves) = &mut self.leaves {
            let mut first = leaves.split_before(position);
            // The last one may have places on both sides.
            if let Some((start, leaf)) = first.pop_last() {
                let places: SmallVec<[Place; LEAF_PLACES]> = decode(start, &leaf).collect();
                let (gone, left) = places.split_at(places.partition_point(|place| place.start < position));
                before.newest.extend_from_slice(gone);
                if !left.is_empty() {
                    leaves.insert(left);
                }
            }
            before.leaves = Some(first).filter(|first| !first.by_start.is_empty()).map(Box::new);
            self.leaves.take_if(|leaves| leaves.by_start.is_empty());
        }
        let gone = self.newest.partition_point(|place| place.start < position);
        self.newest.drain(..gone).for_each(|place| before.push(place));
        if gone > 0 && self.newest.len() <= 1 {
            self.newest.shrink_to_fit();
        }
        before
    }

    /// Takes out the first places, a leaf at most; no place is left after `None`. `taken` is told each one's entry
    /// and length.
    pub(crate) fn take_some(&mut self, mut taken: impl FnMut(u64, u32)) -> Option<usize> {
        let places = self.pop_leaf(u64::MAX).or_else(|| {
            let newest = std::mem::take(&mut self.newest);
            (!newest.is_empty()).then(|| newest.into_iter().collect())
        })?;
        places.iter().for_each(|place| taken(place.index, place.len));
        Some(places.len())
    }

    fn pop_leaf(&mut self, before: u64) -> Option<SmallVec<[Place; LEAF_PLACES]>> {
        let leaves = self.leaves.as_mut()?;
        let popped = leaves.pop_before(before);
        if leaves.by_start.is_empty() {
            self.leaves = None;
        }
        popped.map(|(start, leaf)| decode(start, &leaf).collect())
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let newest = if self.newest.spilled() { self.newest.capacity() * size_of::<Place>() } else { 0 };
        newest + self.leaves.as_ref().map_or(0, |leaves| size_of::<Leaves>() + leaves.bytes)
    }

    /// Writes all places, of a stream in a snapshot.
    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        let leaves = self.leaves.as_ref().map_or(0, |leaves| leaves.by_start.len());
        sink.varint(leaves as u64);
        for (&start, leaf) in self.leaves.iter().flat_map(|leaves| &leaves.by_start) {
            sink.varint(start);
            sink.blob(leaf);
        }
        sink.varint(self.newest.len() as u64);
        if let Some(first) = self.newest.first() {
            sink.varint(first.start);
            put_places(sink, &self.newest);
        }
    }

    /// Reads what [`Hot::put`] wrote; `taken_in` is told each place's entry and length.
    pub(crate) fn read(reader: &mut Reader<'_>, mut taken_in: impl FnMut(u64, u32)) -> Result<Hot, CodecError> {
        const WHAT: &str = "places";
        let mut hot = Hot::default();
        let mut last: Option<Place> = None;
        let mut check = |place: Place| {
            let follows =
                last.is_none_or(|last| last.start < place.start && (last.index, last.pos) < (place.index, place.pos));
            last = Some(place);
            taken_in(place.index, place.len);
            if follows { Ok(()) } else { Err(CodecError::Field(WHAT)) }
        };
        for _ in 0..reader.varint(WHAT)? {
            let start = reader.varint(WHAT)?;
            let mut leaf = Reader::new(reader.blob(WHAT)?);
            let mut places = SmallVec::<[Place; LEAF_PLACES]>::new();
            while !leaf.is_empty() {
                let place = read_place(&mut leaf, places.last(), start)?;
                check(place)?;
                places.push(place);
            }
            if places.is_empty() || places.len() > LEAF_PLACES {
                return Err(CodecError::Field(WHAT));
            }
            hot.leaves.get_or_insert_default().insert(&places);
        }
        let newest = reader.varint(WHAT)?;
        if newest > LEAF_PLACES as u64 || (newest == 0 && hot.leaves.is_some()) {
            return Err(CodecError::Field(WHAT));
        }
        if newest > 0 {
            let start = reader.varint(WHAT)?;
            for _ in 0..newest {
                let place = read_place(reader, hot.newest.last(), start)?;
                check(place)?;
                hot.newest.push(place);
            }
        }
        Ok(hot)
    }
}

/// Each place as what it differs by from the one before, in numbers of as many bytes as they need.
fn put_places<S: Sink>(sink: &mut S, places: &[Place]) {
    let (mut start, mut index) = (places[0].start, 0);
    for place in places {
        sink.varint(place.start - start);
        sink.varint(place.index - index);
        sink.varint(place.pos.into());
        sink.varint(place.len.into());
        (start, index) = (place.start, place.index);
    }
}

/// Reads the place behind `last`, or the first one, which begins at `start`.
fn read_place(reader: &mut Reader<'_>, last: Option<&Place>, start: u64) -> Result<Place, CodecError> {
    const WHAT: &str = "place";
    let (start, index) = last.map_or((start, 0), |last| (last.start, last.index));
    let start = start.checked_add(reader.varint(WHAT)?).ok_or(CodecError::Field(WHAT))?;
    let index = index.checked_add(reader.varint(WHAT)?).ok_or(CodecError::Field(WHAT))?;
    Ok(Place { start, index, pos: reader.varint_u32(WHAT)?, len: reader.varint_u32(WHAT)? })
}

fn encode(places: &[Place]) -> Box<[u8]> {
    assert!(!places.is_empty(), "a leaf has places");
    let mut leaf = BytesMut::with_capacity(8 * places.len());
    put_places(&mut leaf, places);
    Box::from(&leaf[..])
}

fn decode(start: u64, leaf: &[u8]) -> impl Iterator<Item = Place> + '_ {
    let (mut reader, mut last) = (Reader::new(leaf), None);
    std::iter::from_fn(move || {
        if reader.is_empty() {
            return None;
        }
        let place = read_place(&mut reader, last.as_ref(), start).expect("a leaf was encoded here, or was checked");
        last = Some(place);
        last
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_append_takes_a_few_bytes_however_many_there_are() {
        let mut hot = Hot::default();
        for i in 0..100_000 {
            // Appends of 100 bytes, each in the batch of its own that its stream has.
            hot.push(Place { start: 100 * i, index: 3 * i, pos: 16 + 40, len: 112 });
        }
        let bytes = hot.heap_bytes() / 100_000;
        assert!(bytes <= 8, "{bytes}");
    }

    /// Places as `packs` says, their extents, and the tail.
    fn filled(packs: Vec<(u64, u64, u32)>) -> (Hot, Vec<Extent>, u64) {
        let (mut hot, mut extents) = (Hot::default(), Vec::new());
        let (mut tail, mut index, mut pos) = (0, 0, 0);
        for (bytes, entries, len) in packs {
            (index, pos) = if entries > 0 { (index + entries, 16) } else { (index, pos + 1000) };
            hot.push(Place { start: tail, index, pos, len });
            extents.push(Extent { start: tail, end: tail + bytes, index, pos, len });
            tail += bytes;
        }
        (hot, extents, tail)
    }

    proptest! {
        #[test]
        fn extents_are_found_from_every_position(
            packs in vec((1..300u64, 0..3u64, 1..100u32), 0..400),
            from in any::<prop::sample::Index>(),
        ) {
            let (hot, mut expected, tail) = filled(packs);
            let position = from.index(tail as usize + 1) as u64;
            expected.retain(|extent| extent.end > position);
            prop_assert_eq!(hot.from(position, tail).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn what_is_taken_from_the_front_leaves_the_rest(
            packs in vec((1..300u64, 0..3u64, 1..100u32), 1..400),
            cuts in vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let (mut hot, extents, tail) = filled(packs);
            let mut begun = 0;
            for cut in cuts {
                let cut = cut.index(extents.len() + 1).max(begun);
                let position = extents.get(cut).map_or(tail, |extent| extent.start);
                prop_assert!(position == tail || hot.begins_at(position));
                prop_assert!(!hot.begins_at(position + 1) || extents.iter().any(|e| e.start == position + 1));
                let mut taken = Vec::new();
                hot.take_before(position, |index, _| taken.push(index));
                prop_assert_eq!(taken, extents[begun..cut].iter().map(|e| e.index).collect::<Vec<_>>());
                prop_assert_eq!(hot.from(0, tail).collect::<Vec<_>>(), &extents[cut..]);
                prop_assert_eq!(hot.begin(), extents.get(cut).map(|extent| extent.start));
                begun = cut;
            }
            let cut = extents.len() / 2;
            let mut first = hot.split_before(extents.get(cut).map_or(tail, |extent| extent.start));
            let mut taken = Vec::new();
            first.take_before(u64::MAX, |index, _| taken.push(index));
            prop_assert_eq!(taken, extents[begun.min(cut)..cut].iter().map(|e| e.index).collect::<Vec<_>>());
            prop_assert_eq!(first.heap_bytes(), 0);
            begun = begun.max(cut);
            let mut bytes = BytesMut::new();
            hot.put(&mut bytes);
            let mut indexes = Vec::new();
            let mut read = Hot::read(&mut Reader::new(&bytes), |index, _| indexes.push(index)).expect("as it was written");
            prop_assert_eq!(read.from(0, tail).collect::<Vec<_>>(), &extents[begun..]);
            let mut taken = Vec::new();
            while read.take_some(|index, _| taken.push(index)).is_some() {}
            prop_assert_eq!(&taken, &indexes);
            prop_assert_eq!(taken.len(), extents.len() - begun);
            prop_assert_eq!((read.begin(), read.heap_bytes()), (None, 0));
        }
    }
}
