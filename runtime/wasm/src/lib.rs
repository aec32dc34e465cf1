//! Guest modules: what becomes of an uploaded file until its code runs, and where it runs. The only crate that knows
//! the WebAssembly engine.
//!
//! - [`digest`], [`store`]: uploaded bytes are named by their hash and kept under that name.
//! - [`contract`]: the two worlds of `wit/0.1.0` as Rust types, and which versions of them are served.
//! - [`compile`], [`child`], [`stop`]: what is done with bytes that nobody has looked at, in a process that may be killed:
//!   `inspect`, what is refused at upload, with a sentence; machine code; and `trial`, one instance of it.
//! - [`cache`], `load`: machine code kept across restarts, and why it may be trusted.
//! - [`host`]: one engine per process, and the modules that are ready to run. `module`, `standins`: what a module is
//!   linked with.
//! - [`lane`]: two threads that run all guest code of a shard. `front`: validators that are quick; `back`: everything else,
//!   and the folds. `rounds`: what both do all their life; `call`, `mail`: what they are asked. `turns`: whose turn it is;
//!   `standing`: who is not asked for a while.
//! - `instance`: one instance, and what a call may cost; `guest`: what it may take, and what its end is called; `budget`: the
//!   memory of all of them; `voice`: what the log has of them.
//!
//! What is absent: guests have no clock, no randomness, no files and no network, and nothing here awaits: a guest call
//! returns, or is ended by its fuel, or by the epoch.

mod back;
mod batch;
mod budget;
pub mod cache;
mod call;
pub mod child;
mod clock;
pub mod compile;
pub mod config;
mod contract;
mod digest;
mod error;
mod front;
mod guest;
pub mod host;
mod inspect;
mod instance;
pub mod lane;
mod load;
mod mail;
mod module;
mod patience;
mod rounds;
mod standing;
mod standins;
pub mod stop;
pub mod store;
mod text;
mod trial;
mod turns;
mod voice;

pub use batch::{AppendContext, GuestBatch, Verdict, View};
pub use call::{FoldId, InstanceKey, Snapshot};
pub use child::{CHILD_ARGUMENT, ChildProcess, module_child};
pub use compile::{CompileError, Compiler, InProcess};
pub use config::{CompileLimits, HostConfig};
pub use digest::digest_of;
pub use error::{GuestError, TrapReason};
pub use host::{Host, HostError, Inspected};
pub use lane::{Answer, Jobs, Lane, LaneStats};
pub use stop::{Stop, StopOnDrop};
pub use store::{FileStore, MemoryStore, ModuleStore};
pub use voice::Caller;
