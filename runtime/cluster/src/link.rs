//! A link: this node's side of one lane to another node. It connects when there is something to say, and again when that
//! has failed.
//!
//! - Requests are written in the order in which [`Link::begin`] returned, without waiting for answers. An answer goes to its
//!   request by number, so the other side may answer in any order.
//! - At most [`LinkConfig::window_bytes`](crate::LinkConfig::window_bytes) of requests have no answer. More wait, in order.
//! - While a request waits for its answer, something must be heard at least every
//!   [`LinkConfig::stall`](crate::LinkConfig::stall). A slow peer does not hold on to what is in its requests for longer, and
//!   a connection whose other end has vanished is noticed by the first call after that. So whoever takes longer to do what a
//!   request asks for says first that it was received, and sends the outcome as a request of its own.
//! - A call that has failed says whether the other node may have received it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use weir_types::Wakeup;

use crate::calls::{CallError, Calls};
use crate::config::REQUEST_OVERHEAD_BYTES;
use crate::endpoint::Endpoint;
use crate::frame::Message;
use crate::identity::{Lane, NodeId};
use crate::meeting::{MeetingError, dial};
use crate::network::Stream;
use crate::reader::Buffers;
use crate::sparing::Sparing;
use crate::wire::{FRAMES_PER_TURN, Wire};

/// At most one line in so long says that a link is down.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One lane to another node. Lives on one thread, in a runtime that has local tasks. Dropped, it closes its connection, and
/// all its calls fail.
pub struct Link {
    core: Rc<Core>,
    task: JoinHandle<()>,
}

/// What the link, its calls and its task have in common.
struct Core {
    endpoint: Endpoint,
    node: NodeId,
    address: String,
    lane: Lane,
    buffers: Buffers,
    /// In bytes.
    window: Arc<Semaphore>,
    state: RefCell<State>,
    calls: RefCell<Calls>,
    /// How many connections there have been.
    life: Cell<u64>,
    /// Why the current connection is to be failed, when it is.
    failing: RefCell<Option<String>>,
    /// Rung for the link's task.
    work: Wakeup,
    /// Told to those who wait for a connection.
    changed: Notify,
}

enum State {
    /// Nobody has asked for a connection yet.
    Idle,
    /// Somebody has.
    Connecting,
    Up,
    /// It has failed. From `until` on, it is tried again if somebody asks.
    Down {
        until: Instant,
        reason: Arc<str>,
    },
}

/// Why there is no connection.
struct NotConnected {
    reason: String,
    /// Whether one of the two does not want the other.
    is_refusal: bool,
}

impl Link {
    /// A link to a node at an address, as the endpoint's network understands it. Bodies of replies are read into what
    /// `buffers` makes. It does not connect yet.
    pub fn new(endpoint: Endpoint, node: NodeId, address: String, lane: Lane, buffers: Buffers) -> Link {
        assert!(node != endpoint.identity.node, "a node has no link to itself");
        assert!(endpoint.config.window_bytes > 0, "something may be sent");
        let core = Rc::new(Core {
            window: Arc::new(Semaphore::new(endpoint.config.window_bytes as usize)),
            endpoint,
            node,
            address,
            lane,
            buffers,
            state: RefCell::new(State::Idle),
            calls: RefCell::new(Calls::new(node)),
            life: Cell::new(0),
            failing: RefCell::default(),
            work: Wakeup::default(),
            changed: Notify::new(),
        });
        Link { task: tokio::task::spawn_local(core.clone().run()), core }
    }

    /// Sends a request and waits for the reply. Dropped, it is not sent if it was not yet, and its reply is thrown away.
    ///
    /// # Errors
    /// When there is no reply: see [`CallError`].
    ///
    /// # Panics
    /// For a message beyond the limits of [`crate::frame`].
    pub async fn call(&self, request: Message) -> Result<Message, CallError> {
        self.begin(request).await?.await
    }

