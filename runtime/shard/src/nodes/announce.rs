//! A group's leader tells other nodes that it leads: those that do not belong to the group would not hear of it. And the leader of
//! group 0 tells all nodes who there is. So everybody finds every leader, and hears of nodes that come and go, within a second.
//!
//! Who answers is there: how long ago that was is what is known of nodes that belong to no group.
//!
//! A node that has left a group gives up its log when it has applied all of it. Who says that it has what leaders before have sent, and
//! cannot know what became of that, is sent a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use weir_cluster::{DiskId, Known, List, NodeId};
use weir_raft::Role;
use weir_stream::{NodeState, NodeTable};
use weir_types::GroupId;

use crate::core::Core;
use crate::message::{Addressee, Announcement, Answer, Lead, Mail, MembersAnswer, MembersRequest, Request, Response};
use crate::nodes::outgoing::Outgoing;
use crate::seams::Nodes;
use crate::write::job::LocalGroup;

/// How often it is said, and how long an answer may take.
const EVERY: Duration = Duration::from_secs(1);
/// How long it is waited until a node is sent a snapshot again.
const SETTLED_EVERY: Duration = Duration::from_secs(10);

/// Tells the others, for as long as this node leads the group in this term.
pub(crate) async fn lead(core: Rc<Core>, group: Rc<LocalGroup>, term: u64) {
    // Nodes that are being sent a snapshot, or were lately.
    let mut settling: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
    while group.replica.role() == (Role::Leading { term }) {
        let nodes = (group.id == GroupId::META).then(|| core.meta().nodes().clone());
        let members = group.replica.view().map(|view| {
            let voters = view.voters.into_iter().flatten();
            voters.chain(view.learners).collect::<BTreeSet<u64>>()
        });
        let is_member = |node: &NodeId| members.as_ref().is_none_or(|members| members.contains(&node.get()));
        // It may have been replaced just now, and then applies what another one has committed.
        let standing = Some(group.replica.standing()).filter(|standing| standing.term == term);
        let committed = standing.map_or(0, |standing| standing.applied_index);
        let others = core.post.nodes().into_iter().map(|outgoing| outgoing.node());
        // Members hear who leads of the group itself.
        let telling = others.filter(|node| nodes.is_some() || !is_member(node)).map(|node| {
            let (group, leader, is_member) = (group.id, core.config.node_id, is_member(&node));
            let told =
                core.tell(node, Announcement { group, leader, term, committed, is_member, nodes: nodes.clone() });
            async move { (node, told.await) }
        });
        let (told, _) = tokio::join!(join_all(telling), timeout(EVERY, core.nodes_changed.notified()));
        for (node, answer) in told {
            let is_refused = matches!(answer, Ok(Answer::Members(MembersAnswer::Refused(_))));
            if is_refused && settling.get(&node).is_none_or(AbortHandle::is_finished) {
                let group = group.clone();
                let settle = async move {
                    group.replica.settle(node.get(), term).await;
                    sleep(SETTLED_EVERY).await;
                };
                settling.insert(node, core.spawn_request(settle));
            }
        }
    }
}

impl Core {
    /// Tells a node, and notes it when that has answered.
    pub(crate) async fn tell(self: &Rc<Self>, node: NodeId, announcement: Announcement) -> Response {
        let group = announcement.group;
        let news = Request::Members(MembersRequest::Hear(Box::new(announcement)));
        let answer = self.ask_node(node, news, EVERY).await;
        if answer.is_ok() && group == GroupId::META {
            self.contacts.borrow_mut().insert(node, Instant::now());
        }
        answer
    }

    /// Hears who leads a group, and of group 0 who there is. Refuses to do without a snapshot where the group's replica needs one.
    pub(crate) async fn hear(self: &Rc<Self>, announcement: Announcement) -> Response {
        let Announcement { group, leader, term, committed, is_member, nodes } = announcement;
        if let Some(table) = nodes {
            self.take_nodes(&table);
        }
        if let Some(leader) = NodeId::new(leader)
            && leader.get() != self.config.node_id
            && self.leaders.hear(group, term, leader)
        {
            self.tell_lead(&self.group(group));
        }
        if !is_member {
            let group = self.group(group);
            group.note_outside();
            group.replica.hear_committed(term, leader, committed).await;
            if group.replica.has_old_tail(term) {
                let reason = "its log has what leaders before have sent: it has to go on from a snapshot";
                return Ok(Answer::Members(MembersAnswer::Refused(reason.into())));
            }
        }
        Ok(Answer::Members(MembersAnswer::Done))
    }

