//! What a shard may not make for itself: time, randomness, disks, the engine for modules. Handed in, so that a simulator can hand in its own.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use weir_cluster::{Endpoint, Roster};
use weir_cold::Cold;
use weir_hooks::Hooks;
use weir_storage::Disk;
use weir_types::Role;
use weir_wasm::Host;

/// The time of day and the time since some start.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock: milliseconds since 1970. May jump.
    fn now_ms(&self) -> u64;

    /// Since an arbitrary start. Never goes back, and follows no one's corrections.
    fn monotonic(&self) -> Duration;
}

/// Unpredictable numbers.
pub trait Entropy: Send + Sync + 'static {
    /// A number that nobody can guess.
    fn u64(&self) -> u64;
}

/// A module that the server brings along.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// What follows `builtin:` in a binding.
    pub name: &'static str,
    /// The module.
    pub wasm: &'static [u8],
    /// What it can be used as.
    pub roles: &'static [Role],
}

/// The other nodes of a cluster, as this one knows them.
#[derive(Clone)]
pub struct Nodes {
    /// This node, as it meets others.
    pub endpoint: Endpoint,
    /// Where they are, and who belongs to the cluster at all.
    pub roster: Roster,
    /// Those that form the cluster's groups, this node among them; nobody where it waits to be taken in.
    pub founders: BTreeSet<u64>,
    /// Drawn anew whenever the process begins.
    pub life: u64,
}

/// The seams of one node.
#[derive(Clone)]
pub struct Seams {
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// The node's randomness.
    pub entropy: Arc<dyn Entropy>,
    /// One directory per WAL, in the order of [`weir_types::WalId`].
    pub disks: Vec<Arc<dyn Disk>>,
    /// Where old bytes go; none where all stays in the log.
    pub cold: Option<Cold>,
    /// Calls webhooks; none where nobody does.
    pub hooks: Option<Hooks>,
    /// The node's modules: where they are kept, how they are compiled, what they may take.
    pub modules: Host,
    /// The modules that need no upload.
    pub builtins: Arc<[Builtin]>,
    /// The other nodes of the cluster; none for a node that is alone.
    pub nodes: Option<Nodes>,
    /// Called whenever a task of the shard is polled, on the shard's thread: whoever measures how long it is held begins
    /// anew.
    pub turn: fn(),
}

/// `future`, with a call of `turn` before each of its polls.
pub async fn in_turns<F: Future>(turn: fn(), future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        turn();
        future.as_mut().poll(context)
    })
    .await
}

/// Time that never goes back: the wall clock as it was at the start, advanced by the monotonic clock.
#[derive(Clone)]
pub(crate) struct SteadyClock {
    clock: Arc<dyn Clock>,
    wall_at_start_ms: u64,
    start: Duration,
}

impl SteadyClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> SteadyClock {
        SteadyClock { wall_at_start_ms: clock.now_ms(), start: clock.monotonic(), clock }
    }

    /// Milliseconds since 1970, as far as the start's wall clock was right.
    pub(crate) fn now_ms(&self) -> u64 {
        let since_start = self.clock.monotonic().saturating_sub(self.start);
        self.wall_at_start_ms.saturating_add(since_start.as_millis() as u64)
    }
}

/// Time that moves when a test says so, by milliseconds.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct TestClock(pub(crate) std::sync::atomic::AtomicU64);

#[cfg(test)]
impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        1_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}
