//! What the leader of group 0 keeps in memory for subscriptions. Nothing of it is missed when another one leads: what is pending is
//! reported again, wakes that are under way end with their leases, and what is due is found in group 0.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};
use weir_types::{GroupId, Wakeup};

/// A bucket, and the number of a subscription in it.
pub(crate) type Place = (Box<str>, u64);

/// The group of the last stream that a wake names, and its name.
pub(crate) type WakeEnd = (GroupId, Box<str>);

/// What is to be looked at, and who is at work.
#[derive(Default)]
pub(crate) struct Desk {
    news: RefCell<BTreeSet<Place>>,
    filled: Wakeup,
    due: RefCell<Due>,
    /// One at a time changes a subscription: what it has read of it holds until it is done.
    turns: RefCell<HashMap<u64, Weak<Mutex<()>>>>,
    /// Subscriptions that are looked at, or wait for their turn, or whose wake is being delivered; and whether something came meanwhile.
    attended: RefCell<HashMap<u64, bool>>,
    /// Where the last wakes ended of subscriptions that had more.
    wake_ends: RefCell<BTreeMap<u64, WakeEnd>>,
    /// Memory of the wakes that are being delivered.
    wakes_bytes: Cell<usize>,
}

/// Subscriptions of which it is kept where the last wake ended; the oldest are forgotten. Their wakes begin anew.
const WAKE_ENDS_MAX: usize = 4_096;
/// What it takes to remember a place, about.
const PLACE_BYTES: usize = 128;
/// What it takes to look at a subscription, besides a wake, about: a task.
const ATTENDING_BYTES: usize = 4096;

/// When what is to be looked at without news, in milliseconds since 1970: each subscription once.
#[derive(Default)]
struct Due {
    /// Buckets, by the time and the subscription's number.
    places: BTreeMap<(u64, u64), Box<str>>,
    times: HashMap<u64, u64>,
}

impl Desk {
    /// Something is new for a subscription.
    pub(crate) fn add(&self, place: Place) {
        self.news.borrow_mut().insert(place);
        self.filled.ring();
    }

    /// A subscription is to be looked at at this time, or before that.
    pub(crate) fn remind(&self, (bucket, number): &Place, at_ms: u64) {
        let due = &mut *self.due.borrow_mut();
        if let Some(before_ms) = due.times.get(number).copied() {
            if before_ms <= at_ms {
                return;
            }
            due.places.remove(&(before_ms, *number));
        }
        due.places.insert((at_ms, *number), bucket.clone());
        due.times.insert(*number, at_ms);
        self.filled.ring();
    }

    /// What is to be looked at, new or due. It is no longer here then.
    pub(crate) fn take(&self, now_ms: u64) -> BTreeSet<Place> {
        let mut places = self.news.take();
        let due = &mut *self.due.borrow_mut();
        while let Some(first) = due.places.first_entry().filter(|first| first.key().0 <= now_ms) {
            let ((_, number), bucket) = first.remove_entry();
            due.times.remove(&number);
            places.insert((bucket, number));
        }
        places
    }

    /// Whether the subscription is looked at, or is to be at some time.
    pub(crate) fn is_to_be_looked_at(&self, number: u64) -> bool {
        self.attended.borrow().contains_key(&number) || self.due.borrow().times.contains_key(&number)
    }

    /// When something is due next, in milliseconds since 1970.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.due.borrow().places.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// Another one leads.
    pub(crate) fn clear(&self) {
        self.news.take();
        self.due.take();
        self.wake_ends.take();
    }

    /// Where the subscription's last wake ended, if there was more.
    pub(crate) fn wake_end(&self, number: u64) -> Option<WakeEnd> {
        self.wake_ends.borrow().get(&number).cloned()
    }

    /// Notes where the subscription's wake ends: nowhere if it names all that there is, or there is no subscription any more.
    pub(crate) fn end_wake_at(&self, number: u64, end: Option<WakeEnd>) {
        let mut ends = self.wake_ends.borrow_mut();
        match end {
            Some(end) => drop(ends.insert(number, end)),
            None => drop(ends.remove(&number)),
        }
        if ends.len() > WAKE_ENDS_MAX {
            ends.pop_first();
        }
    }

    /// Resolves when there is something.
    pub(crate) async fn filled(&self) {
        self.filled.rung().await;
    }

