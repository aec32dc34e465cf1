//! How much memory a process has, once that has stopped to change.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Memory that stays within [`STEADY_BYTES`] for so long is settled.
const STEADY_FOR: Duration = Duration::from_secs(4);
const STEADY_BYTES: u64 = 256 << 10;
const STEADY_WITHIN: Duration = Duration::from_secs(60);

/// Memory of a process, from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident pages.
    pub(crate) resident_bytes: u64,
    /// The same, where a page of several processes counts for each in part.
    pub(crate) proportional_bytes: u64,
}

impl Memory {
    /// Waits until the memory of process `pid` is steady, or has not become so within a minute, and gives it.
    ///
    /// # Errors
    /// A sentence when the process is gone.
    pub(crate) fn settled(pid: u32) -> Result<Memory, String> {
        let begun = Instant::now();
        let (mut steady, mut steady_since) = (Memory::of(pid)?, begun);
        loop {
            thread::sleep(SAMPLE_EVERY);
            let now = Memory::of(pid)?;
            if now.resident_bytes.abs_diff(steady.resident_bytes) > STEADY_BYTES {
                (steady, steady_since) = (now, Instant::now());
            }
            if steady_since.elapsed() > STEADY_FOR || begun.elapsed() > STEADY_WITHIN {
                return Ok(now);
            }
        }
    }

    fn of(pid: u32) -> Result<Memory, String> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let text = text.map_err(|e| format!("no memory map of process {pid}: {e}"))?;
        let bytes = |name: &str| -> Result<u64, String> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let kib = line.trim().trim_end_matches(" kB").parse::<u64>();
            kib.map(|kib| kib << 10).map_err(|_| format!("no {name} of process {pid}"))
        };
        Ok(Memory { resident_bytes: bytes("Rss:")?, proportional_bytes: bytes("Pss:")? })
    }
}
