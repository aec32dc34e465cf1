//! Links between nodes: connections that know whose they are, and calls over them. What is said, others decide.
//!
//! - [`identity`]: who nodes are, and the lanes between two of them. [`endpoint`]: a node as it meets others. [`config`].
//! - [`hello`]: what two nodes say first. [`meeting`]: how they check it. [`secret`]: how they show that they have the same. [`tls`].
//! - [`acceptor`]: takes connections, and hands them out once that is done.
//! - [`link`], [`calls`]: requests to another node. [`incoming`]: requests of another node.
//! - [`inquiry`]: one question to a node that is known by its address alone. [`roster`]: who belongs to the cluster.
//! - [`frame`]: what a message is, and what it looks like on the wire. [`reader`], [`writer`]: from and to a connection. [`wire`]: both.
//! - [`network`]: where connections come from, a seam. [`sparing`]: not every line is logged.
//!
//! Time is tokio's, randomness is handed in, and nothing here outlives who owns it.

mod acceptor;
mod calls;
mod config;
mod endpoint;
pub mod frame;
pub mod hello;
pub mod identity;
mod incoming;
mod inquiry;
mod link;
mod meeting;
mod network;
mod reader;
mod roster;
pub mod secret;
mod sparing;
pub mod tls;
mod wire;
mod writer;

pub use acceptor::{Accepted, Acceptor};
pub use calls::CallError;
pub use config::LinkConfig;
pub use endpoint::{Endpoint, Entropy, Security};
pub use frame::Message;
pub use identity::{Admission, ClusterId, DiskId, Hello, Identity, Lane, NodeId};
pub use incoming::{Incoming, Responder};
pub use inquiry::inquire;
pub use link::{Answer, Link};
pub use network::{Connecting, Connection, Listener, Network, Stream, Tcp};
pub use reader::Buffers;
pub use roster::{Addresses, Known, List, Roster, is_address, is_one_word};
pub use secret::Secret;
pub use tls::Tls;
