//! The calls of a link that have no answer yet, in their order.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::frame::{Frame, Message, Role};
use crate::identity::NodeId;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node has not received it and will not. It may be sent again, or elsewhere.
    #[error("not sent to node {node}: {reason}")]
    NotSent {
        /// Where it should have gone.
        node: NodeId,
        /// Why it has not.
        reason: Arc<str>,
    },
    /// It was sent, or about to be, and then the link broke. The node may have received it, and done it.
    #[error("node {node} was asked, and the link broke before it answered: {reason}")]
    Broken {
        /// Where it went.
        node: NodeId,
        /// What happened to the link.
        reason: Arc<str>,
    },
    /// The node has received it and says that there will be no answer. It may have done it, or a part of it.
    #[error("node {node} was asked, and does not answer")]
    Unanswered {
        /// Where it went.
        node: NodeId,
    },
}

impl CallError {
    /// Whether the node may have received it. If not, nothing has happened.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            CallError::NotSent { .. } => false,
            CallError::Broken { .. } | CallError::Unanswered { .. } => true,
        }
    }
}

/// Where the outcome of a call goes. Every call gets one.
pub(crate) type Outcome = oneshot::Sender<Result<Message, CallError>>;

/// Calls by number. None is given twice, also not on another connection.
pub(crate) struct Calls {
    node: NodeId,
    calls: BTreeMap<u64, Call>,
    /// The next call's number.
    next: u64,
    /// The first number that was not given to the connection yet.
    unwritten: u64,
}

struct Call {
    /// Until it is given to the connection.
    message: Option<Message>,
    outcome: Outcome,
    /// Of the window.
    _share: OwnedSemaphorePermit,
}

impl Calls {
    /// No calls of a node.
    pub(crate) fn new(node: NodeId) -> Calls {
        Calls { node, calls: BTreeMap::new(), next: 0, unwritten: 0 }
    }

    /// Whether no answer is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Begins a call behind all others, and returns its number.
    pub(crate) fn begin(&mut self, message: Message, share: OwnedSemaphorePermit, outcome: Outcome) -> u64 {
        let number = self.next;
        self.next += 1;
        self.calls.insert(number, Call { message: Some(message), outcome, _share: share });
        number
    }

    /// The next request to be written.
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        let (&number, call) = self.calls.range_mut(self.unwritten..).next()?;
        self.unwritten = number + 1;
        let message = call.message.take().expect("it was not written yet");
        Some(Frame { role: Role::Request, number, message })
    }

    /// Gives an answer to its call. False for what answers none that was written.
    pub(crate) fn answer(&mut self, frame: Frame) -> bool {
        let Frame { role, number, message } = frame;
        let answer = match role {
            Role::Request => return false,
            Role::Reply => Ok(message),
            Role::Unanswered => Err(CallError::Unanswered { node: self.node }),
        };
        if number >= self.unwritten {
            return false;
        }
        let Some(call) = self.calls.remove(&number) else { return false };
        // Whoever asked may have gone.
        let _ = call.outcome.send(answer);
        true
    }

    /// Forgets a call that nobody waits for any more. One that was written keeps its share of the window until it is
    /// answered: the other side has it, too.
    pub(crate) fn cancel(&mut self, number: u64) {
        if number >= self.unwritten {
            self.calls.remove(&number);
        }
    }

    /// Ends all of them.
    pub(crate) fn fail(&mut self, reason: &Arc<str>) {
        for (number, call) in std::mem::take(&mut self.calls) {
            let (node, reason) = (self.node, reason.clone());
            let error = if number < self.unwritten {
                CallError::Broken { node, reason }
            } else {
                CallError::NotSent { node, reason }
            };
            let _ = call.outcome.send(Err(error));
        }
    }
}
