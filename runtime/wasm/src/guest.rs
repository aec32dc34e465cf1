//! One instance as the engine sees it from inside: what it may take, what it gets instead of a world, what it says.

use std::time::Duration;

use wasmtime::{ResourceLimiter, Trap, WasmBacktrace};

use crate::budget::{Claim, Share};
use crate::call::InstanceKey;
use crate::clock::thread_cpu;
use crate::contract::validator::weir::module::log::{Host as LogHost, Level};
use crate::contract::{summary, validator};
use crate::error::{GuestError, TrapReason};
use crate::patience::is_of_machine;
use crate::text::one_line;
use crate::voice::{Caller, Voice};

/// Elements of all tables of an instance together: function pointers and the like.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 1 << 20;
/// Memory of one of them, in bytes.
const TABLE_ELEMENT_BYTES: usize = 16;
/// Memory of an instance besides its own: what the engine keeps for it.
const INSTANCE_BYTES: usize = 64 << 10;
/// Parts of an instance. One made from Python has some twenty.
const INSTANCES_MAX: usize = 256;
const TABLES_MAX: usize = 256;
/// Each takes 4 GiB of address space, whatever it holds.
const MEMORIES_MAX: usize = 8;
/// Where the stand-in for randomness begins in every call: any constant but zero.
const RANDOM_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The data of an instance's store.
pub(crate) struct Guest {
    key: InstanceKey,
    voice: Voice,
    /// Whose call this is.
    caller: Caller,
    memory: Claim,
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    /// Memory was refused, which is what the trap that follows is about.
    refused: Option<Refused>,
    world: World,
    random: u64,
    /// What this call may take.
    cpu_max: Duration,
    /// The thread's time when this call's first epoch ended, if one has: most calls are over before, and never ask.
    cpu_since: Option<Duration>,
    /// The last error that the guest logged in this call: a panic's message, most likely.
    error_line: Option<String>,
}

/// Why a guest got no memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It has as much as it may.
    OfInstance,
    /// All guests together have.
    OfNode,
}

/// What a guest gets in place of a clock and of randomness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum World {
    /// Constants. How a stream's records are cut into calls is not fixed and must not show in the fold's state.
    Still,
    /// This time, in milliseconds since 1970, and one sequence of numbers that begins anew with every call.
    At(u64),
}

impl Guest {
    /// # Errors
    /// [`GuestError::OutOfBudget`].
    pub(crate) fn new(
        key: InstanceKey,
        voice: Voice,
        share: &Share,
        memory_bytes_max: usize,
    ) -> Result<Guest, GuestError> {
        let mut memory = share.claim();
        if !memory.grow(INSTANCE_BYTES) {
            return Err(GuestError::OutOfBudget);
        }
        Ok(Guest {
            key,
            voice,
            caller: Caller::default(),
            memory,
            memory_bytes: 0,
            memory_bytes_max,
            table_elements: 0,
            refused: None,
            world: World::Still,
            random: RANDOM_SEED,
            cpu_max: Duration::ZERO,
            cpu_since: None,
            error_line: None,
        })
    }

    /// A call begins.
    pub(crate) fn begin(&mut self, caller: &Caller, world: World, cpu_max: Duration) {
        // Calls for one stream come in rows.
        if self.caller != *caller {
            self.caller = caller.clone();
        }
        self.world = world;
        self.cpu_max = cpu_max;
        self.cpu_since = None;
        self.random = RANDOM_SEED;
        self.error_line = None;
    }

    /// An epoch has ended in this call: whether the call has had its time.
    pub(crate) fn is_over(&mut self) -> bool {
        let now = thread_cpu();
        now.saturating_sub(*self.cpu_since.get_or_insert(now)) >= self.cpu_max
    }

    /// Bytes of all its memories.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The instance goes to another thread.
    pub(crate) fn move_to(&mut self, share: &Share) {
        self.memory.move_to(share);
    }

    pub(crate) fn now_ms(&self) -> u64 {
        match self.world {
            World::Still => 0,
            World::At(now_ms) => now_ms,
        }
    }

    /// The next of a fixed sequence of numbers (splitmix64), which begins anew with every call into the guest; always the
    /// same number where nothing may depend on how often it is asked for.
    pub(crate) fn random(&mut self) -> u64 {
        if self.world == World::Still {
            return RANDOM_SEED;
        }
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What has ended this guest's call. The instance must not be entered again.
    pub(crate) fn ended(&mut self, error: &wasmtime::Error) -> GuestError {
        if is_of_machine(error) {
            return GuestError::NotStarted(one_line(&format!("{error:#}")));
        }
        let trap = error.downcast_ref::<Trap>();
        let reason = match trap {
            _ if self.refused == Some(Refused::OfNode) => return GuestError::OutOfBudget,
            _ if self.refused == Some(Refused::OfInstance) => TrapReason::OutOfMemory,
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
        GuestError::Trapped { reason, message: one_line(&message) }
    }

    /// Claims memory, or notes why there is none. A refusal is a trap and not an answer: a guest's allocator would only turn
    /// that into a panic without a reason.
    fn claim(&mut self, bytes: usize) -> wasmtime::Result<bool> {
        if self.memory.grow(bytes) {
            return Ok(true);
        }
        self.refused = Some(Refused::OfNode);
        Err(wasmtime::Error::msg("all modules together use all the memory they may"))
    }
}

fn garbage(error: &wasmtime::Error) -> GuestError {
    GuestError::Garbage(one_line(&error.root_cause().to_string()))
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current);
        let grown = self.memory_bytes.saturating_add(by);
        if grown > self.memory_bytes_max {
            self.refused = Some(Refused::OfInstance);
            let sentence = format!("an instance may have {} bytes of memory", self.memory_bytes_max);
            return Err(wasmtime::Error::msg(sentence));
        }
        self.memory_bytes = grown;
        self.claim(by)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current);
        let grown = self.table_elements.saturating_add(by);
        if grown > TABLE_ELEMENTS_MAX {
            self.refused = Some(Refused::OfInstance);
            let sentence = format!("an instance may have {TABLE_ELEMENTS_MAX} elements in tables");
            return Err(wasmtime::Error::msg(sentence));
        }
        self.table_elements = grown;
        self.claim(by * TABLE_ELEMENT_BYTES)
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
        if matches!(level, Level::Error) {
            self.error_line = Some(one_line(&message));
        }
        let Some(dropped) = self.voice.rise() else { return };
        // All at one level of the server's: how much a line matters to a module's author is not how much it matters to
        // the server's operator.
        let (bucket, Caller { binding, stream }) = (&self.key.bucket, &self.caller);
        tracing::info!(target: "weir::guest", %bucket, %binding, %stream, ?level, dropped, "{}", one_line(&message));
    }
}
