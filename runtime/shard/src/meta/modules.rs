//! Modules: what is uploaded on any shard is kept, announced and compiled by the shard of group 0.
//!
//! An upload is inspected on the shard that it came to, and for as long as its client waits. Its bytes are durable, on most of the
//! nodes that have group 0, before it is announced, and it is announced before it is compiled. So a crash leaves an orphan file,
//! which the next start removes; or an announced upload, which the next start compiles.
//!
//! What is bound is loaded; all else is only on disk, and loaded when it is bound.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use weir_stream::{Command, Module, Refusal, Reply, Upload};
use weir_types::{BucketName, Digest, GroupId, ModuleName, Role};
use weir_wasm::CompileError;

use crate::core::{Core, Shard};
use crate::message::{Answer, Body, Limit, ModuleState, ModuleSummary, Request, Response, ShardError};
use crate::modules::compile_queue::Place;
use crate::modules::guests::node_error;

/// Bytes of the reason for a failed compilation that are kept.
const REASON_BYTES_MAX: usize = 1 << 10;

impl Shard {
    /// Uploads a module and waits a while for it to be ready. The flag says whether these bytes were its newest before.
    ///
    /// # Errors
    /// [`ShardError::ModuleInvalid`] and [`ShardError::ModuleTooLarge`] for what is no module, [`Refusal::ModuleLimit`],
    /// [`ShardError::ModulesWaiting`], [`Limit::ModuleStore`]. What only the compiler finds is a state.
    pub async fn module_put(
        &self,
        bucket: BucketName,
        name: ModuleName,
        mut wasm: Body,
    ) -> Result<(ModuleSummary, bool), ShardError> {
        let _counted = self.0.count_body(&mut wasm)?;
        let (wasm, roles) = self.0.inspect(bucket.as_str(), wasm).await?;
        match self.ask(Request::ModulePut { bucket, name, roles, wasm }).await? {
            Answer::Module { module, existed } => Ok((*module, existed)),
            _ => unreachable!("an upload is answered with the module"),
        }
    }

    /// All modules of a bucket, by name.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`].
    pub async fn modules(&self, bucket: BucketName) -> Result<Vec<ModuleSummary>, ShardError> {
        match self.ask(Request::Modules(bucket)).await? {
            Answer::Modules(modules) => Ok(modules),
            _ => unreachable!("a list of modules is asked for"),
        }
    }

    /// One module.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`], [`Refusal::ModuleNotFound`].
    pub async fn module(&self, bucket: BucketName, name: ModuleName) -> Result<ModuleSummary, ShardError> {
        let modules = self.modules(bucket).await?;
        let found = modules.into_iter().find(|module| *module.name == *name.as_str());
        found.ok_or_else(|| ShardError::ModuleUnknown(name.as_str().into()))
    }

    /// Removes a module that no binding uses, with all its revisions.
    ///
    /// # Errors
    /// [`Refusal::ModuleInUse`], [`Refusal::ModuleNotFound`], [`Refusal::BucketNotFound`].
    pub async fn module_delete(&self, bucket: BucketName, name: ModuleName) -> Result<(), ShardError> {
        self.ask(Request::ModuleDelete { bucket, name }).await.map(|_| ())
    }
}

impl Core {
    /// What an upload can be used as. A child process finds out, and ends when nobody waits for it any more.
    async fn inspect(&self, bucket: &str, mut wasm: Body) -> Result<(Bytes, Vec<Role>), ShardError> {
        let bytes_max = self.guests.host.module_bytes_max();
        if wasm.len() > bytes_max {
            return Err(ShardError::ModuleTooLarge { bytes_max });
        }
        let place = self.guests.inspections.enter(bucket)?;
        let _turn = place.turn().await;
        let inspected = self.guests.blocking(move |host| {
            let wasm = wasm.whole();
            host.inspect(&wasm).map(|inspected| (wasm, inspected.roles))
        });
        inspected.await?.map_err(node_error)
    }

