//! A group's time, as its leader counts it. Batches have it; so leases, and when a wake is tried again, are written and compared with it.
//!
//! Group time never goes back, so it is ahead of the clock where that was set back over a restart, or where a leader follows one whose
//! clock was ahead. It goes on from there, and would be ahead for ever; so it takes a little longer than the clock until both agree.

use std::cell::Cell;

use crate::seams::SteadyClock;

/// Which part slower than the clock it goes, while it is ahead.
pub(crate) const SLOWER_PART: u64 = 16;

/// The time of one group.
pub(crate) struct GroupTime {
    clock: SteadyClock,
    /// How far it was ahead of the clock, and when by the clock, in milliseconds.
    ahead: Cell<(u64, u64)>,
}

impl GroupTime {
    pub(crate) fn new(clock: SteadyClock) -> GroupTime {
        GroupTime { clock, ahead: Cell::default() }
    }

    /// Milliseconds since 1970, and by how many of them that is ahead of the clock. It is not before `applied_ms`, the time that was applied
    /// last.
    pub(crate) fn now_ms(&self, applied_ms: u64) -> (u64, u64) {
        let clock_ms = self.clock.now_ms();
        let (was_ahead_ms, at_ms) = self.ahead.get();
        let mut ahead_ms = was_ahead_ms.saturating_sub((clock_ms - at_ms) / SLOWER_PART);
        if clock_ms + ahead_ms < applied_ms {
            ahead_ms = applied_ms - clock_ms;
            self.ahead.set((ahead_ms, clock_ms));
        }
        (clock_ms + ahead_ms, ahead_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::seams::TestClock;

    #[test]
    fn it_goes_on_from_what_was_applied_and_slower_until_the_clock_agrees() {
        let clock = Arc::new(TestClock::default());
        let time = GroupTime::new(SteadyClock::new(clock.clone()));
        let after = |ms: u64, applied_ms| {
            clock.0.fetch_add(ms, Ordering::Relaxed);
            time.now_ms(applied_ms)
        };
        assert_eq!(after(0, 0), (1_000_000, 0));
        assert_eq!(after(10, 1_000_000), (1_000_010, 0), "the clock alone");
        assert_eq!(after(0, 1_001_010), (1_001_010, 1_000), "it never goes back");
        assert_eq!(after(160, 1_001_010), (1_001_160, 990));
        assert_eq!(after(8_000, 1_001_160), (1_008_660, 490));
        assert_eq!(after(0, 1_009_170), (1_009_170, 1_000), "another one was ahead");
        assert_eq!(after(16_000, 1_009_170), (1_024_170, 0));
        assert_eq!(after(1, 1_024_170), (1_024_171, 0));
        let mut last_ms = 0;
        for step in 0..50_000 {
            let (now_ms, _) = after(step % 3, if step == 100 { 1_030_000 } else { last_ms });
            assert!(now_ms >= last_ms, "at {step}");
            last_ms = now_ms;
        }
    }
}
