//! Where a stream's packs are, in order of their bytes.
//!
//! There may be one pack per append for as long as the log is kept, so they have to be small, and nothing may ever have to
//! move all of them at once. The newest are kept as they came; as soon as there are [`RUN_PLACES`] of them, they become a
//! *run*: encoded as differences, about 7 bytes instead of 24, in a tree. A look-up decodes one run.

use std::collections::BTreeMap;

use smallvec::SmallVec;

/// Places in a run.
const RUN_PLACES: usize = 64;
/// What a run takes besides its bytes, about: a place in a tree that is three quarters full, and its box's header.
const RUN_OVERHEAD_BYTES: usize = 48;

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
pub(crate) struct Extents {
    /// Absent while there are few.
    runs: Option<Box<Runs>>,
    newest: SmallVec<[Place; 1]>,
}

#[derive(Debug, Default)]
struct Runs {
    /// By the position of their first byte.
    by_start: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
}

impl Extents {
    /// Adds a place behind all others.
    pub(crate) fn push(&mut self, place: Place) {
        if let Some(last) = self.newest.last() {
            assert!(last.start < place.start, "a pack holds bytes, or the next one's begin would not be its end");
            assert!((last.index, last.pos) < (place.index, place.pos), "packs are taken in as they lie in the log");
        }
        if self.newest.len() == RUN_PLACES {
            let run = encode(&self.newest);
            let runs = self.runs.get_or_insert_default();
            runs.bytes += run.len() + RUN_OVERHEAD_BYTES;
            let before = runs.by_start.insert(self.newest[0].start, run);
            assert!(before.is_none(), "runs begin at different positions");
            self.newest.clear();
        }
        self.newest.push(place);
    }

    /// Extents that hold bytes from `position` on, in order, of a stream that ends at `tail`.
    pub(crate) fn from(&self, position: u64, tail: u64) -> impl Iterator<Item = Extent> + '_ {
        let runs = self.runs.as_deref().map(|runs| {
            let first = runs.by_start.range(..=position).next_back().map_or(0, |(&start, _)| start);
            runs.by_start.range(first..).flat_map(|(&start, run)| decode(start, run))
        });
        let mut places = runs.into_iter().flatten().chain(self.newest.iter().copied()).peekable();
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

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let newest = if self.newest.spilled() { self.newest.capacity() * size_of::<Place>() } else { 0 };
        newest + self.runs.as_ref().map_or(0, |runs| size_of::<Runs>() + runs.bytes)
    }
}

/// Each place as what it differs by from the one before, in numbers of as many bytes as they need.
fn encode(places: &[Place]) -> Box<[u8]> {
    assert!(!places.is_empty(), "a run has places");
    let mut run = Vec::with_capacity(8 * places.len());
    let (mut start, mut index) = (places[0].start, 0);
    for place in places {
        put(&mut run, place.start - start);
        put(&mut run, place.index - index);
        put(&mut run, place.pos.into());
        put(&mut run, place.len.into());
        (start, index) = (place.start, place.index);
    }
    run.into_boxed_slice()
}

fn decode(start: u64, run: &[u8]) -> impl Iterator<Item = Place> + '_ {
    let (mut rest, mut start, mut index) = (run, start, 0);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        start += take(&mut rest);
        index += take(&mut rest);
        let (pos, len) = (take(&mut rest) as u32, take(&mut rest) as u32);
        Some(Place { start, index, pos, len })
    })
}

/// Seven bits a byte, the lowest first; the last byte's highest bit is 0.
fn put(run: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        run.push(number as u8 | 0x80);
        number >>= 7;
    }
    run.push(number as u8);
}

fn take(run: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, rest) = run.split_first().expect("a run has whole numbers");
        *run = rest;
        assert!(shift < 64, "a number has 64 bits");
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_append_takes_a_few_bytes_however_many_there_are() {
        let mut extents = Extents::default();
        for i in 0..100_000 {
            // Appends of 100 bytes, each in the batch of its own that its stream has.
            extents.push(Place { start: 100 * i, index: 3 * i, pos: 16 + 40, len: 112 });
        }
        let bytes = extents.heap_bytes() / 100_000;
        assert!(bytes <= 8, "{bytes}");
    }

    proptest! {
        #[test]
        fn extents_are_found_from_every_position(
            packs in vec((1..300u64, 0..3u64, 1..100u32), 0..400),
            from in any::<prop::sample::Index>(),
        ) {
            let (mut extents, mut expected) = (Extents::default(), Vec::new());
            let (mut tail, mut index, mut pos) = (0, 0, 0);
            for (bytes, entries, len) in packs {
                (index, pos) = if entries > 0 { (index + entries, 16) } else { (index, pos + 1000) };
                let place = Place { start: tail, index, pos, len };
                extents.push(place);
                expected.push(Extent { start: tail, end: tail + bytes, index, pos, len });
                tail += bytes;
            }
            let position = from.index(tail as usize + 1) as u64;
            expected.retain(|extent| extent.end > position);
            prop_assert_eq!(extents.from(position, tail).collect::<Vec<_>>(), expected);
        }
    }
}
