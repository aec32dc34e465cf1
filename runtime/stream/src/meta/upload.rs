//! Uploads in group 0: announced, found ready or not, removed.

use weir_types::Digest;
use weir_types::limits::{MODULES_PER_BUCKET_MAX, REVISIONS_KEPT};

use crate::meta::{Meta, MetaBucket};
use crate::module::{Module, Revision, Upload};
use crate::reply::{Refusal, Reply};

impl Meta {
    /// All bytes that a revision or a binding names.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.buckets().flat_map(|(_, bucket)| {
            let revisions = bucket.modules.values().flat_map(|module| &module.revisions);
            let bound = bucket.bindings.values().map(|binding| binding.digest);
            bound.chain(revisions.map(|revision| revision.digest))
        })
    }

    pub(crate) fn module_put(
        &mut self,
        bucket: &str,
        name: &str,
        upload: &Upload<'_>,
        time_ms: u64,
    ) -> Result<Reply, Refusal> {
        let bucket = self.active_bucket(bucket)?;
        if !bucket.modules.contains_key(name) && bucket.modules.len() >= MODULES_PER_BUCKET_MAX {
            return Err(Refusal::ModuleLimit);
        }
        let module = bucket.modules.entry(name.into()).or_default();
        if let Some(first) = module.revisions.first()
            && first.digest == upload.digest
        {
            module.failed = None;
            return Ok(Reply::Module { revision: first.number, existed: true });
        }
        module.numbers += 1;
        let number = module.numbers;
        // What was compiled before is not compiled again.
        let ready = module.revision_of(upload.digest).is_some_and(|revision| revision.ready);
        module.revisions.retain(|revision| revision.digest != upload.digest);
        let &Upload { digest, bytes, roles } = upload;
        let revision = Revision { number, digest, bytes, roles: roles.to_vec(), created_ms: time_ms, ready };
        module.revisions.insert(0, revision);
        module.failed = None;
        assert!(module.revisions.is_sorted_by(|a, b| a.number > b.number), "the newest is the first");
        bucket.forget_old_revisions(name);
        Ok(Reply::Module { revision: number, existed: false })
    }

    pub(crate) fn module_ready(&mut self, bucket: &str, name: &str, digest: Digest) -> Result<Reply, Refusal> {
        self.change_revision(bucket, name, digest, |module, at| module.revisions[at].ready = true)
    }

    pub(crate) fn module_failed(
        &mut self,
        bucket: &str,
        name: &str,
        digest: Digest,
        reason: &str,
    ) -> Result<Reply, Refusal> {
        self.change_revision(bucket, name, digest, |module, at| {
            let revision = module.revisions.remove(at);
            // An earlier one has nothing to say any more.
            if revision.number == module.numbers {
                module.failed = Some((revision, reason.into()));
            }
        })
    }

    pub(crate) fn module_delete(&mut self, bucket: &str, name: &str) -> Result<Reply, Refusal> {
        let bucket = self.active_bucket(bucket)?;
        if bucket.bindings.values().any(|binding| binding.module_name() == Some(name)) {
            return Err(Refusal::ModuleInUse);
        }
        bucket.modules.remove(name).map(|_| Reply::Done).ok_or(Refusal::ModuleNotFound)
    }

    /// Changes a revision that is still there; `change` gets its place.
    fn change_revision(
        &mut self,
        bucket: &str,
        name: &str,
        digest: Digest,
        change: impl FnOnce(&mut Module, usize),
    ) -> Result<Reply, Refusal> {
        let module = self.bucket_mut(bucket).and_then(|bucket| bucket.modules.get_mut(name));
        let module = module.ok_or(Refusal::ModuleNotFound)?;
        let at = module.revisions.iter().position(|revision| revision.digest == digest);
        change(module, at.ok_or(Refusal::ModuleNotFound)?);
        Ok(Reply::Done)
    }
}

impl MetaBucket {
    /// Keeps the newest upload, the newest that are ready, and those that a binding uses.
    fn forget_old_revisions(&mut self, name: &str) {
        let bound: Vec<Digest> = self.bindings.values().map(|binding| binding.digest).collect();
        let module = self.modules.get_mut(name).expect("the caller has just put it");
        let (newest, mut ready) = (module.numbers, 0);
        module.revisions.retain(|revision| {
            ready += usize::from(revision.ready);
            revision.number == newest
                || (revision.ready && (ready <= REVISIONS_KEPT || bound.contains(&revision.digest)))
        });
    }
}
