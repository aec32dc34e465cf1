//! The event loop of one core: its groups, its connections' calls, and its mail to the other shards.
//!
//! A file imports only what stands above it here:
//! - [`message`]: what is asked and answered: plain values.
//! - [`calls`], [`mailbox`]: waiting for answers, from this shard or another, without locks.
//! - [`config`], [`seams`], [`stats`], [`budget`], [`in_flight`]: settings, what is handed in, figures, what is counted.
//! - [`agenda`]: when streams end by themselves.
//! - [`group`]: the open batch and the proposer, opening WALs and replicas.
//! - [`core`]: [`Shard`], the handle that connections hold, and the state behind it; knows no verb.
//! - [`upkeep`]: snapshots, giving up what of the log nothing needs, old bytes to the cold tier and from chunk to chunk.
//! - [`subscriptions`]: who is woken when streams have something new.
//! - The verbs: [`read`], [`write`], [`live`], [`meta`] (buckets, modules, bindings), [`modules`] (guests at work).
//! - [`shard`]: opening, and the dispatch from requests to verbs.
//!
//! There is no lock and no state shared between threads here: a shard reaches another only by mail.

mod agenda;
mod budget;
mod calls;
mod config;
mod core;
mod group;
mod in_flight;
mod live;
mod mailbox;
mod message;
mod meta;
mod modules;
mod nodes;
mod read;
mod seams;
mod shard;
mod stats;
mod subscriptions;
#[cfg(test)]
mod tests;
mod upkeep;
mod write;

pub use budget::{ENCODED_BYTES_MAX, PageBudget, PageClaim, keep};
pub use config::{ShardConfig, Topology};
pub use core::Shard;
pub use group::ShardOpenError;
pub use in_flight::InFlight;
pub use live::subscription::{LiveData, LiveEvent, Subscription};
pub use mailbox::{Address, Mailbox, mesh};
pub use message::{
    AckRequest, AppendRequest, BackupNews, BindingRequest, Body, BucketSummary, CheckNews, ClaimedWake, ClusterOrder,
    ClusterReport, ClusterStatus, CreateCondition, CreateRequest, DamagedChunk, Following, ForkRequest, GroupStanding,
    GroupStatus, IfMatch, Limit, LinkedStream, ListCursor, ListedStream, Listing, LongPoll, ModuleState, ModuleSummary,
    NodeChange, NodeStatus, Page, Producer, ShardError, ShardStats, SubscriptionView, SummaryQuery, SummaryView,
    SummaryWait, TrimRequest,
};
pub use modules::summary::SummaryFollower;
pub use nodes::join::Joined;
pub use seams::{Builtin, Clock, Entropy, Nodes, Seams, in_turns};
pub use subscriptions::wakes::{parse_wake_id, wake_id};
pub use weir_hooks::PublicKey;
pub use weir_raft::{Role, Standing};
