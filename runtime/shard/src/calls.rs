//! Calls: requests of this shard's connections that wait for an answer, from this shard or another, of this node or another.
//!
//! A call is a place in a table, not a channel: an answer is a write to the table and a wake. A client that leaves frees
//! its place while the answer is still due, and the place is used again; the *generation* tells the late answer apart. Work
//! that only its client has a use for ends with it: whoever does it is told.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use send_wrapper::SendWrapper;
use tokio::task::AbortHandle;
use weir_cluster::NodeId;
use weir_types::{GroupId, ShardId};

use crate::mailbox::Post;
use crate::message::{CallId, Mail, Peer, Response, ShardError};
use crate::nodes::outgoing::{Expectation, Outgoing};

/// The calls of one shard, and what it does for calls of its own and of others.
#[derive(Clone)]
pub(crate) struct Calls(Rc<Inner>);

struct Inner {
    table: RefCell<Table>,
    post: Rc<Post>,
    /// Tasks that end with their client.
    running: RefCell<HashMap<(Peer, CallId), AbortHandle>>,
}

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    waker: Option<Waker>,
    response: Option<Response>,
    /// Who is to be told when the client leaves before the answer is there.
    told: Option<Asked>,
    /// The node that the answer comes from, and the era in which it was asked, if that is another one.
    away: Option<(NodeId, u64, Expectation)>,
}

/// Who was asked.
#[derive(Clone, Copy)]
pub(crate) enum Asked {
    /// A shard of this node.
    Here(ShardId),
    /// The shard of a group on another node.
    Away(NodeId, GroupId),
}

impl Calls {
    pub(crate) fn new(post: Rc<Post>) -> Calls {
        Calls(Rc::new(Inner { table: RefCell::default(), post, running: RefCell::default() }))
    }

    /// Begins a call. Dropping it is how a client leaves; the shard `told` hears of that, for it need not go on.
    pub(crate) fn begin(&self, told: Option<Asked>) -> Call {
        let mut table = self.0.table.borrow_mut();
        let place = table.free.pop().unwrap_or_else(|| {
            table.places.push(Place::default());
            (table.places.len() - 1) as u32
        });
        table.places[place as usize].told = told;
        let generation = table.places[place as usize].generation;
        Call { calls: SendWrapper::new(self.clone()), id: CallId { place, generation } }
    }

    /// Begins a call to another node.
    pub(crate) fn begin_away(&self, told: Option<Asked>, node: &Rc<Outgoing>, id: NodeId) -> Call {
        let call = self.begin(told);
        let place = &mut self.0.table.borrow_mut().places[call.id.place as usize];
        place.away = Some((id, node.era(), node.expect()));
        call
    }

    /// Notes that `task` works for a call of `origin` and may be ended with it.
    pub(crate) fn begin_work(&self, origin: Peer, call: CallId, task: AbortHandle) {
        let before = self.0.running.borrow_mut().insert((origin, call), task);
        assert!(before.is_none() || origin.node().is_some(), "one task works for a call");
    }

    /// The work for a call is done.
    pub(crate) fn end_work(&self, origin: Peer, call: CallId) {
        self.0.running.borrow_mut().remove(&(origin, call));
    }

    /// The client of a call has left: what works for it ends.
    pub(crate) fn cancel(&self, origin: Peer, call: CallId) {
        if let Some(task) = self.0.running.borrow_mut().remove(&(origin, call)) {
            task.abort();
        }
    }

    /// Nobody on a node, or no shard of it that is one of `shards`, gets what it has asked for. Says which lives of its process
    /// something was worked for.
    pub(crate) fn cancel_of(&self, node: NodeId, shards: impl Fn(ShardId) -> bool) -> BTreeSet<u64> {
        let mut lives = BTreeSet::new();
        self.0.running.borrow_mut().retain(|(origin, _), task| match origin {
            Peer::Away(of, shard) if *of == node && shards(shard.shard) => {
                task.abort();
                lives.insert(shard.life);
                false
            }
            _ => true,
        });
        lives
    }

    /// Answers a call; nothing happens if its client has left.
    pub(crate) fn answer(&self, id: CallId, response: Response) {
        self.answer_if(id, response, |_| true);
    }

