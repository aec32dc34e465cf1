//! One running instance of a module: it serves one bucket and one configuration, in one role.
//!
//! Fuel and epoch are set before anything that runs guest code: instantiating, every call, and dropping a fold (which
//! runs its destructor). A call that works on a batch gets fuel by the batch's size; one that works on a whole state
//! (configuring, a snapshot, a query) gets [`STATE_FUEL_FACTOR`] times the base. At every epoch a call's CPU time is looked
//! at, and it gives way to whatever else wants its core: the kernel alone would let it finish a slice of milliseconds, and
//! a shard wait for it.
//!
//! Two kinds of failure are kept apart. An answer that says *no* leaves the instance as it was. An instance that trapped,
//! or whose answer could not be read, must never be entered again: that is [`Lost`], and its owner drops it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::ResourceAny;
use wasmtime::{Store, UpdateDeadline};
use weir_types::Role;

use crate::batch::{self, AppendContext, GuestBatch, Verdict, View};
use crate::budget::Share;
use crate::call::{Counters, InstanceKey};
use crate::config::HostConfig;
use crate::contract::summary::SummaryModule;
use crate::contract::summary::exports::weir::module::summary as wit_summary;
use crate::contract::validator::ValidatorModule;
use crate::contract::validator::exports::weir::module::validator as wit_validator;
use crate::error::GuestError;
use crate::guest::{Guest, World};
use crate::module::Module;
use crate::patience::start_patiently;
use crate::text::one_line;
use crate::voice::{Caller, Voice};

/// How many times the base a call gets that works on a whole state: with the defaults 100 ms of ordinary code, a second of
/// the shortest loop there is.
const STATE_FUEL_FACTOR: u64 = 20;
/// The part of a call's time that one has which works on several records of a stream.
const SLICE_DIVISOR: u32 = 10;
/// Handles of an instance: its folds. The engine's own limit is a tenth of that.
const HANDLES_MAX: usize = 1_000_000;

/// An instance that is dead, and why.
pub(crate) struct Lost(pub(crate) GuestError);

/// What a call gives while the instance lives.
type Answer<T> = Result<T, GuestError>;

/// An instance, warm: configured once, called often.
pub(crate) struct Instance {
    store: Store<Guest>,
    exports: Exports,
    config: HostConfig,
    _counted: Counted,
}

/// Counts an instance while it is there.
struct Counted(Arc<Counters>);

impl Counted {
    fn new(counters: &Arc<Counters>) -> Counted {
        counters.instances.fetch_add(1, Relaxed);
        Counted(counters.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.instances.fetch_sub(1, Relaxed);
    }
}

/// What an instance is made on.
pub(crate) struct Ground<'a> {
    pub(crate) module: &'a Module,
    pub(crate) config: &'a HostConfig,
    pub(crate) share: &'a Share,
    pub(crate) counters: &'a Arc<Counters>,
}

/// The functions of the instance's role.
enum Exports {
    Validator(ValidatorModule),
    Summary(SummaryModule),
}

impl Instance {
    /// Instantiates and configures.
    ///
    /// # Errors
    /// [`GuestError::ConfigRefused`], or what ended the instance at once. There is no instance then.
    pub(crate) fn start(
        ground: &Ground<'_>,
        key: &InstanceKey,
        role: Role,
        voice: &Voice,
        caller: &Caller,
    ) -> Result<Instance, GuestError> {
        let start = || Instance::start_once(ground, key, role, voice, caller);
        start_patiently(start, |error| matches!(error, GuestError::NotStarted(_)))
    }

