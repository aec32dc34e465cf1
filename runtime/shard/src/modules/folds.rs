//! Folds: the states of summaries, each of one stream under one module and configuration, kept warm on the lane for who
//! asks next.
//!
//! A fold is not stored: one that has gone is computed again, from the last snapshot that is kept of it or from the
//! beginning. It goes when there are too many, when its instance has ended, and with its stream. What it computes is named
//! by its *recipe*, the module's bytes and the configuration: a binding that is changed in anything else keeps its folds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};
use weir_types::{Digest, Incarnation, Lineages, Offset};
use weir_wasm::{FoldId, GuestError, Lane, Snapshot, View};

use crate::message::SummaryQuery;

/// The largest answer that is kept for the next reader.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Records that a fold takes at once, at most.
pub(super) const SLICE_RECORDS_MAX: usize = 4096;
/// How long a fold is waited for whose state another one might begin with.
const STATE_WITHIN: Duration = Duration::from_millis(200);
/// What a fold may have cost since the last snapshot before there is another: what is lost with its instance is that much.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(200);
/// A snapshot may cost at most this part of what has been folded since the last one.
const SNAPSHOT_PART: u32 = 10;

/// What a fold computes, whatever the binding is called and whichever streams it is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Recipe {
    pub(crate) digest: Digest,
    pub(crate) config: Arc<str>,
}

/// The folds of one shard.
pub(crate) struct Folds {
    lane: Lane,
    folds_max: usize,
    folds: RefCell<HashMap<(Incarnation, Recipe), Entry>>,
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
    lineages: Lineages,
    /// The position of the first record that it has taken, or will take.
    from: u64,
    pub(super) state: State,
    /// Where the state can be had from when its instance has ended.
    pub(super) kept: Option<Kept>,
    /// Records that it takes at once now.
    pub(super) slice_records: usize,
    /// The record that ends the module.
    pub(super) stop: Option<Stop>,
    /// The summary itself as it was last asked for, and where: most readers ask for nothing else.
    answered: Option<(u64, View)>,
}

/// Where a fold's state is.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// On the lane, of all records before `position`.
    Warm { open: FoldId, position: u64 },
    /// To be made again.
    Cold,
}

/// A fold on the lane that is dropped there unless it is put back: so is one whose user leaves while the lane works on it.
pub(super) struct Held {
    lane: Lane,
    open: Option<FoldId>,
}

impl Held {
    pub(super) fn new(lane: Lane, open: FoldId) -> Held {
        Held { lane, open: Some(open) }
    }

    pub(super) fn id(&self) -> FoldId {
        self.open.expect("it is held until it is put back")
    }

    /// It is the state of `fold`, of all records before `position`.
    pub(super) fn put_back(mut self, fold: &mut Fold, position: u64) {
        let open = self.open.take().expect("it is held until it is put back");
        fold.lose();
        fold.state = State::Warm { open, position };
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.lane.fold_drop(open);
        }
    }
}

/// A snapshot of all records before `position`.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) position: u64,
    pub(super) snapshot: Snapshot,
    /// CPU time that was folded since, and what the snapshot itself cost.
    pub(super) folded: Duration,
    pub(super) cost: Duration,
}

impl Kept {
    pub(super) fn new(position: u64, snapshot: Snapshot) -> Kept {
        Kept { position, snapshot, folded: Duration::ZERO, cost: Duration::ZERO }
    }
}

/// Why a fold does not go on.
pub(super) struct Stop {
    /// The position of the record at fault.
    pub(super) at: u64,
    pub(super) reason: Arc<str>,
    /// The change of the binding under which it was found: another one is a reason to try again.
    pub(super) epoch: u64,
    pub(super) since: Instant,
}

impl Drop for Fold {
    fn drop(&mut self) {
        self.lose();
    }
}

impl Folds {
    pub(crate) fn new(lane: Lane, folds_max: usize) -> Folds {
        Folds { lane, folds_max, folds: RefCell::default(), clock: Cell::new(0) }
    }

    /// The fold of a stream by `recipe`, for the caller alone; a new one has taken nothing yet.
    pub(crate) async fn lock(
        &self,
        incarnation: Incarnation,
        lineages: Lineages,
        recipe: Recipe,
    ) -> OwnedMutexGuard<Fold> {
        self.get(incarnation, lineages, recipe).lock_owned().await
    }

    fn get(&self, incarnation: Incarnation, lineages: Lineages, recipe: Recipe) -> Arc<Mutex<Fold>> {
        let used = self.clock.get();
        self.clock.set(used + 1);
        let mut folds = self.folds.borrow_mut();
        let key = (incarnation, recipe);
        if !folds.contains_key(&key) && folds.len() >= self.folds_max {
            let oldest = folds.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            folds.remove(&oldest.expect("there are many"));
        }
        let entry = folds.entry(key).or_insert_with(|| {
            let fold = Fold {
                lane: self.lane.clone(),
                lineages,
                from: 0,
                state: State::Cold,
                kept: None,
                slice_records: SLICE_RECORDS_MAX,
                stop: None,
                answered: None,
            };
            Entry { fold: Arc::new(Mutex::new(fold)), used }
        });
        entry.used = used;
        entry.fold.clone()
    }

