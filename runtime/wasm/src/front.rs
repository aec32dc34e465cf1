//! The front thread of a lane: validators that are quick.
//!
//! A call here has [`FRONT_CPU_MAX`]. One that takes longer is ended and asked once more in the back, which a validator has
//! no means to notice since it keeps nothing from one call to the next; its binding's calls go there for [`AWAY`]. So do
//! batches that are large. Instances are made and configured in the back, and handed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use weir_types::Role;

use crate::budget::Share;
use crate::call::{Counters, InstanceKey, Validation};
use crate::clock::thread_cpu;
use crate::error::{GuestError, TrapReason};
use crate::host::Host;
use crate::instance::{Instance, Lost};
use crate::mail::{BackMail, FrontMail, Job};
use crate::rounds::{IDLE_MAX, SWEEP_EVERY, Worker};
use crate::standing::Standing;
use crate::turns::Turns;

/// CPU time of a call, as exactly as epochs tell it. Others wait that long for it.
const FRONT_CPU_MAX: Duration = Duration::from_millis(1);
/// What a binding may use in a round.
const QUANTUM: Duration = Duration::from_micros(200);
/// Batches beyond this go to the back.
const RECORDS_MAX: usize = 128;
const BYTES_MAX: usize = 32 << 10;
/// How long the calls of a validator that was too slow go to the back.
const AWAY: Duration = Duration::from_secs(10);
/// Calls between two looks at the clock, which cost about as much as one.
const CALLS_PER_LOOK: usize = 8;

/// A validator under one binding.
struct Validator {
    place: Place,
    waiting: VecDeque<Validation>,
    standing: Standing,
    used: Instant,
}

impl Validator {
    /// Answers all that waits for it.
    fn refuse_waiting(&mut self, error: &GuestError) {
        for validation in self.waiting.drain(..) {
            let _ = validation.reply.send(Err(error.clone()));
        }
    }
}

/// Where its instance is.
enum Place {
    Nowhere,
    /// Being made in the back.
    Coming,
    Here(Box<Instance>),
    /// It was too slow.
    Away {
        until: Instant,
    },
}

/// The state of the thread.
pub(crate) struct Front {
    host: Host,
    counters: Arc<Counters>,
    share: Share,
    back: Sender<BackMail>,
    validators: HashMap<InstanceKey, Validator>,
    turns: Turns<InstanceKey>,
    /// The time of this turn: reading the clock for every job would cost more than a small guest call.
    now: Instant,
    swept: Instant,
    /// The thread's time when it rested last: all since is work.
    rested: Duration,
}

impl Worker for Front {
    type Mail = FrontMail;

    fn begin(&mut self) {
        self.now = Instant::now();
    }

    fn take(&mut self, message: FrontMail) -> bool {
        match message {
            FrontMail::Validate(validations) => validations.into_iter().for_each(|one| self.enqueue(one)),
            FrontMail::Started(key, started) => self.started(&key, started),
            FrontMail::Retain { bucket, kept } => self.validators.retain(|key, validator| {
                let is_bound = || kept.iter().any(|(bound, role)| *role == Role::Validator && bound == key);
                key.bucket != bucket || !validator.waiting.is_empty() || is_bound()
            }),
            FrontMail::Stop => return false,
        }
        true
    }

    fn serve(&mut self) -> bool {
        let Some((key, left)) = self.turns.next() else { return false };
        let validator = self.validators.get_mut(&key).expect("who waits for a turn is kept");
        let Place::Here(instance) = &mut validator.place else { unreachable!("only who is here has turns") };
        let began = thread_cpu();
        let mut called = Instant::now();
        let mut used = Duration::ZERO;
        let mut lost = None;
        while used < left && lost.is_none() && !validator.waiting.is_empty() {
            for _ in 0..CALLS_PER_LOOK {
                let Some(validation) = validator.waiting.pop_front() else { break };
                if validation.reply.is_closed() {
                    continue;
                }
                self.counters.calls.fetch_add(1, Relaxed);
                let Validation { caller, context, batch, .. } = &validation;
                let validated = instance.validate(caller, context, batch, Some(FRONT_CPU_MAX));
                let answered = Instant::now();
                self.counters.front_times.count_time(answered - called);
                called = answered;
                match validated {
                    Ok(answer) => {
                        validator.standing.answered();
                        let _ = validation.reply.send(answer);
                    }
                    Err(Lost(error)) => {
                        lost = Some((validation, error));
                        break;
                    }
                }
            }
            used = thread_cpu() - began;
        }
        if let Some((validation, error)) = lost {
            self.lose(&key, validation, error, used);
        }
        let validator = &self.validators[&key];
        let has_more = matches!(validator.place, Place::Here(_)) && !validator.waiting.is_empty();
        self.turns.done(key.clone(), used, has_more);
        if self.share.is_exceeded_by(0) {
            self.make_room(&key);
        }
        true
    }

