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
use tokio::task::AbortHandle;

use crate::block::zero_block;
use crate::disk::{Disk, PARTIAL_SUFFIX};
use crate::entry::WriteMode;
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
pub(crate) struct Filler(Filling);

enum Filling {
    Thread {
        orders: Option<mpsc::Sender<Order>>,
        thread: Option<JoinHandle<()>>,
    },
    /// In simulations, a task of the shard's thread.
    Task {
        orders: UnboundedSender<Order>,
        task: AbortHandle,
    },
}

impl Filler {
    /// Starts it. The next file that it makes ready is for the segment `next_number`.
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        next_number: u32,
        mode: WriteMode,
    ) -> io::Result<(Filler, UnboundedReceiver<Report>)> {
        assert!(next_number > 0, "segments are numbered from 1");
        let (reports, reported) = unbounded_channel();
        let mut work = Work { disk, segment_bytes, next_number, reports, waiting: VecDeque::new() };
        let filling = if mode == WriteMode::Simulated {
            let (orders, received) = unbounded_channel();
            let task = tokio::task::spawn_local(work.fill_in_turns(received)).abort_handle();
            Filling::Task { orders, task }
        } else {
            let (orders, received) = mpsc::channel();
            let thread = std::thread::Builder::new().name("wal-fill".to_string());
            Filling::Thread { orders: Some(orders), thread: Some(thread.spawn(move || work.fill(&received))?) }
        };
        Ok((Filler(filling), reported))
    }

    pub(crate) fn order(&self, order: Order) {
        // Orders are taken until they are dropped.
        match &self.0 {
            Filling::Thread { orders, .. } => drop(orders.as_ref().expect("taken only when dropped").send(order)),
            Filling::Task { orders, .. } => drop(orders.send(order)),
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        match &mut self.0 {
            Filling::Thread { orders, thread } => {
                *orders = None;
                // Waited for, so that whoever opens the directory next is alone in it.
                if let Some(thread) = thread.take() {
                    drop(thread.join());
                }
            }
            Filling::Task { task, .. } => task.abort(),
        }
    }
}

/// The thread's own.
struct Work {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    next_number: u32,
    reports: UnboundedSender<Report>,
    waiting: VecDeque<Order>,
}

impl Work {
    /// Carries out orders until there will be no more.
    fn fill(&mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            if self.waiting.is_empty() {
                match orders.recv() {
                    Ok(order) => self.waiting.push_back(order),
                    Err(_) => return,
                }
            }
            self.waiting.extend(orders.try_iter());
            if self.step() {
                continue;
            }
            match orders.recv_timeout(RETRY_AFTER) {
                Ok(order) => self.waiting.push_back(order),
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// As [`Work::fill`], as a task.
    async fn fill_in_turns(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            if self.waiting.is_empty() {
                match orders.recv().await {
                    Some(order) => self.waiting.push_back(order),
                    None => return,
                }
            }
            while let Ok(order) = orders.try_recv() {
                self.waiting.push_back(order);
            }
            if !self.step() {
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    /// Carries out the next order; says whether the disk has let it.
    fn step(&mut self) -> bool {
        let next = self.waiting.iter().position(Order::is_release).unwrap_or(0);
        let order = self.waiting.remove(next).expect("there is one");
        let done = self.carry_out(&order);
        let report = match done {
            Ok(report) => report,
            Err(error) => {
                let is_release = order.is_release();
                self.waiting.insert(next, order);
                let failed = if is_release { Report::ReleaseFailed } else { Report::CreateRefused };
                // Nobody listens any more when the WAL is being dropped.
                drop(self.reports.send(failed(error)));
                return false;
            }
        };
        drop(self.reports.send(report));
        true
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
