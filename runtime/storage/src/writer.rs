//! The writer's hands: where a durable write is done, and how long it takes.
//!
//! A fast disk is written from the shard's own thread: handing a write to another thread costs more than the write does.
//! A slow one would block the shard, so it gets a thread. Which it is follows from how long writes take.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::disk::DiskFile;
use crate::entry::WriteMode;

/// Writes that take longer than this, lately, go to a thread.
const INLINE_MAX: Duration = Duration::from_micros(100);
/// Writes that take less than this come back to the shard's thread; the gap keeps a disk in between from going to and fro.
const INLINE_AGAIN_MAX: Duration = Duration::from_micros(70);
const _: () = assert!(INLINE_AGAIN_MAX.as_nanos() < INLINE_MAX.as_nanos(), "there is a gap");
/// Larger writes go to a thread in any case, in bytes: so much takes a fast disk a millisecond.
const INLINE_BYTES_MAX: usize = 1 << 20;
/// A write's weight in the average.
const LATENCY_WEIGHT: u32 = 8;

/// One durable write.
pub(crate) struct DurableWrite {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) position: u64,
    pub(crate) parts: Vec<Bytes>,
}

impl DurableWrite {
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Writes; returns how long that took.
    pub(crate) fn carry_out(&self) -> io::Result<Duration> {
        let slices: Vec<IoSlice<'_>> = self.parts.iter().map(|part| IoSlice::new(part)).collect();
        let begun = Instant::now();
        self.file.write_durable(self.position, &slices)?;
        Ok(begun.elapsed())
    }
}

/// A write for the writing thread, and who waits for it.
type Order = (DurableWrite, oneshot::Sender<io::Result<Duration>>);

/// Where writes are done, and how long they take.
pub(crate) struct Writer {
    mode: WriteMode,
    is_threaded: bool,
    latency: Option<Duration>,
    thread: Option<WriterThread>,
}

/// The writing thread; it ends when this is dropped.
struct WriterThread {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl WriterThread {
    fn start() -> io::Result<WriterThread> {
        let (orders, received) = mpsc::channel::<Order>();
        let work = move || {
            for (write, written) in received {
                // Nobody waits any more when the log is being dropped.
                drop(written.send(write.carry_out()));
            }
        };
        let thread = std::thread::Builder::new().name("wal-write".to_string()).spawn(work)?;
        Ok(WriterThread { orders: Some(orders), thread: Some(thread) })
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Writer {
    pub(crate) fn new(mode: WriteMode) -> Writer {
        Writer { mode, is_threaded: mode == WriteMode::Thread, latency: None, thread: None }
    }

    /// How long a unit's write takes, recent ones weighing more; zero before the first.
    pub(crate) fn latency(&self) -> Duration {
        self.latency.unwrap_or_default()
    }

    pub(crate) fn is_threaded(&self) -> bool {
        self.is_threaded
    }

    /// Writes, one at a time; returns how long that took.
    ///
    /// # Errors
    /// Any error leaves unknown what was written.
    pub(crate) async fn write(&mut self, write: DurableWrite) -> io::Result<Duration> {
        assert!(!write.parts.is_empty(), "there is something to write");
        match self.orders(write.bytes()) {
            None => write.carry_out(),
            Some(orders) => {
                let ended = || io::Error::other("the writing thread has ended");
                let (written, waiting) = oneshot::channel();
                orders.send((write, written)).map_err(|_| ended())?;
                waiting.await.unwrap_or_else(|_| Err(ended()))
            }
        }
    }

    /// The writing thread's orders, when a write of so many bytes is its; it is started when it is first needed.
    fn orders(&mut self, bytes: usize) -> Option<&mpsc::Sender<Order>> {
        let is_large = bytes > INLINE_BYTES_MAX && self.mode == WriteMode::Auto;
        if !self.is_threaded && !is_large {
            return None;
        }
        if self.thread.is_none() {
            match WriterThread::start() {
                Ok(thread) => self.thread = Some(thread),
                // Nothing was written, so nothing has failed: the shard's own thread can write too.
                Err(error) => {
                    tracing::warn!(%error, "no thread for a log's writes; the shard's own waits for the disk")
                }
            }
        }
        self.thread.as_ref().and_then(|thread| thread.orders.as_ref())
    }

    /// Notes how long a unit's write of so many bytes took; what a large one takes says nothing about the others. No write is
    /// under way then, so where they are done may change.
    pub(crate) fn note_latency(&mut self, bytes: usize, took: Duration) {
        if bytes > INLINE_BYTES_MAX {
            return;
        }
        let average = match self.latency {
            None => took,
            Some(latency) => (latency * (LATENCY_WEIGHT - 1) + took) / LATENCY_WEIGHT,
        };
        self.latency = Some(average);
        let limit = if self.is_threaded { INLINE_AGAIN_MAX } else { INLINE_MAX };
        if self.mode == WriteMode::Auto {
            self.is_threaded = average > limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::block_buf;
    use crate::{Disk as _, MemoryDisk};

    #[tokio::test]
    async fn a_large_write_is_no_matter_of_the_shards_own_thread() {
        let disk = MemoryDisk::new(16 << 20);
        disk.create_filled("file", 8 << 20).expect("there is room");
        let file = disk.open("file").expect("it is there");
        let mut writer = Writer::new(WriteMode::Auto);
        for (bytes, has_thread) in [(INLINE_BYTES_MAX, false), (INLINE_BYTES_MAX + 4096, true)] {
            let mut part = block_buf(bytes);
            part.resize(bytes, b'x');
            let parts = vec![part.freeze()];
            writer.write(DurableWrite { file: file.clone(), position: 0, parts }).await.expect("is written");
            assert_eq!(writer.thread.is_some(), has_thread, "{bytes} bytes");
        }
        writer.note_latency(INLINE_BYTES_MAX + 1, Duration::from_secs(1));
        assert!(!writer.is_threaded(), "others are as fast as before");
        writer.note_latency(INLINE_BYTES_MAX, Duration::from_secs(1));
        assert!(writer.is_threaded());
    }
}
