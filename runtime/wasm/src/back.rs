//! The back thread of a lane: folds, the making of instances, and validators that take long.
//!
//! - Each binding has a queue, and the queues take turns ([`Turns`]) by the CPU time that their calls use.
//! - An instance is made when it is first needed, and stays warm. It goes when it has trapped; when its binding goes; when it
//!   has had no fold and no call for [`IDLE_MAX`]; and when there are more than [`INSTANCES_MAX`], or they have more memory
//!   than the thread's share, the least recently used first. Its folds go with it: their next use answers
//!   [`GuestError::FoldLost`], and whoever wants them opens them again.
//! - An instance with folds does not go for being idle, because its folds would have to be computed again from their
//!   streams. Of one that has used three quarters of its memory the folds go that were used least recently: its memory does
//!   not shrink, but the others find room in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use wasmtime::component::ResourceAny;
use weir_types::Role;

use crate::budget::Share;
use crate::call::{Counters, FoldId, InstanceKey, Snapshot, Validation};
use crate::clock::thread_cpu;
use crate::error::GuestError;
use crate::host::Host;
use crate::instance::{Ground, Instance, Lost};
use crate::mail::{BackMail, FrontMail, Job};
use crate::rounds::{IDLE_MAX, SWEEP_EVERY, Worker};
use crate::standing::Standing;
use crate::turns::Turns;
use crate::voice::{Caller, Voice};

/// Instances on the thread.
const INSTANCES_MAX: usize = 256;
/// What a binding may use in a round.
const QUANTUM: Duration = Duration::from_millis(5);
/// The part of an instance's folds that goes when its memory fills, and how many at most at once.
const SHED_DIVISOR: usize = 4;
const SHED_MAX: usize = 64;

/// What finds an instance: one that is both validator and summary has two.
type Key = (InstanceKey, Role);

/// An instance on the thread. Its number is never used again, so a fold cannot take another for its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct InstanceId(u64);

/// A module under one binding, in one role.
struct Binding {
    waiting: VecDeque<Job>,
    standing: Standing,
    voice: Voice,
    /// The instance that its calls share, if it has one here.
    instance: Option<InstanceId>,
}

struct Running {
    instance: Instance,
    key: Key,
    /// Whether it was made for one fold.
    is_alone: bool,
    folds: usize,
    used: Instant,
}

/// Where a fold is.
struct Fold {
    instance: InstanceId,
    resource: ResourceAny,
    caller: Caller,
    /// The call that used it last.
    used: u64,
}

/// The state of the thread.
pub(crate) struct Back {
    host: Host,
    counters: Arc<Counters>,
    share: Share,
    front: Sender<FrontMail>,
    bindings: HashMap<Key, Binding>,
    turns: Turns<Key>,
    running: HashMap<InstanceId, Running>,
    folds: HashMap<FoldId, Fold>,
    next_id: u64,
    calls: u64,
    now: Instant,
    swept: Instant,
}

impl Worker for Back {
    type Mail = BackMail;

    fn begin(&mut self) {
        self.now = Instant::now();
    }

    fn take(&mut self, message: BackMail) -> bool {
        match message {
            BackMail::Job(job) => self.enqueue(job),
            BackMail::Ended { instance, role, caller, error } => {
                let voice = self.binding(&(instance.clone(), role)).voice.clone();
                say_ended(&voice, &instance, &caller, &error);
            }
            BackMail::Retain { bucket, kept } => {
                let is_unbound = |running: &Running| running.key.0.bucket == bucket && !kept.contains(&running.key);
                let unbound: Vec<_> = self.running.iter().filter(|(_, r)| is_unbound(r)).map(|(&id, _)| id).collect();
                unbound.into_iter().for_each(|id| self.discard(id));
                self.bindings
                    .retain(|key, binding| key.0.bucket != bucket || !binding.waiting.is_empty() || kept.contains(key));
            }
            BackMail::Stop => return false,
        }
        true
    }

