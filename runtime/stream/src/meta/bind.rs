//! Binding modules to streams: in group 0, which numbers the change, and in every group's own copy of the bucket.

use std::sync::Arc;

use weir_types::limits::{BINDING_CONFIGS_BYTES_MAX, BINDINGS_PER_BUCKET_MAX};
use weir_types::{Role, StreamKey};

use crate::binding::{Binding, EPOCH_UNJUDGED, EncodedBindings};
use crate::group::Group;
use crate::meta::{Meta, MetaBucket};
use crate::reply::{Refusal, Reply};

impl Group {
    /// How often the bindings of this group have changed. A write that was checked under another count is stale.
    pub fn bindings_epoch(&self) -> u64 {
        self.bindings_epoch
    }

    /// The bindings of `role` that are for the stream at `key`, in the order of their names.
    pub fn bindings(&self, key: &StreamKey, role: Role) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings_of(key.bucket(), key.name(), role)
    }

    /// As [`Group::bindings`], for the stream `name` of `bucket`.
    pub(crate) fn bindings_of(&self, bucket: &str, name: &str, role: Role) -> impl Iterator<Item = &Arc<Binding>> {
        // Most groups have no binding at all, and every append asks.
        let bucket = if self.bound_buckets == 0 { None } else { self.buckets.get(bucket) };
        let list = bucket.map_or(&[][..], |bucket| &bucket.bindings);
        list.iter().filter(move |binding| binding.role == role && binding.streams.matches(name))
    }

    /// Replaces the bindings of a bucket that is there.
    pub(crate) fn set_bindings(&mut self, bucket: &str, bindings: Vec<Arc<Binding>>) {
        let bucket = self.buckets.get_mut(bucket).expect("the caller has found it");
        if bucket.bindings != bindings {
            self.bound_buckets += usize::from(!bindings.is_empty());
            assert!(self.bound_buckets > 0, "something was bound, or is now");
            self.bound_buckets -= usize::from(!bucket.bindings.is_empty());
            self.bindings_epoch += 1;
            assert!(self.bindings_epoch < EPOCH_UNJUDGED, "changes are counted one by one");
            bucket.bindings = bindings;
        }
    }
}

impl Meta {
    pub(crate) fn binding_put(&mut self, bucket: &str, binding: EncodedBindings<'_>) -> Result<Reply, Refusal> {
        let [binding] = <[Binding; 1]>::try_from(binding.decode()).expect("one is put at a time: the codec checks it");
        let name = binding.name.clone();
        match self.active_bucket(bucket)?.binding_put(binding)? {
            Put::Same { epoch } => Ok(Reply::Binding { epoch, existed: true }),
            Put::Changed { existed } => {
                let epoch = self.next_change();
                let bucket = self.bucket_mut(bucket).expect("it has the binding");
                let binding = bucket.bindings.get_mut(&name).expect("it was just put");
                Arc::make_mut(binding).epoch = epoch;
                bucket.epoch = epoch;
                Ok(Reply::Binding { epoch, existed })
            }
        }
    }

    pub(crate) fn binding_delete(&mut self, bucket: &str, name: &str) -> Result<Reply, Refusal> {
        self.active_bucket(bucket)?.bindings.remove(name).ok_or(Refusal::BindingNotFound)?;
        let epoch = self.next_change();
        self.bucket_mut(bucket).expect("it had the binding").epoch = epoch;
        Ok(Reply::Binding { epoch, existed: true })
    }
}

/// What has become of a binding that was put.
enum Put {
    /// It is what it was.
    Same { epoch: u64 },
    /// It is there now, without an epoch yet.
    Changed { existed: bool },
}

impl MetaBucket {
    fn binding_put(&mut self, binding: Binding) -> Result<Put, Refusal> {
        if let Some(name) = binding.module_name() {
            let module = self.modules.get(name).ok_or(Refusal::ModuleNotFound)?;
            let revision = module.revision_of(binding.digest).ok_or(Refusal::ModuleNotFound)?;
            if !revision.ready {
                return Err(Refusal::ModuleNotReady);
            }
        }
        let existing = self.bindings.get(&binding.name);
        if let Some(existing) = existing
            && existing.is_asked_for_as(&binding)
        {
            return Ok(Put::Same { epoch: existing.epoch });
        }
        let existed = existing.is_some();
        let others = self.bindings.values().filter(|other| other.name != binding.name);
        let config_bytes: usize = others.map(|other| other.config.len()).sum();
        let is_full = !existed && self.bindings.len() >= BINDINGS_PER_BUCKET_MAX;
        if is_full || config_bytes + binding.config.len() > BINDING_CONFIGS_BYTES_MAX {
            return Err(Refusal::BindingLimit);
        }
        self.bindings.insert(binding.name.clone(), Arc::new(binding));
        Ok(Put::Changed { existed })
    }
}
