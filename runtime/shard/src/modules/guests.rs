//! What a shard has of modules: the node's host, its own lane, and what is under way on both.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use weir_stream::{Binding, BucketTold};
use weir_types::{Digest, Wakeup};
use weir_wasm::{
    Answer, AppendContext, Caller, CompileError, GuestBatch, Host, InstanceKey, Jobs, Lane, LaneStats, Verdict,
    digest_of,
};

use crate::message::{Limit, ShardError};
use crate::modules::compile_queue::CompileQueue;
use crate::modules::folds::Folds;
use crate::modules::last_wanted::LastWanted;
use crate::seams::Builtin;
use crate::write::validations::Validations;

/// Pages of records that are on their way into folds at a time, of up to a MiB or one record. As many as this that are slow
/// do not keep others from theirs.
const PAGES_MAX: usize = 16;

/// In a cluster, on group 0's shard: modules that group 0 names.
#[derive(Default)]
pub(crate) struct Kept {
    /// Those whose bytes are known to be here.
    pub(crate) here: RefCell<HashSet<Digest>>,
    /// Whether somebody waits for the others.
    pub(crate) is_awaited: Cell<bool>,
}

/// Everything about modules that one shard has.
pub(crate) struct Guests {
    pub(crate) host: Host,
    /// Runs all guest code of this shard.
    pub(crate) lane: Lane,
    /// What this turn has for the lane: it leaves together at the turn's end.
    outbox: RefCell<Jobs>,
    filled: Wakeup,
    /// The modules that the server brings along, and what their bytes are called.
    pub(crate) builtins: Vec<(Builtin, Digest)>,
    /// Held on group 0's shard while modules or bindings change: what is looked at before a change still holds after it.
    pub(crate) changes: Mutex<()>,
    /// Of the uploads that came to this shard.
    pub(crate) inspections: CompileQueue,
    /// Of all uploads, on group 0's shard.
    pub(crate) compilations: CompileQueue,
    /// How many times a module is wanted that is not bound yet.
    wanted: RefCell<HashMap<Digest, usize>>,
    /// In a cluster, on group 0's shard: what this node has had a use for lately.
    pub(crate) last_wanted: LastWanted,
    pub(crate) kept: Kept,
    pub(crate) validations: Validations,
    pub(crate) folds: Folds,
    /// Permits to have a page of records in memory.
    pub(crate) pages: Semaphore,
}

impl Guests {
    /// Starts the lane.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start(host: Host, builtins: Arc<[Builtin]>, lane: &str, folds_max: usize) -> io::Result<Guests> {
        let lane = Lane::start(host.clone(), lane)?;
        Ok(Guests {
            host,
            folds: Folds::new(lane.clone(), folds_max),
            lane,
            outbox: RefCell::default(),
            filled: Wakeup::default(),
            builtins: builtins.iter().map(|&builtin| (builtin, digest_of(builtin.wasm))).collect(),
            changes: Mutex::new(()),
            inspections: CompileQueue::new(),
            compilations: CompileQueue::new(),
            wanted: RefCell::default(),
            last_wanted: LastWanted::default(),
            kept: Kept::default(),
            validations: Validations::default(),
            pages: Semaphore::new(PAGES_MAX),
        })
    }

    /// Puts records for a validator into this turn's sending.
    pub(crate) fn validate(
        &self,
        instance: InstanceKey,
        caller: Caller,
        context: AppendContext,
        records: GuestBatch,
    ) -> Answer<Verdict> {
        let answer = self.outbox.borrow_mut().validate(instance, caller, context, records);
        self.filled.ring();
        answer
    }

    pub(crate) fn stats(&self) -> LaneStats {
        self.lane.stats()
    }

    /// Ends the instances of a bucket that none of its bindings needs any more.
    pub(crate) fn retain_instances(&self, bucket: &str, told: BucketTold<'_>) {
        let bindings = match told {
            BucketTold::There { bindings, .. } => bindings.decode(),
            BucketTold::Watch { .. } => return,
            BucketTold::Gone => Vec::new(),
        };
        let bucket: Arc<str> = bucket.into();
        let kept = bindings.into_iter().map(|binding| {
            let Binding { digest, role, config, .. } = binding;
            (InstanceKey { bucket: bucket.clone(), digest, config }, role)
        });
        self.lane.retain(bucket.clone(), kept.collect());
    }

    /// Does something with the host that may block, on another thread. A child process that works for it ends with what
    /// waits for it.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<T, ShardError> {
        let (host, _ends_with_this) = self.host.stoppable();
        tokio::task::spawn_blocking(move || work(&host)).await.map_err(|_| ShardError::Unavailable)
    }

    /// Keeps a module's bytes.
    pub(crate) async fn store(&self, wasm: bytes::Bytes) -> Result<Digest, ShardError> {
        self.blocking(move |host| host.store(&wasm)).await?.map_err(node_error)
    }

    /// Keeps a module's bytes if the server brings it along.
    pub(crate) async fn store_builtin(&self, digest: Digest) -> Result<(), ShardError> {
        match self.builtins.iter().find(|(_, builtin)| *builtin == digest) {
            Some((builtin, _)) => self.store(bytes::Bytes::from_static(builtin.wasm)).await.map(drop),
            None => Ok(()),
        }
    }

    /// Keeps a module loaded and on disk that is not bound yet, until what is returned is dropped.
    pub(crate) fn want(self: &Rc<Self>, digest: Digest) -> Wanted {
        *self.wanted.borrow_mut().entry(digest).or_default() += 1;
        Wanted { guests: self.clone(), digest }
    }

    /// Removes the bytes and the code of all modules that are neither named nor wanted nor brought along, and keeps in memory
    /// only what is bound or wanted.
    pub(crate) async fn retain(&self, mut named: HashSet<Digest>, mut bound: HashSet<Digest>) {
        named.extend(self.builtins.iter().map(|(_, digest)| digest));
        named.extend(self.wanted.borrow().keys());
        bound.extend(self.wanted.borrow().keys());
        named.extend(self.last_wanted.bytes());
        bound.extend(self.last_wanted.code());
        let retained = self.blocking(move |host| {
            host.unload(&bound);
            host.retain(&named)
        });
        // What stays costs only space, and the next sweep tries again.
        if let Ok(Err(error)) = retained.await {
            tracing::warn!(%error, "modules that nothing uses cannot be removed");
        }
    }

    /// Sends every turn's records to the lane. Runs for the shard's life.
    pub(crate) async fn send(self: Rc<Self>) {
        loop {
            self.filled.rung().await;
            self.lane.send(self.outbox.take());
        }
    }
}

/// A module that is wanted: see [`Guests::want`].
pub(crate) struct Wanted {
    guests: Rc<Guests>,
    digest: Digest,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut wanted = self.guests.wanted.borrow_mut();
        let times = wanted.get_mut(&self.digest).expect("it is wanted");
        *times -= 1;
        if *times == 0 {
            wanted.remove(&self.digest);
        }
    }
}

/// What keeps a module from being taken in, where it is not the module.
pub(crate) fn node_error(error: CompileError) -> ShardError {
    match error {
        CompileError::StoreFull { .. } => ShardError::Limit(Limit::ModuleStore),
        CompileError::Stopped => ShardError::Unavailable,
        CompileError::Io(source)
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            ShardError::Limit(Limit::Disk)
        }
        CompileError::Io(source) => ShardError::ModuleStore(source.to_string().into()),
        other => ShardError::ModuleInvalid(other.to_string().into()),
    }
}