    /// Waits until the window has room for a request, and gives it to the link. What it returns is the reply. Whoever has
    /// many requests waits here, and with as many as the window allows for their answers.
    ///
    /// # Errors
    /// [`CallError::NotSent`] while the link is down, at once; when a connection is being made and is not there in time;
    /// and when the link fails meanwhile.
    ///
    /// # Panics
    /// For a message beyond the limits of [`crate::frame`].
    pub async fn begin(&self, request: Message) -> Result<Answer, CallError> {
        request.assert_fits();
        let core = &self.core;
        core.connected().await?;
        let life = core.life.get();
        let window_bytes = core.endpoint.config.window_bytes;
        let share_bytes = u32::try_from(request.frame_bytes() + REQUEST_OVERHEAD_BYTES).unwrap_or(window_bytes);
        // What is larger than the window has all of it for itself.
        let share = core.window.clone().acquire_many_owned(share_bytes.min(window_bytes)).await;
        let share = share.expect("a window is never closed");
        if core.life.get() != life {
            return Err(core.not_sent("the link failed while the request waited"));
        }
        let (outcome, receiver) = oneshot::channel();
        let number = core.calls.borrow_mut().begin(request, share, outcome);
        core.work.ring();
        Ok(Answer { core: core.clone(), number, receiver })
    }

    /// Bytes of the window that are taken by requests without an answer.
    pub fn unanswered_bytes(&self) -> usize {
        self.core.endpoint.config.window_bytes as usize - self.core.window.available_permits()
    }

    /// Ends the current connection, if there is one: for whoever can wait for this node no longer.
    pub fn fail(&self, reason: &str) {
        if matches!(*self.core.state.borrow(), State::Up) {
            *self.core.failing.borrow_mut() = Some(reason.into());
            self.core.work.ring();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.core.down("the link was closed", Duration::ZERO);
    }
}

/// The reply to a request, to be waited for.
#[must_use = "a request whose reply nobody waits for may not be sent"]
pub struct Answer {
    core: Rc<Core>,
    number: u64,
    receiver: oneshot::Receiver<Result<Message, CallError>>,
}

impl Future for Answer {
    type Output = Result<Message, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.receiver).poll(context);
        outcome.map(|outcome| outcome.expect("every call gets an outcome"))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.core.calls.borrow_mut().cancel(self.number);
    }
}

impl Core {
    /// Waits until there is a connection.
    async fn connected(&self) -> Result<(), CallError> {
        let connect_wait = self.endpoint.config.connect_wait;
        let mut deadline = None;
        loop {
            match &mut *self.state.borrow_mut() {
                State::Up => return Ok(()),
                State::Connecting => {}
                State::Down { until, reason } if Instant::now() < *until => return Err(self.not_sent(&**reason)),
                state @ (State::Idle | State::Down { .. }) => {
                    *state = State::Connecting;
                    self.work.ring();
                }
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + connect_wait);
            if timeout_at(deadline, self.changed.notified()).await.is_err() {
                let waited = connect_wait.as_millis();
                return Err(self.not_sent(format!("{} did not take a connection within {waited} ms", self.address)));
            }
        }
    }

    fn not_sent(&self, reason: impl Into<Arc<str>>) -> CallError {
        CallError::NotSent { node: self.node, reason: reason.into() }
    }

    /// Connects whenever that is wanted, for the link's life.
    async fn run(self: Rc<Self>) {
        // Why the other node does not let this one in is said however lately it could not be reached.
        let (mut log, mut refusals) = (Sparing::new(LOG_INTERVAL), Sparing::new(LOG_INTERVAL));
        let mut failures = 0;
        loop {
            while !matches!(*self.state.borrow(), State::Connecting) {
                self.work.rung().await;
            }
            let mut has_worked = false;
            let (reason, is_refusal) = match self.connect().await {
                Ok(stream) => (self.serve(stream, &mut has_worked).await, false),
                Err(NotConnected { reason, is_refusal }) => (Some(reason), is_refusal),
            };
            let log = if is_refusal { &mut refusals } else { &mut log };
            failures = if has_worked { 0 } else { failures + 1 };
            if let Some(reason) = &reason
                && let Some(withheld) = log.due()
            {
                tracing::warn!(node = %self.node, lane = %self.lane, reason, withheld, "a link is down");
            }
            self.down(reason.as_deref().unwrap_or("the other end closed the connection"), self.backoff(failures));
        }
    }

