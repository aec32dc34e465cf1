//! What is asked of a lane, and by what names: values that its callers and its threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use tokio::sync::oneshot;
use weir_types::{Digest, Histogram};

use crate::batch::{AppendContext, GuestBatch, Verdict};
use crate::budget::Claim;
use crate::error::GuestError;
use crate::voice::Caller;

/// Records at a validator.
pub(crate) struct Validation {
    pub(crate) instance: InstanceKey,
    pub(crate) caller: Caller,
    pub(crate) context: AppendContext,
    pub(crate) batch: GuestBatch,
    pub(crate) reply: Reply<Verdict>,
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, GuestError>>;

/// Whom an instance serves. Its role comes with the call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceKey {
    /// The bucket's name.
    pub bucket: Arc<str>,
    /// The module.
    pub digest: Digest,
    /// The binding's configuration as JSON text; `null` when it has none.
    pub config: Arc<str>,
}

impl std::hash::Hash for InstanceKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // This is hashed for every call, and few keys differ in the rest: a configuration may be a schema of kilobytes, and
        // of a digest any eight bytes are as good as all.
        self.digest.0.first_chunk::<8>().hash(state);
        self.config.len().hash(state);
    }
}

/// A fold that is open on a lane. No two folds of a process have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FoldId(u64);

impl FoldId {
    pub(crate) fn next() -> FoldId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        FoldId(NEXT.fetch_add(1, Relaxed))
    }
}

/// A fold's state, which counts towards the memory of guests for as long as it is kept.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) bytes: Bytes,
    pub(crate) _claim: Arc<Claim>,
}

impl Snapshot {
    /// The state as the module has written it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// [`LaneStats`], as the lane's threads count them.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) instances: AtomicU64,
    pub(crate) folds: AtomicU64,
    pub(crate) front_bytes: AtomicU64,
    pub(crate) back_bytes: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) traps: AtomicU64,
    pub(crate) demotions: AtomicU64,
    pub(crate) suspensions: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) front_times: Histogram,
    pub(crate) back_times: Histogram,
}