    fn serve(&mut self) -> bool {
        let Some((key, left)) = self.turns.next() else { return false };
        let began = thread_cpu();
        let mut used = Duration::ZERO;
        while used < left {
            let Some(job) = self.binding(&key).waiting.pop_front() else { break };
            self.do_job(&key, job);
            used = thread_cpu() - began;
        }
        self.counters.busy_ns.fetch_add(used.as_nanos() as u64, Relaxed);
        self.counters.back_bytes.store(self.share.claimed() as u64, Relaxed);
        let has_more = !self.binding(&key).waiting.is_empty();
        self.turns.done(key, used, has_more);
        self.sweep();
        true
    }

    fn rest(&mut self) {
        self.sweep();
        self.counters.back_bytes.store(self.share.claimed() as u64, Relaxed);
    }
}

impl Back {
    pub(crate) fn new(host: Host, counters: Arc<Counters>, front: Sender<FrontMail>) -> Back {
        let (share, now) = (host.share(), Instant::now());
        Back {
            host,
            counters,
            share,
            front,
            bindings: HashMap::new(),
            turns: Turns::new(QUANTUM),
            running: HashMap::new(),
            folds: HashMap::new(),
            next_id: 0,
            calls: 0,
            now,
            swept: now,
        }
    }

    /// Whose turn a job is done in; `None` for one of a fold that is gone.
    fn key_of(&self, job: &Job) -> Option<Key> {
        match job {
            Job::Check { instance, role, .. } => Some((instance.clone(), *role)),
            Job::Start { instance, .. } => Some((instance.clone(), Role::Validator)),
            Job::Validate(validation) => Some((validation.instance.clone(), Role::Validator)),
            Job::Open { instance, .. } => Some((instance.clone(), Role::Summary)),
            Job::Apply { fold, .. } | Job::Query { fold, .. } | Job::Snapshot { fold, .. } | Job::Drop { fold } => {
                let fold = self.folds.get(fold)?;
                Some(self.running[&fold.instance].key.clone())
            }
        }
    }

    fn enqueue(&mut self, job: Job) {
        let Some(key) = self.key_of(&job) else { return refuse(job, GuestError::FoldLost, &self.front) };
        let (now, calls_max) = (self.now, self.host.config().calls_waiting_max);
        let binding = self.binding(&key);
        // What somebody asks for on purpose is tried: a suspension is for requests.
        if !matches!(job, Job::Drop { .. } | Job::Check { .. }) {
            let refusal = match binding.waiting.len() >= calls_max {
                true => Some(GuestError::Busy),
                false => binding.standing.check(now).err(),
            };
            if let Some(refusal) = refusal {
                return refuse(job, refusal, &self.front);
            }
        }
        binding.waiting.push_back(job);
        if binding.waiting.len() == 1 {
            self.turns.enter(key);
        }
    }

    fn binding(&mut self, key: &Key) -> &mut Binding {
        if !self.bindings.contains_key(key) {
            let (waiting, standing, voice) = (VecDeque::new(), Standing::default(), Voice::new());
            self.bindings.insert(key.clone(), Binding { waiting, standing, voice, instance: None });
        }
        self.bindings.get_mut(key).expect("it is there now")
    }

