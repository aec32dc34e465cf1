//! From uploaded bytes to machine code.
//!
//! Compiling is outside of what the engine promises for hostile input: it may take long, take much memory, or panic. So
//! it is asked of a [`Compiler`], and the server's one is a child process.

use std::io;
use std::time::Duration;

use wasmparser::Parser;
use weir_types::Digest;
use wit_component::ComponentEncoder;

use crate::config::{self, CompileLimits};
use crate::inspect;

/// Runs a compilation somewhere that may be killed. Blocks; may be called from any thread.
pub trait Compiler: Send + Sync + 'static {
    /// Compiles `wasm`, a core module or a component, and returns the engine's serialized form of it.
    ///
    /// # Errors
    /// See [`CompileError`]; whatever happens to the compilation, the caller lives.
    fn compile(&self, wasm: &[u8], limits: &CompileLimits) -> Result<Vec<u8>, CompileError>;
}

/// Why there is no machine code for a module.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The module cannot be compiled or linked: the compiler's words.
    #[error("the module cannot be compiled: {0}")]
    Refused(String),
    /// It took longer than compilations may.
    #[error("the module took more than {} s to compile", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The compiler died: out of memory most likely, or a bug in it.
    #[error("the compiler died on the module, as it does when {memory_bytes_max} bytes are not enough: {status}")]
    Died {
        /// How it ended, and its last words.
        status: String,
        /// What it was allowed.
        memory_bytes_max: u64,
    },
    /// The module's bytes are not in the store.
    #[error("there is no module {0} on this node")]
    NotStored(Digest),
    /// The module's bytes are not what they were.
    #[error("the bytes of module {0} are damaged")]
    Damaged(Digest),
    /// The store or the child process failed.
    #[error("the module could not be compiled for a reason of this node")]
    Io(#[source] io::Error),
}

/// Compiles in the caller's own process: for tests, and what the child process does. Its limits are not enforced.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Compiler for InProcess {
    fn compile(&self, wasm: &[u8], _limits: &CompileLimits) -> Result<Vec<u8>, CompileError> {
        inspect::validate(wasm, usize::MAX).map_err(|refusal| CompileError::Refused(refusal.to_string()))?;
        let component;
        let component = if Parser::is_component(wasm) {
            wasm
        } else {
            component = componentize(wasm).map_err(|error| CompileError::Refused(format!("{error:#}")))?;
            &component
        };
        let engine = config::engine().map_err(|error| CompileError::Refused(format!("{error:#}")))?;
        engine.precompile_component(component).map_err(|error| CompileError::Refused(format!("{error:#}")))
    }
}

/// Makes a component of a core module, by the description of its world that the guest's bindings have put into it.
fn componentize(wasm: &[u8]) -> Result<Vec<u8>, impl std::fmt::Display> {
    ComponentEncoder::default().validate(true).module(wasm)?.encode()
}
