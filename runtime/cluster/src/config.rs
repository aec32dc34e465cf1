//! What an operator or an embedder may choose about links.

use std::time::Duration;

/// How much and how long, for every link of a node. All nodes of a cluster should have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The most bytes of requests that are written or about to be, and not answered, on one link. Whoever has more waits.
    /// One request may be larger when there is no other. The side that receives reads no more than that, either.
    pub window_bytes: u32,
    /// A link is failed when it waits for something and hears nothing for so long: no byte of an answer, nor that a peer
    /// that could take no more takes more. Whoever answers takes less time than that.
    pub stall: Duration,
    /// How long a call waits for a connection that is being made.
    pub connect_wait: Duration,
    /// How long connecting may take, and then as long again until both sides have said hello.
    pub hello_wait: Duration,
    /// How long a link is down after its first failure. It doubles with each failure after that, and each wait is between
    /// half of this and all of it.
    pub backoff_min: Duration,
    /// The longest that it is down until it is tried again.
    pub backoff_max: Duration,
    /// The most connections that have not said hello yet. Beyond that, the oldest of them is closed for a new one.
    pub greetings_max: usize,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            window_bytes: 8 << 20,
            stall: Duration::from_secs(2),
            connect_wait: Duration::from_millis(500),
            hello_wait: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            greetings_max: 64,
        }
    }
}

/// What a request takes besides its frame, in bytes, on each side. It is counted, so that small requests are bounded, too.
pub(crate) const REQUEST_OVERHEAD_BYTES: usize = 256;
