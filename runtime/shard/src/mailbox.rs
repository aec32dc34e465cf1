//! Mailboxes: how shards speak to each other. What a shard has to say to a peer in one turn travels as one message.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use weir_cluster::NodeId;
use weir_cold::{ChunkName, Cold};
use weir_types::{ShardId, Wakeup};

use crate::message::{BackupNews, CheckNews, ClusterOrder, ClusterReport, Mail, Peer, ShardStats};
use crate::nodes::outgoing::Outgoing;

/// A shard's outgoing mail: what is put into it in one turn leaves together at the turn's end.
pub(crate) struct Post {
    own: ShardId,
    peers: Vec<Address>,
    outbox: Vec<RefCell<Vec<Mail>>>,
    filled: Wakeup,
    /// Mail to other nodes.
    nodes: RefCell<BTreeMap<NodeId, Rc<Outgoing>>>,
}

impl Post {
    pub(crate) fn new(own: ShardId, peers: Vec<Address>) -> Post {
        assert!(usize::from(own.0) < peers.len(), "a shard is one of its peers");
        let outbox = peers.iter().map(|_| RefCell::default()).collect();
        Post { own, peers, outbox, filled: Wakeup::default(), nodes: RefCell::default() }
    }

    /// The shard that this is the post of.
    pub(crate) fn own(&self) -> ShardId {
        self.own
    }

    /// Mail to another node; none where nobody knows it.
    pub(crate) fn node(&self, node: NodeId) -> Option<Rc<Outgoing>> {
        self.nodes.borrow().get(&node).cloned()
    }

    /// From now on, mail to a node goes this way.
    pub(crate) fn set_node(&self, outgoing: Rc<Outgoing>) {
        self.nodes.borrow_mut().insert(outgoing.node(), outgoing);
    }

    /// There is no mail to a node any more.
    pub(crate) fn remove_node(&self, node: NodeId) {
        self.nodes.borrow_mut().remove(&node);
    }

    /// Mail to all other nodes.
    pub(crate) fn nodes(&self) -> Vec<Rc<Outgoing>> {
        self.nodes.borrow().values().cloned().collect()
    }

    /// The other nodes.
    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.borrow().keys().copied().collect()
    }

    /// Whether nothing large should be added to what waits for a peer.
    pub(crate) fn is_full(&self, peer: Peer) -> bool {
        peer.node().and_then(|node| self.node(node)).is_some_and(|node| node.is_full())
    }

    /// Puts mail for a peer into this turn's message.
    pub(crate) fn mail(&self, peer: impl Into<Peer>, mail: Mail) {
        match peer.into() {
            Peer::Here(peer) => {
                assert!(peer != self.own, "a shard does not write to itself");
                self.outbox[usize::from(peer.0)].borrow_mut().push(mail);
                self.filled.ring();
            }
            Peer::Away(node, to) => {
                if let Some(outgoing) = self.node(node) {
                    outgoing.mail(to, mail);
                }
            }
        }
    }

    /// Puts mail that has come from another node into this turn's message to the shard of this node that it is for, which may be this
    /// one: all of it comes in the same way.
    pub(crate) fn pass_on(&self, to: ShardId, mail: Mail) {
        self.outbox[usize::from(to.0)].borrow_mut().push(mail);
        self.filled.ring();
    }

    /// Puts mail for all other shards of this node into this turn's messages.
    pub(crate) fn mail_all(&self, mail: impl Fn() -> Mail) {
        for peer in (0..self.peers.len()).map(|peer| ShardId(peer as u16)).filter(|peer| *peer != self.own) {
            self.mail(peer, mail());
        }
    }

    /// Takes what would be sent to a peer at the turn's end.
    #[cfg(test)]
    pub(crate) fn take(&self, peer: ShardId) -> Vec<Mail> {
        self.outbox[usize::from(peer.0)].take()
    }

    /// Sends every turn's mail. Runs for the shard's life.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            self.filled.rung().await;
            for (outbox, peer) in self.outbox.iter().zip(&self.peers) {
                let mail = outbox.take();
                if !mail.is_empty() {
                    // A peer that has stopped is about to take the process with it; nothing is owed to it.
                    let _ = peer.0.send(mail);
                }
            }
        }
    }
}

/// A shard's own mailbox, with the addresses of all.
pub struct Mailbox {
    pub(crate) receiver: mpsc::UnboundedReceiver<Vec<Mail>>,
    pub(crate) peers: Vec<Address>,
}

/// Where a shard's mail goes. Unbounded: what is in it is bounded by the requests under way.
#[derive(Clone)]
pub struct Address(pub(crate) mpsc::UnboundedSender<Vec<Mail>>);

impl Address {
    /// Asks the shard for its figures. `None` when it has stopped.
    pub async fn stats(&self) -> Option<ShardStats> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(vec![Mail::Stats(sender)]).ok()?;
        receiver.await.ok()
    }

    /// Asks the shard to do something for an operator. `None` when it has stopped.
    pub async fn order(&self, order: ClusterOrder) -> Option<ClusterReport> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(vec![Mail::Order(order, sender)]).ok()?;
        receiver.await.ok()
    }

    /// Asks the shard to verify all chunks that its streams name, to repair what is damaged and can be if it `repairs`, and to
    /// tell `news`, for as long as somebody takes them; one that has stopped tells nothing. `turn` is given back when it does nothing more for it.
    pub fn cold_check(&self, repairs: bool, news: mpsc::Sender<CheckNews>, turn: Arc<OwnedSemaphorePermit>) {
        // Who waits for the news sees that there are none.
        let _ = self.0.send(vec![Mail::ColdCheck { repairs, news, turn }]);
    }

    /// Asks the shard to copy all it has to another tier, where the chunks of `there` are already, and to tell `news`, for
    /// as long as somebody takes them; one that has stopped tells nothing. `turn` is given back when it does nothing more for it.
    pub fn backup(
        &self,
        to: Cold,
        there: Arc<BTreeMap<ChunkName, u64>>,
        news: mpsc::Sender<BackupNews>,
        turn: Arc<OwnedSemaphorePermit>,
    ) {
        // Who waits for the news sees that there are none.
        let _ = self.0.send(vec![Mail::Backup { to, there, news, turn }]);
    }
}

/// The mailboxes of a node with this many shards, and the address of each, in their order.
pub fn mesh(shards: u16) -> (Vec<Mailbox>, Vec<Address>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::unbounded_channel()).unzip();
    let peers: Vec<Address> = senders.into_iter().map(Address).collect();
    let mailboxes = receivers.into_iter().map(|receiver| Mailbox { receiver, peers: peers.clone() }).collect();
    (mailboxes, peers)
}
