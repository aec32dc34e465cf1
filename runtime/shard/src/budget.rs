//! Memory of pages that clients have not taken yet, of all shards together.
//!
//! A page is decided on its stream's shard and let go on its reader's, so this is one number that all shards share. A
//! page carries its claim with it, inside its last chunk: whoever drops the bytes gives the claim back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// The bytes that pages may have at a time. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct PageBudget(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    claimed: AtomicUsize,
    bytes_max: usize,
}

impl PageBudget {
    /// Nothing is claimed of `bytes_max`.
    pub fn new(bytes_max: usize) -> PageBudget {
        PageBudget(Arc::new(Numbers { claimed: AtomicUsize::new(0), bytes_max }))
    }

    /// What is claimed now, in bytes.
    #[cfg(test)]
    pub(crate) fn claimed(&self) -> usize {
        self.0.claimed.load(Relaxed)
    }

    /// Claims `bytes`, if there are so many left. A page larger than all there is gets it when nobody else has any.
    pub(crate) fn claim(&self, bytes: usize) -> Option<PageClaim> {
        let before = self.0.claimed.fetch_add(bytes, Relaxed);
        let claim = PageClaim { budget: self.clone(), bytes };
        (before == 0 || before + bytes <= self.0.bytes_max).then_some(claim)
    }
}

/// A page's part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct PageClaim {
    budget: PageBudget,
    bytes: usize,
}

impl Drop for PageClaim {
    fn drop(&mut self) {
        self.budget.0.claimed.fetch_sub(self.bytes, Relaxed);
    }
}

/// `bytes`, which keep `with` for as long as any part of them is kept.
pub fn keep<T: Send + 'static>(bytes: Bytes, with: T) -> Bytes {
    struct Kept<T>(Bytes, T);
    impl<T> AsRef<[u8]> for Kept<T> {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Kept(bytes, with))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_given_back_with_the_last_of_its_bytes() {
        let budget = PageBudget::new(100);
        let claimed = || budget.0.claimed.load(Relaxed);
        let claim = budget.claim(80).expect("there is enough");
        assert!(budget.claim(21).is_none());
        assert_eq!(claimed(), 80, "a refused claim takes nothing");
        let page = keep(Bytes::from_static(b"page"), claim);
        let part = page.slice(1..2);
        drop(page);
        assert_eq!((&part[..], claimed()), (&b"a"[..], 80));
        drop(part);
        assert_eq!(claimed(), 0);
        assert!(budget.claim(1000).is_some(), "or it could never be read");
    }
}
