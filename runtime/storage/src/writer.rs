//! The writer's hands: where a durable write is done, and how long it takes.
//!
//! The shard's thread hands a write to the kernel's and goes on, where `io_uring` is allowed and the file is written past the
//! page cache. Elsewhere it follows from how long writes take: a fast disk is written from the shard's own thread, because
//! handing a write to another thread costs more than the write does; a slow one would block the shard, so it gets a thread.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::disk::PARTS_MAX;
use crate::durable_write::DurableWrite;
use crate::entry::WriteMode;
use crate::ring::{Ring, RingError};

/// Writes that take longer than this, lately, go to a thread.
const INLINE_MAX: Duration = Duration::from_micros(100);
/// Writes that take less than this come back to the shard's thread; the gap keeps a disk in between from going to and fro.
const INLINE_AGAIN_MAX: Duration = Duration::from_micros(70);
const _: () = assert!(INLINE_AGAIN_MAX.as_nanos() < INLINE_MAX.as_nanos(), "there is a gap");
/// Larger writes go to a thread in any case, in bytes: so much takes a fast disk a millisecond, and the kernel a part of
/// that to begin with.
const INLINE_BYTES_MAX: usize = 1 << 20;
/// A write's weight in the average.
const LATENCY_WEIGHT: u32 = 8;

/// A write for the writing thread, and who waits for it.
type Order = (DurableWrite, oneshot::Sender<io::Result<Duration>>);

/// Where writes are done, and how long they take.
pub(crate) struct Writer {
    mode: WriteMode,
    is_threaded: bool,
    latency: Option<Duration>,
    thread: Option<WriterThread>,
    ring: Option<Ring>,
    is_ring_refused: bool,
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
        Writer {
            mode,
            is_threaded: mode == WriteMode::Thread,
            latency: None,
            thread: None,
            ring: None,
            is_ring_refused: false,
        }
    }

    /// How long a unit's write takes, recent ones weighing more; zero before the first.
    pub(crate) fn latency(&self) -> Duration {
        self.latency.unwrap_or_default()
    }

    /// Whether writes go to a thread.
    pub(crate) fn is_threaded(&self) -> bool {
        self.is_threaded && !self.has_ring()
    }

    /// Whether writes go through `io_uring`.
    pub(crate) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Writes, one at a time; returns how long that took.
    ///
    /// # Errors
    /// Any error leaves unknown what was written.
    pub(crate) async fn write(&mut self, mut write: DurableWrite) -> io::Result<Duration> {
        assert!(!write.parts.is_empty(), "there is something to write");
        if let Some(ring) = self.ring(&write) {
            match ring.write(write).await {
                Ok(took) => return Ok(took),
                Err(RingError::Failed(error)) => return Err(error),
                Err(RingError::GivenBack(back, error)) => {
                    self.refuse_ring(&error);
                    write = back;
                }
            }
        }
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

    /// The ring, when this write is one for it; it is started when it is first needed.
    fn ring(&mut self, write: &DurableWrite) -> Option<&mut Ring> {
        let is_for_it = self.mode == WriteMode::Auto
            && write.bytes() <= INLINE_BYTES_MAX
            && write.parts.len() <= PARTS_MAX
            && write.file.direct().is_some();
        if !is_for_it || self.is_ring_refused {
            return None;
        }
        if self.ring.is_none() {
            match Ring::start() {
                Ok(ring) => self.ring = Some(ring),
                Err(error) => self.refuse_ring(&error),
            }
        }
        self.ring.as_mut()
    }

    fn refuse_ring(&mut self, error: &io::Error) {
        tracing::info!(%error, "the log is written without io_uring: the kernel or a limit on threads does not allow it");
        (self.ring, self.is_ring_refused) = (None, true);
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
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    use cap_std::ambient_authority;
    use cap_std::fs::Dir;

    use super::*;
    use crate::block::{BLOCK_BYTES, block_buf};
    use crate::{Disk as _, DiskFile, MemoryDisk, RealDisk};

    const FILE_BYTES: usize = 4 << 20;

    /// A file of a directory of this machine, for which a kernel that allows it has a ring.
    fn real_file() -> (tempfile::TempDir, Arc<dyn DiskFile>) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("is opened"));
        let disk = disk.expect("is read");
        disk.create_filled("file", FILE_BYTES as u64).expect("there is space");
        let file = disk.open("file").expect("it is there");
        (dir, file)
    }

    /// A write of so many parts of a block each, all different.
    fn write_of(file: &Arc<dyn DiskFile>, position: u64, parts: usize) -> DurableWrite {
        let part = |number: usize| {
            let mut part = block_buf(BLOCK_BYTES);
            part.resize(BLOCK_BYTES, number as u8 ^ (number >> 8) as u8 ^ 0x5a);
            part.freeze()
        };
        DurableWrite { file: file.clone(), position, parts: (0..parts).map(part).collect() }
    }

    fn assert_written(write: &DurableWrite) {
        let mut stored = vec![0; write.bytes()];
        write.file.read_at(write.position, &mut stored).expect("is read");
        assert!(stored == write.parts.concat(), "{} bytes at {}", write.bytes(), write.position);
    }

    #[tokio::test]
    async fn what_a_ring_has_written_is_there() {
        let (_dir, file) = real_file();
        let mut writer = Writer::new(WriteMode::Auto);
        for (turn, parts) in [1, 2, 17, INLINE_BYTES_MAX / BLOCK_BYTES, 1].into_iter().enumerate() {
            let write = || write_of(&file, (turn * BLOCK_BYTES) as u64, parts);
            writer.write(write()).await.expect("is written");
            assert_written(&write());
        }
        assert_eq!(
            writer.has_ring(),
            file.direct().is_some() && Ring::start().is_ok(),
            "a ring wherever there can be one"
        );
        assert!(!(writer.has_ring() && writer.is_threaded()));
        assert!(writer.thread.is_none() || !writer.has_ring(), "and no thread beside it");
    }

    #[tokio::test]
    async fn a_refused_ring_loses_nothing() {
        let (_dir, file) = real_file();
        let mut writer = Writer { is_ring_refused: true, ..Writer::new(WriteMode::Auto) };
        writer.write(write_of(&file, 0, 3)).await.expect("is written");
        assert_written(&write_of(&file, 0, 3));
        assert!(!writer.has_ring());
    }

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_any_more_ends_before_its_bytes_do() {
        let (_dir, file) = real_file();
        for turn in 0..100 {
            let mut writer = Writer::new(WriteMode::Auto);
            let write = || write_of(&file, turn * 64 * BLOCK_BYTES as u64 % (FILE_BYTES as u64 / 2), 64);
            let mut written = Box::pin(writer.write(write()));
            // Handed to the kernel, or done.
            poll_fn(|context| Poll::Ready(written.as_mut().poll(context).is_ready())).await;
            drop(written);
            drop(writer);
            assert_written(&write());
        }
    }

    #[tokio::test]
    async fn a_directory_is_opened_when_what_a_killed_process_writes_has_ended() {
        let (dir, file) = real_file();
        let Some(direct) = file.direct() else { return };
        // As the kernel does for a write under way.
        let held = direct.try_clone_to_owned().expect("a further descriptor");
        drop(file);
        let open = {
            let dir = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("is opened");
            std::thread::spawn(move || RealDisk::new(dir).map(drop))
        };
        // Long enough for a thread that does not wait to be through.
        std::thread::sleep(Duration::from_millis(200));
        assert!(!open.is_finished(), "it waits");
        drop(held);
        open.join().expect("no panic").expect("is opened");
    }

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
