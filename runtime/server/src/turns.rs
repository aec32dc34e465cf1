//! Turns: how long a shard's thread is held at a stretch. What comes meanwhile waits.
//!
//! A turn begins when the thread wakes, and when a task of a shard or of a connection is polled ([`begin`], which those
//! tasks call); it ends where the next one begins, or when the thread has nothing more to do. So it is one poll of such a
//! task, and whatever tasks of others (Raft's) were polled after it. An idle thread costs nothing.
//!
//! A turn has two lengths: the time that passed, and how much of it the thread was computing. They differ where it waited
//! for the disk, or where the system gave the core to somebody else. What was computed is asked of the system only when a
//! millisecond has passed, so it may have up to a millisecond that belongs to the turns before.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Upper ends of the classes that turns are counted in; longer ones are in a class of their own.
pub(crate) const ENDS: [Duration; 10] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
];
/// How long the thread's own time is good for.
const COMPUTED_AGE_MAX: Duration = Duration::from_millis(1);

/// The turns of one shard's thread, which alone counts here; everybody may look.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// By the time that passed.
    pub(crate) passed: Histogram,
    /// By the time that the thread computed.
    pub(crate) computed: Histogram,
}

/// How many turns were how long.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; ENDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn count(&self, length: Duration) {
        add(&self.counts[ENDS.partition_point(|end| *end < length)], 1);
        add(&self.sum_ns, length.as_nanos() as u64);
    }

    /// The turns in each class of [`ENDS`], and at last those that were longer.
    pub(crate) fn counts(&self) -> [u64; ENDS.len() + 1] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }

    /// How long all of them were together.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Relaxed))
    }
}

/// Only one thread adds, so nothing is lost between the two.
fn add(number: &AtomicU64, by: u64) {
    number.store(number.load(Relaxed) + by, Relaxed);
}

/// The turn under way on this thread.
struct Running {
    turns: Arc<Turns>,
    /// None while the thread has nothing to do.
    began: Option<Instant>,
    /// The thread's own time, and when that was asked.
    computed: (Duration, Instant),
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Counts this thread's turns from here on.
pub(crate) fn count_into(turns: Arc<Turns>) {
    let now = Instant::now();
    RUNNING.set(Some(Running { turns, began: Some(now), computed: (thread_time(), now) }));
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
    RUNNING.with_borrow_mut(|running| {
        let Some(running) = running else { return };
        let now = Instant::now();
        if let Some(began) = running.began {
            running.count(now - began, now);
        }
        running.began = goes_on.then_some(now);
    });
}

impl Running {
    fn count(&mut self, passed: Duration, now: Instant) {
        self.turns.passed.count(passed);
        let mut computed = passed;
        if now - self.computed.1 > COMPUTED_AGE_MAX {
            let thread_time = thread_time();
            computed = passed.min(thread_time - self.computed.0);
            self.computed = (thread_time, now);
        }
        self.turns.computed.count(computed);
    }
}

/// How long this thread has been computing since it began.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_waits_passes_and_one_that_computes_does_both() {
        let turns = Arc::new(Turns::default());
        count_into(turns.clone());
        begin();
        std::thread::sleep(Duration::from_millis(30));
        begin();
        let computing = thread_time();
        while thread_time() - computing < Duration::from_millis(30) {}
        end();
        std::thread::sleep(Duration::from_millis(30));
        begin();
        end();
        // By classes: the last that ends below 30 ms is the sixth.
        let long = |histogram: &Histogram| histogram.counts()[6..].iter().sum::<u64>();
        assert_eq!((long(&turns.passed), long(&turns.computed)), (2, 1));
        assert_eq!(turns.passed.counts().iter().sum::<u64>(), 4, "to be idle is no turn");
        assert!(turns.passed.sum() >= Duration::from_millis(60));
    }
}
