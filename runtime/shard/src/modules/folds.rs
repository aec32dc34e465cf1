//! Folds: the states of summaries, each of one stream under one binding, kept warm on the lane for who asks next.
//!
//! A fold is not stored: one that has gone is computed again from the stream. It goes when there are too many, when its
//! instance has ended, and with its stream. One of an earlier binding is asked for no more, and is among the first to go.
//!
//! A record that ends the module is found like this. When a batch fails, its records are *suspects*: the fold is computed
//! again in a fresh instance up to them, and takes them one by one. If all of them pass, something else was at fault
//! (another fold of the same instance, most likely), and the fold goes on. The one that fails is where the fold *stops*: it
//! is computed once more up to there, and that is what is served from then on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use weir_types::{Incarnation, Lineage, Offset};
use weir_wasm::{FoldId, GuestError, Lane, TrapReason, View};

use crate::message::SummaryQuery;

/// The largest answer that is kept for the next reader.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// The folds of one shard.
pub(crate) struct Folds {
    lane: Lane,
    folds_max: usize,
    /// By stream and by the change that made the binding what it is.
    folds: RefCell<HashMap<(Incarnation, u64), Entry>>,
    /// Counts uses, to tell which fold was used least recently.
    clock: Cell<u64>,
}

struct Entry {
    fold: Arc<Mutex<Fold>>,
    used: u64,
}

/// One fold. Who uses it holds it alone.
pub(crate) struct Fold {
    pub(super) lane: Lane,
    incarnation: Incarnation,
    /// The guest's state, of all records before `position`; `None` when it has to be computed anew.
    pub(super) open: Option<FoldId>,
    pub(super) position: u64,
    /// Positions of records of which one may be at fault.
    pub(super) suspects: Option<Range<u64>>,
    /// The record that ends the module, and how.
    pub(super) stop: Option<(u64, Arc<str>)>,
    /// The summary itself as it was last asked for, and where: most readers ask for nothing else.
    answered: Option<(u64, View)>,
}

impl Drop for Fold {
    fn drop(&mut self) {
        if let Some(fold) = self.open {
            self.lane.fold_drop(fold);
        }
    }
}

impl Folds {
    pub(crate) fn new(lane: Lane, folds_max: usize) -> Folds {
        Folds { lane, folds_max, folds: RefCell::default(), clock: Cell::new(0) }
    }

    /// The fold of a stream under the binding of `epoch`, for the caller alone; a new one has taken nothing yet.
    pub(crate) async fn lock(&self, incarnation: Incarnation, epoch: u64) -> OwnedMutexGuard<Fold> {
        self.get(incarnation, epoch).lock_owned().await
    }

    fn get(&self, incarnation: Incarnation, epoch: u64) -> Arc<Mutex<Fold>> {
        let used = self.clock.get();
        self.clock.set(used + 1);
        let mut folds = self.folds.borrow_mut();
        if !folds.contains_key(&(incarnation, epoch)) {
            if folds.len() >= self.folds_max {
                let oldest = folds.iter().min_by_key(|(_, entry)| entry.used).map(|(&key, _)| key);
                folds.remove(&oldest.expect("there are many"));
            }
            let fold = Fold {
                lane: self.lane.clone(),
                incarnation,
                open: None,
                position: 0,
                suspects: None,
                stop: None,
                answered: None,
            };
            folds.insert((incarnation, epoch), Entry { fold: Arc::new(Mutex::new(fold)), used });
        }
        let entry = folds.get_mut(&(incarnation, epoch)).expect("it is there now");
        entry.used = used;
        entry.fold.clone()
    }

    /// The stream is gone, and with it its folds.
    pub(crate) fn forget(&self, incarnation: Incarnation) {
        let mut folds = self.folds.borrow_mut();
        if !folds.is_empty() {
            folds.retain(|(of, _), _| *of != incarnation);
        }
    }
}

impl Fold {
    /// It is of all records before this offset.
    pub(crate) fn next(&self) -> Offset {
        Offset { position: self.position, lineage: Lineage::of(self.incarnation) }
    }

    /// Why it does not go on from where it is.
    pub(crate) fn failed(&self) -> Option<Arc<str>> {
        self.stop.as_ref().filter(|(at, _)| *at == self.position).map(|(_, reason)| reason.clone())
    }

    /// Notes what has failed: the fold is gone.
    pub(super) fn blame(&mut self, taken: &Range<u64>, is_single: bool, error: &GuestError) {
        self.lose();
        match error {
            // Says nothing of the records.
            GuestError::FoldLost | GuestError::Stopped | GuestError::NotReady => {}
            // It counts the machine's time, which another day may be enough.
            GuestError::Trapped { reason: TrapReason::TimedOut, .. } => {}
            GuestError::ConfigRefused(_)
            | GuestError::Trapped { .. }
            | GuestError::Refused(_)
            | GuestError::Garbage(_)
                if is_single =>
            {
                self.suspects = None;
                self.stop = Some((taken.start, Arc::from(error.to_string())));
            }
            GuestError::ConfigRefused(_)
            | GuestError::Trapped { .. }
            | GuestError::Refused(_)
            | GuestError::Garbage(_) => self.suspects = Some(taken.clone()),
        }
    }

    /// Asks the fold as it is now.
    ///
    /// # Errors
    /// [`GuestError::Refused`] in the module's own words; else how the instance ended: then the fold is gone.
    pub(crate) async fn ask(&mut self, query: &SummaryQuery) -> Result<View, GuestError> {
        let is_plain = &*query.path == "/" && query.params.is_empty();
        if let Some((position, view)) = &self.answered
            && is_plain
            && *position == self.position
        {
            return Ok(view.clone());
        }
        let open = self.open.ok_or(GuestError::FoldLost)?;
        let asked = self.lane.fold_query(open, query.path.to_string(), query.params.clone()).await;
        match asked {
            Ok(view) => {
                if is_plain && view.body.len() <= ANSWER_BYTES_MAX {
                    self.answered = Some((self.position, view.clone()));
                }
                Ok(view)
            }
            Err(error) => {
                if matches!(error, GuestError::Trapped { .. } | GuestError::Garbage(_) | GuestError::FoldLost) {
                    self.lose();
                }
                Err(error)
            }
        }
    }

    /// The guest's state is gone, or must be.
    fn lose(&mut self) {
        if let Some(open) = self.open.take() {
            self.lane.fold_drop(open);
        }
    }
}
