//! Appends at the validators of their streams, in order.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use weir_stream::{Binding, Split};
use weir_types::{Incarnation, StreamKey, Wakeup};

use crate::message::{Body, ShardError};
use crate::write::job::{AppendJob, Judged, LocalGroup};

/// The validators of one stream; most have one.
pub(crate) type Validators = SmallVec<[Arc<Binding>; 2]>;

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

/// Appends at the validators, in order.
#[derive(Default)]
pub(crate) struct Validations {
    queue: RefCell<VecDeque<Validation>>,
    /// How many of them each stream has.
    by_stream: RefCell<HashMap<Incarnation, usize>>,
    pub(crate) filled: Wakeup,
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
        let by_stream = self.by_stream.borrow();
        !by_stream.is_empty() && by_stream.contains_key(&incarnation)
    }

    pub(crate) fn push(&self, validation: Validation) {
        *self.by_stream.borrow_mut().entry(validation.judged.incarnation).or_default() += 1;
        self.queue.borrow_mut().push_back(validation);
        self.filled.ring();
    }

    pub(crate) fn pop(&self) -> Option<Validation> {
        self.queue.borrow_mut().pop_front()
    }

    pub(crate) fn done(&self, incarnation: Incarnation) {
        let mut by_stream = self.by_stream.borrow_mut();
        let left = by_stream.get_mut(&incarnation).expect("it was counted when it came");
        *left -= 1;
        if *left == 0 {
            by_stream.remove(&incarnation);
        }
    }
}
