//! A task's doorbell: rung any number of times, answered once, after everything else that is ready in this turn. All on
//! one thread: no lock, no atomic.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Wakes one task on the same thread. The waker puts the task behind all that are ready already, so one poll of the
/// network becomes one batch.
#[derive(Debug, Default)]
pub struct Wakeup {
    is_rung: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Wakeup {
    /// Rings; the waiting task runs after everything that is ready now.
    pub fn ring(&self) {
        if !self.is_rung.replace(true)
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Resolves once it has been rung since the last time. One task waits at a time.
    pub async fn rung(&self) {
        poll_fn(|context| self.poll_rung(context)).await;
    }

    /// As [`Wakeup::rung`], for tasks that wait for other things too.
    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_rung.take() {
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn any_number_of_rings_is_answered_once() {
        let wakeup = Wakeup::default();
        let mut context = Context::from_waker(Waker::noop());
        assert!(wakeup.poll_rung(&mut context).is_pending());
        wakeup.ring();
        wakeup.ring();
        assert!(pin!(wakeup.rung()).poll(&mut context).is_ready());
        assert!(wakeup.poll_rung(&mut context).is_pending());
    }
}