    fn do_job(&mut self, key: &Key, job: Job) {
        // Whoever has gone away misses an answer, and nothing else: see the lane.
        match &job {
            Job::Validate(Validation { reply, .. }) if reply.is_closed() => return,
            Job::Query { reply, .. } if reply.is_closed() => return,
            _ => {}
        }
        self.calls += 1;
        // An instance for the front is counted when it is used.
        let is_call = !matches!(job, Job::Start { .. });
        if is_call {
            self.counters.calls.fetch_add(1, Relaxed);
        }
        let (began, called) = (thread_cpu(), Instant::now());
        match job {
            Job::Check { reply, .. } => {
                let started = self.find_or_start(key, &Caller::default()).map(drop);
                let _ = reply.send(started);
            }
            Job::Start { instance, caller } => {
                let started = self.find_or_start(key, &caller).map(|id| self.hand_over(id));
                let _ = self.front.send(FrontMail::Started(instance, started));
            }
            Job::Validate(Validation { caller, context, batch, reply, .. }) => {
                let verdict = self.find_or_start(key, &caller).and_then(|id| {
                    let answer = self.instance(id).validate(&caller, &context, &batch, None);
                    self.settle(id, &caller, began, answer)?
                });
                let _ = reply.send(verdict);
            }
            Job::Open { caller, snapshot, alone, reply, .. } => {
                let opened = self.open(key, caller, snapshot.as_deref(), alone, began);
                if let Err(Ok(fold)) = reply.send(opened) {
                    self.drop_fold(fold);
                }
            }
            Job::Apply { fold, batch, reply } => {
                let apply =
                    |instance: &mut Instance, caller: &Caller, resource| instance.apply(caller, resource, &batch);
                let applied = self.with_fold(fold, began, apply).flatten();
                match applied {
                    // It may have taken some of the records.
                    Err(GuestError::Refused(_)) => self.drop_fold(fold),
                    Ok(()) => self.shed(fold),
                    Err(_) => {}
                }
                let _ = reply.send(applied.map(|()| thread_cpu() - began));
            }
            Job::Query { fold, path, params, reply } => {
                let view = self.with_fold(fold, began, |instance, caller, resource| {
                    instance.query(caller, resource, &path, &params)
                });
                let _ = reply.send(view.flatten());
            }
            Job::Snapshot { fold, reply } => {
                let snapshot = self.with_fold(fold, began, Instance::snapshot);
                let _ =
                    reply.send(snapshot.and_then(|bytes| self.keep(bytes)).map(|kept| (kept, thread_cpu() - began)));
            }
            Job::Drop { fold } => self.drop_fold(fold),
        }
        if is_call {
            self.counters.back_times.count_time(called.elapsed());
        }
    }

    /// The instance that calls of `key` share, made if there is none.
    fn find_or_start(&mut self, key: &Key, caller: &Caller) -> Result<InstanceId, GuestError> {
        if let Some(id) = self.binding(key).instance {
            self.running.get_mut(&id).expect("what a binding names runs").used = self.now;
            self.make_room(Some(id));
            return Ok(id);
        }
        let id = self.start(key, caller, false)?;
        self.binding(key).instance = Some(id);
        Ok(id)
    }

    fn start(&mut self, key: &Key, caller: &Caller, is_alone: bool) -> Result<InstanceId, GuestError> {
        let module = self.host.module(key.0.digest).ok_or(GuestError::NotReady)?;
        self.make_room(None);
        let began = thread_cpu();
        let voice = self.binding(key).voice.clone();
        let (config, share, counters) = (self.host.config(), &self.share, &self.counters);
        let ground = Ground { module: &module, config, share, counters };
        let instance = match Instance::start(&ground, &key.0, key.1, &voice, caller) {
            Ok(instance) => instance,
            Err(error) => {
                if !matches!(error, GuestError::ConfigRefused(_)) {
                    self.failed(key, caller, &error, began, is_alone);
                }
                return Err(error);
            }
        };
        let id = InstanceId(self.next_id);
        self.next_id += 1;
        self.running.insert(id, Running { instance, key: key.clone(), is_alone, folds: 0, used: self.now });
        Ok(id)
    }

    /// Takes an instance out, for the front.
    fn hand_over(&mut self, id: InstanceId) -> Box<Instance> {
        let running = self.running.remove(&id).expect("it was just found");
        self.binding(&running.key).instance = None;
        Box::new(running.instance)
    }

    /// Drops the instances that were used least recently until one more has room, or the one that is about to be called to
    /// grow.
    fn make_room(&mut self, called: Option<InstanceId>) {
        let bytes = match called {
            Some(id) => self.running[&id].instance.headroom_bytes(),
            None => self.host.config().memory_bytes_max,
        };
        let is_full = |back: &Back| called.is_none() && back.running.len() >= INSTANCES_MAX;
        while is_full(self) || self.share.is_exceeded_by(bytes) {
            let others = self.running.iter().filter(|(id, _)| Some(**id) != called);
            let Some(oldest) = others.min_by_key(|(_, running)| running.used).map(|(&id, _)| id) else { return };
            self.discard(oldest);
        }
    }

