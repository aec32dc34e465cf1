//! What deleted and trimmed streams named of the log and of chunks. It may be millions of places, and runs by the hundred thousand,
//! so it is given back a few at a time. Until that is done, a chunk that nobody needs any more may still be in the table; when a
//! freeze begins, it is done.

use std::collections::VecDeque;

use crate::extents::ChunkBytes;
use crate::extents::hot::Hot;
use crate::hotlog::HotLog;

/// Runs that are given back at a time: each is a look into the table of chunks.
pub(crate) const RUNS_PER_STEP: usize = 16;

/// What is to be given back.
#[derive(Debug, Default)]
pub(crate) struct Buried {
    hots: VecDeque<Hot>,
    /// Each not empty.
    runs: VecDeque<Vec<ChunkBytes>>,
    bytes: usize,
}

impl Buried {
    /// Gives some places back; false when there were none.
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

    /// Takes some runs out, to be given back.
    pub(crate) fn take_runs(&mut self) -> Option<Vec<ChunkBytes>> {
        let runs = self.runs.front_mut()?;
        let some = runs.split_off(runs.len().saturating_sub(RUNS_PER_STEP));
        if runs.is_empty() {
            self.bytes -= runs.capacity() * size_of::<ChunkBytes>();
            self.runs.pop_front();
        }
        Some(some)
    }

    pub(crate) fn bury(&mut self, hot: Hot) {
        self.bytes += hot.heap_bytes();
        self.hots.push_back(hot);
    }

    pub(crate) fn bury_runs(&mut self, runs: Vec<ChunkBytes>) {
        assert!(!runs.is_empty(), "there is something to give back");
        self.bytes += runs.capacity() * size_of::<ChunkBytes>();
        self.runs.push_back(runs);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes + self.hots.len() * size_of::<Hot>() + self.runs.len() * size_of::<Vec<ChunkBytes>>()
    }
}
