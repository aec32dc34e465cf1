//! Memory of what clients have asked for and not taken yet, of all shards together: pages, views, listings.
//!
//! A page is decided on its stream's shard and let go on its reader's, so this is one number that all shards share. A
//! page carries its claim with it, inside its last chunk: whoever drops the bytes gives the claim back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// What is encoded of live events at a time, in bytes; an event that is larger goes in parts.
pub const ENCODED_BYTES_MAX: usize = 64 << 10;
/// What a line break takes more than its own byte when it is encoded, with a space after it.
pub(crate) const LINE_BREAK_BYTES: usize = 6;
/// How much longer bytes become when they are encoded, at most: when all are line breaks.
const ENCODED_FACTOR: usize = 1 + LINE_BREAK_BYTES;
/// A page while memory is short, in bytes: what a client of a slow network takes within a minute.
const SHORT_PAGE_BYTES_MAX: usize = 256 << 10;
/// Pages that wait for the cold tier have at most this part of the budget, one in so many.
const WAITING_PART: usize = 2;
/// One connection has at most this part of a budget, one in so many.
pub(crate) const SHARES: usize = 4;

/// The bytes that pages may have at a time. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct PageBudget {
    claimed: Arc<AtomicUsize>,
    /// Of pages that wait for the cold tier.
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl PageBudget {
    /// Nothing is claimed of `bytes_max`.
    pub fn new(bytes_max: usize) -> PageBudget {
        PageBudget { claimed: Arc::default(), waiting: Arc::default(), bytes_max }
    }

    /// What may be claimed at a time, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What is claimed now, in bytes.
    pub fn claimed(&self) -> usize {
        self.claimed.load(Relaxed)
    }

    /// What one connection may have of it, in bytes.
    pub(crate) fn share(&self) -> usize {
        self.bytes_max / SHARES
    }

    /// The bytes of a page for which up to `asked` are wanted. Where readers that are slow have half of what there is, or a cold
    /// tier that is slow has half of what it may have, pages are small, and so go on for everybody.
    pub(crate) fn page_bytes_max(&self, asked: usize) -> usize {
        let is_short =
            self.claimed() > self.bytes_max / 2 || self.waiting.load(Relaxed) > self.bytes_max / WAITING_PART / 2;
        if is_short { asked.min(SHORT_PAGE_BYTES_MAX) } else { asked }
    }

    /// Claims `bytes`, if there are so many left. A page larger than all there is gets it when nobody else has any.
    pub(crate) fn claim(&self, bytes: usize) -> Option<PageClaim> {
        PageClaim::of(&self.claimed, bytes, self.bytes_max)
    }

    /// As [`PageBudget::claim`], for bytes that are waited for: what is in memory or in the log is read all the same when the cold
    /// tier does not answer.
    pub(crate) fn wait(&self, bytes: usize) -> Option<PageClaim> {
        PageClaim::of(&self.waiting, bytes, self.bytes_max / WAITING_PART)
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct PageClaim {
    counted: Arc<AtomicUsize>,
    bytes: usize,
}

impl PageClaim {
    fn of(counted: &Arc<AtomicUsize>, bytes: usize, bytes_max: usize) -> Option<PageClaim> {
        let before = counted.fetch_add(bytes, Relaxed);
        let claim = PageClaim { counted: counted.clone(), bytes };
        (before == 0 || before + bytes <= bytes_max).then_some(claim)
    }
}

impl Drop for PageClaim {
    fn drop(&mut self) {
        self.counted.fetch_sub(self.bytes, Relaxed);
    }
}

/// What `bytes` take while they are sent as live events: their own memory, and that of the part that is encoded.
pub(crate) fn with_encoded(bytes: usize) -> usize {
    bytes + encoded_bytes_max(bytes).min(ENCODED_BYTES_MAX)
}

/// What `bytes` become when they are encoded, at most.
pub(crate) fn encoded_bytes_max(bytes: usize) -> usize {
    bytes.saturating_mul(ENCODED_FACTOR)
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
        let claimed = || budget.claimed();
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

    #[test]
    fn pages_are_small_while_memory_is_short() {
        let budget = PageBudget::new(8 << 20);
        let _half = budget.claim(4 << 20).expect("there is enough");
        assert_eq!(budget.page_bytes_max(4 << 20), 4 << 20);
        let more = budget.claim(1).expect("there is enough");
        assert_eq!([4 << 20, 100].map(|asked| budget.page_bytes_max(asked)), [SHORT_PAGE_BYTES_MAX, 100]);
        drop(more);
        assert_eq!(budget.page_bytes_max(4 << 20), 4 << 20);
    }

    #[test]
    fn pages_that_wait_for_the_cold_tier_leave_half_to_others() {
        let budget = PageBudget::new(8 << 20);
        let most = budget.wait(3 << 20).expect("there is enough");
        assert_eq!(budget.page_bytes_max(4 << 20), SHORT_PAGE_BYTES_MAX);
        assert!(budget.wait((1 << 20) + 1).is_none());
        let rest = budget.wait(1 << 20).expect("there is enough");
        drop((most, rest));
        assert!(budget.wait(9 << 20).is_some(), "or it could never be read");
        assert_eq!(budget.page_bytes_max(4 << 20), 4 << 20);
    }
}
