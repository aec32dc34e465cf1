//! What guests and their compilation may take, and the one way in which the engine is set up.

use std::num::NonZeroUsize;
use std::time::Duration;

use wasmtime::{Config, Engine};

/// Stack that a guest call may use, in bytes.
pub(crate) const GUEST_STACK_BYTES: usize = 512 << 10;

/// Time after which an inspection is killed. One of 20 MB takes half a second, and a few in a debug build.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Address space of the process that inspects, in bytes. Valid modules of 32 MiB need less than 300 MiB.
const INSPECT_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Limits of a host and of every call into a guest.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Bytes of all memories of one instance together.
    pub memory_bytes_max: usize,
    /// Bytes of an uploaded module.
    pub module_bytes_max: usize,
    /// After this time a compilation is killed.
    pub compile_timeout: Duration,
    /// Address space of the process that compiles, in bytes.
    pub compile_memory_bytes_max: u64,
    /// Bytes that all modules and their code may have in the store together.
    pub store_bytes_max: u64,
    /// Fuel of every call. A unit is about one WebAssembly instruction; ten million take 0.5 to 1 ms.
    pub fuel_base: u64,
    /// Further fuel per record given.
    pub fuel_per_record: u64,
    /// Further fuel per byte given.
    pub fuel_per_byte: u64,
    /// After about this CPU time a call is ended whatever fuel it has left. One that works on several records of a stream
    /// has a tenth of it: what it cannot do in that time is asked again with fewer.
    pub call_timeout: Duration,
    /// Bytes of all instances and kept folds of the node together, of which each of `lanes` has its share.
    pub guest_bytes_max: usize,
    /// Lanes of the node.
    pub lanes: usize,
    /// Calls of one binding that may wait for their turn on a lane.
    pub calls_waiting_max: usize,
}

impl Default for HostConfig {
    fn default() -> HostConfig {
        HostConfig {
            memory_bytes_max: 64 << 20,
            module_bytes_max: 32 << 20,
            compile_timeout: Duration::from_secs(60),
            compile_memory_bytes_max: 2 << 30,
            store_bytes_max: 4 << 30,
            // What parsing costs is 10 to 35 thousand per record of 256 bytes; a document that merges changes may take
            // ten times that for one of them (`wasm-costs.md`, sections 2, 8 and 9).
            fuel_base: 50_000_000,
            fuel_per_record: 500_000,
            fuel_per_byte: 2_000,
            call_timeout: Duration::from_secs(1),
            guest_bytes_max: 1 << 30,
            lanes: 1,
            calls_waiting_max: 1_024,
        }
    }
}

impl HostConfig {
    /// What one compilation may take.
    pub(crate) fn compile_limits(&self) -> CompileLimits {
        CompileLimits {
            timeout: self.compile_timeout,
            memory_bytes_max: self.compile_memory_bytes_max,
            guest_bytes_max: self.memory_bytes_max,
        }
    }

    /// What one inspection may take: a client waits for it.
    pub(crate) fn inspect_limits(&self) -> CompileLimits {
        CompileLimits {
            timeout: self.compile_timeout.min(INSPECT_TIMEOUT),
            memory_bytes_max: self.compile_memory_bytes_max.min(INSPECT_MEMORY_BYTES_MAX),
            ..self.compile_limits()
        }
    }
}

/// What one inspection or compilation may take.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Time after which it is killed.
    pub timeout: Duration,
    /// Address space of its process, in bytes.
    pub memory_bytes_max: u64,
    /// Memory of the one instance that is tried, in bytes.
    pub guest_bytes_max: usize,
}

/// The engine, set up alike wherever code is compiled and wherever it runs.
///
/// Off is everything that the contract does not need: each proposal is code in the engine that a guest could reach.
/// Several memories stay on, because components made from JavaScript need them.
pub(crate) fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        // Two bit patterns of one NaN would make two replicas' summaries differ.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_threads(false)
        .shared_memory(false)
        .wasm_memory64(false)
        .wasm_gc(false)
        .wasm_exceptions(false)
        .gc_support(false)
        .wasm_tail_call(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    Engine::new(&config)
}
