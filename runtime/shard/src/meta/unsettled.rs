//! Which changes of buckets every group has heard of, and which buckets the reconciler is to see to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use weir_types::Wakeup;

/// The buckets of group 0 that are to be settled, and those that are known to be.
#[derive(Default)]
pub(crate) struct Unsettled {
    names: RefCell<BTreeSet<Box<str>>>,
    filled: Wakeup,
    /// The last change of each bucket that every group is known to have heard of. Groups forget none, so this stays true.
    told: RefCell<BTreeMap<Box<str>, u64>>,
}

impl Unsettled {
    pub(crate) fn add(&self, name: &str) {
        self.names.borrow_mut().insert(name.into());
        self.filled.ring();
    }

    /// All of them, once there are any; they are no longer here then.
    pub(crate) async fn take(&self) -> BTreeSet<Box<str>> {
        loop {
            let names = self.names.take();
            if !names.is_empty() {
                return names;
            }
            self.filled.rung().await;
        }
    }

    /// Every group has heard of the bucket's change `epoch`.
    pub(crate) fn note_told(&self, name: &str, epoch: u64) {
        let mut told = self.told.borrow_mut();
        let last = told.entry(name.into()).or_default();
        *last = epoch.max(*last);
    }

    /// Whether every group is known to have heard of the bucket's change `epoch`.
    pub(crate) fn is_told(&self, name: &str, epoch: u64) -> bool {
        self.told.borrow().get(name).is_some_and(|told| *told >= epoch)
    }

    /// The bucket is gone.
    pub(crate) fn forget_told(&self, name: &str) {
        self.told.borrow_mut().remove(name);
    }

    /// What was known may be of buckets that went while another node led group 0.
    pub(crate) fn forget_all_told(&self) {
        self.told.borrow_mut().clear();
    }
}
