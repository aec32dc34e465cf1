//! What deleted and trimmed streams named of the log. It may be millions of places, so it is given back a few at a time.

use std::collections::VecDeque;

use crate::extents::hot::Hot;
use crate::hotlog::HotLog;

/// Places to give back.
#[derive(Debug, Default)]
pub(crate) struct Buried {
    hots: VecDeque<Hot>,
    bytes: usize,
}

impl Buried {
    /// Gives some back; false when there was nothing.
    pub(crate) fn reap_leaf(&mut self, hotlog: &mut HotLog) -> bool {
        let Some(hot) = self.hots.front_mut() else { return false };
        let before_bytes = hot.heap_bytes();
        let taken = hot.take_some(|index, bytes| hotlog.release(index, bytes));
        assert!(self.bytes >= before_bytes - hot.heap_bytes(), "what is buried is counted");
        self.bytes -= before_bytes - hot.heap_bytes();
        if taken.is_none() {
            self.hots.pop_front();
        }
        true
    }

    pub(crate) fn bury(&mut self, hot: Hot) {
        self.bytes += hot.heap_bytes();
        self.hots.push_back(hot);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes + self.hots.len() * size_of::<Hot>()
    }
}
