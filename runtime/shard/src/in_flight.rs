//! Memory of requests under way on one shard, counted against one limit.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use send_wrapper::SendWrapper;

use crate::budget::SHARES;
use crate::message::{Limit, ShardError};
use crate::stats::Counters;

/// What a shard's requests under way have together.
pub(crate) struct InFlightTotal {
    bytes: Cell<usize>,
    bytes_max: usize,
    stats: Rc<Counters>,
}

impl InFlightTotal {
    pub(crate) fn new(bytes_max: usize, stats: Rc<Counters>) -> Rc<InFlightTotal> {
        Rc::new(InFlightTotal { bytes: Cell::new(0), bytes_max, stats })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// What one connection may have of it, in bytes.
    pub(crate) fn share(&self) -> usize {
        self.bytes_max / SHARES
    }

    /// A request that has nothing yet.
    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        InFlight { total: SendWrapper::new(self.clone()), bytes: 0 }
    }
}

/// Memory of one request under way, counted until this is dropped.
pub struct InFlight {
    total: SendWrapper<Rc<InFlightTotal>>,
    bytes: usize,
}

impl InFlight {
    /// Counts `bytes` more. Whoever is alone may have more than there is, or the longest body could never be taken.
    ///
    /// # Errors
    /// [`Limit::InFlight`] when that is more than the shard has; then nothing is counted.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ShardError> {
        self.add(bytes).inspect_err(|error| self.total.stats.limits_met.count_error(error))
    }

    /// What is counted.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// As [`InFlight::grow`], where the refusal is counted by who answers with it.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), ShardError> {
        let total = &*self.total;
        assert!(total.bytes.get() >= self.bytes, "what a request has is counted");
        let counted = total.bytes.get() + bytes;
        let is_alone = total.bytes.get() == self.bytes;
        if counted > total.bytes_max && !is_alone {
            return Err(ShardError::Limit(Limit::InFlight));
        }
        total.bytes.set(counted);
        self.bytes += bytes;
        Ok(())
    }
}

impl InFlight {
    /// Gives `bytes` of what is counted back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        assert!(self.bytes >= bytes && self.total.bytes.get() >= bytes, "what is given back was counted");
        self.total.bytes.set(self.total.bytes.get() - bytes);
        self.bytes -= bytes;
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InFlight({} B)", self.bytes)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
