//! The writer: takes what waits, writes it with one durable write, and tells those who wait.
//!
//! A fast disk is written from the shard's own thread: handing a write to another thread costs more than the write does.
//! A slow one would block the shard, so it gets a thread. Which it is follows from how long writes take.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::disk::Disk;
use crate::entry::WriteMode;
use crate::queue::{Closed, Unit};
use crate::segment::{SegmentFile, segment_name};
use crate::spares::{Report, Spare};
use crate::wal::Wal;

/// Writes that take longer than this, lately, go to a thread.
const INLINE_MAX: Duration = Duration::from_micros(100);
/// Writes that take less than this come back to the shard's thread; the gap keeps a disk in between from going to and fro.
const INLINE_AGAIN_MAX: Duration = Duration::from_micros(70);
/// A write's weight in the average.
const LATENCY_WEIGHT: u32 = 8;

/// The file that a unit goes to.
pub(crate) struct Target {
    pub(crate) file: Arc<SegmentFile>,
    /// The spare's name, when it must get its own first.
    pub(crate) spare: Option<String>,
}

impl Target {
    /// The segment `number` that `spare` becomes.
    pub(crate) fn of_spare(spare: Spare, number: u32, salt: u64) -> Target {
        let file = SegmentFile { name: segment_name(number), salt, file: spare.file };
        Target { file: Arc::new(file), spare: Some(spare.name) }
    }
}

/// One durable write.
struct Job {
    target: Target,
    position: u64,
    parts: Vec<Bytes>,
}

impl Job {
    /// Writes; returns how long that took, without the renaming.
    fn carry_out(&self, disk: &dyn Disk) -> io::Result<Duration> {
        if let Some(spare) = &self.target.spare {
            disk.rename(spare, &self.target.file.name)?;
        }
        let slices: Vec<IoSlice<'_>> = self.parts.iter().map(|part| IoSlice::new(part)).collect();
        let begun = Instant::now();
        self.target.file.file.write_durable(self.position, &slices)?;
        Ok(begun.elapsed())
    }
}

/// Where writes are done, and how long they take.
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    mode: WriteMode,
    is_threaded: bool,
    latency: Option<Duration>,
    thread: WriterThread,
}

type Answer = oneshot::Sender<io::Result<Duration>>;

/// The writing thread, if there is one; it ends when this is dropped.
#[derive(Default)]
struct WriterThread {
    jobs: Option<mpsc::Sender<(Job, Answer)>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A write, begun or to be begun.
enum Begun {
    Inline(Job, Arc<dyn Disk>),
    Threaded(oneshot::Receiver<io::Result<Duration>>),
}

impl Writer {
    pub(crate) fn new(disk: Arc<dyn Disk>, mode: WriteMode) -> Writer {
        let is_threaded = mode == WriteMode::Thread;
        Writer { disk, mode, is_threaded, latency: None, thread: WriterThread::default() }
    }

    pub(crate) fn latency(&self) -> Duration {
        self.latency.unwrap_or_default()
    }

    pub(crate) fn is_threaded(&self) -> bool {
        self.is_threaded
    }

    fn begin(&mut self, job: Job) -> io::Result<Begun> {
        if !self.is_threaded {
            return Ok(Begun::Inline(job, self.disk.clone()));
        }
        if self.thread.jobs.is_none() {
            let (jobs, received) = mpsc::channel::<(Job, Answer)>();
            let disk = self.disk.clone();
            let write = move || {
                for (job, answer) in received {
                    // Nobody waits any more when the log is being dropped.
                    drop(answer.send(job.carry_out(&*disk)));
                }
            };
            let thread = std::thread::Builder::new().name("wal-write".to_string()).spawn(write)?;
            self.thread = WriterThread { jobs: Some(jobs), thread: Some(thread) };
        }
        let (answer, answered) = oneshot::channel();
        let jobs = self.thread.jobs.as_ref().expect("just made");
        jobs.send((job, answer)).map_err(|_| io::Error::other("the writing thread has ended"))?;
        Ok(Begun::Threaded(answered))
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

impl Wal {
    /// The writer: writes what is appended until [`Wal::stop`]. Spawned once, on the log's own thread.
    ///
    /// Each turn takes all frames that wait and writes them with one durable write; what comes meanwhile waits for the
    /// next one. After a failed write it ends, and so does the log.
    pub async fn run(self) {
        let reports = self.queue_mut().reports.take();
        let mut reports = reports.expect("the writer is spawned once");
        loop {
            let taken = self.queue_mut().take_unit();
            let Some((unit, target)) = taken else {
                if self.queue_mut().is_stopping {
                    return self.close(Closed::Stopped);
                }
                self.wait(&mut reports).await;
                continue;
            };
            if let Err(closed) = self.write(unit, target).await {
                return self.close(closed);
            }
            self.take_reports(&mut reports);
            // Those who were told run first, so that what they append joins the next unit.
            tokio::task::yield_now().await;
        }
    }

    /// Writes one unit and tells its owners.
    async fn write(&self, mut unit: Unit, target: Target) -> Result<(), Closed> {
        let parts = std::mem::take(&mut unit.parts);
        let dones = std::mem::take(&mut unit.dones);
        let file = target.file.name.clone();
        let begun = self.queue_mut().writer.begin(Job { target, position: unit.position, parts });
        let written = match begun {
            Ok(Begun::Inline(job, disk)) => job.carry_out(&*disk),
            Ok(Begun::Threaded(answered)) => {
                answered.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread has ended")))
            }
            Err(error) => Err(error),
        };
        let mut queue = self.queue_mut();
        queue.stats.durable_writes += 1;
        match written {
            Ok(took) => {
                queue.writer.note_latency(took);
                queue.unit_written(&unit);
                drop(queue);
                // Not under the borrow: who is told may append.
                dones.into_iter().for_each(|done| done(Ok(())));
                Ok(())
            }
            Err(error) => {
                drop(queue);
                tracing::error!(%error, file, position = unit.position, "the log cannot be written any more");
                let reason = format!("{file} at {}: {error}", unit.position).into();
                let kind = error.kind();
                dones.into_iter().for_each(|done| done(Err(io::Error::new(kind, error.to_string()))));
                Err(Closed::Failed { kind, reason })
            }
        }
    }

    /// Ends the log: answers whatever waits, and whoever waits for room.
    fn close(&self, closed: Closed) {
        let dones = self.queue_mut().close(closed.clone());
        dones.into_iter().for_each(|done| done(Err(closed.error())));
        self.shared.room.notify_waiters();
    }

    /// Waits for frames, or for the filling thread.
    async fn wait(&self, reports: &mut UnboundedReceiver<Report>) {
        let report = poll_fn(|context| {
            if let Poll::Ready(report) = reports.poll_recv(context) {
                return Poll::Ready(report);
            }
            self.shared.work.poll(context).map(|()| None)
        });
        if let Some(report) = report.await {
            self.note(report);
        }
    }

    fn take_reports(&self, reports: &mut UnboundedReceiver<Report>) {
        while let Ok(report) = reports.try_recv() {
            self.note(report);
        }
    }

    fn note(&self, report: Report) {
        self.queue_mut().note(report);
        self.shared.room.notify_waiters();
    }
}
