//! One replica of a Raft group behind our own words. The only crate that knows openraft.
//!
//! - [`replica`]: [`Replica`], what the shard holds: start, propose a batch, shut down.
//! - [`log_store`]: openraft's log traits on [`weir_storage::Wal`].
//! - [`state_machine`]: openraft's state machine trait on [`weir_stream::Group`]; calls the [`Observer`]. [`progress`]: how far it is.
//! - [`snapshot`]: the state in a file, so that the log before it may go. [`ship`] sends it to a replica that lacks what went,
//!   in pieces ([`parcel`]), and [`receive`] takes it over there ([`inbox`]).
//! - [`install`]: a group that goes on from a state that another log had.
//! - [`role`]: what the replica is to its group: [`Role`]. [`current`]: reads that are not stale, and handing over. [`members`]: who
//!   else is in it.
//! - [`peers`]: the replicas on other nodes, as they are asked: [`Peers`]. [`links`] are how they are reached, [`network`] is openraft's
//!   side of it, [`answer`] the other end, and [`wire`] what is said, as bytes.
//! - [`config`]: openraft's type parameters and our timings. [`runtime`]: tokio, as openraft is given it.
//! - [`codec`]: votes and memberships as bytes, [`entry`] entries. openraft's own serde form is no format, so it is not used.
//!
//! Everything here lives on the thread of one shard. openraft wants its types `Send`; the parts that are shared between
//! the log, the state machine and the shard are therefore wrapped in [`Local`], which checks the thread instead of
//! locking. A lock would be free of contention and still be on the append path.

mod answer;
mod blocking;
mod codec;
mod config;
mod current;
mod entry;
mod inbox;
mod install;
mod links;
mod local;
mod log_store;
mod members;
mod network;
mod parcel;
mod peers;
mod progress;
mod receive;
mod replica;
mod role;
mod runtime;
mod ship;
mod snapshot;
mod state_machine;
mod watch;
mod wire;

pub use answer::AnswerError;
pub use current::NotCurrent;
pub use install::install;
pub use links::{Links, answer_peer};
pub use local::{Local, State};
pub use log_store::is_batch;
pub use members::{MemberError, Other, View};
pub use peers::Peers;
pub use replica::{ProposeError, Replica, ReplicaOptions, Standing, StartError};
pub use role::Role;
pub use snapshot::{read_snapshot, read_streams, snapshot_chunks};
pub use state_machine::Observer;
