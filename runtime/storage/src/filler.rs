//! The filling thread: makes segments ahead, gives back those that nothing needs, and waits for the disk so that nobody
//! else has to.
//!
//! A file that it has made ready has the name of the segment that it is for, durably, so that a segment begins with one
//! write and without a change of names. Names are given in the order in which files get ready, and without gaps. An old
//! segment loses its name first and then its header: under its new name it looks like no segment.
//!
//! Orders are carried out in their order, releases before creations, and one that fails is tried again every
//! [`RETRY_AFTER`] before any other of its kind, so that a crash never leaves a gap in the log.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::block::zero_block;
use crate::disk::{Disk, PARTIAL_SUFFIX};
use crate::segment::{Spare, segment_name};

/// How long after a refusal by the disk it is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the filling thread is asked for.
pub(crate) enum Order {
    Create,
    Recycle { from: String },
    Remove { name: String, bytes: u64 },
}

impl Order {
    fn is_release(&self) -> bool {
        !matches!(self, Order::Create)
    }
}

/// What the filling thread says.
pub(crate) enum Report {
    Created(Spare),
    Recycled(Spare),
    Removed { bytes: u64 },
    CreateRefused(io::Error),
    ReleaseFailed(io::Error),
}

/// The filling thread, as those who give it orders hold it; it ends when this is dropped.
pub(crate) struct Filler {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Starts it. The next file that it makes ready is for the segment `next_number`.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        next_number: u32,
    ) -> io::Result<(Filler, UnboundedReceiver<Report>)> {
        assert!(next_number > 0, "segments are numbered from 1");
        let (orders, received) = mpsc::channel();
        let (reports, reported) = unbounded_channel();
        let mut work = Work { disk, segment_bytes, next_number };
        let thread =
            std::thread::Builder::new().name("wal-fill".to_string()).spawn(move || work.fill(&received, &reports))?;
        Ok((Filler { orders: Some(orders), thread: Some(thread) }, reported))
    }

    pub(crate) fn order(&self, order: Order) {
        let orders = self.orders.as_ref().expect("taken only when dropped");
        // The thread ends only after its orders are dropped.
        drop(orders.send(order));
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.orders = None;
        // Waited for, so that whoever opens the directory next is alone in it.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The thread's own.
struct Work {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    next_number: u32,
}

impl Work {
    /// Carries out orders until there will be no more.
    fn fill(&mut self, orders: &mpsc::Receiver<Order>, reports: &UnboundedSender<Report>) {
        let mut waiting: VecDeque<Order> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match orders.recv() {
                    Ok(order) => waiting.push_back(order),
                    Err(_) => return,
                }
            }
            waiting.extend(orders.try_iter());
            let next = waiting.iter().position(Order::is_release).unwrap_or(0);
            let failure = match self.carry_out(&waiting[next]) {
                Ok(report) => {
                    waiting.remove(next);
                    // Nobody listens any more when the WAL is being dropped.
                    drop(reports.send(report));
                    continue;
                }
                Err(error) if waiting[next].is_release() => Report::ReleaseFailed(error),
                Err(error) => Report::CreateRefused(error),
            };
            drop(reports.send(failure));
            match orders.recv_timeout(RETRY_AFTER) {
                Ok(order) => waiting.push_back(order),
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn carry_out(&mut self, order: &Order) -> io::Result<Report> {
        match order {
            Order::Create => {
                self.disk.create_filled(&segment_name(self.next_number), self.segment_bytes)?;
                self.made().map(Report::Created)
            }
            Order::Recycle { from } => {
                let unnamed = format!("{from}{PARTIAL_SUFFIX}");
                self.rename(from, &unnamed)?;
                match self.disk.open(&unnamed) {
                    Ok(file) => file.write_durable(0, &[IoSlice::new(&zero_block())])?,
                    // Tried again after all had worked and only the last answer was an error.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                    Err(error) => return Err(error),
                }
                self.rename(&unnamed, &segment_name(self.next_number))?;
                self.made().map(Report::Recycled)
            }
            Order::Remove { name, bytes } => {
                self.settled(self.disk.remove(name))?;
                Ok(Report::Removed { bytes: *bytes })
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.settled(self.disk.rename(from, to))
    }

    /// A change of a name that is not there has been made already, and its answer was an error: perhaps because it could not
    /// be made durable.
    fn settled(&self, changed: io::Result<()>) -> io::Result<()> {
        match changed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.sync(),
            changed => changed,
        }
    }

    /// The file that was made ready last.
    fn made(&mut self) -> io::Result<Spare> {
        let number = self.next_number;
        let file = self.disk.open(&segment_name(number))?;
        assert_eq!(file.bytes(), self.segment_bytes, "all spares have one size");
        self.next_number += 1;
        Ok(Spare { number, file })
    }
}
