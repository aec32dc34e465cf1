//! What wakes an HTTP/1 connection while it is polled.
//!
//! hyper wakes the sender of a body whenever a piece of it is taken, and of a body that came with its head the sender is
//! done by then. The sender is the connection's own task, which is just being polled: so every append would poll its
//! connection once more, for nothing. A connection is therefore polled with a waker that holds back what comes meanwhile,
//! and of that, what taking the last piece has caused is forgotten.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::task::{Context, Poll, Wake, Waker};

const IDLE: u8 = 0;
const POLLED: u8 = 1;
const POLLED_AND_WOKEN: u8 = 2;

/// The wakes of one task.
#[derive(Clone)]
pub(crate) struct Wakes {
    shared: Arc<Shared>,
    waker: Waker,
}

struct Shared {
    state: AtomicU8,
    task: Waker,
}

impl Wakes {
    /// Those of the task that `task` wakes, for as long as it lives.
    pub(crate) fn of(task: &Waker) -> Wakes {
        let shared = Arc::new(Shared { state: AtomicU8::new(IDLE), task: task.clone() });
        Wakes { waker: Waker::from(shared.clone()), shared }
    }

    /// Polls a part of the task. What wakes it meanwhile wakes the task afterwards, if the part is still pending.
    pub(crate) fn poll<T>(&self, part: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.shared.state.store(POLLED, Release);
        let polled = part(&mut Context::from_waker(&self.waker));
        if self.shared.state.swap(IDLE, AcqRel) == POLLED_AND_WOKEN && polled.is_pending() {
            self.shared.task.wake_by_ref();
        }
        polled
    }

    /// Does `work`, in which the task may wake itself, and says in the second part of the result whether for nothing.
    ///
    /// Only where nothing else can wake the task meanwhile, from this thread or another.
    pub(crate) fn forget<T>(&self, work: impl FnOnce() -> (T, bool)) -> T {
        let before = self.shared.state.load(Acquire);
        let (done, is_vain) = work();
        if before == POLLED && is_vain {
            self.shared.state.store(POLLED, Release);
        }
        done
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.compare_exchange(POLLED, POLLED_AND_WOKEN, AcqRel, Acquire) == Err(IDLE) {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn wakes() -> (Wakes, impl Fn() -> usize) {
        let counted = Arc::new(Counted::default());
        (Wakes::of(&Waker::from(counted.clone())), move || counted.0.load(Relaxed))
    }

    #[test]
    fn what_wakes_a_polled_task_wakes_it_once_and_afterwards() {
        let (wakes, count) = wakes();
        let mut waker = None;
        let polled: Poll<()> = wakes.poll(|cx| {
            cx.waker().wake_by_ref();
            cx.waker().wake_by_ref();
            waker = Some(cx.waker().clone());
            assert_eq!(count(), 0);
            Poll::Pending
        });
        assert_eq!((polled, count()), (Poll::Pending, 1));
        waker.expect("it was polled").wake();
        assert_eq!(count(), 2, "nothing polls it now");
        let polled = wakes.poll(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        });
        assert_eq!((polled, count()), (Poll::Ready(()), 2), "it has ended");
    }

    #[test]
    fn only_what_is_vain_is_forgotten() {
        for (woken_before, is_vain, expected) in
            [(false, true, 0), (false, false, 1), (true, true, 1), (true, false, 1)]
        {
            let (wakes, count) = wakes();
            let polled: Poll<()> = wakes.poll(|cx| {
                if woken_before {
                    cx.waker().wake_by_ref();
                }
                wakes.forget(|| (cx.waker().wake_by_ref(), is_vain));
                Poll::Pending
            });
            assert_eq!((polled, count()), (Poll::Pending, expected), "{woken_before} {is_vain}");
        }
    }

    #[test]
    fn no_wake_of_another_thread_is_lost() {
        for _ in 0..1000 {
            let (wakes, count) = wakes();
            let waker = wakes.waker.clone();
            let other = std::thread::spawn(move || waker.wake());
            let _: Poll<()> = wakes.poll(|_| Poll::Pending);
            other.join().expect("it only wakes");
            assert_eq!(count(), 1);
        }
    }
}