    fn open(
        &mut self,
        key: &Key,
        caller: Caller,
        snapshot: Option<&[u8]>,
        alone: bool,
        began: Duration,
    ) -> Result<FoldId, GuestError> {
        let id = if alone { self.start(key, &caller, true)? } else { self.find_or_start(key, &caller)? };
        let answer = self.instance(id).open(&caller, snapshot);
        let opened = self.settle(id, &caller, began, answer)?;
        if opened.is_err() && alone {
            self.discard(id);
        }
        let resource = opened?;
        let fold = FoldId::next();
        self.folds.insert(fold, Fold { instance: id, resource, caller, used: self.calls });
        self.running.get_mut(&id).expect("it has just answered").folds += 1;
        self.counters.folds.store(self.folds.len() as u64, Relaxed);
        self.shed(fold);
        Ok(fold)
    }

    fn with_fold<T>(
        &mut self,
        fold: FoldId,
        began: Duration,
        call: impl FnOnce(&mut Instance, &Caller, ResourceAny) -> Result<T, Lost>,
    ) -> Result<T, GuestError> {
        let Some(&Fold { instance: id, .. }) = self.folds.get(&fold) else { return Err(GuestError::FoldLost) };
        self.make_room(Some(id));
        let (now, calls) = (self.now, self.calls);
        let used = self.folds.get_mut(&fold).expect("its instance is kept");
        used.used = calls;
        let (resource, caller) = (used.resource, used.caller.clone());
        let running = self.running.get_mut(&id).expect("folds go with their instance");
        running.used = now;
        let answer = call(&mut running.instance, &caller, resource);
        self.settle(id, &caller, began, answer)
    }

    /// Keeps a fold's snapshot, if there is room for it.
    fn keep(&self, bytes: Bytes) -> Result<Snapshot, GuestError> {
        let mut claim = self.share.claim();
        if !claim.grow(bytes.len()) {
            return Err(GuestError::OutOfBudget);
        }
        Ok(Snapshot { bytes, _claim: Arc::new(claim) })
    }

    /// Drops some of the folds beside `fold` if their instance's memory fills.
    fn shed(&mut self, fold: FoldId) {
        let Some(&Fold { instance: id, .. }) = self.folds.get(&fold) else { return };
        let running = &self.running[&id];
        if running.folds < 2 || !running.instance.is_filling() {
            return;
        }
        let count = (running.folds / SHED_DIVISOR).clamp(1, SHED_MAX);
        let others = self.folds.iter().filter(|(other, of)| of.instance == id && **other != fold);
        let mut others: Vec<(u64, FoldId)> = others.map(|(&other, of)| (of.used, other)).collect();
        others.sort_unstable_by_key(|(used, _)| *used);
        for (_, other) in others.into_iter().take(count) {
            self.drop_fold(other);
        }
    }

    fn drop_fold(&mut self, fold: FoldId) {
        let Some(Fold { instance: id, resource, caller, .. }) = self.folds.remove(&fold) else { return };
        self.counters.folds.store(self.folds.len() as u64, Relaxed);
        let running = self.running.get_mut(&id).expect("folds go with their instance");
        running.folds -= 1;
        if running.is_alone {
            return self.discard(id);
        }
        let began = thread_cpu();
        let dropped = running.instance.drop_fold(&caller, resource);
        // A destructor that traps has ended the instance; nobody waits for the error.
        let _ = self.settle(id, &caller, began, dropped);
    }

    fn instance(&mut self, id: InstanceId) -> &mut Instance {
        &mut self.running.get_mut(&id).expect("it was just found").instance
    }

