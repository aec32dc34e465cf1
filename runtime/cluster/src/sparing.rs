//! What would be logged again and again is logged now and then.

use std::time::Duration;

use tokio::time::Instant;

/// Says when it is time for another line.
#[derive(Debug)]
pub(crate) struct Sparing {
    interval: Duration,
    last: Option<Instant>,
    withheld: u64,
}

impl Sparing {
    pub(crate) fn new(interval: Duration) -> Sparing {
        Sparing { interval, last: None, withheld: 0 }
    }

    /// If there may be a line now: how many there were since the last one that were not to be.
    pub(crate) fn due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < self.interval) {
            self.withheld += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}
