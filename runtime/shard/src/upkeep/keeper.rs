//! The keeper of a group: takes snapshots, so that a restart need not apply the whole log, and gives up the log before them as
//! far as no stream's bytes are in it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use weir_raft::Standing;

use crate::core::Core;
use crate::stats::add;
use crate::upkeep::copier::Anchor;
use crate::write::job::LocalGroup;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long it waits after a snapshot that the disk has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a peer waits for bytes to leave the log before it is sent a snapshot.
const FLUSHED_WITHIN: Duration = Duration::from_secs(10);
/// How long nothing is committed before nothing will be for now: some durable writes, also on a slow disk.
const STUCK_FOR: Duration = Duration::from_millis(500);
/// Entries that are given up in one turn, at most: about a millisecond.
const PURGED_PER_TURN: u64 = 65_536;

/// Keeps a group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>, anchor: Rc<Anchor>) {
    let mut not_before = Instant::now();
    let mut peer = Peer::default();
    let mut last_index = 0;
    while !group.has_failed() {
        tokio::time::sleep(LOOK_EVERY).await;
        group.replica.reap().await;
        let taken = group.replica.snapshot_index();
        let is_wanted_by_peer = peer.is_ready(&core, &group);
        let is_wanted = anchor.wants_newer_than(taken) || group.snapshot_wanted.get() > taken || is_wanted_by_peer;
        // Whoever is sent something may have been taken in again.
        let before = std::mem::replace(&mut last_index, group.replica.standing().last_index);
        // All groups of a shard share the log, and nobody moves the bytes of one to the cold tier that this node has left.
        let takes_along = group.is_outside() && last_index == before && group.replica.needs_log();
        let is_due = is_wanted || takes_along || is_snapshot_due(&core, &group);
        if Instant::now() >= not_before && is_due && !snapshot(&core, &group, takes_along).await {
            not_before = Instant::now() + AGAIN_AFTER;
        }
        purge(&group).await;
    }
}

/// A peer that waits for a snapshot: what is in the log goes along with that, so it is moved to the cold tier before.
#[derive(Default)]
struct Peer {
    /// Up to which entry, and since when it waits.
    waits: Option<(Option<u64>, Instant)>,
    /// What is applied while there is more in the log, and since when.
    stuck: Option<(u64, Instant)>,
}

impl Peer {
    /// Whether one waits, and there is no longer anything to wait for.
    fn is_ready(&mut self, core: &Core, group: &LocalGroup) -> bool {
        if !group.replica.wants_snapshot() {
            *self = Peer::default();
            return false;
        }
        let (upto, since) = *self.waits.get_or_insert((group.applied().applied(), Instant::now()));
        if core.cold.is_none() || self.stands_still(group) || since.elapsed() > FLUSHED_WITHIN {
            return true;
        }
        group.flush_upto.set(group.flush_upto.get().max(upto));
        group.applied().hot_floor().is_none_or(|floor| Some(floor) > upto)
    }

    /// Whether nothing is committed. Without the peer there may be no majority: then nothing can be moved before it has its snapshot.
    fn stands_still(&mut self, group: &LocalGroup) -> bool {
        let Standing { applied_index, last_index, .. } = group.replica.standing();
        let before = self.stuck.filter(|(applied, _)| *applied == applied_index && applied_index < last_index);
        let (_, since) = *self.stuck.insert(before.unwrap_or((applied_index, Instant::now())));
        since.elapsed() >= STUCK_FOR
    }
}

/// A snapshot is due when the log behind the last one is as large as that, so that all of them together cost no more than
/// the log; or when it would let the oldest segment go while space is short. The group that pins it may have nothing else there,
/// and be idle.
fn is_snapshot_due(core: &Core, group: &LocalGroup) -> bool {
    let replica = &group.replica;
    if replica.bytes_since_snapshot() >= replica.snapshot_bytes().max(core.config.wal.segment_bytes) {
        return true;
    }
    let (taken, possible) = (replica.snapshot_index(), replica.purgeable());
    let pins = |behind| group.wal.is_pinned_behind(group.id, behind);
    possible > taken && group.wal.is_space_short() && pins(taken) && !pins(possible)
}

/// Takes a snapshot, which takes along what it needs of the log if it is to. Returns whether there is one.
async fn snapshot(core: &Core, group: &LocalGroup, takes_along: bool) -> bool {
    let begun = Instant::now();
    let taken = {
        let _turn = core.upkeep.lock().await;
        if takes_along { group.replica.take_carrying_snapshot().await } else { group.replica.take_snapshot().await }
    };
    match &taken {
        Ok(()) => {
            add(&core.stats.snapshots, 1);
            let (bytes, index) = (group.replica.snapshot_bytes(), group.replica.snapshot_index());
            tracing::debug!(group = group.id.0, index, bytes, took = ?begun.elapsed(), "snapshot taken");
        }
        Err(_) if group.has_failed() => {}
        Err(error) => {
            add(&core.stats.snapshots_failed, 1);
            tracing::warn!(group = group.id.0, %error, "a snapshot cannot be written: the log grows until one can");
        }
    }
    taken.is_ok()
}

async fn purge(group: &LocalGroup) {
    let Some(upto) = group.replica.purgeable().min(group.replica.snapshot_index()) else { return };
    let first = group.wal.first_index(group.id);
    if upto >= first {
        group.replica.purge(upto.min(first + PURGED_PER_TURN - 1)).await;
    }
}
