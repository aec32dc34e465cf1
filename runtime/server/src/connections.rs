//! How many connections are open, and where.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Open connections by shard, and what has happened to others. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Vec<AtomicUsize>,
    /// Their sum, which a move does not change.
    total: AtomicUsize,
    ended: Notify,
    accepted: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
}

/// Sums over the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionCounts {
    /// Handed to a shard.
    pub(crate) accepted: u64,
    /// Closed because of the limit.
    pub(crate) turned_away: u64,
    /// Times that `accept` failed.
    pub(crate) accept_errors: u64,
}

/// Connections that a shard may have beyond another one and still be moved to from there.
const AHEAD_MAX: usize = 8;

/// One open connection's place in the count; dropping it ends the connection as far as the count goes.
#[derive(Debug)]
pub(crate) struct Open {
    connections: Arc<Connections>,
    pub(crate) shard: usize,
    has_moved: bool,
}

impl Open {
    /// Moves to another shard's count, once, unless that has many more connections already: then nothing changes.
    pub(crate) fn move_to(&mut self, shard: usize) -> bool {
        let open = &self.connections.open;
        if self.has_moved || open[shard].load(Ordering::Acquire) > open[self.shard].load(Ordering::Acquire) + AHEAD_MAX
        {
            return false;
        }
        open[shard].fetch_add(1, Ordering::AcqRel);
        open[self.shard].fetch_sub(1, Ordering::AcqRel);
        (self.shard, self.has_moved) = (shard, true);
        true
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.open[self.shard].fetch_sub(1, Ordering::AcqRel);
        self.connections.total.fetch_sub(1, Ordering::AcqRel);
        self.connections.ended.notify_one();
    }
}

impl Connections {
    /// No connections, over `shards` shards.
    pub(crate) fn new(shards: usize) -> Arc<Connections> {
        Arc::new(Connections {
            open: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            total: AtomicUsize::new(0),
            ended: Notify::new(),
            accepted: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
        })
    }

    /// Open connections of each shard.
    pub(crate) fn open_by_shard(&self) -> Vec<usize> {
        self.open.iter().map(|open| open.load(Ordering::Acquire)).collect()
    }

    /// Sums so far.
    pub(crate) fn counts(&self) -> ConnectionCounts {
        ConnectionCounts {
            accepted: self.accepted.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            accept_errors: self.accept_errors.load(Ordering::Relaxed),
        }
    }

    /// Waits until no connection is open. One waiter at a time.
    pub(crate) async fn all_ended(&self) {
        // An end between the check and the wait leaves a permit, so it is not missed.
        while self.total() > 0 {
            self.ended.notified().await;
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    /// Counts a connection in at the shard that has the fewest.
    pub(crate) fn enter(self: &Arc<Connections>) -> Open {
        let open = self.open_by_shard();
        let shard = (0..open.len()).min_by_key(|shard| open[*shard]).expect("there is a shard");
        self.open[shard].fetch_add(1, Ordering::AcqRel);
        self.total.fetch_add(1, Ordering::AcqRel);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Open { connections: Arc::clone(self), shard, has_moved: false }
    }
}
