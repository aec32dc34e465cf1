//! Appends at the validators of their streams, in order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;
use weir_stream::{Binding, Group, Split};
use weir_types::{Incarnation, Role, StreamKey};

use crate::message::{Body, ShardError};
use crate::write::job::{AppendJob, Judged, LocalGroup};

/// The validators of one stream; most have one.
pub(crate) type Validators = SmallVec<[Arc<Binding>; 2]>;

/// The validators that have to see what a write to `key` brings.
pub(crate) fn validators_of(state: &Group, key: &StreamKey, body: &Body) -> Validators {
    match body.is_empty() {
        true => Validators::new(),
        false => state.bindings(key, Role::Validator).cloned().collect(),
    }
}

/// A write that is judged.
pub(crate) struct Case {
    pub(crate) key: StreamKey,
    pub(crate) content_type: Arc<str>,
    pub(crate) is_json: bool,
    /// The tail, as far as is known.
    pub(crate) next_offset: u64,
    /// In one piece.
    pub(crate) body: Bytes,
    pub(crate) split: Split,
    pub(crate) validators: Validators,
}

pub(crate) type Verdicts = Pin<Box<dyn Future<Output = Result<Option<(Body, Split)>, ShardError>>>>;

/// Appends at the validators, those of each stream in order.
#[derive(Default)]
pub(crate) struct Validations(RefCell<HashMap<Incarnation, Waiting>>);

/// A stream's appends at its validators.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<Validation>,
    /// Whether one was taken out and is not done.
    is_busy: bool,
}

pub(crate) struct Validation {
    pub(crate) group: Rc<LocalGroup>,
    pub(crate) job: AppendJob,
    pub(crate) judged: Judged,
    /// `None` when it only waits behind others of its stream.
    pub(crate) verdicts: Option<Verdicts>,
}

impl Validations {
    /// Whether appends of the stream are at the validators.
    pub(crate) fn has(&self, incarnation: Incarnation) -> bool {
        let streams = self.0.borrow();
        !streams.is_empty() && streams.contains_key(&incarnation)
    }

    /// Puts an append among what its stream has there, by when it came: one that was judged under other bindings comes again,
    /// after others. Whether the stream had nothing there.
    pub(crate) fn push(&self, validation: Validation) -> bool {
        let mut streams = self.0.borrow_mut();
        let before = streams.len();
        let waiting = streams.entry(validation.judged.incarnation).or_default();
        let at = waiting.queue.partition_point(|other| other.job.arrival < validation.job.arrival);
        waiting.queue.insert(at, validation);
        streams.len() > before
    }

    /// Whether the stream has one there that came before `arrival`.
    pub(crate) fn has_earlier(&self, incarnation: Incarnation, arrival: u64) -> bool {
        let streams = self.0.borrow();
        let first = streams.get(&incarnation).and_then(|waiting| waiting.queue.front());
        first.is_some_and(|first| first.job.arrival < arrival)
    }

    /// When the first that waits behind the one that was taken out is due.
    pub(crate) fn next_deadline(&self, incarnation: Incarnation) -> Option<Instant> {
        let streams = self.0.borrow();
        streams.get(&incarnation).and_then(|waiting| waiting.queue.front()).map(|first| first.job.deadline)
    }

    /// Takes out those that wait behind the one that was taken out and are due by `now`.
    pub(crate) fn take_late(&self, incarnation: Incarnation, now: Instant) -> Vec<AppendJob> {
        let mut streams = self.0.borrow_mut();
        let Some(waiting) = streams.get_mut(&incarnation) else { return Vec::new() };
        let late = waiting.queue.iter().take_while(|validation| validation.job.deadline <= now).count();
        waiting.queue.drain(..late).map(|validation| validation.job).collect()
    }

    /// Takes out the stream's next one, until [`Validations::done`]; `None`, and the stream is forgotten, when there is none.
    pub(crate) fn pop(&self, incarnation: Incarnation) -> Option<Validation> {
        let mut streams = self.0.borrow_mut();
        let waiting = streams.get_mut(&incarnation).expect("it is forgotten by who takes the last");
        assert!(!waiting.is_busy, "one after the other");
        let next = waiting.queue.pop_front();
        waiting.is_busy = next.is_some();
        if next.is_none() {
            streams.remove(&incarnation);
        }
        next
    }

    /// The one that was taken out has its verdict. If it was the last, what comes now need not wait behind anything.
    pub(crate) fn done(&self, incarnation: Incarnation) {
        let mut streams = self.0.borrow_mut();
        let waiting = streams.get_mut(&incarnation).expect("it has one taken out");
        assert!(waiting.is_busy, "one was taken out");
        waiting.is_busy = false;
    }
}
