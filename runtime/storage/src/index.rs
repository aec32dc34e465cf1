//! Every group's log, and how much of their entries is in memory.

use std::collections::BTreeMap;

use weir_types::GroupId;

use crate::entry::EntryId;
use crate::log::{BlockAddress, Cached, Deaths, GroupLog, Located};
use crate::state::{self, GroupState};

/// The groups of a WAL.
pub(crate) struct Index {
    logs: BTreeMap<GroupId, GroupLog>,
    cache_bytes: usize,
    cache_bytes_max: usize,
}

impl Index {
    /// The groups as they were found; none of their entries is in memory.
    pub(crate) fn new(logs: BTreeMap<GroupId, GroupLog>, cache_bytes_max: usize) -> Index {
        Index { logs, cache_bytes: 0, cache_bytes_max }
    }

    pub(crate) fn group(&self, group: GroupId) -> Option<&GroupLog> {
        self.logs.get(&group)
    }

    pub(crate) fn group_mut(&mut self, group: GroupId) -> &mut GroupLog {
        self.logs.entry(group).or_default()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupLog)> {
        self.logs.iter().map(|(&group, log)| (group, log))
    }

    /// Notes an entry that is on its way to disk, and keeps it in memory.
    pub(crate) fn append(&mut self, group: GroupId, id: EntryId, entry: Located, cached: Cached) {
        assert_eq!(id.term, entry.term, "an entry has one term");
        self.cache_bytes += cached.memory_bytes;
        self.group_mut(group).push(id.index, entry, Some(cached));
    }

    /// Removes entries by `change`; returns their deaths.
    pub(crate) fn remove(&mut self, group: GroupId, change: impl FnOnce(&mut GroupLog) -> (Deaths, usize)) -> Deaths {
        let (deaths, freed) = change(self.group_mut(group));
        assert!(freed <= self.cache_bytes, "what leaves memory was counted");
        self.cache_bytes -= freed;
        deaths
    }

    /// Notes that the group's entries up to `index` are applied, and packs those that lie before `durable`, too.
    pub(crate) fn applied(&mut self, group: GroupId, index: u64, durable: BlockAddress) {
        let log = self.logs.entry(group).or_default();
        log.note_applied(index);
        while log.is_packable(durable) {
            self.cache_bytes -= log.pack();
        }
    }

    /// Lets entries before `durable` leave memory, oldest first, while there is more of them than may be.
    pub(crate) fn evict(&mut self, durable: BlockAddress) {
        while self.cache_bytes > self.cache_bytes_max {
            let oldest = self.logs.values_mut().filter_map(|log| Some((log.evictable(durable)?, log)));
            let Some((_, log)) = oldest.min_by_key(|(at, _)| *at) else { return };
            self.cache_bytes -= log.evict();
        }
    }

    /// What all groups have now: a segment's state.
    pub(crate) fn states(&self) -> impl ExactSizeIterator<Item = GroupState> {
        self.logs.iter().map(|(&group, log)| log.state(group))
    }

    /// Bytes of [`Index::states`] as [`state::encode`] writes them.
    pub(crate) fn states_bytes(&self) -> usize {
        state::encoded_bytes(self.logs.values().map(|log| log.vote.as_ref().map_or(0, |vote| vote.len())))
    }

    /// Bytes of entries in memory.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Memory of the index itself, in bytes.
    pub(crate) fn index_bytes(&self) -> usize {
        self.logs.values().map(GroupLog::index_bytes).sum()
    }
}
