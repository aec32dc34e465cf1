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

use crate::entry::WriteMode;
use crate::mark::MarkWrite;
use crate::segment::SegmentFile;

/// Writes that take longer than this, lately, go to a thread.
const INLINE_MAX: Duration = Duration::from_micros(100);
/// Writes that take less than this come back to the shard's thread; the gap keeps a disk in between from going to and fro.
const INLINE_AGAIN_MAX: Duration = Duration::from_micros(70);
const _: () = assert!(INLINE_AGAIN_MAX.as_nanos() < INLINE_MAX.as_nanos(), "there is a gap");
/// A write's weight in the average.
const LATENCY_WEIGHT: u32 = 8;

/// A unit on its way to its segment.
pub(crate) struct UnitWrite {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) position: u64,
    pub(crate) parts: Vec<Bytes>,
}

/// What is to be written, in this order.
#[derive(Default)]
pub(crate) struct Job {
    pub(crate) unit: Option<UnitWrite>,
    pub(crate) mark: Option<MarkWrite>,
}

impl Job {
    /// Writes; returns how long the unit took.
    fn carry_out(&self) -> io::Result<Option<Duration>> {
        let mut took = None;
        if let Some(UnitWrite { file, position, parts }) = &self.unit {
            let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let begun = Instant::now();
            file.file.write_durable(*position, &slices)?;
            took = Some(begun.elapsed());
        }
        if let Some(MarkWrite { file, position, block }) = &self.mark {
            file.write_durable(*position, &[IoSlice::new(block)])?;
        }
        Ok(took)
    }
}

/// What became of a job.
type Written = io::Result<Option<Duration>>;

/// Where writes are done, and how long they take.
pub(crate) struct Writer {
    mode: WriteMode,
    is_threaded: bool,
    latency: Option<Duration>,
    thread: Option<WriterThread>,
}

/// The writing thread; it ends when this is dropped.
struct WriterThread {
    jobs: Option<mpsc::Sender<(Job, oneshot::Sender<Written>)>>,
    thread: Option<JoinHandle<()>>,
}

impl WriterThread {
    fn start() -> io::Result<WriterThread> {
        let (jobs, received) = mpsc::channel::<(Job, oneshot::Sender<Written>)>();
        let write = move || {
            for (job, written) in received {
                // Nobody waits any more when the log is being dropped.
                drop(written.send(job.carry_out()));
            }
        };
        let thread = std::thread::Builder::new().name("wal-write".to_string()).spawn(write)?;
        Ok(WriterThread { jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.jobs = None;
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

    /// Carries out a job, one at a time.
    ///
    /// # Errors
    /// Any error leaves unknown what was written.
    pub(crate) async fn write(&mut self, job: Job) -> io::Result<()> {
        assert!(job.unit.is_some() || job.mark.is_some(), "there is something to write");
        let written = match self.jobs() {
            None => job.carry_out(),
            Some(jobs) => {
                let ended = || io::Error::other("the writing thread has ended");
                let (written, waiting) = oneshot::channel();
                jobs.send((job, written)).map_err(|_| ended())?;
                waiting.await.unwrap_or_else(|_| Err(ended()))
            }
        };
        if let Some(took) = written? {
            self.note_latency(took);
        }
        Ok(())
    }

    /// The writing thread's orders, when writes are its; it is started when it is first needed.
    fn jobs(&mut self) -> Option<&mpsc::Sender<(Job, oneshot::Sender<Written>)>> {
        if !self.is_threaded {
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
        self.thread.as_ref().and_then(|thread| thread.jobs.as_ref())
    }

    /// Notes how long a write took. Only called with no write under way, so that the thread may change.
    fn note_latency(&mut self, took: Duration) {
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
