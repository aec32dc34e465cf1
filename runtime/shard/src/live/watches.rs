//! The watches that a shard has asked other shards, or itself, for.

use std::cell::Cell;

use weir_types::ShardId;

/// The watches that a shard has asked for: numbered, so that taking one back never takes back a newer one.
pub(crate) struct Watches {
    last: Cell<u64>,
    /// By owner: the highest number that it has answered.
    answered: Vec<Cell<u64>>,
}

impl Watches {
    pub(crate) fn new(shards: u16) -> Watches {
        Watches { last: Cell::new(0), answered: (0..shards).map(|_| Cell::new(0)).collect() }
    }

    pub(crate) fn next(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    /// The owner has answered the watch of this number.
    pub(crate) fn note_answered(&self, owner: ShardId, number: u64) {
        let answered = &self.answered[usize::from(owner.0)];
        answered.set(answered.get().max(number));
    }

    /// The last watch that the owner has answered.
    pub(crate) fn answered(&self, owner: ShardId) -> u64 {
        self.answered[usize::from(owner.0)].get()
    }
}
