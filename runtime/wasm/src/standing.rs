//! How a binding's module behaves: one that fails again and again is suspended for a while, so that what it costs to end it
//! and to start it anew is not paid for every request.

use std::time::{Duration, Instant};

use crate::error::GuestError;

/// Failures in a row after which a module is suspended.
const FAILURES_MAX: u32 = 8;
/// CPU time that failures in a row may take together before.
const LOST_MAX: Duration = Duration::from_secs(2);
/// How long it is suspended at first. Each failure that follows doubles it.
const SUSPENSION_MIN: Duration = Duration::from_millis(100);
const SUSPENSION_MAX: Duration = Duration::from_secs(30);

/// The failures of a module under one binding since it last gave an answer.
#[derive(Default)]
pub(crate) struct Standing {
    failures: u32,
    lost: Duration,
    suspended: Option<Suspension>,
}

struct Suspension {
    length: Duration,
    until: Instant,
    /// What happened last.
    error: String,
}

impl Standing {
    /// # Errors
    /// [`GuestError::Suspended`] until the suspension is over. Then one failure is enough for the next one.
    pub(crate) fn check(&self, now: Instant) -> Result<(), GuestError> {
        match &self.suspended {
            Some(suspended) if now < suspended.until => Err(GuestError::Suspended {
                failures: self.failures,
                retry_after: suspended.until - now,
                error: suspended.error.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The module gave an answer, whichever.
    pub(crate) fn answered(&mut self) {
        if self.failures > 0 {
            *self = Standing::default();
        }
    }

    /// The module was ended after `used`; whether that has suspended it.
    pub(crate) fn failed(&mut self, error: &GuestError, used: Duration, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.lost += used;
        let length = match &self.suspended {
            Some(suspended) => (suspended.length * 2).min(SUSPENSION_MAX),
            None => SUSPENSION_MIN,
        };
        let is_suspended = self.failures >= FAILURES_MAX || self.lost >= LOST_MAX;
        if is_suspended {
            self.suspended = Some(Suspension { length, until: now + length, error: error.to_string() });
        }
        is_suspended
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_suspend_for_longer_and_longer_until_an_answer() {
        let mut standing = Standing::default();
        let mut now = Instant::now();
        let error = GuestError::Garbage("text".to_string());
        for _ in 1..FAILURES_MAX {
            assert!(!standing.failed(&error, Duration::ZERO, now));
            assert_eq!(standing.check(now), Ok(()));
        }
        let mut lengths = Vec::new();
        for _ in 0..10 {
            assert!(standing.failed(&error, Duration::ZERO, now));
            let Err(GuestError::Suspended { retry_after, .. }) = standing.check(now) else { panic!("it is suspended") };
            lengths.push(retry_after.as_millis());
            now += retry_after;
            assert_eq!(standing.check(now), Ok(()));
        }
        assert_eq!(lengths, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000]);
        standing.answered();
        assert!(!standing.failed(&error, Duration::ZERO, now));
    }

    #[test]
    fn long_failures_count_for_more() {
        let mut standing = Standing::default();
        let error = GuestError::Garbage("text".to_string());
        let now = Instant::now();
        assert!(!standing.failed(&error, Duration::from_secs(1), now));
        assert!(standing.failed(&error, Duration::from_secs(1), now));
    }
}
