//! What the shards must not take for themselves: the clock, randomness, and the disks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weir_shard::{Clock, Entropy, Seams};
use weir_storage::{Disk, MemoryDisk, RealDisk};

use crate::config::Sizes;
use crate::exit::Exit;
use crate::node::{DataDir, Node};

/// The machine's clocks.
#[derive(Debug)]
struct SystemClock {
    started: Instant,
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is wrong, but no reason to die: group time never goes backwards anyway.
        since_1970.map_or(0, |since| since.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The operating system's random numbers.
#[derive(Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn u64(&self) -> u64 {
        getrandom::u64().expect("the operating system has random numbers")
    }
}

/// The seams of a server: real clocks and randomness, and one disk per WAL, in `data_dir` or, without one, in memory.
///
/// # Errors
/// [`Exit::Node`] when a WAL's folder cannot be opened.
pub(crate) fn seams(data_dir: Option<&DataDir>, node: Node, sizes: Sizes) -> Result<Seams, Exit> {
    let disks: Vec<Arc<dyn Disk>> = match data_dir {
        Some(data_dir) => {
            let dirs = data_dir.wal_dirs(node)?;
            dirs.into_iter().map(|dir| Arc::new(RealDisk::new(dir)) as Arc<dyn Disk>).collect()
        }
        None => {
            (0..node.wals).map(|_| Arc::new(MemoryDisk::new(sizes.budget_bytes_per_wal)) as Arc<dyn Disk>).collect()
        }
    };
    Ok(Seams { clock: Arc::new(SystemClock { started: Instant::now() }), entropy: Arc::new(SystemEntropy), disks })
}
