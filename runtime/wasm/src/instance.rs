//! One running instance of a module: it serves one bucket and one configuration, in one role.
//!
//! Fuel and epoch are set before anything that runs guest code: instantiating, every call, and dropping a fold (which
//! runs its destructor). A call that works on a batch gets fuel by the batch's size; one that works on a whole state
//! (configuring, a snapshot, a query) gets [`STATE_FUEL_FACTOR`] times the base. At every epoch a call gives way to
//! whatever else wants its core: the kernel alone would let it finish a slice of milliseconds, and a shard wait for it.
//!
//! Two kinds of failure are kept apart. An answer that says *no* leaves the instance as it was. An instance that trapped,
//! or whose answer could not be read, must never be entered again: that is [`Lost`], and its owner drops it.

use std::thread;

use bytes::Bytes;
use wasmtime::component::ResourceAny;
use wasmtime::{Store, UpdateDeadline};
use weir_types::Role;

use crate::batch::{self, AppendContext, GuestBatch, MESSAGE_BYTES_MAX, Verdict, View};
use crate::config::HostConfig;
use crate::contract::summary::SummaryModule;
use crate::contract::summary::exports::weir::module::summary as wit_summary;
use crate::contract::validator::ValidatorModule;
use crate::contract::validator::exports::weir::module::validator as wit_validator;
use crate::error::GuestError;
use crate::guest::Guest;
use crate::inspect::cut;
use crate::lane::InstanceKey;
use crate::module::Module;

/// How many times the base a call gets that works on a whole state: with the defaults, 50 to 100 ms.
const STATE_FUEL_FACTOR: u64 = 20;
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
        module: &Module,
        config: &HostConfig,
        key: &InstanceKey,
        role: Role,
    ) -> Result<Instance, GuestError> {
        if !module.has(role) {
            return Err(GuestError::ConfigRefused(format!("the module is no {}", role.as_str())));
        }
        let engine = match (&module.validator, &module.summary) {
            (Some(pre), _) => pre.engine(),
            (_, Some(pre)) => pre.engine(),
            (None, None) => unreachable!("it has a role"),
        };
        let mut store = Store::new(engine, Guest::new(key.clone(), config.memory_bytes_max));
        store.limiter(|guest| guest);
        store.set_max_component_handles(HANDLES_MAX);
        // What a guest hands out at once is bounded by what it can have.
        store.set_hostcall_fuel(config.memory_bytes_max);
        let timeout = config.call_timeout;
        store.epoch_deadline_callback(move |mut store| {
            thread::yield_now();
            let is_over = store.data_mut().is_over(timeout);
            Ok(if is_over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        arm(&mut store, state_fuel(config), 0);
        let started = match role {
            Role::Validator => module.validator.as_ref().map(|pre| pre.instantiate(&mut store).map(Exports::Validator)),
            Role::Summary => module.summary.as_ref().map(|pre| pre.instantiate(&mut store).map(Exports::Summary)),
        };
        let exports = match started.expect("the module has the role") {
            Ok(exports) => exports,
            Err(error) => return Err(store.data_mut().ended(&error)),
        };
        let mut instance = Instance { store, exports, config: config.clone() };
        instance.configure(key)?;
        Ok(instance)
    }

    fn configure(&mut self, key: &InstanceKey) -> Result<(), GuestError> {
        self.arm(state_fuel(&self.config), 0);
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
            Ok(Err(sentence)) => Err(GuestError::ConfigRefused(cut(&sentence, MESSAGE_BYTES_MAX).to_string())),
            Err(error) => Err(self.store.data_mut().ended(&error)),
        }
    }

    /// Judges a batch.
    pub(crate) fn validate(&mut self, context: &AppendContext, input: &GuestBatch) -> Result<Answer<Verdict>, Lost> {
        self.arm(batch_fuel(&self.config, input), context.timestamp_ms);
        let Exports::Validator(module) = &self.exports else { unreachable!("validators are asked as validators") };
        let context = wit_validator::AppendContext {
            stream: &context.stream,
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
    pub(crate) fn open(&mut self, snapshot: Option<&[u8]>) -> Result<Answer<ResourceAny>, Lost> {
        let fuel = state_fuel(&self.config).saturating_add(bytes_fuel(&self.config, snapshot.map_or(0, <[u8]>::len)));
        self.arm(fuel, 0);
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
    pub(crate) fn apply(&mut self, fold: ResourceAny, input: &GuestBatch) -> Result<Answer<()>, Lost> {
        self.arm(batch_fuel(&self.config, input), input.times[0]);
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
        fold: ResourceAny,
        path: &str,
        params: &[(String, String)],
    ) -> Result<Answer<View>, Lost> {
        self.arm(state_fuel(&self.config), 0);
        let (store, folds) = self.summary();
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let view = folds.fold().call_query(&mut *store, fold, path, &params);
        let answer = refused(self.alive(view)?);
        Ok(answer.and_then(|view| batch::view(view.content_type, view.body)))
    }

    /// A fold's state as bytes.
    pub(crate) fn snapshot(&mut self, fold: ResourceAny) -> Result<Bytes, Lost> {
        self.arm(state_fuel(&self.config), 0);
        let (store, folds) = self.summary();
        let snapshot = folds.fold().call_snapshot(&mut *store, fold);
        self.alive(snapshot).map(Bytes::from)
    }

    /// Ends a fold.
    pub(crate) fn drop_fold(&mut self, fold: ResourceAny) -> Result<(), Lost> {
        self.arm(state_fuel(&self.config), 0);
        let dropped = fold.resource_drop(&mut self.store);
        self.alive(dropped)
    }

    fn summary(&mut self) -> (&mut Store<Guest>, &wit_summary::Guest) {
        let Exports::Summary(module) = &self.exports else { unreachable!("folds are opened in summaries") };
        (&mut self.store, module.weir_module_summary())
    }

    fn arm(&mut self, fuel: u64, now_ms: u64) {
        arm(&mut self.store, fuel, now_ms);
    }

    fn alive<T>(&mut self, called: wasmtime::Result<T>) -> Result<T, Lost> {
        called.map_err(|error| Lost(self.store.data_mut().ended(&error)))
    }
}

/// Sets what the next call may take.
fn arm(store: &mut Store<Guest>, fuel: u64, now_ms: u64) {
    store.set_fuel(fuel).expect("the engine meters fuel");
    store.set_epoch_deadline(1);
    store.data_mut().begin(now_ms);
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
    answer.map_err(|sentence| GuestError::Refused(cut(&sentence, MESSAGE_BYTES_MAX).to_string()))
}
