//! A flag that one task waits for. All on one thread: no lock, no atomic.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Set by anyone, awaited and cleared by one task.
#[derive(Default)]
pub(crate) struct Signal {
    is_set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    /// Sets the flag; the waiting task runs after everything that is ready now.
    pub(crate) fn set(&self) {
        if !self.is_set.replace(true)
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Ready, and clear again, once the flag was set.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_set.take() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        match &mut *waiting {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waiting = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
