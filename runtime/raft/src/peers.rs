//! How a replica reaches those of its group on other nodes.

use futures_util::future::LocalBoxFuture;
use weir_cluster::{CallError, Lane, Message, NodeId};

/// The replicas of other nodes, as a replica asks them. [`Links`](crate::Links) are real ones.
///
/// The bodies of a message are those of log entries, sent as they are. Where they arrive, each stands behind
/// [`FRAME_HEADER_BYTES`](weir_storage::FRAME_HEADER_BYTES) in an [`Arena`](weir_storage::Arena), so that the log can write it
/// from there.
pub trait Peers {
    /// Sends `message` to the lane's replica on `node`, which answers with [`Replica::answer`](crate::Replica::answer). What is
    /// sent on one lane arrives in the order in which the calls are first polled, or not at all. What waits to be sent and
    /// answered is bounded: a call may wait before it is sent.
    fn call(&self, node: NodeId, lane: Lane, message: Message) -> LocalBoxFuture<'static, Result<Message, CallError>>;

    /// Ends the calls to a node on a lane, which may begin anew: it is waited for no longer.
    fn fail(&self, node: NodeId, lane: Lane, reason: &str);
}