    fn start_once(
        ground: &Ground<'_>,
        key: &InstanceKey,
        role: Role,
        voice: &Voice,
        caller: &Caller,
    ) -> Result<Instance, GuestError> {
        let Ground { module, config, share, counters } = *ground;
        if !module.has(role) {
            return Err(GuestError::ConfigRefused(format!("the module is no {}", role.as_str())));
        }
        let engine = match (&module.validator, &module.summary) {
            (Some(pre), _) => pre.engine(),
            (_, Some(pre)) => pre.engine(),
            (None, None) => unreachable!("it has a role"),
        };
        let mut store = Store::new(engine, Guest::new(key.clone(), voice.clone(), share, config.memory_bytes_max)?);
        store.limiter(|guest| guest);
        store.set_max_component_handles(HANDLES_MAX);
        // What a guest hands out at once is bounded by what it can have.
        store.set_hostcall_fuel(config.memory_bytes_max);
        store.epoch_deadline_callback(|mut store| {
            thread::yield_now();
            Ok(if store.data_mut().is_over() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        arm(&mut store, state_fuel(config));
        store.data_mut().begin(caller, World::Still, config.call_timeout);
        let started = match role {
            Role::Validator => module.validator.as_ref().map(|pre| pre.instantiate(&mut store).map(Exports::Validator)),
            Role::Summary => module.summary.as_ref().map(|pre| pre.instantiate(&mut store).map(Exports::Summary)),
        };
        let exports = match started.expect("the module has the role") {
            Ok(exports) => exports,
            Err(error) => return Err(store.data_mut().ended(&error)),
        };
        let mut instance = Instance { store, exports, config: config.clone(), _counted: Counted::new(counters) };
        instance.configure(key, caller)?;
        Ok(instance)
    }

    /// Bytes of all its memories.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// By how many bytes it may grow yet.
    pub(crate) fn headroom_bytes(&self) -> usize {
        self.config.memory_bytes_max.saturating_sub(self.memory_bytes())
    }

    /// Whether its folds had better be fewer: it has used more than three quarters of its memory.
    pub(crate) fn is_filling(&self) -> bool {
        self.headroom_bytes() < self.config.memory_bytes_max / 4
    }

    /// Hands it to another thread.
    pub(crate) fn move_to(&mut self, share: &Share) {
        self.store.data_mut().move_to(share);
    }

    fn configure(&mut self, key: &InstanceKey, caller: &Caller) -> Result<(), GuestError> {
        self.arm_state(caller, World::Still, 0);
        let store = &mut self.store;
        let configured = match &self.exports {
            Exports::Validator(module) => {
                module.weir_module_validator().call_configure(&mut *store, &key.bucket, &key.config)
            }
            Exports::Summary(module) => {
                module.weir_module_summary().call_configure(&mut *store, &key.bucket, &key.config)
            }
        };
        match configured {
            Ok(Ok(())) => Ok(()),
            Ok(Err(sentence)) => Err(GuestError::ConfigRefused(one_line(&sentence))),
            Err(error) => Err(self.store.data_mut().ended(&error)),
        }
    }

    /// Judges a batch in at most `cpu_max`, or in what any call may take.
    pub(crate) fn validate(
        &mut self,
        caller: &Caller,
        context: &AppendContext,
        input: &GuestBatch,
        cpu_max: Option<Duration>,
    ) -> Result<Answer<Verdict>, Lost> {
        let cpu_max = cpu_max.unwrap_or(self.config.call_timeout);
        self.arm(batch_fuel(&self.config, input), caller, World::At(context.timestamp_ms), cpu_max);
        let Exports::Validator(module) = &self.exports else { unreachable!("validators are asked as validators") };
        let context = wit_validator::AppendContext {
            stream: &caller.stream,
            content_type: &context.content_type,
            next_offset: context.next_offset,
            timestamp_ms: context.timestamp_ms,
        };
        let packed = wit_validator::BatchParam {
            first_offset: input.first_offset,
            ends: &input.ends,
            times: &input.times,
            data: &input.data,
        };
        let verdict = module.weir_module_validator().call_validate(&mut self.store, context, packed);
        Ok(batch::verdict(input, self.alive(verdict)?))
    }

    /// Makes a fold, empty or from a snapshot.
    pub(crate) fn open(&mut self, caller: &Caller, snapshot: Option<&[u8]>) -> Result<Answer<ResourceAny>, Lost> {
        self.arm_state(caller, World::Still, snapshot.map_or(0, <[u8]>::len));
        let (store, folds) = self.summary();
        match snapshot {
            None => {
                let fold = folds.fold().call_constructor(&mut *store);
                self.alive(fold).map(Ok)
            }
            Some(snapshot) => {
                let fold = folds.fold().call_restore(&mut *store, snapshot);
                self.alive(fold).map(refused)
            }
        }
    }

    /// Gives a fold its next records.
    pub(crate) fn apply(&mut self, caller: &Caller, fold: ResourceAny, input: &GuestBatch) -> Result<Answer<()>, Lost> {
        let cpu_max = match input.ends.len() {
            1 => self.config.call_timeout,
            _ => self.config.call_timeout / SLICE_DIVISOR,
        };
        self.arm(batch_fuel(&self.config, input), caller, World::Still, cpu_max);
        let (store, folds) = self.summary();
        let packed = wit_summary::Batch {
            first_offset: input.first_offset,
            ends: &input.ends,
            times: &input.times,
            data: &input.data,
        };
        let applied = folds.fold().call_apply(&mut *store, fold, packed);
        self.alive(applied).map(refused)
    }

    /// Asks a fold.
    pub(crate) fn query(
        &mut self,
        caller: &Caller,
        fold: ResourceAny,
        path: &str,
        params: &[(String, String)],
    ) -> Result<Answer<View>, Lost> {
        self.arm_state(caller, World::At(0), 0);
        let (store, folds) = self.summary();
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let view = folds.fold().call_query(&mut *store, fold, path, &params);
        let answer = refused(self.alive(view)?);
        Ok(answer.and_then(|view| batch::view(view.content_type, view.body)))
    }

    /// A fold's state as bytes.
    pub(crate) fn snapshot(&mut self, caller: &Caller, fold: ResourceAny) -> Result<Bytes, Lost> {
        self.arm_state(caller, World::Still, 0);
        let (store, folds) = self.summary();
        let snapshot = folds.fold().call_snapshot(&mut *store, fold);
        self.alive(snapshot).map(Bytes::from)
    }

    /// Ends a fold.
    pub(crate) fn drop_fold(&mut self, caller: &Caller, fold: ResourceAny) -> Result<(), Lost> {
        self.arm_state(caller, World::Still, 0);
        let dropped = fold.resource_drop(&mut self.store);
        self.alive(dropped)
    }

    fn summary(&mut self) -> (&mut Store<Guest>, &wit_summary::Guest) {
        let Exports::Summary(module) = &self.exports else { unreachable!("folds are opened in summaries") };
        (&mut self.store, module.weir_module_summary())
    }

    fn arm(&mut self, fuel: u64, caller: &Caller, world: World, cpu_max: Duration) {
        arm(&mut self.store, fuel);
        self.store.data_mut().begin(caller, world, cpu_max);
    }

    /// For a call that works on a whole state, and is given `bytes`.
    fn arm_state(&mut self, caller: &Caller, world: World, bytes: usize) {
        let fuel = state_fuel(&self.config).saturating_add(bytes_fuel(&self.config, bytes));
        self.arm(fuel, caller, world, self.config.call_timeout);
    }

    fn alive<T>(&mut self, called: wasmtime::Result<T>) -> Result<T, Lost> {
        called.map_err(|error| Lost(self.store.data_mut().ended(&error)))
    }
}

/// Sets what the next call may take.
fn arm(store: &mut Store<Guest>, fuel: u64) {
    store.set_fuel(fuel).expect("the engine meters fuel");
    store.set_epoch_deadline(1);
}

fn state_fuel(config: &HostConfig) -> u64 {
    config.fuel_base.saturating_mul(STATE_FUEL_FACTOR)
}

fn bytes_fuel(config: &HostConfig, bytes: usize) -> u64 {
    config.fuel_per_byte.saturating_mul(bytes as u64)
}

fn batch_fuel(config: &HostConfig, input: &GuestBatch) -> u64 {
    let records = config.fuel_per_record.saturating_mul(input.ends.len() as u64);
    config.fuel_base.saturating_add(records).saturating_add(bytes_fuel(config, input.data.len()))
}

/// The guest's own *no*.
fn refused<T>(answer: Result<T, String>) -> Answer<T> {
    answer.map_err(|sentence| GuestError::Refused(one_line(&sentence)))
}