    /// Takes over who belongs to the cluster, as group 0 has it.
    pub(crate) fn take_nodes(self: &Rc<Self>, table: &NodeTable) {
        let Some(nodes) = &self.nodes else { return };
        // Before there are any, everybody knows those that it was told at its start.
        if table.epoch > 0 && nodes.roster.update(list_of(table)) {
            self.meet_nodes();
            self.post.mail_all(|| Mail::Nodes);
        }
    }

    /// Looks again who belongs to the cluster: links and mail to nodes that are gone or somewhere else end, and those that have come
    /// are met.
    pub(crate) fn meet_nodes(self: &Rc<Self>) {
        let Some(nodes) = &self.nodes else { return };
        let addresses = nodes.roster.addresses();
        if let Some(links) = &self.links {
            links.set_addresses(addresses.clone());
        }
        for outgoing in self.post.nodes() {
            let node = outgoing.node();
            match addresses.get(&node) {
                Some(address) if address == outgoing.address() => {}
                Some(address) => {
                    outgoing.close();
                    self.write_to(outgoing.moved(nodes.endpoint.clone(), address.clone()));
                }
                None => {
                    outgoing.close();
                    self.post.remove_node(node);
                }
            }
        }
        for (node, address) in addresses {
            if self.post.node(node).is_none() {
                self.write_to(self.outgoing(nodes, node, address));
            }
        }
        let is_gone = |node: NodeId| nodes.roster.is_removed(node);
        self.incoming.borrow_mut().retain(|(node, _), task| {
            if is_gone(*node) {
                task.abort();
            }
            !is_gone(*node)
        });
        let gone: Vec<_> = self.lanes.borrow().keys().copied().filter(|(node, _)| is_gone(*node)).collect();
        gone.into_iter().for_each(|lane| self.close_lane(lane));
        self.contacts.borrow_mut().retain(|node, _| !is_gone(*node));
        self.nodes_changed.notify_waiters();
    }

    /// Ends all connections to and from other nodes.
    pub(crate) fn leave_nodes(&self) {
        self.post.nodes().iter().for_each(|outgoing| outgoing.close());
        self.incoming.borrow_mut().drain().for_each(|(_, task)| task.abort());
        let lanes: Vec<_> = self.lanes.borrow().keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.close_lane(lane));
    }

    /// Mail to a node that is new to this shard.
    fn outgoing(&self, nodes: &Nodes, node: NodeId, address: String) -> Rc<Outgoing> {
        let own = Addressee { shard: self.id, life: nodes.life };
        Outgoing::new(nodes.endpoint.clone(), (node, address), own, self.topology.groups, self.losses.clone())
    }

    /// Has mail go that way from now on.
    fn write_to(&self, outgoing: Rc<Outgoing>) {
        let task = self.spawn_request(outgoing.clone().run());
        outgoing.sent_by(task);
        self.post.set_node(outgoing);
    }

    /// Tells all shards where a group of this shard is led, as its replica sees it, or as others say who know more.
    pub(crate) fn tell_lead(&self, group: &LocalGroup) {
        let (role, term) = (group.replica.role(), group.replica.standing().term);
        let lead = match role {
            Role::Leading { .. } => Lead::Here,
            Role::Following { leader } => {
                let own = leader.and_then(NodeId::new).map_or(Lead::Nowhere, Lead::Away);
                match self.leaders.heard(group.id) {
                    Some((heard, node)) if heard > term || (heard == term && own == Lead::Nowhere) => Lead::Away(node),
                    _ => own,
                }
            }
            // A node that is alone goes on being the one that knows.
            Role::Stopped if self.is_alone() => Lead::Here,
            Role::Stopped => Lead::Nowhere,
        };
        self.leaders.set(group.id, lead);
        self.post.mail_all(|| Mail::Led { group: group.id, lead });
    }
}

/// The nodes as those who meet them know them.
fn list_of(table: &NodeTable) -> List {
    let nodes = table.nodes.iter().filter_map(|(node, entry)| {
        let disk = (entry.disk != 0).then_some(DiskId(entry.disk));
        let is_removed = entry.state == NodeState::Removed;
        Some((NodeId::new(*node)?, Known { address: entry.address.to_string(), disk, is_removed }))
    });
    List { epoch: table.epoch, level: table.level, nodes: nodes.collect() }
}
