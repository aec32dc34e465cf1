//! The writer's task: takes what waits, has it written with one durable write, and tells those who wait; and keeps the
//! log's mark.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::chain::Unit;
use crate::durable_write::DurableWrite;
use crate::filler::Report;
use crate::mark::{MARK_FILE, MarkFile};
use crate::queue::Closed;
use crate::segment::SegmentFile;
use crate::wal::{Parts, Wal};
use crate::writer::Writer;

/// How long the mark may lag behind what is durable.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// When the mark is due.
struct Due {
    /// Whether anything is durable that the mark does not know of.
    is_behind: bool,
    at: Pin<Box<Sleep>>,
}

/// Why the task goes on.
enum Woken {
    Work,
    MarkDue,
    Report(Report),
}

impl Wal {
    /// The writer: writes what is appended until [`Wal::stop`]. Spawned once, on the log's own thread, by a runtime with
    /// timers and I/O.
    ///
    /// Each turn takes all frames that wait and writes them with one durable write; what comes meanwhile waits for the
    /// next one. After a failed write it ends, and so does the log.
    pub async fn run(self) {
        let Parts { mut writer, mut mark, mut reports, is_mark_behind } = self.take_parts();
        let mut due = Due { is_behind: is_mark_behind, at: Box::pin(sleep_until(Instant::now() + MARK_EVERY)) };
        let closed = loop {
            let taken = self.queue_mut().take_unit();
            let result = match taken {
                Some((unit, file)) => match self.write(&mut writer, &mut mark, &mut due, unit, file).await {
                    Ok(()) => {
                        self.take_reports(&mut reports);
                        // Those who were told run first, so that what they append joins the next unit.
                        tokio::task::yield_now().await;
                        Ok(())
                    }
                    failed => failed,
                },
                None if self.queue_mut().is_stopping => {
                    // Whoever opens the log next then knows where it ends.
                    let result =
                        if due.is_behind { self.write_mark(&mut writer, &mut mark, &mut due).await } else { Ok(()) };
                    result.and(Err(Closed::Stopped))
                }
                None => match self.wait(&mut reports, &mut due).await {
                    Woken::Work => Ok(()),
                    Woken::MarkDue => self.write_mark(&mut writer, &mut mark, &mut due).await,
                    Woken::Report(report) => {
                        self.note(report);
                        Ok(())
                    }
                },
            };
            if let Err(closed) = result {
                break closed;
            }
        };
        self.close(closed);
    }

    /// Writes one unit and tells its owners.
    async fn write(
        &self,
        writer: &mut Writer,
        mark: &mut MarkFile,
        due: &mut Due,
        mut unit: Unit,
        file: Arc<SegmentFile>,
    ) -> Result<(), Closed> {
        let parts = std::mem::take(&mut unit.parts);
        let dones = std::mem::take(&mut unit.dones);
        let position = unit.position;
        let write = DurableWrite { file: file.file.clone(), position, parts };
        let bytes = write.bytes();
        let written = writer.write(write).await;
        if let Ok(took) = written {
            writer.note_latency(bytes, took);
            self.queue().write_times.count_time(took);
        }
        self.note_write(writer);
        if let Err(error) = written {
            let closed = failed(&file.name, position, &error);
            dones.into_iter().for_each(|done| done(Err(closed.error())));
            return Err(closed);
        }
        self.queue_mut().unit_written(&unit);
        due.note_written();
        // A segment that is lost must be missed, so the mark knows of it before anyone else does.
        let marked = if unit.begins_segment() { self.write_mark(writer, mark, due).await } else { Ok(()) };
        let told = marked.as_ref().err().map(Closed::error);
        for done in dones {
            done(told.as_ref().map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string()))));
        }
        marked?;
        if due.is_due() { self.write_mark(writer, mark, due).await } else { Ok(()) }
    }

    /// Notes on disk how far the log goes.
    async fn write_mark(&self, writer: &mut Writer, mark: &mut MarkFile, due: &mut Due) -> Result<(), Closed> {
        let write = mark.write(self.queue_mut().chain.mark());
        let position = write.position;
        let written = writer.write(write).await;
        self.note_write(writer);
        due.note_marked();
        written.map(drop).map_err(|error| failed(MARK_FILE, position, &error))
    }

    fn note_write(&self, writer: &Writer) {
        let stats = &mut self.queue_mut().stats;
        stats.durable_writes += 1;
        stats.write_latency = writer.latency();
        stats.threaded = writer.is_threaded();
        stats.io_uring = writer.has_ring();
    }

    /// Ends the log: answers whatever waits, and whoever waits for room.
    fn close(&self, closed: Closed) {
        let dones = self.queue_mut().close(closed.clone());
        dones.into_iter().for_each(|done| done(Err(closed.error())));
        self.shared.room.notify_waiters();
    }

    /// Waits for frames, for the filling thread, or for the time to write the mark.
    async fn wait(&self, reports: &mut UnboundedReceiver<Report>, due: &mut Due) -> Woken {
        poll_fn(|context| {
            if let Poll::Ready(Some(report)) = reports.poll_recv(context) {
                return Poll::Ready(Woken::Report(report));
            }
            if self.shared.work.poll_rung(context).is_ready() {
                return Poll::Ready(Woken::Work);
            }
            if due.is_behind && due.at.as_mut().poll(context).is_ready() {
                return Poll::Ready(Woken::MarkDue);
            }
            Poll::Pending
        })
        .await
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

impl Due {
    fn note_written(&mut self) {
        if !self.is_behind {
            self.is_behind = true;
            self.at.as_mut().reset(Instant::now() + MARK_EVERY);
        }
    }

    fn note_marked(&mut self) {
        self.is_behind = false;
    }

    fn is_due(&self) -> bool {
        self.is_behind && self.at.deadline() <= Instant::now()
    }
}

/// The end of a log that could not be written.
fn failed(file: &str, position: u64, error: &io::Error) -> Closed {
    tracing::error!(%error, file, position, "the log cannot be written any more");
    Closed::Failed { kind: error.kind(), reason: format!("{file} at {position}: {error}").into() }
}
