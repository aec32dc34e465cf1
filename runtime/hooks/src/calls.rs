//! Which webhooks are called now, and which wait for it.
//!
//! Webhooks that hang keep their calls until their time is over. So that those of one bucket, or at one host, do not keep all of them,
//! - a bucket gets another call only while it has fewer than are free: half of all if nobody else calls, and something is always left for
//!   who comes next. A host gets one while it has fewer than twice as many as are free;
//! - of those that wait, the bucket with the fewest calls is next, and of its webhooks who came first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Webhooks that wait, at most. What does not may come again.
const WAITING_MAX: usize = 4_096;

/// One call that may be made. It is another's when this is dropped.
pub struct Call {
    calls: Arc<Calls>,
    bucket: Box<str>,
    host: Box<str>,
}

/// All calls of a process.
pub(crate) struct Calls {
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: usize,
    /// Calls by bucket, and by host.
    buckets: HashMap<Box<str>, usize>,
    hosts: HashMap<Box<str>, usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    bucket: Box<str>,
    host: Box<str>,
    sender: oneshot::Sender<Call>,
}

impl Calls {
    pub(crate) fn new(max: usize) -> Arc<Calls> {
        Arc::new(Calls { max, state: Mutex::default() })
    }

    /// Waits for a call; `None` when too many wait, and it would have to.
    pub(crate) async fn begin(self: &Arc<Self>, bucket: &str, host: &str) -> Option<Call> {
        let receiver = {
            let mut state = self.state();
            state.waiting.retain(|waiting| !waiting.sender.is_closed());
            // Of those that wait, none may be called now: each was let in when it came to that.
            if state.waiting.len() >= WAITING_MAX && !state.fits(bucket, host, self.max) {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting { bucket: bucket.into(), host: host.into(), sender });
            receiver
        };
        self.admit();
        receiver.await.ok()
    }

    /// Lets in whom there is room for.
    fn admit(self: &Arc<Self>) {
        loop {
            let Some(next) = self.state().next(self.max) else { return };
            let Waiting { bucket, host, sender } = next;
            // Where nobody waits any more, it is dropped, and with that given to somebody else.
            drop(sender.send(Call { calls: self.clone(), bucket, host }));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next of those that wait, and counts its call.
    fn next(&mut self, max: usize) -> Option<Waiting> {
        let may_begin = |(_, waiting): &(usize, &Waiting)| {
            self.fits(&waiting.bucket, &waiting.host, max) && !waiting.sender.is_closed()
        };
        let fitting = self.waiting.iter().enumerate().filter(may_begin);
        let (at, _) = fitting.min_by_key(|(_, waiting)| own(&self.buckets, &waiting.bucket))?;
        let next = self.waiting.remove(at)?;
        self.calls += 1;
        *self.buckets.entry(next.bucket.clone()).or_default() += 1;
        *self.hosts.entry(next.host.clone()).or_default() += 1;
        Some(next)
    }

    /// Whether a bucket's webhook at this host may be called now.
    fn fits(&self, bucket: &str, host: &str, max: usize) -> bool {
        let free = max.saturating_sub(self.calls);
        own(&self.buckets, bucket) < free && own(&self.hosts, host) < 2 * free
    }

    fn end(&mut self, call: &Call) {
        self.calls -= 1;
        for (calls, of) in [(&mut self.buckets, &call.bucket), (&mut self.hosts, &call.host)] {
            let own = calls.get_mut(of).expect("it was counted when it began");
            *own -= 1;
            if *own == 0 {
                calls.remove(of);
            }
        }
    }
}

fn own(calls: &HashMap<Box<str>, usize>, of: &str) -> usize {
    calls.get(of).copied().unwrap_or(0)
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.state().end(self);
        self.calls.admit();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn begun(calls: &Arc<Calls>, bucket: &str, host: &str) -> Option<Call> {
        calls.begin(bucket, host).now_or_never().flatten()
    }

    #[test]
    fn a_bucket_whose_webhooks_hang_leaves_calls_to_others() {
        let calls = Calls::new(8);
        let hanging: Vec<Call> = (0..20).map_while(|n| begun(&calls, "a", &format!("host-{n}"))).collect();
        assert_eq!(hanging.len(), 4, "half of all");
        let others: Vec<Call> = ["b", "c", "d"].iter().map_while(|bucket| begun(&calls, bucket, "host")).collect();
        assert_eq!(others.len(), 3);
        assert!(begun(&calls, "b", "other").is_none() && begun(&calls, "e", "other").is_some());
        assert_eq!(calls.state().calls, 7, "what is waited for no longer is counted no longer");
        drop((hanging, others));
        assert_eq!(calls.state().calls, 0);
        assert!(calls.state().buckets.is_empty() && calls.state().hosts.is_empty());
    }

    #[test]
    fn a_host_that_hangs_leaves_calls_to_others() {
        let calls = Calls::new(9);
        let hanging: Vec<Call> = (0..20).map_while(|n| begun(&calls, &format!("b-{n}"), "slow")).collect();
        assert_eq!(hanging.len(), 6, "two thirds of all");
        assert!(begun(&calls, "another", "slow").is_none());
        assert!(begun(&calls, "another", "fast").is_some());
    }

    #[tokio::test]
    async fn who_has_the_fewest_calls_is_next() {
        let calls = Calls::new(2);
        let first = begun(&calls, "a", "h").expect("there is room");
        let (mut second, mut other) = (Box::pin(calls.begin("a", "h")), Box::pin(calls.begin("b", "h")));
        assert!(second.as_mut().now_or_never().is_none(), "it has as many as are free");
        let other = other.as_mut().now_or_never().flatten().expect("it has none");
        drop(other);
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.await.is_some());
        assert_eq!(calls.state().calls, 0);
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let calls = Calls::new(1);
        let first = begun(&calls, "a", "h").expect("there is room");
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(calls.begin("a", "h"))).collect();
        assert!(waiting.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
        let refused = calls.begin("b", "h").now_or_never().expect("it does not wait");
        assert!(refused.is_none());
        drop(waiting.pop());
        assert!(calls.begin("b", "h").now_or_never().is_none(), "there is room to wait");
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().flatten().is_some(), "who came first");
    }

    #[test]
    fn who_need_not_wait_is_let_in_however_many_wait() {
        let calls = Calls::new(8);
        let hanging: Vec<Call> = (0..4).map_while(|_| begun(&calls, "a", "h")).collect();
        assert_eq!(hanging.len(), 4);
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(calls.begin("a", "h"))).collect();
        assert!(waiting.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
        let other = begun(&calls, "b", "other");
        assert!(other.is_some(), "its bucket has no call");
        assert!(begun(&calls, "a", "other").is_none());
        assert_eq!(calls.state().waiting.len(), WAITING_MAX);
        drop((other, waiting, hanging));
        assert_eq!(calls.state().calls, 0);
    }
}
