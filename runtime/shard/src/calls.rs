//! Calls: requests of this shard's connections that wait for an answer, from this shard or another.
//!
//! A call is a place in a table, not a channel: an answer is a write to the table and a wake. A client that leaves frees
//! its place while the answer is still due, and the place is used again; the *generation* tells the late answer apart.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use send_wrapper::SendWrapper;

use crate::message::{CallId, Response};

/// The calls of one shard.
#[derive(Clone, Default)]
pub(crate) struct Calls(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    generation: u32,
    waker: Option<Waker>,
    response: Option<Response>,
}

impl Calls {
    /// Begins a call. Dropping it is how a client leaves.
    pub(crate) fn begin(&self) -> Call {
        let mut table = self.0.borrow_mut();
        let place = table.free.pop().unwrap_or_else(|| {
            table.places.push(Place { generation: 0, waker: None, response: None });
            (table.places.len() - 1) as u32
        });
        let generation = table.places[place as usize].generation;
        Call { calls: SendWrapper::new(self.clone()), id: CallId { place, generation } }
    }

    /// Answers a call; nothing happens if its client has left.
    pub(crate) fn answer(&self, id: CallId, response: Response) {
        let waker = {
            let mut table = self.0.borrow_mut();
            let place = &mut table.places[id.place as usize];
            if place.generation != id.generation {
                return;
            }
            debug_assert!(place.response.is_none(), "a call is answered once");
            place.response = Some(response);
            place.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
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
        let mut table = self.calls.0.borrow_mut();
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
        let mut table = self.calls.0.borrow_mut();
        let place = &mut table.places[self.id.place as usize];
        place.generation = place.generation.wrapping_add(1);
        place.waker = None;
        place.response = None;
        table.free.push(self.id.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Answer;

    #[test]
    fn a_late_answer_does_not_reach_the_next_call() {
        let calls = Calls::default();
        let first = calls.begin();
        let late = first.id();
        drop(first);
        let mut second = calls.begin();
        assert_eq!(late.place, second.id().place);
        calls.answer(late, Ok(Answer::Done));
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut second).poll(&mut context).is_pending());
        calls.answer(second.id(), Ok(Answer::Done));
        assert!(Pin::new(&mut second).poll(&mut context).is_ready());
    }
}
