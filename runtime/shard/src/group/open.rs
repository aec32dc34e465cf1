//! Opening a shard: its WALs, and on them the replicas of its groups.

use std::time::Duration;

use weir_raft::{Replica, ReplicaOptions, State};
use weir_storage::{Wal, WalError};
use weir_types::{GroupId, ShardId, WalId};

use crate::agenda::Agenda;
use crate::config::{ShardConfig, Topology};
use crate::group::announcer::Announcer;
use crate::group::local::Group;
use crate::group::proposer::Job;
use crate::live::feeds::Feeds;
use crate::seams::{Seams, SteadyClock, in_turns};

/// Why a shard cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum ShardOpenError {
    /// A WAL cannot be opened.
    #[error("WAL {wal} cannot be opened")]
    Wal {
        /// Which.
        wal: WalId,
        /// Why.
        #[source]
        source: WalError,
    },
    /// A group cannot be started.
    #[error("a group cannot be started")]
    Group(#[from] weir_raft::StartError),
    /// There is no cold tier, and bytes of streams are in one.
    #[error(
        "{chunks} chunks of group {group} are in a cold tier, and there is none: set cold.url to what it was when they were written"
    )]
    ColdMissing {
        /// The group.
        group: GroupId,
        /// How many.
        chunks: u64,
    },
    /// There can be no thread for its guests.
    #[error("the lane of its modules cannot be started")]
    Lane(#[source] std::io::Error),
    /// The meta group does not fit this node's topology, or cannot be written.
    #[error("the node's number of groups cannot be noted or is another one: {0}")]
    Form(String),
}

/// How long a replica that begins may go without applying anything. An entry is at most some megabytes.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How far the clock may be behind a group's time at the start without a word about it: clocks are set now and then.
const CLOCK_AHEAD_MAX_MS: u64 = 60_000;

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
        tokio::task::spawn_local(in_turns(seams.turn, wal.clone().run()));
        Ok((id, wal))
    })
    .collect()
}

/// Starts a group's replica. The only one of its group is waited for until it serves: its log is applied.
pub(crate) async fn start<J: Job>(
    options: ReplicaOptions,
    wal: &Wal,
    config: &ShardConfig,
    clock: &SteadyClock,
    feeds: &Feeds,
    agenda: &Agenda,
) -> Result<Group<J>, ShardOpenError> {
    let (id, is_alone) = (options.group, options.peers.is_none());
    let state = State::new(weir_stream::Group::new());
    let observer =
        Box::new(Announcer { group: id, feeds: feeds.clone(), agenda: agenda.clone(), clock: clock.clone() });
    let replica = Replica::start(options, wal.clone(), state.clone(), observer).await?;
    // Among others it may take long until it leads, or never happen.
    if is_alone {
        replica.serving(STALL_MAX).await?;
    }
    let ahead_ms = state.borrow().time_ms().saturating_sub(clock.now_ms());
    if ahead_ms > CLOCK_AHEAD_MAX_MS {
        let ahead_s = ahead_ms / 1000;
        tracing::warn!(
            group = id.0,
            ahead_s,
            "the group's time is ahead of the clock: it goes slower until they agree"
        );
    }
    Ok(Group::new(id, replica, state, wal.clone(), clock.clone(), config.write_deadline))
}