    /// Answers a call of a node that was asked; nothing happens if it was another one, or none.
    pub(crate) fn answer_from(&self, node: NodeId, id: CallId, response: Response) {
        self.answer_if(id, response, |place| matches!(place.away, Some((of, ..)) if of == node));
    }

    fn answer_if(&self, id: CallId, response: Response, is_asked: impl FnOnce(&Place) -> bool) {
        let waker = {
            let mut table = self.0.table.borrow_mut();
            let Some(place) = table.places.get_mut(id.place as usize) else { return };
            if place.generation != id.generation || !is_asked(place) {
                return;
            }
            assert!(place.response.is_none(), "a call is answered once");
            place.told = None;
            place.away = None;
            place.response = Some(response);
            place.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends all calls to a node that were begun in an era up to this one: nobody knows what has become of them.
    pub(crate) fn lose(&self, node: NodeId, era: u64) {
        let lost: Vec<CallId> = {
            let table = self.0.table.borrow();
            let places = (0..).zip(&table.places);
            let lost =
                places.filter(|(_, place)| matches!(place.away, Some((of, of_era, _)) if of == node && of_era <= era));
            lost.map(|(number, place)| CallId { place: number, generation: place.generation }).collect()
        };
        lost.into_iter().for_each(|call| self.answer(call, Err(ShardError::Unknown)));
    }
}

/// A call under way: resolves to its answer.
pub(crate) struct Call {
    calls: SendWrapper<Calls>,
    id: CallId,
}

impl Call {
    pub(crate) fn id(&self) -> CallId {
        self.id
    }
}

impl Future for Call {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let mut table = self.calls.0.table.borrow_mut();
        let place = &mut table.places[self.id.place as usize];
        match place.response.take() {
            Some(response) => Poll::Ready(response),
            None => {
                match &mut place.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (told, away) = {
            let mut table = self.calls.0.table.borrow_mut();
            let place = &mut table.places[self.id.place as usize];
            place.generation = place.generation.wrapping_add(1);
            place.waker = None;
            place.response = None;
            let (told, away) = (place.told.take(), place.away.take());
            table.free.push(self.id.place);
            (told, away)
        };
        drop(away);
        let (post, call) = (&self.calls.0.post, self.id);
        match told {
            None => {}
            Some(Asked::Here(owner)) if owner == post.own() => self.calls.cancel(owner.into(), call),
            Some(Asked::Here(owner)) => post.mail(owner, Mail::Cancel { origin: post.own().into(), call }),
            Some(Asked::Away(node, group)) => {
                if let Some(node) = post.node(node) {
                    node.cancel(group, call);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::mesh;
    use crate::message::Answer;

    fn calls() -> Calls {
        let mut mailboxes = mesh(1).0;
        Calls::new(Rc::new(Post::new(ShardId(0), mailboxes.remove(0).peers)))
    }

    #[tokio::test]
    async fn work_ends_with_its_client_and_not_with_the_answer() {
        let calls = calls();
        let begin = |call: &Call| {
            let task = tokio::spawn(std::future::pending::<()>());
            calls.begin_work(ShardId(0).into(), call.id(), task.abort_handle());
            task
        };
        let left = calls.begin(Some(Asked::Here(ShardId(0))));
        let task = begin(&left);
        drop(left);
        assert!(task.await.expect_err("it was ended").is_cancelled());
        let answered = calls.begin(Some(Asked::Here(ShardId(0))));
        let task = begin(&answered);
        calls.answer(answered.id(), Ok(Answer::Done));
        drop(answered);
        assert!(!task.is_finished(), "its client has what it wanted");
        task.abort();
    }

    #[test]
    fn a_late_answer_does_not_reach_the_next_call() {
        let calls = calls();
        let first = calls.begin(None);
        let late = first.id();
        drop(first);
        let mut second = calls.begin(None);
        assert_eq!(late.place, second.id().place);
        calls.answer(late, Ok(Answer::Done));
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut second).poll(&mut context).is_pending());
        calls.answer(second.id(), Ok(Answer::Done));
        assert!(Pin::new(&mut second).poll(&mut context).is_ready());
    }
}
