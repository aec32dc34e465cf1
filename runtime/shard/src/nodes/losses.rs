//! What was lost on the way to other nodes, for the shard that waits for it.

use std::cell::RefCell;

use weir_cluster::NodeId;
use weir_types::Wakeup;

use crate::message::CallId;

/// What was lost, as it happened.
#[derive(Default)]
pub(crate) struct Losses {
    list: RefCell<Vec<Loss>>,
    news: Wakeup,
}

/// Something that was to go to another node.
pub(crate) enum Loss {
    /// These calls have not reached the node and never will.
    Unsent(NodeId, Vec<CallId>),
    /// There is no room for this call: too much waits for the node already.
    Crowded(NodeId, CallId),
    /// Whatever else was asked of the node up to this era has no answer.
    Calls(NodeId, u64),
    /// What the node and this shard have told each other is forgotten.
    Node(NodeId),
}

impl Losses {
    pub(crate) fn push(&self, loss: Loss) {
        self.list.borrow_mut().push(loss);
        self.news.ring();
    }

    /// All that is there, in order, once there is any.
    pub(crate) async fn take(&self) -> Vec<Loss> {
        loop {
            let losses = self.list.take();
            if !losses.is_empty() {
                return losses;
            }
            self.news.rung().await;
        }
    }
}
