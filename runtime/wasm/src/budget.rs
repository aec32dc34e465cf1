//! Memory of all guests of the node: one budget, of which every thread that runs guests has its share.
//!
//! Claimed are the memories and tables of instances as they grow, a little for each instance itself, and the snapshots of
//! folds that are kept. A thread that is over its share gives up what it has used least recently; only what the node has
//! not is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The node's budget.
#[derive(Debug)]
pub(crate) struct GuestBudget {
    bytes_max: usize,
    claimed: AtomicUsize,
}

/// One thread's share of the budget, and what it has claimed. Clones are the same share.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    budget: Arc<GuestBudget>,
    bytes_max: usize,
    claimed: Arc<AtomicUsize>,
}

/// Bytes of a share, given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    share: Share,
    bytes: usize,
}

impl GuestBudget {
    pub(crate) fn new(bytes_max: usize) -> Arc<GuestBudget> {
        Arc::new(GuestBudget { bytes_max, claimed: AtomicUsize::new(0) })
    }

    /// One of `shares` shares.
    pub(crate) fn share(self: &Arc<Self>, shares: usize) -> Share {
        Share { budget: self.clone(), bytes_max: self.bytes_max / shares.max(1), claimed: Arc::default() }
    }
}

impl Share {
    /// Whether `bytes` more would be more than the share.
    pub(crate) fn is_exceeded_by(&self, bytes: usize) -> bool {
        self.claimed.load(Relaxed).saturating_add(bytes) > self.bytes_max
    }

    /// A claim of nothing yet.
    pub(crate) fn claim(&self) -> Claim {
        Claim { share: self.clone(), bytes: 0 }
    }

    pub(crate) fn claimed(&self) -> usize {
        self.claimed.load(Relaxed)
    }
}

impl Claim {
    /// Claims `bytes` more; whether the node has so many.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Share { budget, claimed, .. } = &self.share;
        let fits = |before: usize| before.checked_add(bytes).filter(|&after| after <= budget.bytes_max);
        let is_claimed = budget.claimed.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if is_claimed {
            claimed.fetch_add(bytes, Relaxed);
            self.bytes += bytes;
        }
        is_claimed
    }

    /// Moves the claim to another share of the same budget.
    pub(crate) fn move_to(&mut self, share: &Share) {
        self.share.claimed.fetch_sub(self.bytes, Relaxed);
        share.claimed.fetch_add(self.bytes, Relaxed);
        self.share = share.clone();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.share.claimed.fetch_sub(self.bytes, Relaxed);
        self.share.budget.claimed.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_advice_and_the_budget_is_the_limit() {
        let budget = GuestBudget::new(100);
        let (one, two) = (budget.share(2), budget.share(2));
        let mut large = one.claim();
        assert!(large.grow(80), "the others have left it");
        assert!(one.is_exceeded_by(0) && !two.is_exceeded_by(50) && two.is_exceeded_by(51));
        let mut small = two.claim();
        assert!(!small.grow(21));
        assert!(small.grow(20));
        large.move_to(&two);
        assert_eq!((one.claimed(), two.claimed()), (0, 100));
        drop(large);
        assert_eq!((two.claimed(), budget.claimed.load(Relaxed)), (20, 20));
        drop(small);
        assert_eq!((two.claimed(), budget.claimed.load(Relaxed)), (0, 0));
    }
}
