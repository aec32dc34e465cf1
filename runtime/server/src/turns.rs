//! Turns: how long a shard's thread is held at a stretch. What comes meanwhile waits.
//!
//! A turn begins when the thread wakes, and when a task of a shard or of a connection is polled ([`begin`], which those
//! tasks call); it ends where the next one begins, or when the thread has nothing more to do. So it is one poll of such a
//! task, and whatever tasks of others (Raft's) were polled after it. An idle thread costs nothing.
//!
//! A turn has two lengths: the time that passed, and how much of it the thread was computing. They differ where it waited
//! for the disk, or where the system gave the core to somebody else. What was computed is asked of the system only when a
//! millisecond has passed, so it may have up to a millisecond that belongs to the turns before.

use std::cell::Cell;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use weir_types::Histogram;

/// Upper ends of the classes that turns are counted in, in nanoseconds.
const ENDS_NS: [u64; 10] = [
    100_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
];
/// How long the thread's own time is good for, in nanoseconds.
const COMPUTED_AGE_MAX_NS: u64 = 1_000_000;

/// The turns of one shard's thread, which alone counts here; everybody may look.
#[derive(Debug)]
pub(crate) struct Turns {
    /// By the time that passed.
    pub(crate) passed: Histogram,
    /// By the time that the thread computed.
    pub(crate) computed: Histogram,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { passed: Histogram::new(&ENDS_NS), computed: Histogram::new(&ENDS_NS) }
    }
}

/// The turn under way on this thread. Times are plain nanoseconds: this is done for every poll of a connection.
#[derive(Clone, Copy)]
struct Running {
    /// As long as the process: a thread's own value that has nothing to drop is found faster.
    turns: &'static Turns,
    /// 0 while the thread has nothing to do.
    began_ns: u64,
    /// The thread's own time, and when that was asked.
    computed_ns: u64,
    asked_ns: u64,
}

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

/// Counts this thread's turns from here on.
pub(crate) fn count_into(turns: Arc<Turns>) {
    let now_ns = time_ns(ClockId::Monotonic);
    let computed_ns = time_ns(ClockId::ThreadCPUTime);
    let turns: &'static Arc<Turns> = Box::leak(Box::new(turns));
    RUNNING.set(Some(Running { turns, began_ns: now_ns, computed_ns, asked_ns: now_ns }));
}

/// A turn begins, and the one before has ended.
pub(crate) fn begin() {
    turn(true);
}

/// The thread has nothing more to do.
pub(crate) fn end() {
    turn(false);
}

fn turn(goes_on: bool) {
    let Some(mut running) = RUNNING.get() else { return };
    let now_ns = time_ns(ClockId::Monotonic);
    if running.began_ns > 0 {
        running.count(now_ns - running.began_ns, now_ns);
    }
    running.began_ns = if goes_on { now_ns } else { 0 };
    RUNNING.set(Some(running));
}

impl Running {
    fn count(&mut self, passed_ns: u64, now_ns: u64) {
        self.turns.passed.count(passed_ns);
        let mut turn_computed_ns = passed_ns;
        if now_ns - self.asked_ns > COMPUTED_AGE_MAX_NS {
            let computed_ns = time_ns(ClockId::ThreadCPUTime);
            turn_computed_ns = passed_ns.min(computed_ns - self.computed_ns);
            (self.computed_ns, self.asked_ns) = (computed_ns, now_ns);
        }
        self.turns.computed.count(turn_computed_ns);
    }
}

/// A clock that never goes back, in nanoseconds.
fn time_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_turn_that_waits_passes_and_one_that_computes_does_both() {
        let turns = Arc::new(Turns::default());
        count_into(turns.clone());
        begin();
        std::thread::sleep(Duration::from_millis(30));
        begin();
        let computing_ns = time_ns(ClockId::ThreadCPUTime);
        while time_ns(ClockId::ThreadCPUTime) - computing_ns < 30_000_000 {}
        end();
        std::thread::sleep(Duration::from_millis(30));
        begin();
        end();
        // By classes: the last that ends below 30 ms is the sixth.
        let long = |histogram: &Histogram| histogram.distribution().counts[6..].iter().sum::<u64>();
        assert_eq!((long(&turns.passed), long(&turns.computed)), (2, 1));
        assert_eq!(turns.passed.distribution().counts.iter().sum::<u64>(), 4, "to be idle is no turn");
        assert!(Duration::from_nanos(turns.passed.distribution().sum) >= Duration::from_millis(60));
    }
}
