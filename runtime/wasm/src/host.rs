//! One engine per process, and the modules of this node: stored, compiled, ready.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::Linker;
use weir_types::{Digest, Role};

use crate::budget::{GuestBudget, Share};
use crate::cache::{Artifact, Cache};
use crate::compile::{CompileError, Compiler};
use crate::config::{self, HostConfig};
use crate::digest::digest_of;
use crate::guest::Guest;
use crate::module::{self, Module};
use crate::stop::{Stop, StopOnDrop};
use crate::store::{ModuleStore, lock};

/// How long an epoch is while guests run: what a shard may have to wait for its core.
const EPOCH: Duration = Duration::from_micros(500);
/// How long it is when none has run for [`EPOCHS_AWAKE`] epochs.
const EPOCH_IDLE: Duration = Duration::from_millis(50);
/// A guest that is asked again and again has pauses, which must not look like the end.
const EPOCHS_AWAKE: u32 = 200;

/// The modules of one node. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
    /// Ends what is done by this clone.
    stop: Stop,
}

/// What an acceptable module is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Its name.
    pub digest: Digest,
    /// What it can be used as; at least one.
    pub roles: Vec<Role>,
}

struct Inner {
    engine: Engine,
    linker: Linker<Guest>,
    store: Arc<dyn ModuleStore>,
    compiler: Arc<dyn Compiler>,
    cache: Cache,
    config: HostConfig,
    budget: Arc<GuestBudget>,
    ready: RwLock<HashMap<Digest, Arc<Module>>>,
    /// Held while a file is written, so that what there was room for still fits.
    storing: Mutex<()>,
    /// Of the clones that can be stopped.
    stops: Mutex<Stops>,
    /// Lanes that have work. Nothing is ordered by it.
    lanes_busy: AtomicUsize,
}

#[derive(Default)]
struct Stops {
    is_stopped: bool,
    of_clones: Vec<Stop>,
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine does not run on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
    /// The store cannot be used, or there can be no further thread.
    #[error("the modules cannot be kept")]
    Io(#[source] io::Error),
}

impl Host {
    /// A host over the modules in `store`. None is loaded yet.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn new(
        store: Arc<dyn ModuleStore>,
        compiler: Arc<dyn Compiler>,
        config: HostConfig,
    ) -> Result<Host, HostError> {
        let sentence = |error: wasmtime::Error| HostError::Engine(format!("{error:#}"));
        let engine = config::engine().map_err(sentence)?;
        let linker = module::linker(&engine).map_err(sentence)?;
        let cache = Cache::open(&*store, &engine).map_err(HostError::Io)?;
        let (ready, storing, stops) = (RwLock::default(), Mutex::default(), Mutex::default());
        let lanes_busy = AtomicUsize::new(0);
        let budget = GuestBudget::new(config.guest_bytes_max);
        let inner = Arc::new(Inner {
            engine,
            linker,
            store,
            compiler,
            cache,
            config,
            budget,
            ready,
            storing,
            stops,
            lanes_busy,
        });
        tick(&inner).map_err(HostError::Io)?;
        Ok(Host { inner, stop: Stop::default() })
    }

    /// The same host, for something that may be given up: when what is returned beside it is dropped, what this clone has
    /// begun ends, with [`CompileError::Stopped`].
    pub fn stoppable(&self) -> (Host, StopOnDrop) {
        let stop = Stop::default();
        let mut stops = lock(&self.inner.stops);
        if stops.is_stopped {
            stop.stop();
        }
        stops.of_clones.retain(|stop| !stop.is_stopped());
        stops.of_clones.push(stop.clone());
        (Host { inner: Arc::clone(&self.inner), stop: stop.clone() }, StopOnDrop(stop))
    }

    /// Ends all that [stoppable](Host::stoppable) clones do, now and from now on: the node stops.
    pub fn stop(&self) {
        let mut stops = lock(&self.inner.stops);
        stops.is_stopped = true;
        stops.of_clones.drain(..).for_each(|stop| stop.stop());
    }

    /// Looks at an upload, which may be anything, and says what it is. Blocks: some milliseconds per megabyte, or as long as
    /// inspections may take.
    ///
    /// # Errors
    /// See [`CompileError`].
    pub fn inspect(&self, wasm: &[u8]) -> Result<Inspected, CompileError> {
        let inner = &*self.inner;
        let roles = inner.compiler.inspect(wasm, &inner.config.inspect_limits(), &self.stop)?;
        Ok(Inspected { digest: digest_of(wasm), roles })
    }

    /// Keeps a module's bytes, durably. Blocks.
    ///
    /// # Errors
    /// [`CompileError::StoreFull`], or [`CompileError::Io`] with whatever the store says.
    pub fn store(&self, wasm: &[u8]) -> Result<Digest, CompileError> {
        let digest = digest_of(wasm);
        // Bytes of this name that are damaged are not kept for being there.
        if !self.read(digest).is_ok_and(|stored| stored == wasm) {
            self.write(&wasm_name(digest), wasm)?;
        }
        Ok(digest)
    }

    /// A module's bytes, as they were uploaded. Blocks.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or whatever the store says.
    pub fn read(&self, digest: Digest) -> io::Result<Vec<u8>> {
        self.inner.store.read(&wasm_name(digest))
    }

    /// Makes a module ready to run if its code is in the cache; whether it is ready now. Blocks for milliseconds.
    pub fn load(&self, digest: Digest) -> bool {
        self.is_ready(digest) || self.cached(digest).is_some_and(|artifact| self.insert(digest, &artifact).is_ok())
    }

