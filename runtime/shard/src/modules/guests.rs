//! What a shard has of modules: the node's host, its own lane, and what is under way on both.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use weir_types::{Digest, Wakeup};
use weir_wasm::{Answer, AppendContext, GuestBatch, Host, InstanceKey, Jobs, Lane, LaneStats, Verdict};

use crate::message::{Limit, ShardError};
use crate::modules::folds::Folds;
use crate::seams::Builtin;
use crate::write::validations::Validations;

/// Uploads that are being compiled, or wait for their turn, at a time.
const COMPILATIONS_MAX: usize = 8;

/// Pages of records that are on their way into folds at a time: one that is folded, and others that are read.
const PAGES_MAX: usize = 4;

/// Everything about modules that one shard has.
pub(crate) struct Guests {
    pub(crate) host: Host,
    /// Runs all guest code of this shard.
    pub(crate) lane: Lane,
    /// What this turn has for the lane: it leaves together at the turn's end.
    outbox: RefCell<Jobs>,
    filled: Wakeup,
    pub(crate) builtins: Arc<[Builtin]>,
    /// Held on group 0's shard while modules or bindings change: what is looked at before a change still holds after it.
    pub(crate) changes: Mutex<()>,
    pub(crate) compilations: Arc<Semaphore>,
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
            builtins,
            changes: Mutex::new(()),
            compilations: Arc::new(Semaphore::new(COMPILATIONS_MAX)),
            validations: Validations::default(),
            pages: Semaphore::new(PAGES_MAX),
        })
    }

    /// Puts records for a validator into this turn's sending.
    pub(crate) fn validate(
        &self,
        instance: InstanceKey,
        context: AppendContext,
        records: GuestBatch,
    ) -> Answer<Verdict> {
        let answer = self.outbox.borrow_mut().validate(instance, context, records);
        self.filled.ring();
        answer
    }

    pub(crate) fn stats(&self) -> LaneStats {
        self.lane.stats()
    }

    /// Does something with the host that may block, on another thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<T, ShardError> {
        let host = self.host.clone();
        tokio::task::spawn_blocking(move || work(&host)).await.map_err(|_| ShardError::Unavailable)
    }

    /// Keeps a module's bytes.
    pub(crate) async fn store(&self, wasm: bytes::Bytes) -> Result<Digest, ShardError> {
        self.blocking(move |host| host.store(&wasm)).await?.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ShardError::Limit(Limit::Disk),
            _ => {
                tracing::error!(%error, "a module cannot be kept");
                ShardError::ModuleStore(error.to_string().into())
            }
        })
    }

    /// Removes the bytes and the code of all modules that nothing names any more.
    pub(crate) async fn retain(&self, used: HashSet<Digest>) {
        let retained = self.blocking(move |host| host.retain(&used)).await;
        // What stays costs only space, and the next sweep tries again.
        if let Ok(Err(error)) = retained {
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