    /// Notes how a call has ended, and drops an instance that is lost.
    fn settle<T>(
        &mut self,
        id: InstanceId,
        caller: &Caller,
        began: Duration,
        answer: Result<T, Lost>,
    ) -> Result<T, GuestError> {
        let running = &self.running[&id];
        let (key, is_alone) = (running.key.clone(), running.is_alone);
        match answer {
            Ok(answer) => {
                self.binding(&key).standing.answered();
                Ok(answer)
            }
            Err(Lost(error)) => {
                self.failed(&key, caller, &error, began, is_alone);
                self.discard(id);
                Err(error)
            }
        }
    }

    /// An instance was ended. One that was alone was made to find out what ends it, which is no failure.
    fn failed(&mut self, key: &Key, caller: &Caller, error: &GuestError, began: Duration, is_alone: bool) {
        self.counters.traps.fetch_add(1, Relaxed);
        let (now, used) = (self.now, thread_cpu() - began);
        let binding = self.binding(key);
        say_ended(&binding.voice, &key.0, caller, error);
        if is_alone || error.is_of_node() {
            return;
        }
        if binding.standing.failed(error, used, now) {
            let refusal = binding.standing.check(now);
            let is_kept = |job: &Job| matches!(job, Job::Drop { .. } | Job::Check { .. });
            let (kept, refused) = binding.waiting.drain(..).partition::<VecDeque<Job>, _>(is_kept);
            binding.waiting = kept;
            self.counters.suspensions.fetch_add(1, Relaxed);
            if let Err(suspended) = refusal {
                refused.into_iter().for_each(|job| refuse(job, suspended.clone(), &self.front));
            }
        }
    }

    /// Drops an instance and forgets its folds. No guest code runs: its memory goes as a whole.
    fn discard(&mut self, id: InstanceId) {
        let Some(running) = self.running.remove(&id) else { return };
        if let Some(binding) = self.bindings.get_mut(&running.key)
            && binding.instance == Some(id)
        {
            binding.instance = None;
        }
        if running.folds > 0 {
            self.folds.retain(|_, fold| fold.instance != id);
        }
        self.counters.folds.store(self.folds.len() as u64, Relaxed);
    }

    fn sweep(&mut self) {
        let now = self.now;
        if now.duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        let is_idle = |running: &Running| running.folds == 0 && now.duration_since(running.used) >= IDLE_MAX;
        let idle: Vec<InstanceId> = self.running.iter().filter(|(_, r)| is_idle(r)).map(|(&id, _)| id).collect();
        idle.into_iter().for_each(|id| self.discard(id));
        self.turns.forgive();
        let running: std::collections::HashSet<Key> = self.running.values().map(|one| one.key.clone()).collect();
        self.bindings.retain(|key, binding| {
            !binding.waiting.is_empty() || !binding.standing.is_clean() || running.contains(key)
        });
    }
}

/// Answers a job that is not done.
fn refuse(job: Job, error: GuestError, front: &Sender<FrontMail>) {
    match job {
        Job::Check { reply, .. } => drop(reply.send(Err(error))),
        Job::Start { instance, .. } => drop(front.send(FrontMail::Started(instance, Err(error)))),
        Job::Validate(Validation { reply, .. }) => drop(reply.send(Err(error))),
        Job::Open { reply, .. } => drop(reply.send(Err(error))),
        Job::Apply { reply, .. } => drop(reply.send(Err(error))),
        Job::Query { reply, .. } => drop(reply.send(Err(error))),
        Job::Snapshot { reply, .. } => drop(reply.send(Err(error))),
        Job::Drop { .. } => {}
    }
}

/// Tells the log how an instance has ended.
fn say_ended(voice: &Voice, key: &InstanceKey, caller: &Caller, error: &GuestError) {
    let Some(dropped) = voice.rise() else { return };
    let Caller { binding, stream } = caller;
    tracing::warn!(target: "weir::guest", bucket = %key.bucket, %binding, %stream, module = %key.digest, dropped, %error, "a module was ended");
}
