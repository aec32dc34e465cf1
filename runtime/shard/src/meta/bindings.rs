//! Bindings: group 0 decides, then every group hears of all of the bucket's bindings, and only then the client is
//! answered. From then on no group stores what the bindings' validators have not seen.

use std::rc::Rc;
use std::sync::Arc;

use weir_stream::{BUILTIN_PREFIX, Binding, Command, EncodedBindings, Refusal, Reply};
use weir_types::{BucketName, Digest, GroupId, ModuleName, Role};
use weir_wasm::{GuestError, InstanceKey};

use crate::core::{Core, Shard};
use crate::message::{Answer, BindingRequest, Request, Response, ShardError};

/// What follows the name of a module that is pinned.
const PIN: &str = "sha256:";

impl Shard {
    /// Makes or changes a binding; when this returns it holds for every stream. The flag says whether there was one of
    /// this name.
    ///
    /// # Errors
    /// [`Refusal::ModuleNotFound`], [`Refusal::ModuleNotReady`], [`Refusal::BindingLimit`],
    /// [`ShardError::BindingInvalid`] when the module refuses the configuration or is not of that role.
    pub async fn binding_put(
        &self,
        bucket: BucketName,
        request: BindingRequest,
    ) -> Result<(Arc<Binding>, bool), ShardError> {
        match self.ask(Request::BindingPut(bucket, Box::new(request))).await? {
            Answer::Binding { binding, existed } => Ok((binding, existed)),
            _ => unreachable!("a bind is answered with the binding"),
        }
    }

    /// All bindings of a bucket, by name.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`].
    pub async fn bindings(&self, bucket: BucketName) -> Result<Vec<Arc<Binding>>, ShardError> {
        match self.ask(Request::Bindings(bucket)).await? {
            Answer::Bindings(bindings) => Ok(bindings),
            _ => unreachable!("a list of bindings is asked for"),
        }
    }

    /// One binding.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`], [`Refusal::BindingNotFound`].
    pub async fn binding(&self, bucket: BucketName, name: ModuleName) -> Result<Arc<Binding>, ShardError> {
        let bindings = self.bindings(bucket).await?;
        let found = bindings.into_iter().find(|binding| *binding.name == *name.as_str());
        found.ok_or_else(|| ShardError::BindingUnknown(name.as_str().into()))
    }

    /// Removes a binding; when this returns no stream has it any more.
    ///
    /// # Errors
    /// [`Refusal::BucketNotFound`], [`Refusal::BindingNotFound`].
    pub async fn binding_delete(&self, bucket: BucketName, name: ModuleName) -> Result<(), ShardError> {
        self.ask(Request::BindingDelete { bucket, name }).await.map(|_| ())
    }
}

impl Core {
    pub(crate) async fn binding_put(self: &Rc<Self>, bucket: &str, request: BindingRequest) -> Response {
        let BindingRequest { name, streams, module, role, config } = request;
        loop {
            // All that takes long comes before the lock, and is looked at again under it.
            let digest = self.resolve(bucket, &module, role)?;
            let _wanted = self.guests.want(digest);
            self.check_binding(bucket, &module, digest, role, &config).await?;
            self.ready_where_led(bucket, digest).await?;
            self.ensure_bucket(bucket).await?;
            let _changes = self.guests.changes.lock().await;
            if self.resolve(bucket, &module, role)? != digest {
                continue;
            }
            self.check_bindings(bucket, name.as_str())?;
            let binding = Binding { name: name.as_str().into(), streams, module, digest, role, config, epoch: 0 };
            let encoded = Binding::encode([&binding].into_iter());
            let put = Command::MetaBindingPut { bucket, binding: EncodedBindings::of(&encoded) };
            let (epoch, existed) = self.change_bindings(bucket, &put).await?;
            // The binding may have been another module's before.
            self.sweep_modules().await;
            return Ok(Answer::Binding { binding: Arc::new(Binding { epoch, ..binding }), existed });
        }
    }

    /// Whether the module takes the configuration in this role. It is loaded for that.
    async fn check_binding(
        self: &Rc<Self>,
        bucket: &str,
        module: &str,
        digest: Digest,
        role: Role,
        config: &Arc<str>,
    ) -> Result<(), ShardError> {
        // One that is brought along is compiled for all buckets.
        let whose_turn = if module.starts_with(BUILTIN_PREFIX) {
            self.guests.store_builtin(digest).await?;
            module
        } else {
            bucket
        };
        self.load(whose_turn, digest).await?;
        let instance = InstanceKey { bucket: bucket.into(), digest, config: config.clone() };
        self.guests.lane.check_config(instance, role).await.map_err(|error| match error {
            GuestError::NotReady => ShardError::Refused(Refusal::ModuleNotReady),
            error @ (GuestError::Stopped | GuestError::Busy) => error.into(),
            error if error.is_of_node() => error.into(),
            other => ShardError::BindingInvalid(other.to_string().into()),
        })
    }

