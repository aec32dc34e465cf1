//! The keeper of a group: has old bytes go to the cold tier, takes snapshots, so that a restart need not apply the whole log, and gives up the log before them
//! as far as no stream's bytes are in it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use weir_cold::Cold;

use crate::core::Core;
use crate::flusher::Flusher;
use crate::stats::add;
use crate::write::job::LocalGroup;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long it waits after a snapshot that the disk has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long it waits after a flush that has failed.
const FLUSH_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Steps of giving back what deleted streams named, in one turn: less than a millisecond.
const REAPED_PER_TURN: usize = 64;
/// Where the log is more than half full, a snapshot is due already when so many of its parts are new.
const FULL_LOG_PARTS: u64 = 16;

/// Keeps a group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>) {
    let (mut flusher, mut has_more) = (Flusher::begin(&group), false);
    while !group.has_failed() {
        if !has_more {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        while group.state.borrow_mut().reap(REAPED_PER_TURN) {
            tokio::task::yield_now().await;
        }
        if let Some(cold) = core.cold.clone() {
            has_more = flush(&core, &group, &cold, &mut flusher).await;
        }
        if is_snapshot_due(&core, &group) {
            snapshot(&core, &group).await;
        }
        purge(&group).await;
    }
}

/// A snapshot is due when the log behind the last one is as large as that, so that all of them together cost no more than
/// the log; or when it would let the oldest segment go while space is short.
fn is_snapshot_due(core: &Core, group: &LocalGroup) -> bool {
    let replica = &group.replica;
    let since_bytes = replica.bytes_since_snapshot();
    if since_bytes >= replica.snapshot_bytes().max(core.config.wal.segment_bytes) {
        return true;
    }
    let wal = group.wal.stats();
    let is_short = wal.used_bytes > wal.used_bytes_max / 2 && since_bytes >= wal.used_bytes_max / FULL_LOG_PARTS;
    is_short && purgeable(group) > replica.snapshot_index() && group.wal.pinned_by().contains(&group.id)
}

async fn snapshot(core: &Core, group: &LocalGroup) {
    let begun = Instant::now();
    match group.replica.take_snapshot().await {
        Ok(()) => {
            add(&core.stats.snapshots, 1);
            let (bytes, index) = (group.replica.snapshot_bytes(), group.replica.snapshot_index());
            tracing::debug!(group = group.id.0, index, bytes, took = ?begun.elapsed(), "snapshot taken");
        }
        Err(_) if group.has_failed() => {}
        Err(error) => {
            add(&core.stats.snapshots_failed, 1);
            tracing::warn!(group = group.id.0, %error, "a snapshot cannot be written: the log grows until one can");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// Says whether there is more to be flushed at once.
async fn flush(core: &Rc<Core>, group: &Rc<LocalGroup>, cold: &Cold, flusher: &mut Flusher) -> bool {
    match flusher.run(core, group, cold).await {
        Ok(has_more) => return has_more,
        Err(_) if group.has_failed() => {}
        Err(error) => {
            add(&core.stats.flushes_failed, 1);
            tracing::warn!(
                group = group.id.0,
                ?error,
                "bytes cannot go to the cold tier: the log grows until they can"
            );
            tokio::time::sleep(FLUSH_AGAIN_AFTER).await;
        }
    }
    false
}

async fn purge(group: &LocalGroup) {
    let upto = purgeable(group).min(group.replica.snapshot_index());
    if let Some(upto) = upto
        && group.wal.purged(group.id).is_none_or(|purged| purged.index < upto)
    {
        group.replica.purge(upto).await;
    }
}

/// The last entry that no read needs, nor any before it; `None` when the first is needed.
fn purgeable(group: &LocalGroup) -> Option<u64> {
    let state = group.state.borrow();
    match state.hot_floor() {
        Some(floor) => floor.checked_sub(1),
        None => state.applied(),
    }
}
