//! Links between the replicas of one thread: each lane in order, and slow, throttled or cut as the test says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use weir_cluster::{CallError, Lane, Message, NodeId};
use weir_raft::{Peers, Replica};
use weir_storage::Arena;

/// How long a link waits for the answer to what has arrived before it is taken for broken.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// How often a throttled link carries something.
const STEP: Duration = Duration::from_millis(10);
const STEPS_PER_SECOND: u64 = 100;

#[derive(Default)]
pub(crate) struct Links {
    /// The nodes that are up.
    replicas: RefCell<BTreeMap<u64, Replica>>,
    /// How often each node has begun and ended: a replica that ends slowly has nothing to say any more.
    lives: RefCell<BTreeMap<u64, u64>>,
    /// What does not arrive: from, to.
    cut: RefCell<BTreeSet<(u64, u64)>>,
    delay: Cell<Duration>,
    /// Bytes per second of a data lane, and to which node if not to all.
    rate: Cell<Option<u64>>,
    slow: Cell<Option<u64>>,
    lanes: RefCell<BTreeMap<(u64, u64, bool), Carrier>>,
}

/// One lane from one node to another.
struct Carrier {
    sender: mpsc::UnboundedSender<Sent>,
    task: JoinHandle<()>,
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sent {
    message: Message,
    answer: oneshot::Sender<LocalBoxFuture<'static, Option<Message>>>,
}

impl Links {
    /// The ends of a node that begins.
    pub(crate) fn ends(self: &Rc<Self>, node: u64) -> Ends {
        let mut lives = self.lives.borrow_mut();
        let life = lives.entry(node).or_default();
        *life += 1;
        Ends { node, life: *life, links: self.clone() }
    }

    pub(crate) fn up(&self, node: u64, replica: Replica) {
        self.replicas.borrow_mut().insert(node, replica);
    }

    /// The node hears nothing any more, and what it was asked is not answered.
    pub(crate) fn down(&self, node: u64) {
        self.replicas.borrow_mut().remove(&node);
        self.lives.borrow_mut().entry(node).and_modify(|life| *life += 1);
        self.lanes.borrow_mut().retain(|&(from, to, _), _| from != node && to != node);
    }

    /// Nothing goes from one node to the other any more.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.cut.borrow_mut().insert((from, to));
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.delay.set(delay);
    }

    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.rate.set(Some(bytes_per_second));
    }

    /// As [`Links::throttle`], on the way to one node.
    pub(crate) fn throttle_to(&self, node: u64, bytes_per_second: u64) {
        self.slow.set(Some(node));
        self.throttle(bytes_per_second);
    }

    /// All is well again.
    pub(crate) fn heal(&self) {
        self.cut.borrow_mut().clear();
        self.delay.set(Duration::ZERO);
        self.rate.set(None);
        self.slow.set(None);
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.borrow().contains(&(from, to))
    }

    fn rate_of(&self, to: u64, lane: Lane) -> Option<u64> {
        self.rate.get().filter(|_| is_data(lane) && self.slow.get().is_none_or(|slow| slow == to))
    }

    /// Carries what goes from one node to another on a lane.
    async fn carry(self: Rc<Self>, from: u64, to: u64, lane: Lane, mut sent: mpsc::UnboundedReceiver<Sent>) {
        while let Some(Sent { message, answer }) = sent.recv().await {
            sleep(self.delay.get()).await;
            let mut bytes = message.bodies.iter().map(Bytes::len).sum::<usize>() as u64;
            // A link that is fast again is so in the middle of a message.
            while let Some(rate) = self.rate_of(to, lane).filter(|_| bytes > 0) {
                sleep(STEP).await;
                bytes = bytes.saturating_sub(rate / STEPS_PER_SECOND);
            }
            let replica = self.replicas.borrow().get(&to).cloned();
            let (reply, replied) = oneshot::channel();
            let replied = timeout(ANSWERED_WITHIN, replied).map(|replied| replied.ok()?.ok());
            drop(answer.send(replied.boxed_local()));
            let Some(replica) = replica.filter(|_| !self.is_cut(from, to)) else { continue };
            let links = self.clone();
            let message = Message { bodies: message.bodies.iter().map(arrived).collect(), ..message };
            // Its first step is taken before that of the next message, so they reach the replica in order.
            tokio::task::spawn_local(async move {
                let Ok(answer) = replica.answer(message).await else { return };
                sleep(links.delay.get()).await;
                if !links.is_cut(to, from) {
                    drop(reply.send(answer));
                }
            });
        }
    }
}

/// A body where it arrives: in an arena of its own.
fn arrived(body: &Bytes) -> Bytes {
    let mut buf = Arena::new(body.len()).into_buf();
    buf.extend_from_slice(body);
    Arena::seal(buf)
}

fn is_data(lane: Lane) -> bool {
    matches!(lane, Lane::Data(_))
}

fn not_sent(node: NodeId) -> CallError {
    CallError::NotSent { node, reason: "it is down".into() }
}

/// One node's ends of the links, in one of its lives.
pub(crate) struct Ends {
    node: u64,
    life: u64,
    links: Rc<Links>,
}

impl Peers for Ends {
    fn call(&self, node: NodeId, lane: Lane, message: Message) -> LocalBoxFuture<'static, Result<Message, CallError>> {
        let (from, to) = (self.node, node.get());
        let is_alive = self.links.lives.borrow()[&from] == self.life;
        if !is_alive || !self.links.replicas.borrow().contains_key(&to) {
            return std::future::ready(Err(not_sent(node))).boxed_local();
        }
        let mut lanes = self.links.lanes.borrow_mut();
        let carrier = lanes.entry((from, to, is_data(lane))).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            Carrier { sender, task: tokio::task::spawn_local(self.links.clone().carry(from, to, lane, receiver)) }
        });
        let (answer, answered) = oneshot::channel();
        let is_sent = carrier.sender.send(Sent { message, answer }).is_ok();
        async move {
            if !is_sent {
                return Err(not_sent(node));
            }
            let reply = match answered.await {
                Ok(reply) => reply.await,
                Err(_) => None,
            };
            reply.ok_or_else(|| CallError::Broken { node, reason: "it has not answered".into() })
        }
        .boxed_local()
    }

    fn fail(&self, node: NodeId, lane: Lane, _reason: &str) {
        self.links.lanes.borrow_mut().remove(&(self.node, node.get(), is_data(lane)));
    }
}
