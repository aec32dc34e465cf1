//! The event loop of one core: its groups, its connections' calls, and its mail to the other shards.
//!
//! - [`shard`]: [`Shard`], the handle that connections hold, and everything behind it.
//! - [`api`]: what a shard is asked and answers.
//! - Verbs, one file each: [`append`] (and close), [`create`], [`delete`], [`read`] (and head), [`live`], [`list`],
//!   [`buckets`]; [`expiry`] ends streams by time.
//! - [`modules`], [`bindings`]: what is uploaded and attached; [`validate`]: appends on their way through validators;
//!   [`summary`], [`folds`], [`records`]: streams on their way into folds. [`guests`]: what a shard has of all that.
//! - [`group`]: the open batch, the flusher, the answers. [`replicas`]: opening WALs and replicas.
//! - [`feed`]: what live readers have not taken yet.
//! - [`calls`], [`mailbox`], [`wakeup`]: waiting for answers, from this shard or another, without locks.
//! - [`config`], [`seams`], [`stats`]: settings, what is handed in, figures.
//!
//! There is no lock and no state shared between threads here: a shard reaches another only by mail.

mod api;
mod append;
mod bindings;
mod buckets;
mod budget;
mod calls;
mod config;
mod create;
mod delete;
mod expiry;
mod feed;
mod folds;
mod group;
mod guests;
mod limit;
mod list;
mod live;
mod mailbox;
mod modules;
mod read;
mod records;
mod replicas;
mod seams;
mod shard;
mod stats;
mod summary;
#[cfg(test)]
mod tests;
mod validate;
mod wakeup;

pub use api::{AppendRequest, Body, BucketSummary, CreateRequest, ListedStream, LongPoll, Page, Producer, ShardError};
pub use bindings::BindingRequest;
pub use budget::{PageBudget, keep};
pub use config::{ShardConfig, Topology};
pub use limit::Limit;
pub use live::{LiveData, LiveEvent, Subscription};
pub use mailbox::{Address, Mailbox, mesh};
pub use modules::{ModuleState, ModuleSummary};
pub use seams::{Builtin, Clock, Entropy, Seams};
pub use shard::{InFlight, Shard, ShardOpenError};
pub use stats::ShardStats;
pub use summary::{SummaryFollower, SummaryQuery, SummaryView};