    fn rest(&mut self) {
        self.sweep();
        self.counters.front_bytes.store(self.share.claimed() as u64, Relaxed);
        let now = thread_cpu();
        self.counters.busy_ns.fetch_add((now - self.rested).as_nanos() as u64, Relaxed);
        self.rested = now;
    }
}

impl Front {
    pub(crate) fn new(host: Host, counters: Arc<Counters>, back: Sender<BackMail>) -> Front {
        let (share, now) = (host.share(), Instant::now());
        let (validators, turns) = (HashMap::new(), Turns::new(QUANTUM));
        Front { host, counters, share, back, validators, turns, now, swept: now, rested: thread_cpu() }
    }

    fn enqueue(&mut self, validation: Validation) {
        let now = self.now;
        if !self.validators.contains_key(&validation.instance) {
            let standing = Standing::default();
            let validator = Validator { place: Place::Nowhere, waiting: VecDeque::new(), standing, used: now };
            self.validators.insert(validation.instance.clone(), validator);
        }
        let validator = self.validators.get_mut(&validation.instance).expect("it is there now");
        validator.used = now;
        if let Err(suspended) = validator.standing.check(now) {
            let _ = validation.reply.send(Err(suspended));
            return;
        }
        if let Place::Away { until } = validator.place
            && now >= until
        {
            validator.place = Place::Nowhere;
        }
        let is_large = validation.batch.ends.len() > RECORDS_MAX || validation.batch.data.len() > BYTES_MAX;
        if is_large || matches!(validator.place, Place::Away { .. }) {
            let _ = self.back.send(BackMail::Job(Job::Validate(validation)));
            return;
        }
        if validator.waiting.len() >= self.host.config().calls_waiting_max {
            let _ = validation.reply.send(Err(GuestError::Busy));
            return;
        }
        match validator.place {
            Place::Nowhere => {
                validator.place = Place::Coming;
                let _ = self.back.send(BackMail::Job(Job::Start {
                    instance: validation.instance.clone(),
                    caller: validation.caller.clone(),
                }));
            }
            Place::Here(_) if validator.waiting.is_empty() => self.turns.enter(validation.instance.clone()),
            Place::Coming | Place::Here(_) | Place::Away { .. } => {}
        }
        validator.waiting.push_back(validation);
    }

    fn started(&mut self, key: &InstanceKey, started: Result<Box<Instance>, GuestError>) {
        // It may have been unbound since.
        let Some(validator) = self.validators.get_mut(key) else { return };
        match started {
            Ok(mut instance) => {
                instance.move_to(&self.share);
                validator.place = Place::Here(instance);
                if !validator.waiting.is_empty() {
                    self.turns.enter(key.clone());
                }
                self.make_room(key);
            }
            Err(error) => {
                validator.place = Place::Nowhere;
                validator.refuse_waiting(&error);
            }
        }
    }

    /// An instance has ended in this call.
    fn lose(&mut self, key: &InstanceKey, validation: Validation, error: GuestError, used: Duration) {
        let validator = self.validators.get_mut(key).expect("it was just served");
        if matches!(error, GuestError::Trapped { reason: TrapReason::TimedOut, .. }) {
            self.counters.demotions.fetch_add(1, Relaxed);
            validator.place = Place::Away { until: self.now + AWAY };
            for validation in [validation].into_iter().chain(validator.waiting.drain(..)) {
                let _ = self.back.send(BackMail::Job(Job::Validate(validation)));
            }
            return;
        }
        self.counters.traps.fetch_add(1, Relaxed);
        if !error.is_of_node() && validator.standing.failed(&error, used, self.now) {
            self.counters.suspensions.fetch_add(1, Relaxed);
        }
        validator.place = Place::Nowhere;
        let caller = validation.caller.clone();
        let _ = self.back.send(BackMail::Ended {
            instance: key.clone(),
            role: Role::Validator,
            caller,
            error: error.clone(),
        });
        let _ = validation.reply.send(Err(error));
        let Some(next) = validator.waiting.front() else { return };
        match validator.standing.check(self.now) {
            Ok(()) => {
                let (instance, caller) = (key.clone(), next.caller.clone());
                validator.place = Place::Coming;
                let _ = self.back.send(BackMail::Job(Job::Start { instance, caller }));
            }
            Err(suspended) => validator.refuse_waiting(&suspended),
        }
    }

    /// Drops the instances that were used least recently while there are more than the share has, but not that of `key`.
    fn make_room(&mut self, key: &InstanceKey) {
        while self.share.is_exceeded_by(0) {
            let idle = self.validators.iter().filter(|(other, validator)| {
                *other != key && validator.waiting.is_empty() && matches!(validator.place, Place::Here(_))
            });
            let Some((oldest, _)) = idle.min_by_key(|(_, validator)| validator.used) else { return };
            let oldest = oldest.clone();
            self.validators.get_mut(&oldest).expect("it was just found").place = Place::Nowhere;
        }
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.turns.forgive();
        self.validators
            .retain(|_, validator| !validator.waiting.is_empty() || now.duration_since(validator.used) < IDLE_MAX);
    }
}
