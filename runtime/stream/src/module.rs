//! Modules in group 0: what was uploaded under which name, and what has become of it.
//!
//! Each upload is a *revision*. It is announced before it is compiled, and becomes *ready* or is taken out again when
//! that has ended: a module whose compilation failed leaves only the reason. Old revisions stay for going back; their
//! bytes are on the node for as long as a revision or a binding names them ([`Meta::digests`](crate::Meta::digests)).

use serde::{Deserialize, Serialize};
use weir_types::{Digest, Role};

/// A module of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// What can be used, or may soon be; the newest first.
    pub revisions: Vec<Revision>,
    /// The newest upload, if it could not be compiled: what it was, and why not.
    pub failed: Option<(Revision, Box<str>)>,
    /// Uploads so far.
    pub(crate) numbers: u32,
}

/// One upload of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Uploads of this module are numbered from 1 on.
    pub number: u32,
    /// What was uploaded.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// What it can be used as.
    pub roles: Vec<Role>,
    /// When it was uploaded, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether it has been compiled.
    pub ready: bool,
}

/// What is uploaded.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// What it can be used as.
    pub roles: &'a [Role],
}

impl Module {
    /// Whether uploads can have made it: there was one, the newest comes first, and all are counted.
    pub(crate) fn can_be(&self) -> bool {
        let failed = self.failed.as_ref().map(|(revision, _)| revision);
        let all = || self.revisions.iter().chain(failed);
        let falls = self.revisions.is_sorted_by(|a, b| a.number > b.number);
        let is_counted = all().all(|revision| (1..=self.numbers).contains(&revision.number));
        all().count() > 0 && falls && is_counted && self.numbers <= u32::MAX / 2
    }

    /// The newest revision with these bytes.
    pub fn revision_of(&self, digest: Digest) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.digest == digest)
    }

    /// The newest revision that is ready.
    pub fn ready(&self) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.ready)
    }

    /// What was uploaded last.
    pub fn newest(&self) -> &Revision {
        let failed = self.failed.as_ref().map(|(revision, _)| revision);
        failed
            .into_iter()
            .chain(self.revisions.first())
            .max_by_key(|revision| revision.number)
            .expect("it was uploaded")
    }
}