    /// Makes a module ready to run: from the cache, or compiled. Blocks, for as long as compilations may take.
    ///
    /// # Errors
    /// See [`CompileError`]. What is the module's fault will be so again.
    pub fn prepare(&self, digest: Digest) -> Result<(), CompileError> {
        if self.load(digest) {
            return Ok(());
        }
        let artifact = self.make(digest)?;
        self.insert(digest, &artifact).map_err(CompileError::Refused)
    }

    /// Makes a module's code, unless it is in the cache. It is not loaded. Blocks, for as long as compilations may take.
    ///
    /// # Errors
    /// As for [`Host::prepare`].
    pub fn compile(&self, digest: Digest) -> Result<(), CompileError> {
        match self.cached(digest) {
            Some(_) => Ok(()),
            None => self.make(digest).map(drop),
        }
    }

    /// Whether a module can be run at once.
    pub fn is_ready(&self, digest: Digest) -> bool {
        self.module(digest).is_some()
    }

    /// Removes all modules but these, their bytes and their code. Instances that still run keep their code until they
    /// end. Blocks.
    ///
    /// # Errors
    /// Whatever the store says; what is not ready any more is so in any case.
    pub fn retain(&self, used: &HashSet<Digest>) -> io::Result<()> {
        let inner = &*self.inner;
        self.unload(used);
        for name in inner.store.list()? {
            // The files of a module begin with its digest; the key of the cache does not.
            let digest = name.split(['.', '-']).next().and_then(|stem| stem.parse::<Digest>().ok());
            if digest.is_some_and(|digest| !used.contains(&digest)) {
                inner.store.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Keeps only these modules ready. The code of the others stays in the cache.
    pub fn unload(&self, used: &HashSet<Digest>) {
        self.inner.ready.write().unwrap_or_else(PoisonError::into_inner).retain(|digest, _| used.contains(digest));
    }

    /// The most bytes that an upload may have.
    pub fn module_bytes_max(&self) -> usize {
        self.inner.config.module_bytes_max
    }

    /// A module that is ready.
    pub(crate) fn module(&self, digest: Digest) -> Option<Arc<Module>> {
        self.inner.ready.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned()
    }

    /// Runs `work`, which may run guests: epochs are short meanwhile.
    pub(crate) fn with_epochs(&self, work: impl FnOnce()) {
        self.inner.lanes_busy.fetch_add(1, Relaxed);
        work();
        self.inner.lanes_busy.fetch_sub(1, Relaxed);
    }

    /// The share of a thread that runs guests, of which a lane has two.
    pub(crate) fn share(&self) -> Share {
        self.inner.budget.share(2 * self.inner.config.lanes)
    }

    pub(crate) fn config(&self) -> &HostConfig {
        &self.inner.config
    }

    /// A module's code that this engine has compiled before.
    fn cached(&self, digest: Digest) -> Option<Artifact> {
        self.inner.cache.read(&*self.inner.store, digest)
    }

    /// Compiles a module and keeps its code.
    fn make(&self, digest: Digest) -> Result<Artifact, CompileError> {
        let inner = &*self.inner;
        let wasm = self.read(digest).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CompileError::NotStored(digest),
            _ => CompileError::Io(error),
        })?;
        if digest_of(&wasm) != digest {
            return Err(CompileError::Damaged(digest));
        }
        let compiled = inner.compiler.compile(&wasm, &inner.config.compile_limits(), &self.stop)?;
        let artifact = inner.cache.seal(digest, &compiled);
        self.write(&inner.cache.name(digest), artifact.sealed())?;
        Ok(artifact)
    }

    /// Bytes that all modules and their code have in the store. Blocks while it looks.
    ///
    /// # Errors
    /// From the store.
    pub fn store_bytes(&self) -> io::Result<u64> {
        self.inner.store.bytes()
    }

    /// Writes a file, if there is room for it.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CompileError> {
        let (store, bytes_max) = (&self.inner.store, self.inner.config.store_bytes_max);
        let _turn = lock(&self.inner.storing);
        if store.bytes().map_err(CompileError::Io)?.saturating_add(bytes.len() as u64) > bytes_max {
            return Err(CompileError::StoreFull { bytes_max });
        }
        store.write_atomic(name, bytes).map_err(CompileError::Io)
    }

    fn insert(&self, digest: Digest, artifact: &Artifact) -> Result<(), String> {
        let inner = &*self.inner;
        let module = Module::load(&inner.engine, &inner.linker, artifact)
            .inspect_err(|error| tracing::warn!(%digest, error, "compiled code cannot be loaded"))?;
        inner.ready.write().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::new(module));
        Ok(())
    }
}

/// The file of a module's bytes.
fn wasm_name(digest: Digest) -> String {
    format!("{digest}.wasm")
}

/// Starts the thread that advances the epoch. It ends when nothing holds the host any more.
fn tick(host: &Arc<Inner>) -> io::Result<()> {
    let host = Arc::downgrade(host);
    thread::Builder::new().name("guest-epochs".to_string()).spawn(move || {
        let mut epochs_idle = EPOCHS_AWAKE;
        while let Some(host) = host.upgrade() {
            host.engine.increment_epoch();
            epochs_idle = if host.lanes_busy.load(Relaxed) > 0 { 0 } else { epochs_idle.saturating_add(1) };
            // Not held while asleep, or the host would live as long as this thread.
            drop(host);
            thread::sleep(if epochs_idle < EPOCHS_AWAKE { EPOCH } else { EPOCH_IDLE });
        }
    })?;
    Ok(())
}
