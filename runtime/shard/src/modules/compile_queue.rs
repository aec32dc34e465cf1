//! Whose turn it is to have a child process look at a module or compile it.
//!
//! A bucket has one turn at a time, and all buckets together have [`RUNNING_MAX`]. Buckets that wait take turns, so that the
//! modules of one that take long hold up no other's for longer than one of them takes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::message::ShardError;

/// Children that run at a time. They stand back behind the shards.
const RUNNING_MAX: usize = 2;
/// Modules of one bucket that may wait or run.
const PLACES_PER_BUCKET: usize = 8;
/// Modules of all buckets.
const PLACES_MAX: usize = 256;

/// The queue. Clones are the same.
#[derive(Clone)]
pub(crate) struct CompileQueue(Rc<Inner>);

struct Inner {
    running: Semaphore,
    /// Buckets that have a place.
    buckets: RefCell<HashMap<Box<str>, BucketQueue>>,
}

/// One permit, for which a bucket's modules wait in order, and the number of its places.
type BucketQueue = (Rc<Semaphore>, usize);

/// A module's place in the queue, until it is dropped.
pub(crate) struct Place {
    queue: CompileQueue,
    bucket: Box<str>,
    of_bucket: Rc<Semaphore>,
}

/// A module's turn, until it is dropped.
pub(crate) struct Turn<'a> {
    _of_bucket: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl CompileQueue {
    pub(crate) fn new() -> CompileQueue {
        CompileQueue(Rc::new(Inner { running: Semaphore::new(RUNNING_MAX), buckets: RefCell::default() }))
    }

    /// A place for a client's module.
    ///
    /// # Errors
    /// [`ShardError::ModulesWaiting`] when there are as many as there may be.
    pub(crate) fn enter(&self, bucket: &str) -> Result<Place, ShardError> {
        let places = |all: bool| {
            let buckets = self.0.buckets.borrow();
            let counted = buckets.iter().filter(|(name, _)| all || ***name == *bucket);
            counted.map(|(_, (_, places))| places).sum::<usize>()
        };
        if places(false) >= PLACES_PER_BUCKET || places(true) >= PLACES_MAX {
            return Err(ShardError::ModulesWaiting);
        }
        Ok(self.place(bucket))
    }

    /// A place for what has to be done in any case.
    pub(crate) fn place(&self, bucket: &str) -> Place {
        let mut buckets = self.0.buckets.borrow_mut();
        let (of_bucket, places) = buckets.entry(bucket.into()).or_insert_with(|| (Rc::new(Semaphore::new(1)), 0));
        *places += 1;
        Place { queue: self.clone(), bucket: bucket.into(), of_bucket: of_bucket.clone() }
    }
}

impl Place {
    /// Waits for the module's turn. Only the first of each bucket waits with those of the others, so these take turns.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let open = "nobody closes it";
        let of_bucket = self.of_bucket.acquire().await.expect(open);
        Turn { _of_bucket: of_bucket, _of_all: self.queue.0.running.acquire().await.expect(open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut buckets = self.queue.0.buckets.borrow_mut();
        let (_, places) = buckets.get_mut(&self.bucket).expect("it has this place");
        *places -= 1;
        if *places == 0 {
            buckets.remove(&self.bucket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether it is the place's turn now.
    async fn is_on(place: &Place) -> bool {
        tokio::time::timeout(Duration::ZERO, place.turn()).await.is_ok()
    }

    #[tokio::test]
    async fn one_bucket_holds_up_no_other() {
        let queue = CompileQueue::new();
        let [first, second, other] = ["a", "a", "b"].map(|bucket| queue.place(bucket));
        let running = first.turn().await;
        assert!(!is_on(&second).await && is_on(&other).await);
        drop(running);
        assert!(is_on(&second).await);
    }

    #[tokio::test]
    async fn buckets_take_turns() {
        let queue = CompileQueue::new();
        let places: Vec<Place> = ["a", "b", "c"].into_iter().map(|bucket| queue.place(bucket)).collect();
        let next = queue.place("a");
        let (first, _second) = (places[0].turn().await, places[1].turn().await);
        // The third bucket came before the first one's next module, and gets the turn that becomes free.
        let mut third = Box::pin(places[2].turn());
        assert!(tokio::time::timeout(Duration::ZERO, &mut third).await.is_err());
        drop(first);
        let _third = third.await;
        assert!(!is_on(&next).await);
    }

    #[test]
    fn a_bucket_has_only_so_many_places() {
        let queue = CompileQueue::new();
        let mut places: Vec<Place> = (0..PLACES_PER_BUCKET).map(|_| queue.enter("a").expect("a place")).collect();
        assert!(matches!(queue.enter("a"), Err(ShardError::ModulesWaiting)));
        let _other = queue.enter("b").expect("another bucket has its own");
        places.pop();
        places.push(queue.enter("a").expect("a place has become free"));
        drop(places);
        assert_eq!(queue.0.buckets.borrow().len(), 1, "nothing is kept of a bucket without places");
    }
}
