//! One instance as the engine sees it from inside: what it may take, what it gets instead of a world, what it says.

use std::time::{Duration, Instant};

use wasmtime::{ResourceLimiter, Trap, WasmBacktrace};

use crate::batch::MESSAGE_BYTES_MAX;
use crate::contract::validator::weir::module::log::{Host as LogHost, Level};
use crate::contract::{summary, validator};
use crate::error::{GuestError, TrapReason};
use crate::inspect::cut;
use crate::lane::InstanceKey;

/// Elements of all tables of an instance together: function pointers and the like.
const TABLE_ELEMENTS_MAX: usize = 1 << 20;
/// Parts of an instance. One made from Python has some twenty.
const INSTANCES_MAX: usize = 256;
const TABLES_MAX: usize = 256;
/// Each takes 4 GiB of address space, whatever it holds.
const MEMORIES_MAX: usize = 8;
/// Lines that an instance may log in a second.
const LOG_LINES_MAX: u32 = 50;
const LOG_WINDOW: Duration = Duration::from_secs(1);
/// Where the stand-in for randomness begins in every call: any constant but zero.
const RANDOM_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The data of an instance's store.
pub(crate) struct Guest {
    key: InstanceKey,
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    /// Memory was refused, which is what the trap that follows is about.
    is_memory_refused: bool,
    /// What guests that ask for `wasi:clocks` are told.
    now_ms: u64,
    /// When this call's first epoch ended, if one has: most calls are over before, and never read the clock.
    timed_since: Option<Instant>,
    random: u64,
    /// The last error that the guest logged in this call: a panic's message, most likely.
    error_line: Option<String>,
    lines_since: Instant,
    lines: u32,
}

impl Guest {
    pub(crate) fn new(key: InstanceKey, memory_bytes_max: usize) -> Guest {
        Guest {
            key,
            memory_bytes: 0,
            memory_bytes_max,
            table_elements: 0,
            is_memory_refused: false,
            now_ms: 0,
            timed_since: None,
            random: RANDOM_SEED,
            error_line: None,
            lines_since: Instant::now(),
            lines: 0,
        }
    }

    /// A call begins, at this time of the guest's.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.timed_since = None;
        self.random = RANDOM_SEED;
        self.error_line = None;
    }

    /// An epoch has ended in this call: whether the call has had its time.
    pub(crate) fn is_over(&mut self, timeout: Duration) -> bool {
        self.timed_since.get_or_insert_with(Instant::now).elapsed() >= timeout
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The next of a fixed sequence of numbers (splitmix64), which begins anew with every call into the guest.
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What has ended this guest's call. The instance must not be entered again.
    pub(crate) fn ended(&mut self, error: &wasmtime::Error) -> GuestError {
        let trap = error.downcast_ref::<Trap>();
        let reason = match trap {
            _ if self.is_memory_refused => TrapReason::OutOfMemory,
            Some(Trap::OutOfFuel) => TrapReason::OutOfFuel,
            Some(Trap::Interrupt) => TrapReason::TimedOut,
            Some(Trap::UnreachableCodeReached) => TrapReason::Panic,
            // The answer lies outside of the guest's memory, or is no text.
            Some(Trap::ListOutOfBounds | Trap::StringOutOfBounds | Trap::InvalidChar) => return garbage(error),
            Some(_) => TrapReason::Other,
            // An error of a function that the guest called comes with the guest's stack; an answer that could not be
            // read comes without, because the guest has returned by then.
            None if error.downcast_ref::<WasmBacktrace>().is_some() => TrapReason::Other,
            None => return garbage(error),
        };
        // The outer words are the guest's stack, for its author; the innermost are the cause.
        tracing::debug!(target: "weir::guest", bucket = %self.key.bucket, module = %self.key.digest, "{error:?}");
        let mut message = error.root_cause().to_string();
        if let Some(line) = &self.error_line {
            message = format!("{message}: {line}");
        }
        GuestError::Trapped { reason, message: cut(&message, MESSAGE_BYTES_MAX).to_string() }
    }
}

fn garbage(error: &wasmtime::Error) -> GuestError {
    GuestError::Garbage(cut(&error.root_cause().to_string(), MESSAGE_BYTES_MAX).to_string())
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if grown > self.memory_bytes_max {
            self.is_memory_refused = true;
            // A trap and not a refusal: a guest's allocator would only turn a refusal into a panic without a reason.
            let sentence = format!("an instance may have {} bytes of memory", self.memory_bytes_max);
            return Err(wasmtime::Error::msg(sentence));
        }
        self.memory_bytes = grown;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.table_elements.saturating_add(desired.saturating_sub(current));
        if grown > TABLE_ELEMENTS_MAX {
            self.is_memory_refused = true;
            let sentence = format!("an instance may have {TABLE_ELEMENTS_MAX} elements in tables");
            return Err(wasmtime::Error::msg(sentence));
        }
        self.table_elements = grown;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

// Interfaces of types alone have hosts too, with nothing to do.
impl validator::weir::module::types::Host for Guest {}
impl summary::weir::module::types::Host for Guest {}

impl LogHost for Guest {
    fn log(&mut self, level: Level, message: String) {
        let line = cut(&message, MESSAGE_BYTES_MAX);
        if matches!(level, Level::Error) {
            self.error_line = Some(line.to_string());
        }
        if self.lines_since.elapsed() >= LOG_WINDOW {
            self.lines_since = Instant::now();
            self.lines = 0;
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines <= LOG_LINES_MAX {
            // All at one level of the server's: how much a line matters to a module's author is not how much it matters
            // to the server's operator.
            let (bucket, module) = (&self.key.bucket, self.key.digest);
            tracing::debug!(target: "weir::guest", %bucket, %module, ?level, "{line}");
        }
    }
}
