//! A guest lane: one thread that runs all guest code of one shard, so that a guest which burns its fuel delays only
//! streams that asked for that guest.
//!
//! What is asked of a lane is asked when the method is called, and runs in that order: the future is only the answer.
//! Nothing bounds its queue but its callers, each of which waits for its answer. A caller that goes away while it waits
//! loses only the answer: an `apply` is applied, a fold that nobody was told of is dropped again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use tokio::sync::oneshot;
use weir_types::{Digest, Role};

use crate::batch::{AppendContext, GuestBatch, Verdict, View};
use crate::config::GUEST_STACK_BYTES;
use crate::error::GuestError;
use crate::host::Host;
use crate::worker::{Job, Worker};

/// Stack of the lane's thread, in bytes.
const STACK_BYTES: usize = 4 << 20;
/// By how much the thread stands back behind the shards: a guest that burns its fuel takes what they leave.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
// A guest that would overrun the thread's stack would end the process.
const _: () = assert!(STACK_BYTES >= 4 * GUEST_STACK_BYTES);

/// A shard's guest lane. Clones are the same lane; its thread ends with the last of them.
#[derive(Clone)]
pub struct Lane {
    jobs: mpsc::Sender<Vec<Job>>,
    counters: Arc<Counters>,
}

/// What is to be asked of a lane at once. Waking the lane costs more than a small guest call, and is paid once for all.
#[derive(Default)]
pub struct Jobs(Vec<Job>);

impl Jobs {
    /// Asks a validator, once this is sent. As [`Lane::validate`].
    pub fn validate(&mut self, instance: InstanceKey, context: AppendContext, batch: GuestBatch) -> Answer<Verdict> {
        batch.assert_whole();
        let (reply, answer) = oneshot::channel();
        self.0.push(Job::Validate { instance, context, batch, reply });
        Answer(answer)
    }
}

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

/// What a lane has done and has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaneStats {
    /// Instances that are warm.
    pub instances: u64,
    /// Folds that are open.
    pub folds: u64,
    /// Jobs done since the start.
    pub calls: u64,
    /// Instances that were ended by a trap, or by an answer that could not be read.
    pub traps: u64,
    /// Nanoseconds that the thread was not waiting.
    pub busy_ns: u64,
}

/// [`LaneStats`], as the lane's thread counts them.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) instances: AtomicU64,
    pub(crate) folds: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) traps: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
}

/// An answer that is due. What it answers has been asked already, whether or not anybody waits.
pub struct Answer<T>(oneshot::Receiver<Result<T, GuestError>>);

impl<T> Future for Answer<T> {
    type Output = Result<T, GuestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(GuestError::Stopped)))
    }
}

impl Lane {
    /// Starts a lane's thread.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(host: Host, name: &str) -> io::Result<Lane> {
        let (jobs, queue) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let worker = Worker::new(host, counters.clone());
        let builder = thread::Builder::new().name(name.to_string()).stack_size(STACK_BYTES);
        builder.spawn(move || {
            // Of this thread alone. Where it is not allowed, guests only take more of the machine.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICE);
            worker.run(&queue);
        })?;
        Ok(Lane { jobs, counters })
    }

    /// Asks all of `jobs`, in their order.
    pub fn send(&self, jobs: Jobs) {
        // A lane that has ended drops them, and with them the senders of the answers.
        let _ = self.jobs.send(jobs.0);
    }

    /// Starts an instance, or finds it warm: whether the module takes its configuration.
    ///
    /// # Errors
    /// [`GuestError::ConfigRefused`] with the module's sentence, also when it has not the role; or how it ended.
    pub fn check_config(&self, instance: InstanceKey, role: Role) -> Answer<()> {
        self.ask(|reply| Job::Check { instance, role, reply })
    }

    /// Asks a validator.
    ///
    /// # Errors
    /// Any [`GuestError`] but `Refused` and `FoldLost`. After `Trapped` the next call gets a fresh instance.
    pub fn validate(&self, instance: InstanceKey, context: AppendContext, batch: GuestBatch) -> Answer<Verdict> {
        batch.assert_whole();
        self.ask(|reply| Job::Validate { instance, context, batch, reply })
    }

    /// Opens a fold of a summary: empty, or from a snapshot.
    ///
    /// # Errors
    /// [`GuestError::Refused`] when the module cannot read the snapshot; [`GuestError::NotReady`],
    /// [`GuestError::ConfigRefused`], or how the instance ended.
    pub fn fold_open(&self, instance: InstanceKey, snapshot: Option<Bytes>) -> Answer<FoldId> {
        self.ask(|reply| Job::Open { instance, snapshot, reply })
    }

    /// Gives a fold its next records.
    ///
    /// # Errors
    /// [`GuestError::Refused`] by the module's own words: the fold may have taken some of the records, so it is gone.
    /// [`GuestError::Trapped`] and [`GuestError::Garbage`]: its instance is gone, and all its folds with it.
    /// [`GuestError::FoldLost`] when it was gone before.
    pub fn fold_apply(&self, fold: FoldId, batch: GuestBatch) -> Answer<()> {
        batch.assert_whole();
        self.ask(|reply| Job::Apply { fold, batch, reply })
    }

    /// Asks a fold for a view.
    ///
    /// # Errors
    /// [`GuestError::Refused`] by the module's own words, or [`GuestError::Garbage`] for a view that cannot be sent: the
    /// fold is still there. Else as for [`Lane::fold_apply`].
    pub fn fold_query(&self, fold: FoldId, path: String, params: Vec<(String, String)>) -> Answer<View> {
        self.ask(|reply| Job::Query { fold, path, params, reply })
    }

    /// A fold's state as bytes, for [`Lane::fold_open`].
    ///
    /// # Errors
    /// As for [`Lane::fold_apply`], but `Refused`.
    pub fn fold_snapshot(&self, fold: FoldId) -> Answer<Bytes> {
        self.ask(|reply| Job::Snapshot { fold, reply })
    }

    /// Ends a fold, if it is still there.
    pub fn fold_drop(&self, fold: FoldId) {
        // A lane that has ended has no folds.
        let _ = self.jobs.send(vec![Job::Drop { fold }]);
    }

    /// What the lane has done and has.
    pub fn stats(&self) -> LaneStats {
        let counters = &*self.counters;
        LaneStats {
            instances: counters.instances.load(Relaxed),
            folds: counters.folds.load(Relaxed),
            calls: counters.calls.load(Relaxed),
            traps: counters.traps.load(Relaxed),
            busy_ns: counters.busy_ns.load(Relaxed),
        }
    }

    fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, GuestError>>) -> Job) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        // A lane that has ended drops the job, and with it the sender.
        let _ = self.jobs.send(vec![job(reply)]);
        Answer(answer)
    }
}
