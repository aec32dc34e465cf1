//! One group's log: where each entry lies, and the newest of them in memory.
//!
//! Indices are dense, so an entry is found by subtraction. What is cached is always a suffix of the log: entries enter
//! at its end and leave the cache oldest first. One that may leave it is *packed* first: a small frame was written from whole blocks,
//! of which memory keeps no more than the frame.

use std::collections::VecDeque;

use bytes::Bytes;
use weir_types::GroupId;

use crate::block::BLOCK_BYTES;
use crate::carried::Carried;
use crate::entry::EntryId;
use crate::frame::FRAME_HEADER_BYTES;
use crate::state::GroupState;

/// A block of the log: segment, and block within it. Later blocks are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockAddress {
    pub(crate) segment: u32,
    pub(crate) block: u32,
}

impl BlockAddress {
    /// The block that begins at byte `position` of `segment`.
    pub(crate) fn new(segment: u32, position: u64) -> BlockAddress {
        BlockAddress { segment, block: (position / BLOCK_BYTES as u64) as u32 }
    }

    /// Where the block begins in its segment, in bytes.
    pub(crate) fn position(self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64
    }
}

/// What is known of one entry without reading it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) term: u64,
    pub(crate) at: BlockAddress,
    pub(crate) body_bytes: u32,
    pub(crate) kind: u8,
}

/// The largest frame that is packed: a copy of more takes longer than the memory is worth.
const PACKED_BYTES_MAX: usize = 64 << 10;
/// What a packed frame takes beside its bytes, about.
const ALLOCATION_BYTES: usize = 64;

/// A frame in memory.
pub(crate) struct Cached {
    pub(crate) frame: Bytes,
    /// What it holds on to, in bytes.
    pub(crate) memory_bytes: usize,
}

impl Cached {
    /// Lets go of memory that the frame, of so many bytes, does not need, if that is a third of it. Returns what is free again.
    fn pack(&mut self, frame_bytes: usize) -> usize {
        let packed_bytes = frame_bytes + ALLOCATION_BYTES;
        if frame_bytes > PACKED_BYTES_MAX || self.memory_bytes <= packed_bytes + packed_bytes / 2 {
            return 0;
        }
        self.frame = Bytes::copy_from_slice(&self.frame[..frame_bytes]);
        std::mem::replace(&mut self.memory_bytes, packed_bytes) - packed_bytes
    }
}

/// How many entries of which segments are needed no more.
pub(crate) type Deaths = Vec<(u32, u32)>;

/// One group's log.
#[derive(Default)]
pub(crate) struct GroupLog {
    /// Index of the first entry; of the next one when there is none.
    first: u64,
    entries: VecDeque<Located>,
    /// Frames of the last entries.
    cached: VecDeque<Cached>,
    /// How many of them, the oldest, are packed.
    packed: usize,
    applied: Option<u64>,
    pub(crate) vote: Option<Bytes>,
    purged: Option<EntryId>,
    /// What the group's snapshot carries of what the log does not have.
    pub(crate) carried: Option<Carried>,
}

impl GroupLog {
    /// A log as a state frame describes it, without its entries: they were before what is known.
    pub(crate) fn from_state(state: GroupState) -> GroupLog {
        GroupLog { first: state.next, vote: state.vote, purged: state.purged, ..GroupLog::default() }
    }

    pub(crate) fn state(&self, group: GroupId) -> GroupState {
        GroupState { group, first: self.first, next: self.next(), purged: self.purged, vote: self.vote.clone() }
    }

