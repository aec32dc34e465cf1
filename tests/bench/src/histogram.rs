//! Latencies in nanoseconds, in buckets of 1/32 of a power of two: 3 % wide, no allocation while counting.

const SUB_BITS: u32 = 5;
const BUCKETS: usize = 64 << SUB_BITS;

/// Counts of values.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

impl Histogram {
    /// An empty histogram.
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0 }
    }

    /// Counts one value.
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.counts[Histogram::bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    /// How many values were counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The smallest bucket bound with at least `fraction` of the values below or in it, in nanoseconds.
    pub(crate) fn quantile(&self, fraction: f64) -> u64 {
        let wanted = ((self.total as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Histogram::bound(bucket);
            }
        }
        0
    }

    /// The leading bits of `value` after its highest one, behind that one's place.
    fn bucket(value: u64) -> usize {
        let value = value.max(1 << SUB_BITS);
        let magnitude = value.ilog2();
        let sub = (value >> (magnitude - SUB_BITS)) & ((1 << SUB_BITS) - 1);
        ((magnitude as usize) << SUB_BITS) + sub as usize
    }

    fn bound(bucket: usize) -> u64 {
        let magnitude = (bucket >> SUB_BITS) as u32;
        let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
        ((1 << SUB_BITS) + sub) << (magnitude - SUB_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut histogram = Histogram::new();
        (1..=1000u64).for_each(|us| histogram.record(us * 1000));
        for (fraction, exact) in [(0.5, 500_000.0), (0.99, 990_000.0)] {
            let error = histogram.quantile(fraction) as f64 / exact - 1.0;
            assert!(error.abs() < 0.04, "{fraction}: off by {error}");
        }
    }
}
