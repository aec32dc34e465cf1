//! The server's end, as the connections of one shard wait for it.
//!
//! Every poll of a connection asks whether the server shuts down, so asking must cost nothing: one task per shard listens
//! to the channel, and a connection leaves its waker once.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::sync::watch;

/// Whether the server shuts down. Clones are the same.
#[derive(Clone)]
pub(crate) struct Stop(Rc<Inner>);

struct Inner {
    now: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

impl Stop {
    /// Becomes true with `shutdown`, or when its owner is gone, who then wants nothing served either. Runs a local task.
    pub(crate) fn new(mut shutdown: watch::Receiver<bool>) -> Stop {
        let stop = Stop(Rc::new(Inner { now: Cell::new(false), waiting: RefCell::default() }));
        let told = stop.clone();
        tokio::task::spawn_local(async move {
            let _ = shutdown.wait_for(|&now| now).await;
            told.tell();
        });
        stop
    }

    /// Resolves once the server shuts down.
    pub(crate) fn stopped(&self) -> Stopped {
        Stopped { stop: self.clone(), place: None }
    }

    fn tell(&self) {
        self.0.now.set(true);
        // Woken tasks are only queued: none runs, and leaves its place, under the borrow.
        self.0.waiting.borrow().iter().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

/// See [`Stop::stopped`]. Always polled by the same task: it leaves that task's waker once.
pub(crate) struct Stopped {
    stop: Stop,
    place: Option<usize>,
}

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Stopped { stop: Stop(inner), place } = &mut *self;
        if inner.now.get() {
            return Poll::Ready(());
        }
        if place.is_none() {
            *place = Some(inner.waiting.borrow_mut().insert(context.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.stop.0.waiting.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn all_who_wait_are_told_and_who_comes_later_too() {
        let local = tokio::task::LocalSet::new();
        let (shut_down, shutdown) = watch::channel(false);
        local
            .run_until(async move {
                let stop = Stop::new(shutdown);
                let waiting: Vec<_> = (0..3).map(|_| tokio::task::spawn_local(stop.stopped())).collect();
                let mut left = Box::pin(stop.stopped());
                assert!(left.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                drop(left);
                tokio::task::yield_now().await;
                assert_eq!(stop.0.waiting.borrow().len(), 3);
                shut_down.send_replace(true);
                for told in waiting {
                    told.await.expect("it is told");
                }
                stop.stopped().await;
                assert!(stop.0.waiting.borrow().is_empty());
            })
            .await;
    }
}
