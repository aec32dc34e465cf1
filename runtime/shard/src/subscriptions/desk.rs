//! What the leader of group 0 keeps in memory for subscriptions. Nothing of it is missed when another one leads: what is pending is
//! reported again, and wakes that are under way end with their leases.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};
use weir_types::Wakeup;

/// A bucket, and the number of a subscription in it.
pub(crate) type Place = (Box<str>, u64);

/// What is to be looked at, and who is at work.
#[derive(Default)]
pub(crate) struct Desk {
    news: RefCell<BTreeSet<Place>>,
    filled: Wakeup,
    /// One at a time changes a subscription: what it has read of it holds until it is done.
    turns: RefCell<HashMap<u64, Weak<Mutex<()>>>>,
    /// Subscriptions whose wake is being delivered.
    delivering: RefCell<HashSet<u64>>,
}

impl Desk {
    /// Something is new for a subscription.
    pub(crate) fn add(&self, place: Place) {
        self.news.borrow_mut().insert(place);
        self.filled.ring();
    }

    /// What is to be looked at. It is no longer here then.
    pub(crate) fn take(&self) -> BTreeSet<Place> {
        self.news.take()
    }

    /// Resolves when there is something.
    pub(crate) async fn filled(&self) {
        self.filled.rung().await;
    }

    /// Waits for the turn to change a subscription.
    pub(crate) async fn turn(&self, number: u64) -> OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns.borrow_mut();
            turns.retain(|_, lock| lock.strong_count() > 0);
            match turns.get(&number).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Mutex::new(()));
                    turns.insert(number, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Notes that a wake of the subscription is being delivered, until what is returned is dropped; `None` if one is already.
    pub(crate) fn deliver(self: &Rc<Self>, number: u64) -> Option<Delivering> {
        let is_first = self.delivering.borrow_mut().insert(number);
        is_first.then(|| Delivering { desk: self.clone(), number })
    }

    pub(crate) fn is_delivering(&self, number: u64) -> bool {
        self.delivering.borrow().contains(&number)
    }
}

/// A wake that is being delivered.
pub(crate) struct Delivering {
    desk: Rc<Desk>,
    number: u64,
}

impl Drop for Delivering {
    fn drop(&mut self) {
        self.desk.delivering.borrow_mut().remove(&self.number);
    }
}
