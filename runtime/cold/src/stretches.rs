//! Long work on a thread beside the shards, a stretch at a time.

use std::thread;
use std::time::Instant;

/// Bytes that are worked on at a stretch, or one piece of more: about 50 us.
const STRETCH_BYTES: usize = 128 << 10;

/// Work of some milliseconds, which gives way to other threads between two stretches of it.
///
/// The scheduler lets a thread go on for milliseconds while others wait for its core. One of these is the kernel's worker
/// that ends a shard's durable write, and with it all appends of that write would wait.
///
/// Such a worker needs the core for some microseconds. A thread that computes takes all it gets, some milliseconds each time, so
/// the work goes on for as long as it has given way before it gives way again: it has its share of a busy core.
#[derive(Debug, Default)]
pub struct Stretches {
    bytes: usize,
    /// Until when it goes on.
    until: Option<Instant>,
}

impl Stretches {
    /// So many bytes more were worked on.
    pub fn worked(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes < STRETCH_BYTES {
            return;
        }
        self.bytes = 0;
        let begun = Instant::now();
        if self.until.is_none_or(|until| until <= begun) {
            thread::yield_now();
            let ended = Instant::now();
            self.until = Some(ended + (ended - begun));
        }
    }

    /// The CRC32C of `bytes`.
    pub fn crc(&mut self, bytes: &[u8]) -> u32 {
        bytes.chunks(STRETCH_BYTES).fold(0, |crc, bytes| {
            self.worked(bytes.len());
            crc32c::crc32c_append(crc, bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_in_stretches_is_the_same() {
        let bytes: Vec<u8> = (0..3 * STRETCH_BYTES + 1).map(|n| (n ^ (n >> 8)) as u8).collect();
        for len in [0, 1, STRETCH_BYTES, STRETCH_BYTES + 1, bytes.len()] {
            assert_eq!(Stretches::default().crc(&bytes[..len]), crc32c::crc32c(&bytes[..len]), "{len} bytes");
        }
    }
}
