//! Instantiates a module once, where it is compiled: whoever uploads it is to hear at once of a function that modules do not
//! have, or of a start that traps.

use wasmtime::component::Component;
use wasmtime::{Engine, ResourceLimiter, Store};

use crate::contract::validator::weir::module::log::{Host as LogHost, Level};
use crate::contract::{summary, validator};
use crate::guest::TABLE_ELEMENTS_MAX;
use crate::module::{self, Module};
use crate::patience::{is_of_machine, start_patiently};
use crate::standins::Surroundings;

/// What the start of an instance may take: with the defaults, as much as configuring it.
const FUEL: u64 = 1_000_000_000;

/// The data of the trial's store.
struct Trial {
    memory_bytes: usize,
    memory_bytes_max: usize,
    /// The last error that the guest logged.
    error_line: Option<String>,
}

/// Instantiates `component` with at most `memory_bytes_max` bytes of memory.
///
/// # Errors
/// A sentence that says what of it does not fit, or what ended its start.
pub(crate) fn instantiate(engine: &Engine, component: &Component, memory_bytes_max: usize) -> Result<(), String> {
    let linker = module::linker::<Trial>(engine).map_err(|error| format!("{error:#}"))?;
    let linked = module::link(engine, &linker, component)?;
    let start = || start(engine, &linked, memory_bytes_max);
    start_patiently(start, |(error, _)| is_of_machine(error))
        .map_err(|(error, said)| format!("the module cannot be started: {}{said}", error.root_cause()))
}

/// # Errors
/// What ended it, and what it had logged by then.
fn start(engine: &Engine, linked: &Module<Trial>, memory_bytes_max: usize) -> Result<(), (wasmtime::Error, String)> {
    let trial = Trial { memory_bytes: 0, memory_bytes_max, error_line: None };
    let mut store = Store::new(engine, trial);
    store.limiter(|trial| trial);
    store.set_hostcall_fuel(memory_bytes_max);
    store.set_fuel(FUEL).expect("the engine meters fuel");
    // Its time is that of the process. No thread advances the epoch here.
    store.set_epoch_deadline(1);
    let started = linked.pre().instantiate(&mut store).map(drop);
    started
        .map_err(|error| (error, store.data().error_line.as_ref().map(|line| format!(": {line}")).unwrap_or_default()))
}

impl ResourceLimiter for Trial {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.memory_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if self.memory_bytes > self.memory_bytes_max {
            let sentence = format!("an instance may have {} bytes of memory", self.memory_bytes_max);
            return Err(wasmtime::Error::msg(sentence));
        }
        Ok(true)
    }

    /// Of one table. What all of them have together, the lane looks at.
    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

impl validator::weir::module::types::Host for Trial {}
impl summary::weir::module::types::Host for Trial {}

impl LogHost for Trial {
    fn log(&mut self, level: Level, message: String) {
        if matches!(level, Level::Error) {
            self.error_line = Some(message);
        }
    }
}

impl Surroundings for Trial {
    fn now_ms(&self) -> u64 {
        0
    }

    fn random(&mut self) -> u64 {
        1
    }
}
