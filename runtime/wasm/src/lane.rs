//! A guest lane: the two threads that run all guest code of one shard.
//!
//! The *front* runs validators, whose appends wait for them. Each call there has [`FRONT_CPU_MAX`](crate::front) of CPU time,
//! which is a hundred times what a validator of a small append takes. The *back* has the time for everything else: folds
//! and queries, the making of instances, large appends, and the validators that took longer than the front allows, for a
//! while. On both the bindings take turns by the CPU time that they use. So a guest delays its own binding; others wait
//! for one short call of it in front, and in the back for no more than their share.
//!
//! A call of the back cannot be ended for the sake of others: one that takes its second is paid for by its binding with as
//! many turns, and a binding that fails again and again is not asked for a while.
//!
//! What is asked of a lane is asked when the method is called: the future is only the answer. Calls of one fold are made in
//! their order. A caller that goes away while it waits loses only the answer: an `apply` is applied, a fold that nobody was
//! told of is dropped again; a validation or a query that has not begun is not made.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use weir_types::{Distribution, Role};

use crate::back::Back;
use crate::batch::{AppendContext, GuestBatch, Verdict, View};
use crate::call::{Counters, FoldId, InstanceKey, Reply, Snapshot, Validation};
use crate::config::GUEST_STACK_BYTES;
use crate::error::GuestError;
use crate::front::Front;
use crate::host::Host;
use crate::mail::{BackMail, FrontMail, Job};
use crate::rounds;
use crate::voice::Caller;

/// Stack of a lane's thread, in bytes.
const STACK_BYTES: usize = 4 << 20;
/// By how much the threads stand back behind the shards. A guest that burns its fuel takes what they leave; the front is
/// waited for by appends.
#[cfg(target_os = "linux")]
const FRONT_NICE: i32 = 5;
#[cfg(target_os = "linux")]
const BACK_NICE: i32 = 15;
// A guest that would overrun the thread's stack would end the process.
const _: () = assert!(STACK_BYTES >= 4 * GUEST_STACK_BYTES);

/// A shard's guest lane. Clones are the same lane; its threads end with the last of them.
#[derive(Clone)]
pub struct Lane(Arc<Inner>);

struct Inner {
    front: mpsc::Sender<FrontMail>,
    back: mpsc::Sender<BackMail>,
    counters: Arc<Counters>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Each of the threads can ask the other, so neither would end by itself.
        let _ = self.front.send(FrontMail::Stop);
        let _ = self.back.send(BackMail::Stop);
    }
}

/// What is to be asked of a lane at once. Waking the lane costs more than a small guest call, and is paid once for all.
#[derive(Default)]
pub struct Jobs(Vec<Validation>);

impl Jobs {
    /// Asks a validator, once this is sent. As [`Lane::validate`].
    pub fn validate(
        &mut self,
        instance: InstanceKey,
        caller: Caller,
        context: AppendContext,
        batch: GuestBatch,
    ) -> Answer<Verdict> {
        batch.assert_whole();
        let (reply, answer) = oneshot::channel();
        self.0.push(Validation { instance, caller, context, batch, reply });
        Answer(answer)
    }
}