    pub(crate) async fn module_put(self: &Rc<Self>, bucket: &str, name: &str, roles: &[Role], wasm: Bytes) -> Response {
        let place = self.guests.compilations.enter(bucket)?;
        let bytes = wasm.len() as u64;
        self.ensure_bucket(bucket).await?;
        let (digest, wanted) = {
            let _changes = self.guests.changes.lock().await;
            let digest = self.guests.store(wasm.clone()).await?;
            (digest, self.guests.want(digest))
        };
        self.spread(digest, &wasm).await?;
        let existed = {
            let _changes = self.guests.changes.lock().await;
            let upload = Upload { digest, bytes, roles };
            let announced = self.group(GroupId::META).command(&Command::MetaModulePut { bucket, name, upload }).await;
            drop(wanted);
            match announced? {
                Reply::Module { existed, .. } => existed,
                Reply::Refused(refusal) => {
                    self.sweep_modules().await;
                    return Err(refusal.into());
                }
                other => unreachable!("an upload is not answered with {other:?}"),
            }
        };
        let compiling = tokio::task::spawn_local({
            let (shard, bucket, name) = (self.clone(), Box::<str>::from(bucket), Box::<str>::from(name));
            async move { shard.compile(&bucket, &name, digest, &place).await }
        });
        // Whoever cannot wait any longer asks for the state: the compilation goes on.
        if let Ok(Ok(Some(limit))) = tokio::time::timeout(self.config.compile_wait, compiling).await {
            return Err(ShardError::Limit(limit));
        }
        let module = self.find_module(bucket, name).ok_or_else(|| ShardError::ModuleUnknown(name.into()))?;
        Ok(Answer::Module { module: Box::new(module), existed })
    }

    pub(crate) async fn module_delete(self: &Rc<Self>, bucket: &str, name: &str) -> Response {
        let _changes = self.guests.changes.lock().await;
        match self.group(GroupId::META).command(&Command::MetaModuleDelete { bucket, name }).await? {
            Reply::Done => {
                self.sweep_modules().await;
                Ok(Answer::Done)
            }
            Reply::Refused(Refusal::ModuleNotFound) => Err(ShardError::ModuleUnknown(name.into())),
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a module's deletion is not answered with {other:?}"),
        }
    }

    pub(crate) fn modules(&self, bucket: &str) -> Response {
        let meta = self.meta();
        let bucket = meta.bucket(bucket).ok_or(Refusal::BucketNotFound)?;
        let modules = bucket.modules.iter().map(|(name, module)| Self::describe(name, module));
        Ok(Answer::Modules(modules.collect()))
    }

    fn find_module(&self, bucket: &str, name: &str) -> Option<ModuleSummary> {
        let meta = self.meta();
        let module = meta.bucket(bucket)?.modules.get(name)?;
        Some(Self::describe(name, module))
    }

    fn describe(name: &str, module: &Module) -> ModuleSummary {
        let newest = module.newest().clone();
        let state = match &module.failed {
            Some((failed, reason)) if failed.number == newest.number => ModuleState::Failed(reason.clone()),
            _ if newest.ready => ModuleState::Ready,
            _ => ModuleState::Compiling,
        };
        let revisions = module.revisions.iter().filter(|revision| revision.ready).cloned().collect();
        ModuleSummary { name: name.into(), state, newest, revisions }
    }

    /// Compiles an announced upload, when it is its turn, and tells group 0 how that went. The answer is the limit that has
    /// kept its code from being kept, if one has.
    async fn compile(self: &Rc<Self>, bucket: &str, name: &str, digest: Digest, place: &Place) -> Option<Limit> {
        let _turn = place.turn().await;
        let compiled = match self.with_bytes(digest, move |host| host.compile(digest)).await {
            // The process ends; the next start goes on.
            Err(_) | Ok(Err(CompileError::Stopped)) => return None,
            Ok(compiled) => compiled,
        };
        let reason = compiled.as_ref().err().map(reason);
        let command = match &reason {
            None => Command::MetaModuleReady { bucket, name, digest },
            Some(reason) => Command::MetaModuleFailed { bucket, name, digest, reason },
        };
        let _changes = self.guests.changes.lock().await;
        match self.group(GroupId::META).command(&command).await {
            Ok(Reply::Done) if reason.is_none() => {}
            // Nobody asks for the bytes, or for their code, any more.
            Ok(_) => self.sweep_modules().await,
            // A log that is full is met again at the next start.
            Err(error) => {
                tracing::warn!(bucket, module = name, %digest, %error, "what has become of an upload cannot be noted");
            }
        }
        match compiled {
            Err(CompileError::StoreFull { .. }) => Some(Limit::ModuleStore),
            _ => None,
        }
    }

    /// Makes sure that a module is loaded: from its code on disk, or, when it is its turn, compiled.
    pub(crate) async fn load(self: &Rc<Self>, bucket: &str, digest: Digest) -> Result<(), ShardError> {
        if self.guests.blocking(move |host| host.load(digest)).await? {
            return Ok(());
        }
        let place = self.guests.compilations.enter(bucket)?;
        let _turn = place.turn().await;
        self.with_bytes(digest, move |host| host.prepare(digest)).await?.map_err(node_error)
    }

    /// Removes what neither a revision nor a binding names, and unloads what no binding does. The caller holds the changes.
    pub(crate) async fn sweep_modules(&self) {
        let (named, bound) = {
            let meta = self.meta();
            let bindings = meta.buckets().flat_map(|(_, bucket)| bucket.bindings.values());
            (meta.digests().collect(), bindings.map(|binding| binding.digest).collect())
        };
        self.guests.retain(named, bound).await;
    }

