//! Which log entries some stream still names: one count per entry, so that the lowest one is known without a search.

pub(crate) mod buried;

use std::collections::VecDeque;

/// Places per log entry. The first and the last count are never 0.
#[derive(Debug, Default)]
pub(crate) struct HotLog {
    /// The entry of the first count.
    first: u64,
    counts: VecDeque<u32>,
    bytes: u64,
}

impl HotLog {
    /// A place of `bytes` in entry `index` is named from now on.
    pub(crate) fn take(&mut self, index: u64, bytes: u32) {
        self.bytes += u64::from(bytes);
        if self.counts.is_empty() {
            self.first = index;
        }
        while index < self.first {
            self.first -= 1;
            self.counts.push_front(0);
        }
        let at = (index - self.first) as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
    }

    /// A place of `bytes` in entry `index` is named no longer.
    pub(crate) fn release(&mut self, index: u64, bytes: u32) {
        assert!(self.bytes >= u64::from(bytes), "what is named is counted");
        self.bytes -= u64::from(bytes);
        let at = index.checked_sub(self.first).expect("entries that are named are counted");
        let count = self.counts.get_mut(at as usize).expect("entries that are named are counted");
        assert!(*count > 0, "entries that are named are counted");
        *count -= 1;
        while self.counts.front() == Some(&0) {
            self.counts.pop_front();
            self.first += 1;
        }
        while self.counts.back() == Some(&0) {
            self.counts.pop_back();
        }
    }

    /// The lowest entry that is named; `None` when there is none.
    pub(crate) fn floor(&self) -> Option<u64> {
        (!self.counts.is_empty()).then_some(self.first)
    }

    /// Whether entry `index` is named.
    pub(crate) fn names(&self, index: u64) -> bool {
        let at = index.checked_sub(self.first);
        at.and_then(|at| self.counts.get(at as usize)).is_some_and(|count| *count > 0)
    }

    /// Bytes of all places.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.counts.len() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_floor_is_the_lowest_entry_that_is_named(steps in vec((any::<bool>(), 0..50u64), 0..200)) {
            let (mut log, mut model) = (HotLog::default(), BTreeMap::<u64, u32>::new());
            for (takes, index) in steps {
                if takes {
                    log.take(index, 10);
                    *model.entry(index).or_default() += 1;
                } else if let Some(count) = model.get_mut(&index) {
                    log.release(index, 10);
                    *count -= 1;
                    if *count == 0 {
                        model.remove(&index);
                    }
                }
                prop_assert_eq!(log.floor(), model.keys().next().copied());
                prop_assert_eq!(log.bytes(), 10 * model.values().map(|count| u64::from(*count)).sum::<u64>());
                prop_assert_eq!(log.names(index), model.contains_key(&index));
            }
            for (index, count) in model {
                (0..count).for_each(|_| log.release(index, 10));
            }
            prop_assert_eq!((log.memory_bytes(), log.bytes()), (0, 0));
        }
    }
}
