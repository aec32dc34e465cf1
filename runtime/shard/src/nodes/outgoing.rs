//! Mail of one shard to one other node.
//!
//! All that the shard has to say to the node in one turn is one message, or a few. Each is answered as soon as its letters are in
//! the mailboxes there; what they ask for is answered by letters of the other node's own. So calls, watches and what is told of
//! streams rest on the mail that has arrived before, and none of it may be missing:
//!
//! - A message says whom it is meant for ([`Hearer`]) and is taken only by that one. The first one is meant for anybody, has no
//!   letters, and its answer says who there is.
//! - When a message has no answer, or is refused, everything that rests on mail to this node is lost: the shard ends what it
//!   waits for ([`Loss`]), forgets who watches its streams there, and begins anew, in another *session*. The other side sees that
//!   by the session's number and ends what it waits for and works for, too (`nodes/lanes.rs`).
//! - A process that has just begun has heard nothing yet and may wait for something already. So the first message after a loss
//!   says which lives of the other process were owed something of it: what was on its way to them, or was worked for. That is known
//!   only when the work has ended, so nothing is said before.
//! - While something is waited for, or a loss was not told yet, a message goes out now and then, for a process that is
//!   gone says nothing by itself.
//!
//! Calls that were begun after a loss do not end with it. The shard's *era* tells them apart: it is one more with each.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::AbortHandle;
use weir_cluster::{CallError, Endpoint, Lane, Link, Message, NodeId};
use weir_types::{GroupId, Wakeup};

use crate::message::{self, Addressee, Answer, CallId, Letter, Limit, Mail, Request, Sent, ShardError};
use crate::nodes::losses::{Debts, Loss, Losses};
use crate::nodes::salute::{self, Hearer, MAIL, Salute, TAKEN};

/// How often a word goes out while something is waited for.
const WORD_EVERY: Duration = Duration::from_millis(500);
/// How long it waits after mail that has not arrived, while nobody has anything new to say.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Bytes that may wait for the node besides those that the link's window has taken.
const QUEUED_BYTES_MAX: usize = 32 << 20;
/// Parts of one body or page: more are put together.
const PARTS_MAX: usize = 256;

/// Mail to one node.
pub(crate) struct Outgoing {
    node: NodeId,
    address: String,
    /// Who speaks.
    own: Addressee,
    groups: u16,
    link: Link,
    queue: RefCell<VecDeque<Letter>>,
    queued_bytes: Cell<usize>,
    filled: Wakeup,
    session: Cell<u64>,
    era: Cell<u64>,
    hearer: Cell<Option<Hearer>>,
    /// Whether the node does not know of the last loss yet.
    is_loss_untold: Cell<bool>,
    /// What the node is owed of what was lost.
    debts: Rc<Debts>,
    /// What is in the messages that are under way, by their numbers; and the next number.
    under_way: RefCell<BTreeMap<u64, Vec<Sent>>>,
    next_number: Cell<u64>,
    /// Calls without an answer, and streams that the node tells of.
    expected: Cell<usize>,
    losses: Rc<Losses>,
    /// Sends it.
    task: Cell<Option<AbortHandle>>,
}

/// Something that the node is waited for, until it is dropped.
pub(crate) struct Expectation(Rc<Outgoing>);

impl Drop for Expectation {
    fn drop(&mut self) {
        self.0.expected.set(self.0.expected.get() - 1);
    }
}

/// What became of a message.
struct Outcome {
    session: u64,
    /// Which.
    number: u64,
    reply: Result<Message, CallError>,
}

impl Outgoing {
    pub(crate) fn new(
        endpoint: Endpoint,
        (node, address): (NodeId, String),
        own: Addressee,
        groups: u16,
        losses: Rc<Losses>,
    ) -> Rc<Outgoing> {
        Rc::new(Outgoing::begin(endpoint, (node, address), own, groups, losses))
    }

    fn begin(
        endpoint: Endpoint,
        (node, address): (NodeId, String),
        own: Addressee,
        groups: u16,
        losses: Rc<Losses>,
    ) -> Outgoing {
        let link = Link::new(endpoint, node, address.clone(), Lane::Mail(own.shard), BytesMut::with_capacity);
        let (queue, queued_bytes, filled) = Default::default();
        let (session, era, hearer, is_loss_untold, expected) = Default::default();
        let (debts, under_way, next_number) = Default::default();
        Outgoing {
            node,
            address,
            own,
            groups,
            link,
            queue,
            queued_bytes,
            filled,
            session,
            era,
            hearer,
            is_loss_untold,
            debts,
            under_way,
            next_number,
            expected,
            losses,
            task: Cell::default(),
        }
    }

