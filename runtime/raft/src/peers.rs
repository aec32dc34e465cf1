//! How a replica reaches those of its group on other nodes. This crate says what is sent; who hands in [`Peers`] knows where the
//! nodes are and how they are reached.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use weir_types::GroupId;

/// What one replica asks another, and what that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What is asked. An answer has the kind of its question.
    pub kind: u8,
    /// What is asked in particular.
    pub head: Bytes,
    /// The bodies of log entries, sent as they are. Where they arrive, each stands behind
    /// [`FRAME_HEADER_BYTES`](weir_storage::FRAME_HEADER_BYTES) in an [`Arena`](weir_storage::Arena), so that the log can write it
    /// from there.
    pub bodies: Vec<Bytes>,
}

/// Which way a message goes: what is large never delays what is urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, and what else is small.
    Control,
    /// Log entries.
    Data,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer cannot be reached, and has not received anything.
    #[error("the node cannot be reached")]
    NotSent,
    /// It was sent, and nothing is known of it.
    #[error("the node has not answered")]
    Broken,
}

/// The replicas of other nodes.
pub trait Peers {
    /// Sends `message` to the replica of `group` on `node`, which answers with [`Replica::answer`](crate::Replica::answer). What is
    /// sent on one lane arrives in the order of the calls, or not at all. What waits to be sent and to be answered is bounded: a call
    /// may wait before it is sent.
    fn call(
        &self,
        node: u64,
        group: GroupId,
        lane: Lane,
        message: Message,
    ) -> LocalBoxFuture<'static, Result<Message, CallError>>;
}