    /// Waits for the turn to change a subscription. It ends when what is returned is dropped.
    pub(crate) async fn turn(self: &Rc<Self>, number: u64) -> Changing {
        let lock = {
            let mut turns = self.turns.borrow_mut();
            let known = turns.get(&number).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(Mutex::new(()));
                turns.insert(number, Arc::downgrade(&lock));
                lock
            })
        };
        let mut changing = Changing { desk: self.clone(), number, lock: Some(lock.clone()), guard: None };
        changing.guard = Some(lock.lock_owned().await);
        changing
    }

    /// Notes that the subscription is looked at, until what is returned is dropped. `None` if it is already: then it is looked at again
    /// when that has ended.
    pub(crate) fn attend(self: &Rc<Self>, place: &Place) -> Option<Attending> {
        let mut attended = self.attended.borrow_mut();
        if let Some(has_news) = attended.get_mut(&place.1) {
            *has_news = true;
            return None;
        }
        attended.insert(place.1, false);
        Some(Attending { desk: self.clone(), place: place.clone(), wake_bytes: 0 })
    }

    /// Memory of all this, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let places = self.news.borrow().len() + 2 * self.due.borrow().times.len() + self.turns.borrow().len();
        let places = places + self.wake_ends.borrow().len();
        places * PLACE_BYTES + self.attended.borrow().len() * ATTENDING_BYTES + self.wakes_bytes.get()
    }
}

/// The turn to change a subscription.
pub(crate) struct Changing {
    desk: Rc<Desk>,
    number: u64,
    /// Held while it is waited for, too.
    lock: Option<Arc<Mutex<()>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.guard = None;
        self.lock = None;
        let mut turns = self.desk.turns.borrow_mut();
        if turns.get(&self.number).is_some_and(|lock| lock.strong_count() == 0) {
            turns.remove(&self.number);
        }
    }
}

/// A subscription that is looked at, with the wake that is being delivered.
pub(crate) struct Attending {
    desk: Rc<Desk>,
    place: Place,
    wake_bytes: usize,
}

impl Attending {
    /// Counts the wake, until this is dropped.
    pub(crate) fn count(&mut self, wake_bytes: usize) {
        self.wake_bytes += wake_bytes;
        self.desk.wakes_bytes.set(self.desk.wakes_bytes.get() + wake_bytes);
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        self.desk.wakes_bytes.set(self.desk.wakes_bytes.get() - self.wake_bytes);
        let has_news = self.desk.attended.borrow_mut().remove(&self.place.1);
        if has_news == Some(true) {
            self.desk.add(self.place.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn place(number: u64) -> Place {
        ("b".into(), number)
    }

    #[test]
    fn what_comes_while_a_subscription_is_looked_at_is_looked_at_once_afterwards() {
        let desk = Rc::new(Desk::default());
        let attending = desk.attend(&place(1)).expect("nobody else does");
        drop(attending);
        assert!(desk.take(0).is_empty(), "nothing came");
        let mut attending = desk.attend(&place(1)).expect("nobody else does");
        attending.count(1 << 20);
        assert!(desk.attend(&place(2)).is_some(), "it is another");
        for _ in 0..3 {
            assert!(desk.attend(&place(1)).is_none() && desk.memory_bytes() > 1 << 20);
        }
        assert!(desk.take(0).is_empty(), "not yet");
        drop(attending);
        assert_eq!(desk.take(0), [place(1)].into());
        assert_eq!(desk.memory_bytes(), 0);
    }

    #[test]
    fn what_is_due_is_looked_at_once_and_at_the_first_of_its_times() {
        let desk = Desk::default();
        for (number, at_ms) in [(1, 500), (2, 300), (1, 200), (1, 900), (2, 400)] {
            desk.remind(&place(number), at_ms);
        }
        assert_eq!((desk.next_ms(), desk.take(199).len()), (Some(200), 0));
        assert_eq!(desk.take(250), [place(1)].into());
        assert_eq!(desk.take(1_000), [place(2)].into());
        assert_eq!((desk.next_ms(), desk.take(1_000).len()), (None, 0), "what was looked at is not due again");
        desk.remind(&place(1), 5);
        desk.clear();
        assert_eq!(desk.next_ms(), None);
    }

    #[test]
    fn turns_follow_each_other_and_leave_nothing_behind() {
        let desk = Rc::new(Desk::default());
        let first = desk.turn(1).now_or_never().expect("it is free");
        let other = desk.turn(2).now_or_never().expect("it is another's");
        let mut second = Box::pin(desk.turn(1));
        assert!(second.as_mut().now_or_never().is_none());
        let mut given_up = Box::pin(desk.turn(1));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop((first, given_up));
        let second = second.now_or_never().expect("it is free");
        assert_eq!(desk.turns.borrow().len(), 2);
        drop((second, other));
        assert!(desk.turns.borrow().is_empty());
    }
}
