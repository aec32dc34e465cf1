//! When modules were wanted last on this node, in a cluster.
//!
//! Where a node does not lead, it does not know at once that a module is not used any more, or is about to be: what it has applied
//! may be old. So what was wanted stays for a while. That is longer than a leader may take to announce what it has had others keep:
//! it would have lost its lease.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use weir_types::Digest;

/// How long what was wanted stays.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(600);

/// When modules were wanted last on this node.
#[derive(Default)]
pub(crate) struct LastWanted {
    bytes: RefCell<HashMap<Digest, Instant>>,
    code: RefCell<HashMap<Digest, Instant>>,
}

impl LastWanted {
    /// Their bytes are wanted.
    pub(crate) fn note_bytes(&self, digests: impl IntoIterator<Item = Digest>) {
        let now = Instant::now();
        self.bytes.borrow_mut().extend(digests.into_iter().map(|digest| (digest, now)));
    }

    /// It is to be ready.
    pub(crate) fn note_code(&self, digest: Digest) {
        self.note_bytes([digest]);
        self.code.borrow_mut().insert(digest, Instant::now());
    }

    /// Modules whose bytes are to stay.
    pub(crate) fn bytes(&self) -> HashSet<Digest> {
        recent(&self.bytes)
    }

    /// Modules that are to stay ready.
    pub(crate) fn code(&self) -> HashSet<Digest> {
        recent(&self.code)
    }
}

/// Forgets what was wanted too long ago, and returns the others.
fn recent(wanted: &RefCell<HashMap<Digest, Instant>>) -> HashSet<Digest> {
    let mut wanted = wanted.borrow_mut();
    wanted.retain(|_, at| at.elapsed() < KEPT_FOR);
    wanted.keys().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_wanted_stays_for_a_while() {
        let (bytes, code) = (Digest([1; 32]), Digest([2; 32]));
        let wanted = LastWanted::default();
        wanted.note_bytes([bytes]);
        tokio::time::advance(KEPT_FOR / 2).await;
        wanted.note_code(code);
        assert_eq!((wanted.bytes(), wanted.code()), ([bytes, code].into(), [code].into()));
        tokio::time::advance(KEPT_FOR / 2).await;
        assert_eq!((wanted.bytes(), wanted.code()), ([code].into(), [code].into()));
        tokio::time::advance(KEPT_FOR / 2).await;
        assert_eq!((wanted.bytes(), wanted.code()), ([].into(), [].into()));
    }
}
