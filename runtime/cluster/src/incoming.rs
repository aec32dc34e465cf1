//! The other side of a link: requests as they come in, and the replies to them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weir_types::Wakeup;

use crate::acceptor::Accepted;
use crate::config::{LinkConfig, REQUEST_OVERHEAD_BYTES};
use crate::frame::{Frame, Message, Role};
use crate::identity::Hello;
use crate::reader::{Buffers, Received};
use crate::wire::{FRAMES_PER_TURN, Wire};

/// The requests of one lane of another node. Lives on the thread that owns the lane, in a runtime that has local tasks.
/// Dropped, it closes the connection.
pub struct Incoming {
    hello: Hello,
    core: Rc<Core>,
    task: JoinHandle<()>,
}

struct Core {
    window_bytes: usize,
    inbox: RefCell<Inbox>,
    /// Rung for whoever takes requests.
    arrived: Wakeup,
    /// Rung for the connection's task.
    work: Wakeup,
}

#[derive(Default)]
struct Inbox {
    /// Not taken yet.
    requests: VecDeque<Request>,
    /// Not given to the connection yet.
    replies: VecDeque<Frame>,
    /// Of requests that are not answered, and replies that the connection has not taken. No more requests are read when
    /// this is a window's.
    held_bytes: usize,
    has_ended: bool,
}

struct Request {
    number: u64,
    message: Message,
    memory_bytes: usize,
}

impl Incoming {
    /// Begins to read from a connection. Bodies of requests are read into what `buffers` makes.
    pub fn new(accepted: Accepted, buffers: Buffers, config: &LinkConfig) -> Incoming {
        let Accepted { hello, from, stream, replaced } = accepted;
        let core = Rc::new(Core {
            window_bytes: config.window_bytes as usize,
            inbox: RefCell::default(),
            arrived: Wakeup::default(),
            work: Wakeup::default(),
        });
        let (core_of_task, stall) = (core.clone(), config.stall);
        let task = tokio::task::spawn_local(async move {
            let reason = match stream.moved_here() {
                Ok(stream) => core_of_task.serve(Wire::new(stream, buffers, stall), replaced).await,
                Err(error) => Some(format!("it cannot be taken: {error}")),
            };
            if let Some(reason) = reason {
                let node = hello.identity.node;
                tracing::warn!(%node, lane = %hello.lane, from, reason, "a connection of another node has failed");
            }
            core_of_task.end();
        });
        Incoming { hello, core, task }
    }

    /// Whose requests these are.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The next request, and what answers it; none when the connection has ended or another has taken its place. What has
    /// not been taken by then is not to be had any more: whoever sent it knows that it has no answer.
    pub async fn next(&mut self) -> Option<(Message, Responder)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Message, Responder)>> {
        while self.core.arrived.poll_rung(context).is_ready() {}
        let mut inbox = self.core.inbox.borrow_mut();
        let Some(Request { number, message, memory_bytes }) = inbox.requests.pop_front() else {
            return if inbox.has_ended { Poll::Ready(None) } else { Poll::Pending };
        };
        Poll::Ready(Some((message, Responder { core: self.core.clone(), number, memory_bytes, is_answered: false })))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
        self.core.end();
    }
}

/// Answers one request. Dropped, it says that there will be no answer.
#[must_use = "a request that is not answered fails"]
pub struct Responder {
    core: Rc<Core>,
    number: u64,
    memory_bytes: usize,
    is_answered: bool,
}

impl Responder {
    /// Sends the reply, unless the connection has ended. It is kept until the connection takes it; meanwhile it counts like
    /// a request.
    ///
    /// # Panics
    /// For a message beyond the limits of [`crate::frame`].
    pub fn send(mut self, reply: Message) {
        reply.assert_fits();
        self.is_answered = true;
        self.answer(Role::Reply, reply);
    }

    fn answer(&self, role: Role, message: Message) {
        let mut inbox = self.core.inbox.borrow_mut();
        if !inbox.has_ended {
            let frame = Frame { role, number: self.number, message };
            inbox.held_bytes += held_bytes(&frame);
            inbox.held_bytes -= self.memory_bytes;
            inbox.replies.push_back(frame);
            self.core.work.ring();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer(Role::Unanswered, Message::default());
        }
    }
}

/// What a reply counts for.
fn held_bytes(reply: &Frame) -> usize {
    reply.message.frame_bytes() + REQUEST_OVERHEAD_BYTES
}

impl Core {
    async fn serve(&self, mut wire: Wire, replaced: oneshot::Receiver<()>) -> Option<String> {
        let mut replaced = Some(replaced);
        poll_fn(|context| self.poll_serve(&mut wire, &mut replaced, context)).await
    }

    /// Carries requests and replies until the connection ends. Ready with the reason, where there is one to speak of.
    fn poll_serve(
        &self,
        wire: &mut Wire,
        replaced: &mut Option<oneshot::Receiver<()>>,
        context: &mut Context<'_>,
    ) -> Poll<Option<String>> {
        while self.work.poll_rung(context).is_ready() {}
        // Without an acceptor there is no other connection that could take its place.
        if let Some(news) = replaced
            && let Poll::Ready(news) = Pin::new(news).poll(context)
        {
            match news {
                Ok(()) => return Poll::Ready(None),
                Err(_) => *replaced = None,
            }
        }
        if let Err(error) = wire.poll_send(context, || self.next_reply()) {
            return Poll::Ready(Some(error.to_string()));
        }
        for _ in 0..FRAMES_PER_TURN {
            let is_full = self.inbox.borrow().held_bytes >= self.window_bytes;
            let received = if is_full { Poll::Pending } else { wire.poll_receive(context) };
            match received {
                Poll::Ready(Ok(Some(received))) => {
                    if !self.receive(received) {
                        return Poll::Ready(Some("it answered what it was not asked".into()));
                    }
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(None),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(error.to_string())),
                Poll::Pending => {
                    let is_waiting = wire.is_sending() || !is_full && wire.is_within_a_frame();
                    let stalled = wire.poll_stalled(context, is_waiting);
                    return stalled.map(|()| Some("it stopped in the middle of something".into()));
                }
            }
        }
        // There may be more; others come first.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn next_reply(&self) -> Option<Frame> {
        let mut inbox = self.inbox.borrow_mut();
        let reply = inbox.replies.pop_front()?;
        inbox.held_bytes -= held_bytes(&reply);
        Some(reply)
    }

    /// Takes a request in. False for what is none.
    fn receive(&self, received: Received) -> bool {
        let Received { frame: Frame { role, number, message }, memory_bytes } = received;
        if role != Role::Request {
            return false;
        }
        let memory_bytes = memory_bytes + REQUEST_OVERHEAD_BYTES;
        let mut inbox = self.inbox.borrow_mut();
        inbox.held_bytes += memory_bytes;
        inbox.requests.push_back(Request { number, message, memory_bytes });
        self.arrived.ring();
        true
    }

    fn end(&self) {
        *self.inbox.borrow_mut() = Inbox { has_ended: true, ..Inbox::default() };
        self.arrived.ring();
    }
}
