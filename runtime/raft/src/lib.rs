//! One replica of a Raft group behind our own words. The only crate that knows openraft.
//!
//! - [`replica`]: [`Replica`], what the shard holds: start, propose a batch, shut down.
//! - [`log_store`]: openraft's log traits on [`weir_storage::Wal`].
//! - [`state_machine`]: openraft's state machine trait on [`weir_stream::Group`]; calls the [`Observer`].
//! - [`snapshot`]: the state in a file, so that the log before it may go.
//! - [`install`]: a group that goes on from a state that another log had.
//! - [`network`]: the transport. A group of one voter has none, and says so if it is ever called.
//! - [`config`]: openraft's type parameters and our timings.
//! - [`codec`]: votes and memberships as bytes. openraft's own serde form is no format, so it is not used.
//!
//! Everything here lives on the thread of one shard. openraft wants its types `Send`; the parts that are shared between
//! the log, the state machine and the shard are therefore wrapped in [`Local`], which checks the thread instead of
//! locking. A lock would be free of contention and still be on the append path.

mod codec;
mod config;
mod install;
mod local;
mod log_store;
mod network;
mod replica;
mod snapshot;
mod state_machine;

pub use install::install;
pub use local::Local;
pub use log_store::is_batch;
pub use replica::{ProposeError, Replica, ReplicaOptions, Standing, StartError};
pub use snapshot::{read_snapshot, read_streams, snapshot_chunks};
pub use state_machine::{Observer, State};
