//! What stands before the letters of a message, and what it is answered with: who speaks to whom, in which life of each.
//!
//! A message is taken only by the one that it is meant for. So a shard whose mail was lost, or that has lost what it heard, is never
//! taken for one that has not: see [`crate::nodes::outgoing`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use weir_cluster::Message;

/// A message with letters, or with none.
pub(crate) const MAIL: u8 = 1;
/// Its answer: the letters are taken.
pub(crate) const TAKEN: u8 = 2;
/// Its answer: the letters are not even looked at, because they were meant for somebody else.
pub(crate) const REFUSED: u8 = 3;

/// What stands before the letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Salute {
    /// The life of the process that speaks.
    pub(crate) life: u64,
    /// How often the shard has lost something that it had to say to this node.
    pub(crate) session: u64,
    /// The lives of the other process that were owed something of that.
    pub(crate) lost: Vec<u64>,
    /// Whom it is meant for; none for whoever there is, and then there are no letters.
    pub(crate) to: Option<Hearer>,
    /// The cluster's groups: a request is about one of them.
    pub(crate) groups: u16,
    pub(crate) letters: u16,
}

/// Who hears the mail of one shard of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hearer {
    /// The life of its process.
    pub(crate) life: u64,
    /// How often it has lost what it had heard of that shard.
    pub(crate) epoch: u64,
}

/// What this shard has heard of a shard of another node.
#[derive(Default)]
pub(crate) struct Lane {
    /// The life and the session of the message before.
    pub(crate) heard: Option<(u64, u64)>,
    /// See [`Hearer`].
    pub(crate) epoch: u64,
    /// Takes its messages.
    pub(crate) task: Option<AbortHandle>,
}

/// A message, or an answer to one.
pub(crate) fn message(kind: u8, head: &impl Serialize, bodies: Vec<Bytes>) -> Message {
    let head = postcard::to_allocvec(head).expect("plain numbers can be written");
    Message { kind, head: head.into(), bodies }
}

/// The head of a message; none for what is none.
pub(crate) fn head<T: for<'de> Deserialize<'de>>(message: &Message) -> Option<T> {
    match postcard::take_from_bytes(&message.head) {
        Ok((head, [])) => Some(head),
        _ => None,
    }
}
