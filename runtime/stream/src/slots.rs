//! A group's streams by slot: small tables, so that a slot can be listed, snapshot or moved by itself.

use bytes::BytesMut;
use hashbrown::HashTable;
use weir_types::StreamKey;
use weir_types::limits::SLOTS;

use crate::freeze::Freeze;
use crate::key::KeyRef;
use crate::stream::Stream;

/// All streams of a group.
#[derive(Debug)]
pub(crate) struct Slots {
    tables: Vec<HashTable<Box<Stream>>>,
    streams: usize,
    /// Writes streams down before they change, if that is under way.
    pub(crate) freeze: Option<Freeze>,
    /// How many there have been.
    freezes: u32,
}

impl Slots {
    pub(crate) fn new() -> Slots {
        Slots { tables: (0..SLOTS).map(|_| HashTable::new()).collect(), streams: 0, freeze: None, freezes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.streams
    }

    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<&Stream> {
        let table = &self.tables[key.slot().index()];
        table.find(table_hash(key.hash()), |stream| *stream.key == *key.as_str()).map(|stream| &**stream)
    }

    /// A stream that is going to change.
    pub(crate) fn get_mut(&mut self, key: KeyRef<'_>) -> Option<&mut Stream> {
        let slot = key.slot().index();
        let found = self.tables[slot].find_mut(table_hash(key.hash()), |stream| *stream.key == *key.as_str())?;
        if let Some(freeze) = &mut self.freeze {
            freeze.put_stream(slot, found);
        }
        Some(found)
    }

    /// Adds a stream whose key is not there yet.
    pub(crate) fn insert(&mut self, key: KeyRef<'_>, mut stream: Stream) {
        assert!(self.get(key).is_none(), "create looks first");
        assert!(*stream.key == *key.as_str(), "a stream is found by its own key");
        if let Some(freeze) = &self.freeze {
            freeze.pass_over(&mut stream);
        }
        let table = &mut self.tables[key.slot().index()];
        // The hash is computed again when a table grows: that is rare, and keeping it would cost every stream 8 bytes.
        table.insert_unique(table_hash(key.hash()), Box::new(stream), |stream| {
            table_hash(StreamKey::hash_of(&stream.key))
        });
        self.streams += 1;
    }

    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Box<Stream>> {
        let slot = key.slot().index();
        let found = self.tables[slot].find_entry(table_hash(key.hash()), |stream| *stream.key == *key.as_str()).ok()?;
        let (mut stream, _) = found.remove();
        if let Some(freeze) = &mut self.freeze {
            freeze.put_stream(slot, &mut stream);
        }
        assert!(self.streams > 0, "streams are counted");
        self.streams -= 1;
        Some(stream)
    }

    /// Changes every stream. No freeze is under way.
    pub(crate) fn for_each_mut(&mut self, mut change: impl FnMut(&mut Stream)) {
        assert!(self.freeze.is_none(), "what changes is not being written down");
        self.tables.iter_mut().flat_map(|table| table.iter_mut()).for_each(|stream| change(stream));
    }

    /// No stream has been linked to any watches. That is in no snapshot, so none is written down for it.
    pub(crate) fn forget_watched(&mut self) {
        self.tables.iter_mut().flat_map(|table| table.iter_mut()).for_each(|stream| stream.set_watched(0));
    }

    /// Begins a freeze with this `head`; ends another one that is under way.
    pub(crate) fn begin_freeze(&mut self, head: BytesMut, piece_bytes: usize) {
        self.freezes = self.freezes.wrapping_add(1);
        self.freeze = Some(Freeze::new(self.freezes, head, piece_bytes));
    }

    /// The next piece of what is frozen; `None` when there is no more.
    pub(crate) fn take_frozen(&mut self) -> Option<BytesMut> {
        let freeze = self.freeze.as_mut()?;
        freeze.put_slots(|slot| self.tables[slot].iter().map(|stream| &**stream));
        freeze.take()
    }

    /// The streams of one slot, in no particular order.
    pub(crate) fn slot(&self, slot: usize) -> impl Iterator<Item = &Stream> {
        self.tables[slot].iter().map(|stream| &**stream)
    }
}

/// The hash within a slot's table. The slot has used up the low bits, which are the same for all its streams, and the
/// table uses the lowest and the highest bits: so the low ones are dropped and the rest spread by an odd constant.
fn table_hash(hash: u64) -> u64 {
    const { assert!(SLOTS == 1 << 12) };
    (hash >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hashes_within_a_slot_differ_in_the_bits_that_a_table_uses() {
        // 256 streams of one slot: their hashes share the low 12 bits.
        let hashes: Vec<u64> = (0..1 << 20)
            .map(|n| StreamKey::hash_of(&format!("b/{n}")))
            .filter(|hash| hash % SLOTS as u64 == 7)
            .map(table_hash)
            .collect();
        assert!(hashes.len() > 200);
        let low: HashSet<u64> = hashes.iter().map(|hash| hash % 256).collect();
        let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(low.len() > 120, "places: {}", low.len());
        assert!(high.len() > 80, "tags: {}", high.len());
    }
}
