//! The replicas of other nodes over links.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::task::JoinSet;
use weir_cluster::{Accepted, Addresses, CallError, Endpoint, Incoming, Lane, Link, LinkConfig, Message, NodeId};
use weir_storage::Arena;

use crate::answer::AnswerError;
use crate::peers::Peers;
use crate::replica::Replica;

/// Links to the replicas of other nodes, made when there is something to say. Lives on one thread.
pub struct Links {
    endpoint: Endpoint,
    addresses: RefCell<Addresses>,
    links: RefCell<BTreeMap<(NodeId, Lane), Rc<Link>>>,
}

impl Links {
    /// Links from a node to others.
    pub fn new(endpoint: Endpoint, addresses: Addresses) -> Links {
        Links { endpoint, addresses: RefCell::new(addresses), links: RefCell::default() }
    }

    /// The nodes are there from now on. Links to those that are somewhere else, or nowhere, end.
    pub fn set_addresses(&self, addresses: Addresses) {
        let before = self.addresses.replace(addresses);
        let addresses = self.addresses.borrow();
        self.links.borrow_mut().retain(|(node, _), _| before.get(node) == addresses.get(node));
    }

    fn link(&self, node: NodeId, lane: Lane) -> Result<Rc<Link>, CallError> {
        let unknown = || CallError::NotSent { node, reason: "nobody knows where it is".into() };
        let addresses = self.addresses.borrow();
        let address = addresses.get(&node).ok_or_else(unknown)?;
        let mut links = self.links.borrow_mut();
        let link = links.entry((node, lane)).or_insert_with(|| {
            // Answers have no bodies.
            Rc::new(Link::new(self.endpoint.clone(), node, address.clone(), lane, BytesMut::with_capacity))
        });
        Ok(link.clone())
    }
}

impl Peers for Links {
    fn call(&self, node: NodeId, lane: Lane, message: Message) -> LocalBoxFuture<'static, Result<Message, CallError>> {
        match self.link(node, lane) {
            Ok(link) => async move { link.call(message).await }.boxed_local(),
            Err(error) => async { Err(error) }.boxed_local(),
        }
    }

    fn fail(&self, node: NodeId, lane: Lane, reason: &str) {
        if let Some(link) = self.links.borrow().get(&(node, lane)) {
            link.fail(reason);
        }
    }
}

/// Answers what a replica of another node asks on one connection, until that ends; then what is not answered is left.
pub async fn answer_peer(accepted: Accepted, replica: Replica, config: LinkConfig) {
    let mut incoming = Incoming::new(accepted, |bytes| Arena::new(bytes).into_buf(), &config);
    let mut answers = JoinSet::new();
    while let Some((message, responder)) = incoming.next().await {
        let replica = replica.clone();
        // Its first step is taken before that of the next one, so they take effect in order.
        answers.spawn_local(async move {
            match replica.answer(message).await {
                Ok(reply) => responder.send(reply),
                // Dropped, the responder says that there will be no answer. Who has stopped has said so.
                Err(AnswerError::Malformed(error)) => {
                    tracing::warn!(%error, "a peer has sent what cannot be understood")
                }
                Err(error) => tracing::debug!(%error, "a message of another node has no answer"),
            }
        });
        while answers.try_join_next().is_some() {}
    }
}