    /// The node.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Has a task send it, which ends with it.
    pub(crate) fn sent_by(&self, task: AbortHandle) {
        self.task.set(Some(task));
    }

    /// Nothing more goes there: whatever is waited for from the node is lost.
    pub(crate) fn close(&self) {
        // Nobody waits for the answers to what is under way any more.
        let sent = self.under_way.take().into_values().flatten().collect();
        self.lose(self.session.get(), sent, false);
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Mail to the same node somewhere else, in place of this, which was closed.
    pub(crate) fn moved(&self, endpoint: Endpoint, address: String) -> Rc<Outgoing> {
        let begun = Outgoing::begin(endpoint, (self.node, address), self.own, self.groups, self.losses.clone());
        let (session, era) = (self.session.clone(), self.era.clone());
        let (is_loss_untold, debts) = (self.is_loss_untold.clone(), self.debts.clone());
        Rc::new(Outgoing { session, era, is_loss_untold, debts, ..begun })
    }

    /// What is begun now belongs to this era.
    pub(crate) fn era(&self) -> u64 {
        self.era.get()
    }

    /// Something is waited for from the node.
    pub(crate) fn expect(self: &Rc<Self>) -> Expectation {
        self.expected.set(self.expected.get() + 1);
        self.filled.ring();
        Expectation(self.clone())
    }

    /// Whether nothing large should be added to what waits.
    pub(crate) fn is_full(&self) -> bool {
        self.queued_bytes.get() > QUEUED_BYTES_MAX
    }

    /// Whether nothing waits to be sent, and all that was sent has arrived.
    pub(crate) fn is_quiet(&self) -> bool {
        self.queue.borrow().is_empty() && self.link.unanswered_bytes() == 0
    }

    /// Has the node carry a request out.
    pub(crate) fn ask(&self, call: CallId, mut request: Request) {
        if self.is_full() {
            return self.losses.push(Loss::Crowded(self.node, call));
        }
        if let Some(body) = request.body_mut() {
            body.join_beyond(PARTS_MAX);
        }
        self.push(Letter::Request { call, request });
    }

    /// The client of a call has left.
    pub(crate) fn cancel(&self, group: GroupId, call: CallId) {
        self.push(Letter::Cancel { group, call });
    }

    /// Puts mail to a shard of the node into this turn's message.
    pub(crate) fn mail(&self, to: Addressee, mail: Mail) {
        self.push(match mail {
            Mail::Response { call, response, .. } => {
                let response = match response {
                    Ok(answer) if self.is_full() => refusal(&answer).map_or(Ok(answer), Err),
                    Ok(Answer::Page(mut page)) => {
                        if page.chunks.len() > PARTS_MAX {
                            page.chunks = vec![page.chunks.concat().into()];
                        }
                        Ok(Answer::Page(page))
                    }
                    response => response,
                };
                Letter::Response { to, call, response }
            }
            Mail::Advanced { advance, .. } => Letter::Advanced { to, advance },
            Mail::Ended { incarnation, .. } => Letter::Ended { to, incarnation },
            Mail::Unwatch { incarnation, answered, .. } => Letter::Unwatch { to, incarnation, answered },
            Mail::Request { .. }
            | Mail::Cancel { .. }
            | Mail::Lost(..)
            | Mail::Led { .. }
            | Mail::Nodes
            | Mail::Stats(_)
            | Mail::Order(..)
            | Mail::ColdCheck { .. }
            | Mail::Backup { .. } => unreachable!("this is never said to a shard of another node"),
        });
    }

    fn push(&self, mut letter: Letter) {
        self.queued_bytes.set(self.queued_bytes.get() + letter.bytes());
        self.queue.borrow_mut().push_back(letter);
        self.filled.ring();
    }

    /// The node has lost what it had to say: whatever was asked of it is asked in vain.
    pub(crate) fn begin_anew(&self) {
        let era = self.era.get();
        self.era.set(era + 1);
        // What has not been asked yet can be asked again.
        let unsent = self.take_requests(false);
        self.losses.push(Loss::Unsent(self.node, unsent));
        self.losses.push(Loss::Calls(self.node, era));
    }

    /// Takes the requests out of what waits; or empties it.
    fn take_requests(&self, all: bool) -> Vec<CallId> {
        let (mut calls, mut kept, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        for mut letter in self.queue.take() {
            match letter.trace() {
                Sent::Request(call) => calls.push(call),
                trace if all => self.note_lost(trace),
                _ => {
                    bytes += letter.bytes();
                    kept.push_back(letter);
                }
            }
        }
        self.queued_bytes.set(bytes);
        *self.queue.borrow_mut() = kept;
        calls
    }

    /// Sends every turn's mail. Runs for the shard's life.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut replies = FuturesUnordered::new();
        let mut is_due = false;
        loop {
            let is_waited_for = self.expected.get() > 0 || self.is_loss_untold.get();
            if self.queue.borrow().is_empty() && !is_due {
                tokio::select! {
                    biased;
                    Some(outcome) = replies.next(), if !replies.is_empty() => self.settle(outcome),
                    () = self.filled.rung() => {}
                    () = tokio::time::sleep(WORD_EVERY), if is_waited_for => is_due = true,
                }
                continue;
            }
            is_due = false;
            if self.hearer.get().is_none() {
                // Before anything else is said, it is known what was lost.
                while let Some(outcome) = replies.next().await {
                    self.settle(outcome);
                }
                self.debts.settled().await;
                if !self.meet().await {
                    self.lose(self.session.get(), Vec::new(), true);
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            }
            let (session, (sent, message)) = (self.session.get(), self.next_message());
            let number = self.next_number.replace(self.next_number.get() + 1);
            self.under_way.borrow_mut().insert(number, sent);
            match self.link.begin(message).await {
                Ok(answer) => replies.push(async move { Outcome { session, number, reply: answer.await } }),
                Err(error) => self.settle(Outcome { session, number, reply: Err(error) }),
            }
        }
    }

    /// Finds out who hears this shard's mail. Nothing else is under way.
    async fn meet(&self) -> bool {
        let reply = self.link.call(self.message(None, 0, Vec::new())).await;
        let hearer = reply.ok().filter(|reply| reply.kind == TAKEN).and_then(|reply| salute::head::<Hearer>(&reply));
        if hearer.is_some() {
            self.hearer.set(hearer);
            self.is_loss_untold.set(false);
            self.debts.clear();
        }
        hearer.is_some()
    }

    fn message(&self, to: Option<Hearer>, letters: u16, bodies: Vec<Bytes>) -> Message {
        let (life, session, groups) = (self.own.life, self.session.get(), self.groups);
        let lost = self.debts.lives();
        salute::message(MAIL, &Salute { life, session, lost, to, groups, letters }, bodies)
    }

    /// As much of what waits as a message takes; it may be nothing.
    fn next_message(&self) -> (Vec<Sent>, Message) {
        let (sent, bodies) = {
            let mut queue = self.queue.borrow_mut();
            message::encode(&mut queue, |letter| match letter {
                Letter::Request { call, .. } => {
                    self.losses.push(Loss::Crowded(self.node, call));
                    None
                }
                Letter::Response { to, call, .. } => {
                    Some(Letter::Response { to, call, response: Err(ShardError::Limit(Limit::Reads)) })
                }
                _ => None,
            })
        };
        let queued_bytes: usize = self.queue.borrow_mut().iter_mut().map(Letter::bytes).sum();
        self.queued_bytes.set(queued_bytes);
        let message = self.message(self.hearer.get(), sent.len() as u16, bodies);
        (sent, message)
    }

    fn settle(&self, Outcome { session, number, reply }: Outcome) {
        let sent = self.under_way.borrow_mut().remove(&number).unwrap_or_default();
        match reply {
            Ok(reply) if reply.kind == TAKEN => {}
            // Nobody has looked at it.
            Ok(_) | Err(CallError::NotSent { .. }) => self.lose(session, sent, true),
            Err(CallError::Broken { .. } | CallError::Unanswered { .. }) => self.lose(session, sent, false),
        }
    }

    fn note_lost(&self, trace: Sent) {
        if let Sent::Owed(life) = trace {
            self.debts.note(life);
        }
    }

    /// Mail of a session is lost, and this is some of it; nobody has read it if it `is_unsent`.
    fn lose(&self, session: u64, sent: Vec<Sent>, is_unsent: bool) {
        let mut calls = Vec::new();
        for trace in sent {
            match trace {
                Sent::Request(call) if is_unsent => calls.push(call),
                trace => self.note_lost(trace),
            }
        }
        let is_first = session == self.session.get();
        if is_first {
            calls.extend(self.take_requests(true));
        }
        self.losses.push(Loss::Unsent(self.node, calls));
        if is_first {
            self.losses.push(Loss::Calls(self.node, self.era.get()));
            self.losses.push(Loss::Node(self.node, self.debts.begin_loss()));
            self.era.set(self.era.get() + 1);
            self.session.set(session + 1);
            self.hearer.set(None);
            self.is_loss_untold.set(true);
        }
    }
}

/// The refusal of what is too large to wait, if it is large.
fn refusal(answer: &Answer) -> Option<ShardError> {
    match answer {
        Answer::Page(_) | Answer::Records(_) | Answer::View(_) | Answer::Listed(_) | Answer::ModuleBytes(_) => {
            Some(ShardError::Limit(Limit::Reads))
        }
        _ => None,
    }
}
