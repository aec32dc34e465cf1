//! Modules: what is uploaded on any shard is kept, announced and compiled by the shard of group 0.
//!
//! An upload's bytes are durable before it is announced, and it is announced before it is compiled. So a crash leaves an
//! orphan file, which the next start removes; or an announced upload, which the next start compiles.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use weir_stream::{Command, Module, Refusal, Reply, Revision, Upload};
use weir_types::{BucketName, Digest, GroupId, ModuleName};
use weir_wasm::CompileError;

use crate::core::{Core, Shard};
use crate::message::{Answer, ModuleState, ModuleSummary, Request, Response, ShardError};

/// Bytes of the reason for a failed compilation that are kept.
const REASON_BYTES_MAX: usize = 1 << 10;

impl Shard {
    /// Uploads a module and waits a while for it to be ready. The flag says whether these bytes were its newest before.
    ///
    /// # Errors
    /// [`ShardError::ModuleInvalid`] and [`ShardError::ModuleTooLarge`] for what is no module, [`Refusal::ModuleLimit`],
    /// [`ShardError::Unavailable`] when too many are being compiled. What only the compiler finds is a state.
    pub async fn module_put(
        &self,
        bucket: BucketName,
        name: ModuleName,
        wasm: Bytes,
    ) -> Result<(ModuleSummary, bool), ShardError> {
        match self.call(self.meta_owner(), Request::ModulePut { bucket, name, wasm }).await? {
            Answer::Module { module, existed } => Ok((*module, existed)),
            _ => unreachable!("an upload is answered with the module"),
        }
    }

    /// All modules of a bucket, by name.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`].
    pub async fn modules(&self, bucket: BucketName) -> Result<Vec<ModuleSummary>, ShardError> {
        match self.call(self.meta_owner(), Request::Modules(bucket)).await? {
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
        found.ok_or(ShardError::Refused(Refusal::ModuleNotFound))
    }

    /// Removes a module that no binding uses, with all its revisions.
    ///
    /// # Errors
    /// [`Refusal::ModuleInUse`], [`Refusal::ModuleNotFound`], [`Refusal::BucketNotFound`].
    pub async fn module_delete(&self, bucket: BucketName, name: ModuleName) -> Result<(), ShardError> {
        self.call(self.meta_owner(), Request::ModuleDelete { bucket, name }).await.map(|_| ())
    }
}

impl Core {
    pub(crate) async fn module_put(self: &Rc<Self>, bucket: &str, name: &str, wasm: Bytes) -> Response {
        let compilation = self.guests.compilations.clone().try_acquire_owned().map_err(|_| ShardError::Unavailable)?;
        let bytes = wasm.len() as u64;
        let inspected = self.guests.blocking({
            let wasm = wasm.clone();
            move |host| host.inspect(&wasm)
        });
        let roles = inspected.await?.map_err(refused)?.roles;
        self.ensure_bucket(bucket).await?;
        let (revision, existed, digest) = {
            let _changes = self.guests.changes.lock().await;
            let digest = self.guests.store(wasm).await?;
            let upload = Upload { digest, bytes, roles: &roles };
            match self.group(GroupId::META).command(&Command::MetaModulePut { bucket, name, upload }).await? {
                Reply::Module { revision, existed } => (revision, existed, digest),
                Reply::Refused(refusal) => {
                    self.sweep_modules().await;
                    return Err(refusal.into());
                }
                other => unreachable!("an upload is not answered with {other:?}"),
            }
        };
        let compiling = tokio::task::spawn_local({
            let (shard, bucket, name) = (self.clone(), Box::<str>::from(bucket), Box::<str>::from(name));
            async move {
                shard.compile(&bucket, &name, revision, digest).await;
                drop(compilation);
            }
        });
        // Whoever cannot wait any longer asks for the state: the compilation goes on.
        let _ = tokio::time::timeout(self.config.compile_wait, compiling).await;
        let module = self.find_module(bucket, name).ok_or(ShardError::Refused(Refusal::ModuleNotFound))?;
        Ok(Answer::Module { module: Box::new(module), existed })
    }