    /// A connection whose hello is done, or why there is none.
    async fn connect(&self) -> Result<Stream, NotConnected> {
        let hello_wait = self.endpoint.config.hello_wait;
        let unreached = |reason| NotConnected { reason, is_refusal: false };
        let stream = match timeout(hello_wait, self.endpoint.network.connect(&self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreached(format!("{} cannot be reached: {error}", self.address))),
            Err(_) => {
                let waited = hello_wait.as_millis();
                return Err(unreached(format!("{} did not take a connection within {waited} ms", self.address)));
            }
        };
        let met = dial(&self.endpoint, stream, self.node, self.lane).await;
        if let Err(MeetingError::Refused(sentence)) = &met {
            self.endpoint.admission.refused(self.node, sentence);
        }
        met.map_err(|error| NotConnected {
            reason: format!("{}: {error}", self.address),
            is_refusal: error.is_refusal() && !matches!(error, MeetingError::Late(_)),
        })
    }

    /// Carries calls until the connection ends, and returns why; nothing if the other side has closed it while it had
    /// nothing to say. `has_worked` says whether anything was answered.
    async fn serve(&self, stream: Stream, has_worked: &mut bool) -> Option<String> {
        self.failing.take();
        *self.state.borrow_mut() = State::Up;
        self.changed.notify_waiters();
        let mut wire = Wire::new(stream, self.buffers, self.endpoint.config.stall);
        poll_fn(|context| self.poll_serve(&mut wire, has_worked, context)).await
    }

    fn poll_serve(&self, wire: &mut Wire, has_worked: &mut bool, context: &mut Context<'_>) -> Poll<Option<String>> {
        while self.work.poll_rung(context).is_ready() {}
        if let Some(reason) = self.failing.take() {
            return Poll::Ready(Some(reason));
        }
        if let Err(error) = wire.poll_send(context, || self.calls.borrow_mut().next_frame()) {
            return Poll::Ready(Some(error.to_string()));
        }
        for _ in 0..FRAMES_PER_TURN {
            match wire.poll_receive(context) {
                Poll::Ready(Ok(Some(received))) => {
                    if !self.calls.borrow_mut().answer(received.frame) {
                        return Poll::Ready(Some("it answered what it was not asked".into()));
                    }
                    *has_worked = true;
                }
                Poll::Ready(Ok(None)) if self.calls.borrow().is_empty() => return Poll::Ready(None),
                Poll::Ready(Ok(None)) => {
                    return Poll::Ready(Some("the other end closed the connection before it answered".into()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Some(error.to_string())),
                Poll::Pending => {
                    let is_waiting = !self.calls.borrow().is_empty();
                    let stalled = wire.poll_stalled(context, is_waiting);
                    let stall = self.endpoint.config.stall.as_millis();
                    return stalled.map(|()| Some(format!("nothing was heard for {stall} ms")));
                }
            }
        }
        // There may be more; others come first.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends all calls, and notes when the link may be tried again.
    fn down(&self, reason: &str, backoff: Duration) {
        let reason: Arc<str> = reason.into();
        *self.state.borrow_mut() = State::Down { until: Instant::now() + backoff, reason: reason.clone() };
        self.life.set(self.life.get() + 1);
        self.calls.borrow_mut().fail(&reason);
        self.changed.notify_waiters();
    }

    /// How long the link is down after so many failures in a row.
    fn backoff(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let config = &self.endpoint.config;
        let longest = config.backoff_min.saturating_mul(1 << doublings.min(16)).min(config.backoff_max);
        let jitter = ((self.endpoint.entropy)() >> 32) as u32;
        longest / 2 + (longest / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }
}
