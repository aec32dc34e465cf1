//! A task's doorbell: rung any number of times, answered once, after everything else that is ready in this turn.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes one task on the same thread. The waker puts the task behind all that are ready already, so one poll of the
/// network becomes one batch.
#[derive(Default)]
pub(crate) struct Wakeup {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wakeup {
    pub(crate) fn ring(&self) {
        if !self.rung.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Resolves once it has been rung since the last time.
    pub(crate) async fn rung(&self) {
        poll_fn(|context| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
