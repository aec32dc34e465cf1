//! From uploaded bytes to machine code: what is done with bytes that nobody has looked at yet.
//!
//! Parsing, making a component of a core module and compiling are outside of what the engine promises for hostile input: each
//! may take long, take much memory, or end the process that does it. So they are asked of a [`Compiler`], and the server's one
//! is a [child process](crate::child). Nothing of an upload is parsed anywhere else.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use wasmparser::Parser;
use wasmtime::component::Component;
use weir_types::{Digest, Role};
use wit_component::ComponentEncoder;

use crate::config::{self, CompileLimits};
use crate::inspect::{self, Refusal};
use crate::stop::Stop;
use crate::trial;

/// Looks at modules and compiles them, somewhere that may be killed. Blocks; may be called from any thread.
pub trait Compiler: Send + Sync + 'static {
    /// What `wasm`, which may be anything, can be used as: at least one role.
    ///
    /// # Errors
    /// See [`CompileError`]; whatever happens to the inspection, the caller lives.
    fn inspect(&self, wasm: &[u8], limits: &CompileLimits, stop: &Stop) -> Result<Vec<Role>, CompileError>;

    /// Compiles `wasm`, which may be anything, and returns the engine's serialized form of it. It has been instantiated once.
    ///
    /// # Errors
    /// See [`CompileError`]; whatever happens to the compilation, the caller lives.
    fn compile(&self, wasm: &[u8], limits: &CompileLimits, stop: &Stop) -> Result<Vec<u8>, CompileError>;
}

/// Why a module was not inspected to its end, or there is no machine code for it.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The module cannot be used: a sentence for whoever uploaded it.
    #[error("{0}")]
    Refused(String),
    /// It took longer than it may.
    #[error("the module took more than {} s to {doing}", timeout.as_secs_f32())]
    TimedOut {
        /// `inspect` or `compile`.
        doing: &'static str,
        /// What it was allowed.
        timeout: Duration,
    },
    /// The process died: out of memory or stack most likely, or a bug in a parser.
    #[error(
        "the process that was to {doing} the module died on it, as it does when {memory_bytes_max} bytes are not enough: {status}"
    )]
    Died {
        /// `inspect` or `compile`.
        doing: &'static str,
        /// How it ended, and its last words.
        status: String,
        /// What it was allowed.
        memory_bytes_max: u64,
    },
    /// Nobody wants it any more, or the node ends.
    #[error("the node has stopped working on the module")]
    Stopped,
    /// The module's bytes are not in the store.
    #[error("there is no module {0} on this node")]
    NotStored(Digest),
    /// The module's bytes are not what they were.
    #[error("the bytes of module {0} are damaged")]
    Damaged(Digest),
    /// There is no room for the module or its code.
    #[error("the node's modules and their code have {bytes_max} bytes, which is all that they may have")]
    StoreFull {
        /// The limit.
        bytes_max: u64,
    },
    /// The store or the child process failed.
    #[error("the module could not be worked on for a reason of this node")]
    Io(#[source] io::Error),
}

impl From<Refusal> for CompileError {
    fn from(refusal: Refusal) -> CompileError {
        CompileError::Refused(refusal.to_string())
    }
}

/// Does all that in the caller's own process, for tests. Of its limits only that of the guest is enforced.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Compiler for InProcess {
    fn inspect(&self, wasm: &[u8], _limits: &CompileLimits, _stop: &Stop) -> Result<Vec<Role>, CompileError> {
        inspect(wasm)
    }

    fn compile(&self, wasm: &[u8], limits: &CompileLimits, _stop: &Stop) -> Result<Vec<u8>, CompileError> {
        compile(wasm, limits.guest_bytes_max, || {})
    }
}

/// As [`Compiler::inspect`], in this process.
pub(crate) fn inspect(wasm: &[u8]) -> Result<Vec<Role>, CompileError> {
    Ok(inspect::inspect(&component(wasm)?)?)
}

/// As [`Compiler::compile`], in this process. `before_trial` is called when the module is compiled and nothing has run of it.
pub(crate) fn compile(wasm: &[u8], guest_bytes_max: usize, before_trial: fn()) -> Result<Vec<u8>, CompileError> {
    let component = component(wasm)?;
    let refused = |error: wasmtime::Error| CompileError::Refused(format!("the module cannot be compiled: {error:#}"));
    let engine = config::engine().map_err(refused)?;
    let component = Component::new(&engine, &component).map_err(refused)?;
    before_trial();
    trial::instantiate(&engine, &component, guest_bytes_max).map_err(CompileError::Refused)?;
    component.serialize().map_err(refused)
}

/// The component that `wasm` is, or is made into, by the description of its world that the guest's bindings have put into it.
fn component(wasm: &[u8]) -> Result<Cow<'_, [u8]>, CompileError> {
    inspect::validate(wasm)?;
    if Parser::is_component(wasm) {
        return Ok(Cow::Borrowed(wasm));
    }
    inspect::check_core(wasm)?;
    let encoded = ComponentEncoder::default().validate(true).module(wasm).and_then(|mut encoder| encoder.encode());
    encoded.map(Cow::Owned).map_err(|error| inspect::not_encodable(&format!("{error:#}")).into())
}
