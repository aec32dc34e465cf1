//! Segments made ready ahead of need, by a thread of their own: filling one takes as long as writing it.
//!
//! Two are wanted at any time: a spare for whatever comes, and a reserve that only votes, truncations and purges may
//! take, so that a full log can still elect and be emptied. The filling thread is also where a full disk is met: it
//! reports the refusal, tries again every [`RETRY_AFTER`], and so service resumes by itself when there is space.
//!
//! Segments that nothing needs are renamed to spares, or removed when there are enough. The thread does that in the
//! order of their numbers and goes on only when it has succeeded, so that a crash never leaves a gap in the log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::disk::{Disk, DiskFile};
use crate::segment::spare_name;

/// Spares that are made ahead: one, and the reserve.
const WANTED: usize = 2;
/// Spares that are kept when segments come back; more are removed.
const KEPT_MAX: usize = 4;
/// How long after a refusal by the disk it is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A file that can become a segment.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// What the filling thread is asked for.
enum Order {
    Create { name: String },
    Recycle { from: String, to: String },
    Remove { name: String, bytes: u64 },
}

/// What the filling thread says.
pub(crate) enum Report {
    Created(Spare),
    Recycled(Spare),
    Removed { bytes: u64 },
    Refused(io::Error),
}

/// The spares of one WAL.
pub(crate) struct Spares {
    ready: VecDeque<Spare>,
    creating: usize,
    recycling: usize,
    removing_bytes: u64,
    is_refused: bool,
    segment_bytes: u64,
    next_number: u32,
    filler: Filler,
}

/// The filling thread; it ends when this is dropped.
struct Filler {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    /// Spares found on `disk`, and a thread to make more. `next_number` is greater than that of any.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        ready: VecDeque<Spare>,
        next_number: u32,
    ) -> io::Result<(Spares, UnboundedReceiver<Report>)> {
        let (orders, received) = mpsc::channel();
        let (reports, reported) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("wal-fill".to_string())
            .spawn(move || fill(&*disk, segment_bytes, &received, &reports))?;
        let filler = Filler { orders: Some(orders), thread: Some(thread) };
        let spares = Spares {
            ready,
            creating: 0,
            recycling: 0,
            removing_bytes: 0,
            is_refused: false,
            segment_bytes,
            next_number,
            filler,
        };
        Ok((spares, reported))
    }

    /// Spares that are ready, the reserve among them.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Bytes on disk that are not in segments of the log, as they will be when all orders are carried out or before.
    pub(crate) fn bytes(&self) -> u64 {
        (self.ready.len() + self.creating + self.recycling) as u64 * self.segment_bytes + self.removing_bytes
    }

    /// Whether a spare, or space in the budget for one, is on its way and the disk has not refused it.
    pub(crate) fn is_preparing(&self) -> bool {
        self.recycling > 0 || self.removing_bytes > 0 || (self.creating > 0 && !self.is_refused)
    }

    /// Whether the disk refuses to make one.
    pub(crate) fn is_refused(&self) -> bool {
        self.creating > 0 && self.is_refused
    }

    /// Takes one; the reserve only if `and_reserve`.
    pub(crate) fn take(&mut self, and_reserve: bool) -> Option<Spare> {
        if self.ready.len() > 1 || and_reserve { self.ready.pop_front() } else { None }
    }

    /// Asks for spares until two would be left when `owed` have been taken, as far as `free_bytes` of the budget go.
    pub(crate) fn replenish(&mut self, owed: usize, mut free_bytes: u64) {
        while self.ready.len() + self.creating + self.recycling < WANTED + owed && free_bytes >= self.segment_bytes {
            // What the disk said about another order says nothing about this one.
            self.is_refused &= self.creating > 0;
            let name = self.next_name();
            self.order(Order::Create { name });
            self.creating += 1;
            free_bytes -= self.segment_bytes;
        }
    }

    /// Takes back a segment of `bytes` that nothing needs.
    pub(crate) fn release(&mut self, segment: String, bytes: u64) {
        let coming = self.ready.len() + self.recycling;
        if bytes == self.segment_bytes && coming < KEPT_MAX {
            let to = self.next_name();
            self.order(Order::Recycle { from: segment, to });
            self.recycling += 1;
        } else {
            self.order(Order::Remove { name: segment, bytes });
            self.removing_bytes += bytes;
        }
    }

    /// Takes over what the filling thread has done.
    pub(crate) fn note(&mut self, report: Report) {
        match report {
            Report::Created(spare) => {
                self.creating -= 1;
                self.is_refused = false;
                self.ready.push_back(spare);
            }
            Report::Recycled(spare) => {
                self.recycling -= 1;
                self.ready.push_back(spare);
            }
            Report::Removed { bytes } => self.removing_bytes -= bytes,
            Report::Refused(error) => {
                if !self.is_refused {
                    tracing::warn!(%error, "no space for another log segment; trying again every second");
                }
                self.is_refused = true;
            }
        }
    }

    fn next_name(&mut self) -> String {
        let name = spare_name(self.next_number);
        self.next_number += 1;
        name
    }

    fn order(&self, order: Order) {
        let orders = self.filler.orders.as_ref().expect("taken only when dropped");
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

/// The filling thread: carries out orders, releases before creations, until there will be no more.
fn fill(disk: &dyn Disk, segment_bytes: u64, orders: &mpsc::Receiver<Order>, reports: &UnboundedSender<Report>) {
    let mut waiting: VecDeque<Order> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match orders.recv() {
                Ok(order) => waiting.push_back(order),
                Err(_) => return,
            }
        }
        waiting.extend(orders.try_iter());
        let next = waiting.iter().position(|order| !matches!(order, Order::Create { .. })).unwrap_or(0);
        let refusal = match carry_out(disk, segment_bytes, &waiting[next]) {
            Ok(report) => {
                waiting.remove(next);
                // Nobody listens any more when the WAL is being dropped.
                drop(reports.send(report));
                continue;
            }
            Err(error) => error,
        };
        drop(reports.send(Report::Refused(refusal)));
        match orders.recv_timeout(RETRY_AFTER) {
            Ok(order) => waiting.push_back(order),
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn carry_out(disk: &dyn Disk, segment_bytes: u64, order: &Order) -> io::Result<Report> {
    let open = |name: &str| Ok::<_, io::Error>(Spare { name: name.to_string(), file: disk.open(name)? });
    match order {
        Order::Create { name } => {
            disk.create_filled(name, segment_bytes)?;
            open(name).map(Report::Created)
        }
        Order::Recycle { from, to } => {
            // Tried again after it had worked and only the answer was an error: the old name is gone by then.
            match disk.rename(from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                renamed => renamed?,
            }
            open(to).map(Report::Recycled)
        }
        Order::Remove { name, bytes } => match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Report::Removed { bytes: *bytes }),
        },
    }
}
