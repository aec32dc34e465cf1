//! What the server's log has of guests: their own lines, and how they ended. Each binding has a share of the log, which a
//! guest that fails at every record or never stops talking cannot exceed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::store::lock;

/// Lines in a second.
const LINES_MAX: u32 = 50;
const WINDOW: Duration = Duration::from_secs(1);

/// Whose call it is: what the lines of a guest are found by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The binding's name.
    pub binding: Arc<str>,
    /// The stream's name within its bucket; empty where a module only takes its configuration.
    pub stream: Arc<str>,
}

/// One binding's share of the log. Clones are the same share.
#[derive(Clone)]
pub(crate) struct Voice(Arc<Mutex<Spoken>>);

struct Spoken {
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Voice {
    pub(crate) fn new() -> Voice {
        Voice(Arc::new(Mutex::new(Spoken { since: Instant::now(), lines: 0, dropped: 0 })))
    }

    /// Whether a line may be written now: then how many were dropped before it.
    pub(crate) fn rise(&self) -> Option<u64> {
        self.rise_at(Instant::now())
    }

    fn rise_at(&self, now: Instant) -> Option<u64> {
        let mut spoken = lock(&self.0);
        if now.duration_since(spoken.since) >= WINDOW {
            spoken.since = now;
            spoken.lines = 0;
        }
        if spoken.lines >= LINES_MAX {
            spoken.dropped += 1;
            return None;
        }
        spoken.lines += 1;
        Some(std::mem::take(&mut spoken.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_share_are_counted_and_told_with_the_next() {
        let voice = Voice::new();
        let now = Instant::now();
        let spoken = (0..1000).filter(|_| voice.rise_at(now).is_some()).count();
        assert_eq!(spoken, LINES_MAX as usize);
        assert_eq!(voice.rise_at(now + WINDOW), Some(1000 - u64::from(LINES_MAX)));
        assert_eq!(voice.rise_at(now + WINDOW), Some(0));
    }
}
