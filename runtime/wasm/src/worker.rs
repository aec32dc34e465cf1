//! A lane's thread: its instances, the folds in them, and when they go.
//!
//! - An instance is made when it is first needed, and stays warm.
//! - It goes when it has trapped; when it has had no fold and no call for [`IDLE_MAX`]; and when there are more than
//!   [`INSTANCES_MAX`], the least recently used first. Its folds go with it: their next use answers
//!   [`GuestError::FoldLost`], and whoever wants them opens them again.
//! - An instance with folds does not go for being idle, because its folds would have to be computed again from their
//!   streams.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::oneshot;
use wasmtime::component::ResourceAny;
use weir_types::Role;

use crate::batch::{AppendContext, GuestBatch, Verdict, View};
use crate::error::GuestError;
use crate::host::Host;
use crate::instance::{Instance, Lost};
use crate::lane::{Counters, FoldId, InstanceKey};

/// Instances on a lane.
const INSTANCES_MAX: usize = 256;
/// How long an instance without folds may be idle.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How often idle instances are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// What is taken from the queue between two looks at the clock, in sendings of one job or a few.
const SENDINGS_PER_TURN: usize = 16;

type Reply<T> = oneshot::Sender<Result<T, GuestError>>;

/// What can be asked of a lane.
pub(crate) enum Job {
    Check { instance: InstanceKey, role: Role, reply: Reply<()> },
    Validate { instance: InstanceKey, context: AppendContext, batch: GuestBatch, reply: Reply<Verdict> },
    Open { instance: InstanceKey, snapshot: Option<Bytes>, reply: Reply<FoldId> },
    Apply { fold: FoldId, batch: GuestBatch, reply: Reply<()> },
    Query { fold: FoldId, path: String, params: Vec<(String, String)>, reply: Reply<View> },
    Snapshot { fold: FoldId, reply: Reply<Bytes> },
    Drop { fold: FoldId },
}

/// What finds an instance: one that is both validator and summary has two.
type Key = (InstanceKey, Role);

/// An instance on the lane. Its number is never used again, so a fold cannot take another for its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct InstanceId(u64);

struct Running {
    instance: Instance,
    key: Key,
    folds: usize,
    used: Instant,
}

/// Where a fold is.
struct Fold {
    instance: InstanceId,
    resource: ResourceAny,
}

/// The state of a lane's thread.
pub(crate) struct Worker {
    host: Host,
    counters: Arc<Counters>,
    by_key: HashMap<Key, InstanceId>,
    running: HashMap<InstanceId, Running>,
    folds: HashMap<FoldId, Fold>,
    next_id: u64,
    /// The time of this turn: reading the clock for every job would cost more than a small guest call.
    now: Instant,
    swept: Instant,
}

impl Worker {
    pub(crate) fn new(host: Host, counters: Arc<Counters>) -> Worker {
        let now = Instant::now();
        let (by_key, running, folds) = (HashMap::new(), HashMap::new(), HashMap::new());
        Worker { host, counters, by_key, running, folds, next_id: 0, now, swept: now }
    }

