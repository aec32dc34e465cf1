//! One group on this shard: its replica and state, and what waits to be proposed to it.
//!
//! - [`proposer`]: the open batch, the backlog and the round under way, as a pure state machine.
//! - [`local`]: [`Group`], which a shard holds for every group it owns.
//! - [`open`]: opening WALs and replicas. [`announcer`]: telling the feeds what apply has done. [`time`]: the group's time.

mod announcer;
mod local;
mod open;
mod proposer;
#[cfg(test)]
mod tests;
mod time;

pub(crate) use local::{Group, Leading, ROUND_MIN};
pub use open::ShardOpenError;
pub(crate) use open::{open_wals, start};
pub(crate) use proposer::{Failure, Job, Waiter};
pub(crate) use time::SLOWER_PART;
