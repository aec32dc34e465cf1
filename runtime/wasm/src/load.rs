//! The one place where bytes become machine code of this process.

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Artifact;

/// Loads machine code.
///
/// # Errors
/// When it was made by another version of the engine, or for another machine.
#[expect(unsafe_code, reason = "machine code runs as it is: see SAFETY")]
pub(crate) fn load(engine: &Engine, artifact: &Artifact) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` asks that the bytes come unchanged from the engine's own compiler. An `Artifact`
    // is made in two places only: from what this node's `Compiler` has just returned, which is the engine's output handed
    // over by our own binary through a pipe; and from a cache file whose MAC, under a key that only this node has, says
    // that it is such output, kept by this node for this module and this engine. Bytes from a client, a peer or an object
    // store never become one: those are WebAssembly, and are compiled.
    unsafe { Component::deserialize(engine, artifact.bytes()) }
}