    pub(crate) async fn module_delete(self: &Rc<Self>, bucket: &str, name: &str) -> Response {
        let _changes = self.guests.changes.lock().await;
        match self.group(GroupId::META).command(&Command::MetaModuleDelete { bucket, name }).await? {
            Reply::Done => {
                self.sweep_modules().await;
                Ok(Answer::Done)
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a module's deletion is not answered with {other:?}"),
        }
    }

    pub(crate) fn modules(&self, bucket: &str) -> Response {
        let meta = self.group(GroupId::META);
        let state = meta.state.borrow();
        let bucket = state.meta().bucket(bucket).ok_or(Refusal::BucketNotFound)?;
        let modules = bucket.modules.iter().map(|(name, module)| self.describe(name, module));
        Ok(Answer::Modules(modules.collect()))
    }

    fn find_module(&self, bucket: &str, name: &str) -> Option<ModuleSummary> {
        let meta = self.group(GroupId::META);
        let state = meta.state.borrow();
        let module = state.meta().bucket(bucket)?.modules.get(name)?;
        Some(self.describe(name, module))
    }

    /// The module as it is on this node: what is compiled elsewhere may not be here yet.
    fn describe(&self, name: &str, module: &Module) -> ModuleSummary {
        let newest = module.newest().clone();
        let state = match &module.failed {
            Some((failed, reason)) if failed.number == newest.number => ModuleState::Failed(reason.clone()),
            _ if newest.ready && self.guests.host.is_ready(newest.digest) => ModuleState::Ready,
            _ => ModuleState::Compiling,
        };
        let revisions = module.revisions.iter().filter(|revision| revision.ready).cloned().collect();
        ModuleSummary { name: name.into(), state, newest, revisions }
    }

    /// Compiles an announced upload and tells group 0 how that went.
    async fn compile(self: &Rc<Self>, bucket: &str, name: &str, revision: u32, digest: Digest) {
        let prepared = self.guests.blocking(move |host| host.prepare(digest)).await;
        let reason = match prepared {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(reason(&error)),
            // The process ends; the next start goes on.
            Err(_) => return,
        };
        let command = match &reason {
            None => Command::MetaModuleReady { bucket, name, revision },
            Some(reason) => Command::MetaModuleFailed { bucket, name, revision, reason },
        };
        let _changes = self.guests.changes.lock().await;
        // An upload that has gone meanwhile has nothing to be told; a log that is full is met again at the next start.
        if let Err(error) = self.group(GroupId::META).command(&command).await {
            tracing::warn!(bucket, module = name, revision, %error, "what has become of an upload cannot be noted");
        }
        if reason.is_some() {
            self.sweep_modules().await;
        }
    }

    /// Removes what neither a revision nor a binding names. The caller holds the changes.
    pub(crate) async fn sweep_modules(&self) {
        let used: HashSet<Digest> = self.group(GroupId::META).state.borrow().meta().digests().collect();
        self.guests.retain(used).await;
    }

    /// Makes ready again what was ready before the restart, and goes on with what was being compiled. What is bound comes
    /// first; what has its code in the cache is ready when this returns.
    pub(crate) async fn restore_modules(self: &Rc<Self>) {
        self.sweep_modules().await;
        let (mut digests, pending) = self.known_modules();
        let loaded = self.guests.blocking(move |host| {
            digests.retain(|&digest| !host.load(digest));
            digests
        });
        let Ok(missing) = loaded.await else { return };
        let shard = self.clone();
        self.spawn(async move {
            for digest in missing {
                if let Ok(Err(error)) = shard.guests.blocking(move |host| host.prepare(digest)).await {
                    tracing::error!(%digest, %error, "a module that was ready cannot be made ready again");
                }
            }
            for Pending { bucket, name, number, digest } in pending {
                shard.compile(&bucket, &name, number, digest).await;
            }
        });
    }

    /// The digests of all that was ready, those of bindings first, and the uploads that were being compiled.
    fn known_modules(&self) -> (Vec<Digest>, Vec<Pending>) {
        let meta = self.group(GroupId::META);
        let state = meta.state.borrow();
        let (mut digests, mut ready, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        for (bucket_name, bucket) in state.meta().buckets() {
            digests.extend(bucket.bindings.values().map(|binding| binding.digest));
            for (name, module) in &bucket.modules {
                for &Revision { number, digest, ready: is_ready, .. } in &module.revisions {
                    match is_ready {
                        true => ready.push(digest),
                        false => {
                            pending.push(Pending { bucket: bucket_name.into(), name: name.clone(), number, digest })
                        }
                    }
                }
            }
        }
        digests.extend(ready);
        (digests, pending)
    }

    /// Makes sure that a bucket is there, if it may come to be by itself.
    pub(crate) async fn ensure_bucket(self: &Rc<Self>, bucket: &str) -> Result<(), ShardError> {
        if self.group(GroupId::META).state.borrow().meta().bucket(bucket).is_some() {
            return Ok(());
        }
        if !self.config.buckets_auto_create {
            return Err(ShardError::BucketUnknown);
        }
        self.bucket_create(bucket).await.map(|_| ())
    }
}

/// An upload that was being compiled when the process ended.
struct Pending {
    bucket: Box<str>,
    name: Box<str>,
    number: u32,
    digest: Digest,
}

/// What an upload is refused for at once.
fn refused(refusal: weir_wasm::Refusal) -> ShardError {
    match refusal {
        weir_wasm::Refusal::TooLarge { bytes_max, .. } => ShardError::ModuleTooLarge { bytes_max },
        other => ShardError::ModuleInvalid(other.to_string().into()),
    }
}

/// The compiler's words, for whoever uploaded it.
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
        use weir_wasm::GuestError;
        match error {
            GuestError::NotReady => ShardError::ModuleNotReady,
            GuestError::Stopped | GuestError::FoldLost => ShardError::Unavailable,
            GuestError::ConfigRefused(_)
            | GuestError::Trapped { .. }
            | GuestError::Refused(_)
            | GuestError::Garbage(_) => ShardError::ModuleTrapped(Arc::from(error.to_string())),
        }
    }
}