/// What a lane has done and has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LaneStats {
    /// Instances that are warm.
    pub instances: u64,
    /// Folds that are open.
    pub folds: u64,
    /// Bytes of instances and of snapshots that are kept.
    pub bytes: u64,
    /// Calls made since the start.
    pub calls: u64,
    /// Instances that were ended by a trap, or by an answer that could not be read.
    pub traps: u64,
    /// How often a validator was taken from the front because it took too long.
    pub demotions: u64,
    /// How often a binding was suspended.
    pub suspensions: u64,
    /// CPU time of both threads, in nanoseconds.
    pub busy_ns: u64,
    /// How long the calls of the front took, in nanoseconds, without the wait for their turn.
    pub front_times: Distribution,
    /// How long those of the back took.
    pub back_times: Distribution,
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
    /// Starts a lane's threads.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(host: Host, name: &str) -> io::Result<Lane> {
        let (front, front_mail) = mpsc::channel();
        let (back, back_mail) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let lane = Lane(Arc::new(Inner { front: front.clone(), back: back.clone(), counters: counters.clone() }));
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work)
        };
        let (front_host, front_counters) = (host.clone(), counters.clone());
        spawn(
            name.to_string(),
            Box::new(move || {
                // Of this thread alone. Where it is not allowed, guests only take more of the machine.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::nice(FRONT_NICE);
                rounds::run(Front::new(front_host.clone(), front_counters, back), &front_host, &front_mail);
            }),
        )?;
        spawn(
            format!("{name}-back"),
            Box::new(move || {
                #[cfg(target_os = "linux")]
                let _ = rustix::process::nice(BACK_NICE);
                rounds::run(Back::new(host.clone(), counters, front), &host, &back_mail);
            }),
        )?;
        Ok(lane)
    }

    /// Asks all of `jobs`, in their order.
    pub fn send(&self, jobs: Jobs) {
        // A lane that has ended drops them, and with them the senders of the answers.
        let _ = self.0.front.send(FrontMail::Validate(jobs.0));
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
    pub fn validate(
        &self,
        instance: InstanceKey,
        caller: Caller,
        context: AppendContext,
        batch: GuestBatch,
    ) -> Answer<Verdict> {
        let mut jobs = Jobs::default();
        let answer = jobs.validate(instance, caller, context, batch);
        self.send(jobs);
        answer
    }

    /// Opens a fold of a summary: empty, or from a snapshot; in the instance that the binding has, or `alone` in a fresh one,
    /// which ends with it.
    ///
    /// # Errors
    /// [`GuestError::Refused`] when the module cannot read the snapshot; [`GuestError::NotReady`],
    /// [`GuestError::ConfigRefused`], or how the instance ended.
    pub fn fold_open(
        &self,
        instance: InstanceKey,
        caller: Caller,
        snapshot: Option<Bytes>,
        alone: bool,
    ) -> Answer<FoldId> {
        self.ask(|reply| Job::Open { instance, caller, snapshot, alone, reply })
    }

    /// Gives a fold its next records; answers the CPU time that it took.
    ///
    /// # Errors
    /// [`GuestError::Refused`] by the module's own words: the fold may have taken some of the records, so it is gone.
    /// [`GuestError::Trapped`], [`GuestError::Garbage`] and [`GuestError::OutOfBudget`]: its instance is gone, and all its
    /// folds with it. [`GuestError::FoldLost`] when it was gone before. [`GuestError::Busy`] and [`GuestError::Suspended`]:
    /// nothing has changed.
    pub fn fold_apply(&self, fold: FoldId, batch: GuestBatch) -> Answer<Duration> {
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

    /// A fold's state as bytes, for [`Lane::fold_open`], and the CPU time that they took.
    ///
    /// # Errors
    /// As for [`Lane::fold_apply`], but `Refused`. After [`GuestError::OutOfBudget`] the fold may still be there.
    pub fn fold_snapshot(&self, fold: FoldId) -> Answer<(Snapshot, Duration)> {
        self.ask(|reply| Job::Snapshot { fold, reply })
    }

    /// Ends a fold, if it is still there.
    pub fn fold_drop(&self, fold: FoldId) {
        // A lane that has ended has no folds.
        let _ = self.0.back.send(BackMail::Job(Job::Drop { fold }));
    }

    /// Ends the instances of `bucket` that are not `kept`, and with them their folds.
    pub fn retain(&self, bucket: Arc<str>, kept: Vec<(InstanceKey, Role)>) {
        let kept: Arc<[(InstanceKey, Role)]> = kept.into();
        let _ = self.0.front.send(FrontMail::Retain { bucket: bucket.clone(), kept: kept.clone() });
        let _ = self.0.back.send(BackMail::Retain { bucket, kept });
    }

    /// What the lane has done and has.
    pub fn stats(&self) -> LaneStats {
        let counters = &*self.0.counters;
        LaneStats {
            instances: counters.instances.load(Relaxed),
            folds: counters.folds.load(Relaxed),
            bytes: counters.front_bytes.load(Relaxed) + counters.back_bytes.load(Relaxed),
            calls: counters.calls.load(Relaxed),
            traps: counters.traps.load(Relaxed),
            demotions: counters.demotions.load(Relaxed),
            suspensions: counters.suspensions.load(Relaxed),
            busy_ns: counters.busy_ns.load(Relaxed),
            front_times: counters.front_times.distribution(),
            back_times: counters.back_times.distribution(),
        }
    }

    fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        // A lane that has ended drops the job, and with it the sender.
        let _ = self.0.back.send(BackMail::Job(job(reply)));
        Answer(answer)
    }
}
