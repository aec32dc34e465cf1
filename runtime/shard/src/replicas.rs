//! Opening a shard: its WALs, and on them the replicas of its groups.

use std::rc::Rc;

use bytes::Bytes;
use weir_raft::{Observer, Replica, ReplicaOptions, State};
use weir_storage::Wal;
use weir_stream::{Change, Group, Outcome};
use weir_types::{GroupId, ShardId, WalId};

use crate::config::{ShardConfig, Topology};
use crate::feed::Feeds;
use crate::group::LocalGroup;
use crate::mailbox::{Advance, Mail, Post};
use crate::seams::{Seams, SteadyClock};
use crate::shard::ShardOpenError;

/// Opens the WALs that the shard runs, and starts their writers.
pub(crate) fn open_wals(
    shard: ShardId,
    topology: Topology,
    seams: &Seams,
    config: &ShardConfig,
) -> Result<Vec<(WalId, Wal)>, ShardOpenError> {
    let own = (0..topology.wals).map(WalId).filter(|&wal| topology.shard_of(wal) == shard);
    own.map(|id| {
        let disk = seams.disks[usize::from(id.0)].clone();
        let entropy = seams.entropy.clone();
        let wal = Wal::open(disk, config.wal, Box::new(move || entropy.u64()))
            .map_err(|source| ShardOpenError::Wal { wal: id, source })?;
        tokio::task::spawn_local(wal.clone().run());
        Ok((id, wal))
    })
    .collect()
}

/// Starts a group's replica and waits until it serves: its log is applied.
pub(crate) async fn start(
    id: GroupId,
    wal: &Wal,
    config: &ShardConfig,
    clock: &SteadyClock,
    feeds: &Feeds,
    post: &Rc<Post>,
) -> Result<LocalGroup, ShardOpenError> {
    let state = State::new(Group::new());
    let observer = Box::new(Announcer { feeds: feeds.clone(), post: post.clone() });
    let options = ReplicaOptions { node_id: config.node_id, group: id };
    let replica = Replica::start(options, wal.clone(), state.clone(), observer).await?;
    replica.serving().await?;
    Ok(LocalGroup::new(id, replica, state, wal.clone(), clock.now_ms()))
}

/// Tells the feeds what apply has done.
struct Announcer {
    feeds: Feeds,
    post: Rc<Post>,
}

impl Observer for Announcer {
    fn applied(&mut self, _index: u64, batch: &Bytes, outcomes: &[Outcome]) {
        if self.feeds.is_empty() {
            return;
        }
        for outcome in outcomes {
            let incarnation = match outcome.change {
                Change::Advanced { incarnation, .. } | Change::Removed { incarnation } => incarnation,
                Change::None | Change::Created { .. } => continue,
            };
            let Some(feed) = self.feeds.used(incarnation) else { continue };
            let advance = match outcome.change {
                Change::Advanced { start, end, frame_pos, frame_len, closed, .. } => {
                    let frame_end = frame_pos as usize + frame_len as usize;
                    let payload = payload(batch, frame_end - (end - start) as usize, frame_end);
                    Advance { incarnation, start, end, payload, closed, removed: false }
                }
                _ => Advance { incarnation, start: 0, end: 0, payload: Bytes::new(), closed: false, removed: true },
            };
            for peer in feed.peers() {
                self.post.mail(peer, Mail::Advanced { owner: self.post.own(), advance: advance.clone() });
            }
            feed.advance(&advance);
        }
    }
}

/// A command's payload. A small part of a batch is copied: shared, it would keep the whole batch in memory.
fn payload(batch: &Bytes, start: usize, end: usize) -> Bytes {
    if (end - start) * 4 < batch.len() { Bytes::copy_from_slice(&batch[start..end]) } else { batch.slice(start..end) }
}