    /// Serves the queue until nobody is left who could ask.
    pub(crate) fn run(mut self, queue: &Receiver<Vec<Job>>) {
        let host = self.host.clone();
        loop {
            let first = match queue.recv_timeout(SWEEP_EVERY) {
                Ok(jobs) => jobs,
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.now = Instant::now();
            host.with_epochs(|| {
                for job in first.into_iter().chain(queue.try_iter().take(SENDINGS_PER_TURN).flatten()) {
                    self.counters.calls.fetch_add(1, Relaxed);
                    self.serve(job);
                }
                self.sweep();
            });
            self.counters.busy_ns.fetch_add(self.now.elapsed().as_nanos() as u64, Relaxed);
        }
    }

    fn serve(&mut self, job: Job) {
        // Whoever has gone away misses an answer, and nothing else: see the lane.
        match job {
            Job::Check { instance, role, reply } => {
                let started = self.find_or_start((instance, role)).map(drop);
                let _ = reply.send(started);
            }
            Job::Validate { reply, .. } if reply.is_closed() => {}
            Job::Validate { instance, context, batch, reply } => {
                let verdict = self.find_or_start((instance, Role::Validator)).and_then(|id| {
                    let answer = self.instance(id).validate(&context, &batch);
                    self.settle(id, answer)?
                });
                let _ = reply.send(verdict);
            }
            Job::Open { instance, snapshot, reply } => {
                let opened = self.open(instance, snapshot.as_deref());
                if let Err(Ok(fold)) = reply.send(opened) {
                    self.drop_fold(fold);
                }
            }
            Job::Apply { fold, batch, reply } => {
                let applied = self.with_fold(fold, |instance, resource| instance.apply(resource, &batch)).flatten();
                if matches!(applied, Err(GuestError::Refused(_))) {
                    // It may have taken some of the records.
                    self.drop_fold(fold);
                }
                let _ = reply.send(applied);
            }
            Job::Query { reply, .. } if reply.is_closed() => {}
            Job::Query { fold, path, params, reply } => {
                let view = self.with_fold(fold, |instance, resource| instance.query(resource, &path, &params));
                let _ = reply.send(view.flatten());
            }
            Job::Snapshot { fold, reply } => {
                let _ = reply.send(self.with_fold(fold, Instance::snapshot));
            }
            Job::Drop { fold } => self.drop_fold(fold),
        }
    }

    /// The instance for `key`, made if there is none.
    fn find_or_start(&mut self, key: Key) -> Result<InstanceId, GuestError> {
        let now = self.now;
        if let Some(&id) = self.by_key.get(&key) {
            self.running.get_mut(&id).expect("what is found by key runs").used = now;
            return Ok(id);
        }
        let module = self.host.module(key.0.digest).ok_or(GuestError::NotReady)?;
        let instance = match Instance::start(&module, self.host.config(), &key.0, key.1) {
            Ok(instance) => instance,
            Err(error) => {
                if !matches!(error, GuestError::ConfigRefused(_)) {
                    self.counters.traps.fetch_add(1, Relaxed);
                }
                return Err(error);
            }
        };
        if self.running.len() >= INSTANCES_MAX {
            let oldest = self.running.iter().min_by_key(|(_, running)| running.used).map(|(&id, _)| id);
            self.discard(oldest.expect("there are many"));
        }
        let id = InstanceId(self.next_id);
        self.next_id += 1;
        self.by_key.insert(key.clone(), id);
        self.running.insert(id, Running { instance, key, folds: 0, used: now });
        self.counters.instances.store(self.running.len() as u64, Relaxed);
        Ok(id)
    }

    fn open(&mut self, key: InstanceKey, snapshot: Option<&[u8]>) -> Result<FoldId, GuestError> {
        let id = self.find_or_start((key, Role::Summary))?;
        let answer = self.instance(id).open(snapshot);
        let resource = self.settle(id, answer)??;
        let fold = FoldId::next();
        self.folds.insert(fold, Fold { instance: id, resource });
        self.running.get_mut(&id).expect("it has just answered").folds += 1;
        self.counters.folds.store(self.folds.len() as u64, Relaxed);
        Ok(fold)
    }

    fn with_fold<T>(
        &mut self,
        fold: FoldId,
        call: impl FnOnce(&mut Instance, ResourceAny) -> Result<T, Lost>,
    ) -> Result<T, GuestError> {
        let &Fold { instance: id, resource } = self.folds.get(&fold).ok_or(GuestError::FoldLost)?;
        let now = self.now;
        let running = self.running.get_mut(&id).expect("folds go with their instance");
        running.used = now;
        let answer = call(&mut running.instance, resource);
        self.settle(id, answer)
    }

    fn drop_fold(&mut self, fold: FoldId) {
        let Some(Fold { instance: id, resource }) = self.folds.remove(&fold) else { return };
        self.counters.folds.store(self.folds.len() as u64, Relaxed);
        let running = self.running.get_mut(&id).expect("folds go with their instance");
        running.folds -= 1;
        let dropped = running.instance.drop_fold(resource);
        // A destructor that traps has ended the instance; nobody waits for the error.
        let _ = self.settle(id, dropped);
    }

    fn instance(&mut self, id: InstanceId) -> &mut Instance {
        &mut self.running.get_mut(&id).expect("it was just found").instance
    }

    /// Drops an instance that is lost.
    fn settle<T>(&mut self, id: InstanceId, answer: Result<T, Lost>) -> Result<T, GuestError> {
        answer.map_err(|Lost(error)| {
            self.counters.traps.fetch_add(1, Relaxed);
            self.discard(id);
            error
        })
    }

    /// Drops an instance and forgets its folds. No guest code runs: its memory goes as a whole.
    fn discard(&mut self, id: InstanceId) {
        let Some(running) = self.running.remove(&id) else { return };
        self.by_key.remove(&running.key);
        if running.folds > 0 {
            self.folds.retain(|_, fold| fold.instance != id);
        }
        self.counters.instances.store(self.running.len() as u64, Relaxed);
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
        for id in idle {
            self.discard(id);
        }
    }
}
