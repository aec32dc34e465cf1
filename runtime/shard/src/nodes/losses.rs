//! What was lost on the way to other nodes, for the shard that waits for it; and what it owes them since.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use weir_cluster::NodeId;
use weir_types::Wakeup;

use crate::message::CallId;

/// Lives of the other process that are known to be owed something.
const LIVES_MAX: usize = 8;

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
    /// What the node and this shard have told each other is forgotten. Whose work ends with that is owed something.
    Node(NodeId, Rc<Debts>),
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

/// What a node is owed of what was lost on the way to it, wherever it was then: one that has moved is owed the same.
#[derive(Default)]
pub(crate) struct Debts {
    /// The lives of its process that were owed something since it was told last.
    lives: RefCell<Vec<u64>>,
    /// Losses of which it is not known yet whose work has ended with them; and rung when it is.
    unsettled: Cell<usize>,
    news: Wakeup,
}

impl Debts {
    /// Something is lost; [`Debts::end_loss`] is to follow.
    pub(crate) fn begin_loss(self: &Rc<Self>) -> Rc<Debts> {
        self.unsettled.set(self.unsettled.get() + 1);
        self.clone()
    }

    /// What rested on mail to the node has ended with a loss, work for these lives of its process too: there will be no answer.
    pub(crate) fn end_loss(&self, lives: impl IntoIterator<Item = u64>) {
        lives.into_iter().for_each(|life| self.note(life));
        let unsettled = self.unsettled.get();
        assert!(unsettled > 0, "a loss ends once");
        self.unsettled.set(unsettled - 1);
        self.news.ring();
    }

    /// This life of its process is owed something.
    pub(crate) fn note(&self, life: u64) {
        let mut lives = self.lives.borrow_mut();
        if !lives.contains(&life) {
            // Of those before, nobody is there any more.
            if lives.len() == LIVES_MAX {
                lives.remove(0);
            }
            lives.push(life);
        }
    }

    /// Who is owed something, and was not told yet.
    pub(crate) fn lives(&self) -> Vec<u64> {
        self.lives.borrow().clone()
    }

    /// They were told.
    pub(crate) fn clear(&self) {
        self.lives.borrow_mut().clear();
    }

    /// Resolves when it is known of every loss whose work has ended with it.
    pub(crate) async fn settled(&self) {
        while self.unsettled.get() > 0 {
            self.news.rung().await;
        }
    }
}