    /// A state that a stream's fold has now, by `recipe`: of all records from the first position of `range` on, and of none from the second.
    /// The position that it is of, and what it is.
    pub(crate) async fn state(
        &self,
        incarnation: Incarnation,
        recipe: Recipe,
        range: &Range<u64>,
    ) -> Option<(u64, Bytes)> {
        let fold = self.folds.borrow().get(&(incarnation, recipe)).map(|entry| entry.fold.clone())?;
        let mut fold = timeout(STATE_WITHIN, fold.lock_owned()).await.ok()?;
        if fold.from != range.start {
            return None;
        }
        let kept = fold.last_kept().0;
        if let State::Warm { open, position } = fold.state
            && kept < position
            && position <= range.end
        {
            fold.keep(open, position).await;
        }
        match fold.last_kept() {
            (position, Some(state)) if position > range.start && position <= range.end => Some((position, state)),
            _ => None,
        }
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
    /// Up to where it has taken the stream; nothing while it is cold.
    pub(super) fn position(&self) -> u64 {
        match self.state {
            State::Warm { position, .. } => position,
            State::Cold => self.from,
        }
    }

    /// Gets ready for a stream whose records begin at `base` now. If it needs any of those before, it begins anew there.
    pub(super) fn begin_at(&mut self, base: u64) {
        self.stop.take_if(|stop| stop.at < base);
        self.kept.take_if(|kept| kept.position < base);
        if self.position() < base {
            self.lose();
        }
        if matches!(self.state, State::Cold) && self.kept.is_none() && self.from != base {
            self.from = base;
            self.answered = None;
        }
    }

    /// It is of all records from this offset on.
    pub(crate) fn from(&self) -> Offset {
        self.at(self.from)
    }

    /// And before this one.
    pub(crate) fn next(&self) -> Offset {
        self.at(self.position())
    }

    pub(super) fn at(&self, position: u64) -> Offset {
        self.lineages.offset(position)
    }

    /// Why it does not go on from where it is.
    pub(crate) fn failed(&self) -> Option<Arc<str>> {
        let stop = self.stop.as_ref().filter(|stop| stop.at == self.position());
        stop.map(|stop| stop.reason.clone())
    }

    /// The last state that is kept, and the position it is of; the beginning where there is none.
    pub(super) fn last_kept(&self) -> (u64, Option<Bytes>) {
        self.kept.as_ref().map_or((self.from, None), |kept| (kept.position, Some(kept.snapshot.bytes().clone())))
    }

    /// Whether it has folded enough since the last snapshot to be worth one.
    pub(super) fn is_due(&self, folded: Duration) -> bool {
        let (since, cost) = self.kept.as_ref().map_or((folded, Duration::ZERO), |kept| (kept.folded, kept.cost));
        since >= SNAPSHOT_EVERY.max(cost * SNAPSHOT_PART)
    }

    /// Keeps the state as a snapshot. Where there is no room for it, the fold goes on without.
    pub(super) async fn keep(&mut self, open: FoldId, position: u64) {
        match self.lane.fold_snapshot(open).await {
            Ok((snapshot, cost)) => self.kept = Some(Kept { cost, ..Kept::new(position, snapshot) }),
            Err(error) if is_lost(&error) && !error.is_of_node() => self.lose(),
            Err(_) => {}
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
            && *position == self.position()
        {
            return Ok(view.clone());
        }
        let State::Warm { open, position } = self.state else { return Err(GuestError::FoldLost) };
        let asked = self.lane.fold_query(open, query.path.to_string(), query.params.clone()).await;
        match asked {
            Ok(view) => {
                if is_plain && view.body.len() <= ANSWER_BYTES_MAX {
                    self.answered = Some((position, view.clone()));
                }
                Ok(view)
            }
            Err(error) => {
                if is_lost(&error) {
                    self.lose();
                }
                Err(error)
            }
        }
    }

    /// The guest's state is gone, or must be.
    pub(super) fn lose(&mut self) {
        if let State::Warm { open, .. } = std::mem::replace(&mut self.state, State::Cold) {
            self.lane.fold_drop(open);
        }
    }
}

/// Whether a fold is gone after this, or may be.
pub(super) fn is_lost(error: &GuestError) -> bool {
    !matches!(error, GuestError::Busy | GuestError::Suspended { .. } | GuestError::Refused(_) | GuestError::NotReady)
}
