//! A timer that costs next to nothing while it does not go off.
//!
//! A connection's task is polled for every request and every event, and asks its timers each time. A tokio timer that was
//! polled once has the task's waker and need not be polled again before it has elapsed; looking whether it has is one
//! load. That holds because a connection's futures stay in one task for their lives.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer of one task.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    has_waker: bool,
}

impl Alarm {
    /// Goes off at `deadline`.
    pub(crate) fn at(deadline: Instant) -> Alarm {
        Alarm { sleep: Box::pin(sleep_until(deadline)), has_waker: false }
    }

    /// Goes off after `time`.
    pub(crate) fn after(time: Duration) -> Alarm {
        Alarm::at(Instant::now() + time)
    }

    /// Sets another time.
    pub(crate) fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.has_waker = false;
    }

    /// Ready once the time has come, until it is reset. Always polled by the same task.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_waker && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.has_waker = true;
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_at_its_time_and_again_when_it_is_reset() {
        let begun = Instant::now();
        let mut alarm = Alarm::after(Duration::from_secs(5));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        alarm.reset(begun + Duration::from_secs(7));
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
        poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 7);
    }
}
