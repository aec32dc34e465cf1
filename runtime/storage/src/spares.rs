//! Segments made ready ahead of need: filling one takes as long as writing it.
//!
//! Two are wanted at any time: a spare for whatever comes, and a reserve that only votes, truncations, purges, entries that
//! are no commands, and commands that empty the log ([`Claim::Reserve`](crate::Claim)) may take, so that a full log can still
//! elect and be emptied.
//! The filling thread is also where a full disk is met: it reports the refusal and tries again, and so service resumes by
//! itself when there is space. Segments that nothing needs become spares, or are removed when there are enough.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::disk::Disk;
use crate::entry::WalConfig;
use crate::filler::{Filler, Order, Report};
use crate::segment::Spare;

/// Spares that are made ahead: one, and the reserve.
const WANTED: usize = 2;
/// Spares that are kept when segments come back; more are removed.
const KEPT_MAX: usize = 4;
const _: () = assert!(KEPT_MAX >= WANTED, "what is wanted is kept");

/// The spares of one WAL.
pub(crate) struct Spares {
    ready: VecDeque<Spare>,
    creating: usize,
    recycling: usize,
    removing_bytes: u64,
    is_create_refused: bool,
    is_release_failing: bool,
    segment_bytes: u64,
    filler: Filler,
}

impl Spares {
    /// Spares found on `disk`, and a thread to make more. `next_number` is the segment that the next one is for.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        &WalConfig { segment_bytes, write, .. }: &WalConfig,
        ready: VecDeque<Spare>,
        next_number: u32,
    ) -> io::Result<(Spares, UnboundedReceiver<Report>)> {
        assert!(ready.back().is_none_or(|last| last.number + 1 == next_number), "numbers have no gaps");
        let (filler, reports) = Filler::start(disk, segment_bytes, next_number, write)?;
        let spares = Spares {
            ready,
            creating: 0,
            recycling: 0,
            removing_bytes: 0,
            is_create_refused: false,
            is_release_failing: false,
            segment_bytes,
            filler,
        };
        Ok((spares, reports))
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
        let is_releasing = (self.recycling > 0 || self.removing_bytes > 0) && !self.is_release_failing;
        // Creations wait for releases.
        is_releasing || (self.creating > 0 && !self.is_refused())
    }

    /// Whether the disk refuses to make one, or to give one back.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_create_refused || self.is_release_failing
    }

    /// Takes one; the reserve only if `and_reserve`.
    pub(crate) fn take(&mut self, and_reserve: bool) -> Option<Spare> {
        if self.has(and_reserve) { self.ready.pop_front() } else { None }
    }

    /// Whether there is one to take.
    pub(crate) fn has(&self, and_reserve: bool) -> bool {
        self.ready.len() > usize::from(!and_reserve)
    }

    /// Asks for spares until two would be left when `owed` have been taken, as far as `free_bytes` of the budget go.
    pub(crate) fn replenish(&mut self, owed: usize, mut free_bytes: u64) {
        while self.ready.len() + self.creating + self.recycling < WANTED + owed && free_bytes >= self.segment_bytes {
            // What the disk said about another order says nothing about this one.
            self.is_create_refused &= self.creating > 0;
            self.filler.order(Order::Create);
            self.creating += 1;
            free_bytes -= self.segment_bytes;
        }
    }

    /// Takes back a segment of `bytes` that nothing needs.
    pub(crate) fn release(&mut self, segment: String, bytes: u64) {
        let coming = self.ready.len() + self.recycling;
        if bytes == self.segment_bytes && coming < KEPT_MAX {
            self.filler.order(Order::Recycle { from: segment });
            self.recycling += 1;
        } else {
            self.filler.order(Order::Remove { name: segment, bytes });
            self.removing_bytes += bytes;
        }
    }

    /// Takes over what the filling thread has done.
    pub(crate) fn note(&mut self, report: Report) {
        match report {
            Report::Created(spare) => {
                assert!(self.creating > 0, "only what was ordered is made");
                self.creating -= 1;
                self.is_create_refused = false;
                self.push(spare);
            }
            Report::Recycled(spare) => {
                assert!(self.recycling > 0, "only what was ordered is recycled");
                self.recycling -= 1;
                self.is_release_failing = false;
                self.push(spare);
            }
            Report::Removed { bytes } => {
                assert!(self.removing_bytes >= bytes, "only what was ordered is removed");
                self.removing_bytes -= bytes;
                self.is_release_failing = false;
            }
            Report::CreateRefused(error) => {
                if !std::mem::replace(&mut self.is_create_refused, true) {
                    tracing::warn!(%error, "no space for another log segment; trying again every second");
                }
            }
            Report::ReleaseFailed(error) => {
                if !std::mem::replace(&mut self.is_release_failing, true) {
                    tracing::warn!(%error, "a log segment cannot be given back; trying again every second");
                }
            }
        }
    }

    fn push(&mut self, spare: Spare) {
        assert!(self.ready.back().is_none_or(|last| last.number + 1 == spare.number), "numbers have no gaps");
        self.ready.push_back(spare);
    }
}