    /// Index of the first entry; of the next one when there is none.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index after the last entry.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub(crate) fn purged(&self) -> Option<EntryId> {
        self.purged
    }

    /// The last entry, or the last purged one when there is none after it.
    pub(crate) fn last(&self) -> Option<EntryId> {
        let last = self.entries.back().map(|entry| EntryId { index: self.next() - 1, term: entry.term });
        last.or(self.purged)
    }

    /// Whether the group has neither entries nor a purged one: its first entry may have any index.
    pub(crate) fn is_unbegun(&self) -> bool {
        self.entries.is_empty() && self.purged.is_none()
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Located> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Located> {
        self.entries.iter()
    }

    /// The entry's frame, if it is in memory.
    pub(crate) fn cached(&self, index: u64) -> Option<&Bytes> {
        let from_end = self.next().checked_sub(index)?;
        let at = self.cached.len().checked_sub(usize::try_from(from_end).ok()?)?;
        Some(&self.cached.get(at)?.frame)
    }

    /// Appends an entry. Only a log without a cached entry may take one that is not cached.
    pub(crate) fn push(&mut self, index: u64, entry: Located, cached: Option<Cached>) {
        if self.is_unbegun() {
            self.first = index;
        }
        assert_eq!(index, self.next(), "an entry follows the last one");
        assert!(self.last().is_none_or(|last| last.term <= entry.term), "terms do not fall");
        assert!(cached.is_some() || self.cached.is_empty(), "what is cached is a suffix");
        self.entries.push_back(entry);
        self.cached.extend(cached);
    }

    /// Removes the entries from `from` on; returns their deaths and the cached bytes that are free again.
    pub(crate) fn truncate(&mut self, from: u64) -> (Deaths, usize) {
        assert!(self.applied.is_none_or(|applied| from > applied), "what is applied is not taken back");
        let mut deaths = Deaths::new();
        let mut freed = 0;
        while self.next() > from {
            let Some(entry) = self.entries.pop_back() else {
                // The entries were never seen: they are in segments that are gone.
                self.first = from;
                break;
            };
            note_death(&mut deaths, entry.at.segment);
            freed += self.cached.pop_back().map_or(0, |cached| cached.memory_bytes);
        }
        self.packed = self.packed.min(self.cached.len());
        (deaths, freed)
    }

    /// Removes the entries up to `upto`, which may be beyond the last; returns as [`GroupLog::truncate`] does.
    pub(crate) fn purge(&mut self, upto: EntryId) -> (Deaths, usize) {
        let mut deaths = Deaths::new();
        let mut freed = 0;
        while self.first <= upto.index
            && let Some(entry) = self.entries.pop_front()
        {
            note_death(&mut deaths, entry.at.segment);
            self.first += 1;
            if self.cached.len() > self.entries.len() {
                freed += self.evict();
            }
        }
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            self.first = self.first.max(upto.index + 1);
        }
        shrink(&mut self.entries);
        shrink(&mut self.cached);
        (deaths, freed)
    }

    /// Notes that entries up to `index` are applied.
    pub(crate) fn note_applied(&mut self, index: u64) {
        self.applied = self.applied.max(Some(index));
    }

    /// Where the oldest cached entry lies, if it may leave memory: it is applied, and durable because it lies before
    /// `durable`.
    pub(crate) fn evictable(&self, durable: BlockAddress) -> Option<BlockAddress> {
        self.settled(0, durable)
    }

    /// Whether the oldest cached entry that is not packed may be: as [`GroupLog::evictable`] says.
    pub(crate) fn is_packable(&self, durable: BlockAddress) -> bool {
        self.settled(self.packed, durable).is_some()
    }

    fn settled(&self, at: usize, durable: BlockAddress) -> Option<BlockAddress> {
        let index = self.next() - (self.cached.len() - at) as u64;
        let entry = self.entry(index)?;
        (self.applied >= Some(index) && entry.at < durable).then_some(entry.at)
    }

    /// Drops the oldest cached frame from memory and returns what that frees, in bytes.
    pub(crate) fn evict(&mut self) -> usize {
        self.packed = self.packed.saturating_sub(1);
        self.cached.pop_front().map_or(0, |cached| cached.memory_bytes)
    }

    /// Packs the oldest cached frame that is not packed and returns what that frees, in bytes.
    pub(crate) fn pack(&mut self) -> usize {
        let at = self.entries.len() - self.cached.len() + self.packed;
        let frame_bytes = FRAME_HEADER_BYTES + self.entries[at].body_bytes as usize;
        let freed = self.cached[self.packed].pack(frame_bytes);
        self.packed += 1;
        freed
    }

    /// Memory of the index, in bytes.
    pub(crate) fn index_bytes(&self) -> usize {
        size_of::<GroupLog>()
            + self.entries.capacity() * size_of::<Located>()
            + self.cached.capacity() * size_of::<Cached>()
    }
}

