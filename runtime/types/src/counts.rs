//! What one thread counts and every thread may look at, without a lock.
//!
//! A count is a load and a store that are not one step: with a second thread that counts, some would be lost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper ends of the classes that times are counted in, in nanoseconds: from 10 µs to 10 s.
pub const TIME_ENDS_NS: [u64; 18] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, by: u64) {
        self.0.store(self.get() + by, Relaxed);
    }

    /// What was counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many values were how large.
#[derive(Debug)]
pub struct Histogram {
    ends: &'static [u64],
    counts: Box<[Counter]>,
    sum: Counter,
}

/// A copy of a [`Histogram`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The largest value of each class but the last, which has no end.
    pub ends: &'static [u64],
    /// The values in each class.
    pub counts: Vec<u64>,
    /// All of them together.
    pub sum: u64,
}

/// Of times, in the classes of [`TIME_ENDS_NS`].
impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new(&TIME_ENDS_NS)
    }
}

impl Histogram {
    /// Of values in classes with these upper ends, at least one, and a class for what is larger.
    pub fn new(ends: &'static [u64]) -> Histogram {
        assert!(!ends.is_empty() && ends.is_sorted(), "classes follow each other");
        Histogram { ends, counts: (0..=ends.len()).map(|_| Counter::default()).collect(), sum: Counter::default() }
    }

    /// Counts a value.
    pub fn count(&self, value: u64) {
        // Most are small.
        let class = if value <= self.ends[0] { 0 } else { self.ends.partition_point(|&end| end < value) };
        self.counts[class].add(1);
        self.sum.add(value);
    }

    /// Counts a time, in nanoseconds.
    pub fn count_time(&self, time: Duration) {
        self.count(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was counted so far.
    pub fn distribution(&self) -> Distribution {
        let counts = self.counts.iter().map(Counter::get).collect();
        Distribution { ends: self.ends, counts, sum: self.sum.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_class_that_it_is_the_end_of() {
        let histogram = Histogram::new(&[1, 2, 4]);
        [0, 1, 2, 3, 4, 5, 100].into_iter().for_each(|value| histogram.count(value));
        assert_eq!(histogram.distribution(), Distribution { ends: &[1, 2, 4], counts: vec![2, 1, 2, 2], sum: 115 });
        let times = Histogram::default();
        [10_000, 10_001].into_iter().for_each(|nanos| times.count_time(Duration::from_nanos(nanos)));
        assert_eq!(times.distribution().counts[..3], [1, 1, 0]);
    }
}