    /// Whether the bucket may have a binding of this name. What replicas must agree on is the format's own limit, which
    /// group 0 checks; this one is the operator's.
    fn check_bindings(&self, bucket: &str, name: &str) -> Result<(), ShardError> {
        let meta = self.meta();
        let Some(bucket) = meta.bucket(bucket) else { return Ok(()) };
        let is_full = bucket.bindings.len() >= self.config.bindings_per_bucket_max;
        if is_full && !bucket.bindings.contains_key(name) { Err(Refusal::BindingLimit.into()) } else { Ok(()) }
    }

    pub(crate) async fn binding_delete(self: &Rc<Self>, bucket: &str, name: &str) -> Response {
        let _changes = self.guests.changes.lock().await;
        let deleted = self.change_bindings(bucket, &Command::MetaBindingDelete { bucket, name }).await;
        deleted.map_err(|error| match error {
            ShardError::Refused(Refusal::BindingNotFound) => ShardError::BindingUnknown(name.into()),
            other => other,
        })?;
        self.sweep_modules().await;
        Ok(Answer::Done)
    }

    pub(crate) fn bindings(&self, bucket: &str) -> Response {
        let meta = self.meta();
        let bucket = meta.bucket(bucket).ok_or(Refusal::BucketNotFound)?;
        Ok(Answer::Bindings(bucket.bindings.values().cloned().collect()))
    }

    /// Has group 0 decide on a change, and tells every group.
    async fn change_bindings(self: &Rc<Self>, bucket: &str, change: &Command<'_>) -> Result<(u64, bool), ShardError> {
        match self.group(GroupId::META).command(change).await? {
            Reply::Binding { epoch, existed } => {
                // Also where nothing has changed: the change before may not have reached everyone.
                self.settle_or_leave(bucket).await?;
                Ok((epoch, existed))
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a change of bindings is not answered with {other:?}"),
        }
    }

    /// The bytes that a binding's `module` means now, if they can be used as `role`.
    fn resolve(&self, bucket: &str, module: &str, role: Role) -> Result<Digest, ShardError> {
        let unknown = || ShardError::ModuleUnknown(module.into());
        if let Some(name) = module.strip_prefix(BUILTIN_PREFIX) {
            let builtin = self.guests.builtins.iter().find(|(builtin, _)| builtin.name == name);
            let &(builtin, digest) = builtin.ok_or_else(unknown)?;
            check_role(module, builtin.roles, role)?;
            return Ok(digest);
        }
        let (name, pinned) = match module.split_once('@') {
            Some((name, pin)) => {
                let digest = pin.strip_prefix(PIN).and_then(|digest| digest.parse::<Digest>().ok());
                let sentence = "a pinned module is written name@sha256: and 64 lower-case hexadecimal digits";
                (name, Some(digest.ok_or_else(|| ShardError::BindingInvalid(sentence.into()))?))
            }
            None => (module, None),
        };
        let meta = self.meta();
        let found = meta.bucket(bucket).and_then(|bucket| bucket.modules.get(name)).ok_or_else(unknown)?;
        let revision = match pinned {
            Some(digest) => found.revision_of(digest).ok_or_else(unknown)?,
            None => match (found.ready(), &found.failed) {
                (Some(revision), _) => revision,
                (None, Some((failed, reason))) if failed.number == found.newest().number => {
                    return Err(ShardError::ModuleFailed { name: name.into(), reason: reason.clone() });
                }
                (None, _) => return Err(Refusal::ModuleNotReady.into()),
            },
        };
        if !revision.ready {
            return Err(Refusal::ModuleNotReady.into());
        }
        check_role(module, &revision.roles, role)?;
        Ok(revision.digest)
    }
}

/// Whether a module has a role.
fn check_role(module: &str, roles: &[Role], role: Role) -> Result<(), ShardError> {
    if roles.contains(&role) {
        return Ok(());
    }
    let has: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let sentence = format!("the module `{module}` is no {}; it is a {}", role.as_str(), has.join(" and a "));
    Err(ShardError::BindingInvalid(sentence.into()))
}