/// A burst must not keep its memory: what is left may be a small part of it.
fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 64 + 4 * queue.len() {
        queue.shrink_to(2 * queue.len());
    }
}

fn note_death(deaths: &mut Deaths, segment: u32) {
    match deaths.last_mut() {
        Some((last, count)) if *last == segment => *count += 1,
        _ => deaths.push((segment, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(indices: std::ops::Range<u64>) -> GroupLog {
        let mut log = GroupLog::default();
        for index in indices {
            let at = BlockAddress { segment: index as u32 / 4, block: 1 };
            let cached = Cached { frame: Bytes::from(vec![index as u8; 4]), memory_bytes: 10 };
            log.push(index, Located { term: 1, at, body_bytes: 0, kind: 0 }, Some(cached));
        }
        log
    }

    #[test]
    fn purge_and_truncate_count_the_dead_of_each_segment() {
        let mut log = log_of(0..12);
        assert_eq!(log.purge(EntryId { index: 5, term: 1 }), (vec![(0, 4), (1, 2)], 60));
        assert_eq!(log.truncate(7), (vec![(2, 4), (1, 1)], 50));
        assert_eq!((log.first(), log.next()), (6, 7));
        assert_eq!(log.cached(6).map(|frame| frame[0]), Some(6));
        assert!(log.entry(7).is_none() && log.entry(5).is_none());
    }

    #[test]
    fn purging_beyond_the_end_moves_the_next_index() {
        let mut log = log_of(0..3);
        log.purge(EntryId { index: 9, term: 4 });
        assert_eq!((log.next(), log.last()), (10, Some(EntryId { index: 9, term: 4 })));
    }

    #[test]
    fn entries_leave_memory_only_when_applied_and_durable() {
        let mut log = log_of(0..8);
        let durable = BlockAddress { segment: 1, block: 0 };
        assert_eq!(log.evictable(durable), None);
        log.note_applied(5);
        for _ in 0..4 {
            assert!(log.evictable(durable).is_some());
            log.evict();
        }
        assert_eq!(log.evictable(durable), None, "entry 4 is applied, not durable");
        assert_eq!(log.evictable(BlockAddress { segment: 9, block: 0 }), Some(BlockAddress { segment: 1, block: 1 }));
        assert!(log.cached(3).is_none() && log.cached(4).is_some());
    }

    #[test]
    fn what_is_packed_is_counted_as_it_is() {
        let (roomy, packed) = (2 * BLOCK_BYTES, FRAME_HEADER_BYTES + 8 + ALLOCATION_BYTES);
        let mut log = GroupLog::default();
        for index in 0..8 {
            let cached = Cached { frame: Bytes::from(vec![index as u8; BLOCK_BYTES]), memory_bytes: roomy };
            let at = BlockAddress { segment: 0, block: index as u32 };
            log.push(index, Located { term: 1, at, body_bytes: 8, kind: 0 }, Some(cached));
        }
        log.note_applied(4);
        let durable = BlockAddress { segment: 1, block: 0 };
        while log.is_packable(durable) {
            assert_eq!(log.pack(), roomy - packed);
        }
        assert_eq!(log.packed, 5, "entry 5 is not applied");
        assert_eq!(log.cached(4).map(|frame| &frame[..]), Some(&[4; FRAME_HEADER_BYTES + 8][..]));
        assert_eq!(log.cached(5).map(Bytes::len), Some(BLOCK_BYTES));
        assert_eq!(log.evict(), packed);
        assert_eq!(log.purge(EntryId { index: 1, term: 1 }).1, packed);
        assert_eq!(log.truncate(5).1, 3 * roomy);
        assert_eq!((log.packed, log.is_packable(durable)), (3, false));
        assert_eq!(log.purge(EntryId { index: 9, term: 1 }).1, 3 * packed);
        assert_eq!((log.packed, log.is_packable(durable), log.evictable(durable)), (0, false, None));
    }
}
