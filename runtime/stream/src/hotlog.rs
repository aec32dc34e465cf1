//! Which log entries some stream still names: one count per entry, so that the lowest one is known without a search.
//!
//! Counts are in pages of neighbours, and a page without any is not there: a stream that is not written any more may name an
//! entry that lies millions before the others.

use std::collections::VecDeque;

/// Entries whose counts are together.
const PAGE_ENTRIES: usize = 128;

/// Places per log entry.
#[derive(Debug, Default)]
pub(crate) struct HotLog {
    /// The number of the first page.
    first: u64,
    /// The first and the last are always there.
    pages: VecDeque<Option<Box<Page>>>,
    /// How many are there.
    pages_there: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Page {
    counts: [u32; PAGE_ENTRIES],
    /// Counts that are not 0, at least one.
    named: u32,
}

impl HotLog {
    /// A place of `bytes` in entry `index` is named from now on.
    pub(crate) fn take(&mut self, index: u64, bytes: u32) {
        self.bytes += u64::from(bytes);
        let (number, at) = place(index);
        if self.pages.is_empty() {
            self.first = number;
        }
        while number < self.first {
            self.first -= 1;
            self.pages.push_front(None);
        }
        let page = (number - self.first) as usize;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| {
            self.pages_there += 1;
            Box::new(Page { counts: [0; PAGE_ENTRIES], named: 0 })
        });
        page.named += u32::from(page.counts[at] == 0);
        page.counts[at] += 1;
    }

    /// A place of `bytes` in entry `index` is named no longer.
    pub(crate) fn release(&mut self, index: u64, bytes: u32) {
        const COUNTED: &str = "entries that are named are counted";
        assert!(self.bytes >= u64::from(bytes), "what is named is counted");
        self.bytes -= u64::from(bytes);
        let (number, at) = place(index);
        let number = number.checked_sub(self.first).expect(COUNTED) as usize;
        let page = self.pages.get_mut(number).and_then(Option::as_mut).expect(COUNTED);
        assert!(page.counts[at] > 0, "{COUNTED}");
        page.counts[at] -= 1;
        page.named -= u32::from(page.counts[at] == 0);
        if page.named == 0 {
            self.pages[number] = None;
            self.pages_there -= 1;
            while self.pages.pop_front_if(|page| page.is_none()).is_some() {
                self.first += 1;
            }
            while self.pages.pop_back_if(|page| page.is_none()).is_some() {}
        }
    }

    /// The lowest entry that is named; `None` when there is none.
    pub(crate) fn floor(&self) -> Option<u64> {
        let first = self.pages.front()?.as_ref().expect("the first page is there");
        let at = first.counts.iter().position(|count| *count > 0).expect("a page that is there names something");
        Some(self.first * PAGE_ENTRIES as u64 + at as u64)
    }

    /// Whether entry `index` is named.
    pub(crate) fn names(&self, index: u64) -> bool {
        let (number, at) = place(index);
        let page = number.checked_sub(self.first).and_then(|number| self.pages.get(number as usize)?.as_ref());
        page.is_some_and(|page| page.counts[at] > 0)
    }

    /// All entries that are named from `first` on, in order.
    pub(crate) fn indices_from(&self, first: u64) -> impl Iterator<Item = u64> {
        let passed = place(first).0.saturating_sub(self.first).min(self.pages.len() as u64);
        let pages = (self.first + passed..).zip(self.pages.range(passed as usize..));
        let pages = pages.filter_map(|(number, page)| Some((number, page.as_ref()?)));
        let all = pages.flat_map(|(number, page)| {
            let named = page.counts.iter().enumerate().filter(|(_, count)| **count > 0);
            named.map(move |(at, _)| number * PAGE_ENTRIES as u64 + at as u64)
        });
        all.skip_while(move |index| *index < first)
    }

    /// Bytes of all places.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.len() * size_of::<Option<Box<Page>>>() + self.pages_there * size_of::<Page>()
    }
}

/// The page of an entry, and its place in it.
fn place(index: u64) -> (u64, usize) {
    (index / PAGE_ENTRIES as u64, (index % PAGE_ENTRIES as u64) as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_floor_is_the_lowest_entry_that_is_named(steps in vec((any::<bool>(), prop_oneof![0..50u64, 0..1000u64]), 0..200)) {
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
                for first in [0, 1, index, index + 1, index + 200] {
                    prop_assert!(log.indices_from(first).eq(model.range(first..).map(|(index, _)| *index)));
                }
            }
            for (index, count) in model {
                (0..count).for_each(|_| log.release(index, 10));
            }
            prop_assert_eq!((log.memory_bytes(), log.bytes()), (0, 0));
        }
    }
}
