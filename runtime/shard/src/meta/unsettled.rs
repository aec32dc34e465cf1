//! Buckets of which a change may not have reached every group: what the reconciler has to do.

use std::cell::RefCell;
use std::collections::BTreeSet;
use weir_types::Wakeup;

/// The buckets of group 0 that are to be settled.
#[derive(Default)]
pub(crate) struct Unsettled {
    names: RefCell<BTreeSet<Box<str>>>,
    filled: Wakeup,
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
}