    /// Loads what is bound, as far as its code is on disk. What is not, and what was being compiled when the process ended, is
    /// compiled while the node serves. A module that the server brings along is compiled for who binds it first.
    pub(crate) async fn restore_modules(self: &Rc<Self>) {
        self.sweep_modules().await;
        let (mut bound, pending) = self.known_modules();
        let loaded = self.guests.blocking(move |host| {
            bound.retain(|(_, digest)| !host.load(*digest));
            bound
        });
        let Ok(missing) = loaded.await else { return };
        let shard = self.clone();
        self.spawn(async move {
            for (bucket, digest) in missing {
                let place = shard.guests.compilations.place(&bucket);
                let _turn = place.turn().await;
                if let Ok(Err(error)) = shard.guests.blocking(move |host| host.prepare(digest)).await {
                    tracing::error!(%digest, %error, "a module that is bound cannot be made ready again");
                }
            }
            shard.compile_all(pending);
        });
    }

    /// Compiles what was announced, and not compiled by whoever led group 0 before.
    pub(crate) fn compile_pending(self: &Rc<Self>) {
        let (_, pending) = self.known_modules();
        self.compile_all(pending);
    }

    fn compile_all(self: &Rc<Self>, pending: Vec<Pending>) {
        for Pending { bucket, name, digest } in pending {
            let place = self.guests.compilations.place(&bucket);
            let shard = self.clone();
            tokio::task::spawn_local(async move { shard.compile(&bucket, &name, digest, &place).await });
        }
    }

    /// As [`Core::sweep_modules`], of what was not wanted for long.
    pub(crate) async fn sweep_copies(&self) {
        let _changes = self.guests.changes.lock().await;
        self.sweep_modules().await;
    }

    /// What is bound, with its bucket, and the uploads that were being compiled.
    fn known_modules(&self) -> (Vec<(Box<str>, Digest)>, Vec<Pending>) {
        let meta = self.meta();
        let (mut bound, mut pending) = (Vec::new(), Vec::new());
        for (bucket_name, bucket) in meta.buckets() {
            bound.extend(bucket.bindings.values().map(|binding| (bucket_name.into(), binding.digest)));
            for (name, module) in &bucket.modules {
                let compiling = module.revisions.iter().filter(|revision| !revision.ready);
                pending.extend(compiling.map(|revision| Pending {
                    bucket: bucket_name.into(),
                    name: name.clone(),
                    digest: revision.digest,
                }));
            }
        }
        (bound, pending)
    }

    /// Makes sure that a bucket is there, if it may come to be by itself.
    pub(crate) async fn ensure_bucket(self: &Rc<Self>, bucket: &str) -> Result<(), ShardError> {
        if self.meta().bucket(bucket).is_some() {
            return Ok(());
        }
        if !self.config.buckets_auto_create {
            return Err(ShardError::BucketUnknown);
        }
        self.bucket_create(bucket, None).await.map(|_| ())
    }
}

/// An upload that was being compiled when the process ended.
struct Pending {
    bucket: Box<str>,
    name: Box<str>,
    digest: Digest,
}

/// Why there is no code, for whoever uploaded the module.
fn reason(error: &CompileError) -> String {
    let mut reason = match error {
        CompileError::Io(source) => format!("{error}: {source}"),
        other => other.to_string(),
    };
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

impl From<weir_wasm::GuestError> for ShardError {
    /// What a guest that is needed for an answer did instead.
    fn from(error: weir_wasm::GuestError) -> ShardError {
        use weir_wasm::{GuestError, TrapReason};
        match error {
            GuestError::NotReady => ShardError::ModuleNotReady,
            GuestError::Stopped | GuestError::FoldLost => ShardError::Unavailable,
            GuestError::Busy => ShardError::Limit(Limit::ModuleCalls),
            GuestError::NotStarted(_) => ShardError::ModuleNotStarted(Arc::from(error.to_string())),
            GuestError::OutOfBudget => ShardError::Limit(Limit::ModuleMemory),
            GuestError::Suspended { .. } => ShardError::ModuleSuspended(Arc::from(error.to_string())),
            GuestError::Trapped { reason: TrapReason::TimedOut, .. } => {
                ShardError::ModuleTimedOut(Arc::from(error.to_string()))
            }
            GuestError::ConfigRefused(_)
            | GuestError::Trapped { .. }
            | GuestError::Refused(_)
            | GuestError::Garbage(_) => ShardError::ModuleTrapped(Arc::from(error.to_string())),
        }
    }
}
