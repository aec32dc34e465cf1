//! The driver: brings the groups to the voters that they should have ([`crate::nodes::plan`]), where group 0 is led.
//!
//! It looks, has one step taken, and looks again. What it knows is in group 0's table and in the groups' memberships; what it keeps
//! for itself is only when a leader may be moved, and that may be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use weir_cluster::NodeId;
use weir_raft::{Role, Standing};
use weir_stream::{Command, EncodedFounders, NodeRefusal, NodeState, NodeStep, NodeTable, Reply};
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

use crate::core::{Core, Found};
use crate::message::{Announcement, GroupStanding, GroupStep, MembersAnswer, MembersRequest, ShardError};
use crate::nodes::leaders::HEARD_WITHIN;
use crate::nodes::plan::{Look, Step, balance, plan};

/// How often it looks while something is under way, and while nothing is.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a group's leader may take to say how the group stands.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// How long leaders may be uneven before one is moved: after a restart, or while nodes are rolled, they are for a while.
const UNEVEN_FOR: Duration = Duration::from_secs(30);
/// How long a cluster is new: its nodes may be started by hand.
const NEW_FOR: Duration = Duration::from_secs(300);
/// How long it rests after it has moved one.
const RESTS_FOR: Duration = Duration::from_secs(10);

/// When a leader may be moved, so that the nodes lead evenly.
#[derive(Default)]
struct Moves {
    /// Until when the cluster is new, unless it is settled before.
    new_until: Option<Instant>,
    /// When the next one of a cluster that is not new may be; `None` while there is none to be made.
    next: Option<Instant>,
}

impl Moves {
    fn is_new(&self) -> bool {
        self.new_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether a leader may be moved now.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        now >= *self.next.get_or_insert(now + UNEVEN_FOR)
    }
}

/// Drives the cluster for as long as this node leads group 0 in this term.
pub(crate) async fn lead(core: Rc<Core>, term: u64) {
    let mut moves = Moves::default();
    while core.group(GroupId::META).replica.role() == (Role::Leading { term }) {
        let pause = match core.drive(term, &mut moves).await {
            Ok(true) => LOOK_EVERY.0,
            Ok(false) => LOOK_EVERY.1,
            Err(error) => {
                tracing::warn!(%error, "the cluster's nodes cannot be looked after now");
                LOOK_EVERY.1
            }
        };
        let _ = timeout(pause, core.nodes_changed.notified()).await;
    }
    core.found.take();
}

impl Core {
    /// Looks once, and takes a step if there is one. Says whether something is under way.
    async fn drive(self: &Rc<Self>, term: u64, moves: &mut Moves) -> Result<bool, ShardError> {
        if !self.is_driving(term) {
            return Ok(false);
        }
        if self.meta().nodes().epoch == 0 {
            moves.new_until = Some(Instant::now() + NEW_FOR);
        }
        self.enter_founders().await?;
        self.note_disks().await?;
        self.raise_level().await?;
        let table = self.meta().nodes().clone();
        self.take_nodes(&table);
        let groups = join_all(self.topology.groups().map(|group| self.ask_standing(group))).await;
        let heard = self.heard_nodes();
        let look = Look { nodes: &table.nodes, heard: &heard, groups: &groups, is_new: moves.is_new() };
        let mut plan = plan(&look);
        if let Some(Step::Gone(node)) = plan.step
            && let Some(reason) = self.lacks_copies().await
        {
            plan.step = None;
            plan.waits.push(format!("node {node} stays until others have the modules: {reason}").into());
        }
        let found = Found { waits: plan.waits, is_settled: plan.is_settled };
        *self.found.borrow_mut() = Some((table.epoch, found));
        match plan.step {
            // Meanwhile others may have begun to decide.
            _ if !self.is_driving(term) => return Ok(false),
            Some(Step::Gone(node)) => self.dismiss(node).await?,
            Some(Step::Ask(step)) => return Ok(self.take_step(step).await),
            None if plan.is_settled => {
                // It is as even as it can be by now, or has had its time.
                moves.new_until = None;
                match balance(&look) {
                    None => moves.next = None,
                    Some(step) if moves.is_due() => {
                        moves.next = Some(Instant::now() + RESTS_FOR);
                        return Ok(self.take_step(step).await);
                    }
                    Some(_) => {}
                }
                return Ok(false);
            }
            // What a learner lacks may come soon.
            None => return Ok(groups.iter().flatten().any(|standing| !standing.learners.is_empty())),
        }
        Ok(true)
    }

    /// Whether this node leads group 0, in this term, and nobody else can.
    fn is_driving(&self, term: u64) -> bool {
        let replica = &self.group(GroupId::META).replica;
        replica.role() == (Role::Leading { term }) && replica.is_leading()
    }

    /// Has a group's leader take a step; says whether it has.
    async fn take_step(self: &Rc<Self>, step: GroupStep) -> bool {
        tracing::info!(group = step.group.0, step = ?step.change, "the members of a group change");
        match self.ask_members(MembersRequest::Step(Box::new(step))).await {
            Ok(MembersAnswer::Refused(reason)) => tracing::warn!(%reason, "a group's members do not change yet"),
            Ok(_) => return true,
            // The next look says what has become of it.
            Err(error) => tracing::warn!(%error, "it is not known whether a group's members have changed"),
        }
        false
    }

    async fn ask_standing(self: &Rc<Self>, group: GroupId) -> Option<GroupStanding> {
        // One that is long in answering would have the others' answers grow old.
        match timeout(ANSWERED_WITHIN, self.ask_members(MembersRequest::Standing(group))).await {
            Ok(Ok(MembersAnswer::Standing(standing))) => Some(*standing),
            _ => None,
        }
    }

    /// The nodes that have answered lately.
    fn heard_nodes(&self) -> BTreeSet<u64> {
        let contacts = self.contacts.borrow();
        let lately = contacts.iter().filter(|(_, at)| at.elapsed() < HEARD_WITHIN);
        lately.map(|(node, _)| node.get()).chain([self.config.node_id]).collect()
    }

    /// Notes those who have formed the cluster, if nobody is noted.
    async fn enter_founders(self: &Rc<Self>) -> Result<(), ShardError> {
        let Some(nodes) = &self.nodes else { return Ok(()) };
        if self.meta().nodes().epoch > 0 {
            return Ok(());
        }
        let known = nodes.roster.current().nodes;
        let Some(view) = self.group(GroupId::META).replica.view() else { return Err(ShardError::Unavailable) };
        let founder = |node: u64| {
            let address = NodeId::new(node).and_then(|node| known.get(&node)).map(|known| known.address.as_str());
            (node, address.unwrap_or_default().into())
        };
        let founders = view.voters.into_iter().flatten().chain(view.learners).map(founder).collect();
        let founders = EncodedFounders::encode(&founders);
        let founders = EncodedFounders::of(&founders);
        match self.group(GroupId::META).command(&Command::MetaFounders { founders }).await? {
            // What was not known to have become of it may have been done.
            Reply::Node { refused: None | Some(NodeRefusal::Formed) } => Ok(()),
            other => unreachable!("a cluster's founders are not answered with {other:?}"),
        }
    }

    /// Notes the disks of those who were met first by this node.
    async fn note_disks(self: &Rc<Self>) -> Result<(), ShardError> {
        let Some(nodes) = &self.nodes else { return Ok(()) };
        let own = (self.config.node_id, nodes.endpoint.identity.disk);
        let known = nodes.roster.current().nodes;
        let met = known.into_iter().filter_map(|(node, known)| Some((node.get(), known.disk?)));
        for (node, disk) in met.chain([own]) {
            let is_unknown = self
                .meta()
                .nodes()
                .nodes
                .get(&node)
                .is_some_and(|entry| entry.disk == 0 && entry.state != NodeState::Removed);
            if is_unknown && disk.0 != 0 {
                self.node_step(node, NodeStep::Met { disk: disk.0 }).await?;
            }
        }
        Ok(())
    }

    /// Raises the format level to what every node knows, once all of them have been met and serve: whoever cannot start with a new version
    /// has to be able to go back.
    async fn raise_level(&self) -> Result<(), ShardError> {
        let (levels, table) = (self.levels(), self.meta().nodes().clone());
        let (own, heard) = (levels.get(&self.config.node_id).copied(), self.heard_nodes());
        let known_by = |node: u64| levels.get(&node).copied().filter(|_| heard.contains(&node));
        let known = table.present().map(|(node, _)| known_by(node)).chain([own]);
        let Some(level) = known.min().flatten().filter(|level| *level > table.level) else { return Ok(()) };
        self.group(GroupId::META).command(&Command::MetaLevel { level }).await?;
        tracing::info!(level, "all nodes know this format level, so the cluster is at it from now on");
        Ok(())
    }

    /// The format level that each node knows, as far as this one has met them.
    pub(crate) fn levels(&self) -> BTreeMap<u64, u16> {
        let own = self.nodes.as_ref().map_or(FORMAT_LEVEL, |nodes| nodes.endpoint.level);
        let met = self.nodes.iter().flat_map(|nodes| nodes.roster.levels());
        met.map(|(node, level)| (node.get(), level)).chain([(self.config.node_id, own)]).collect()
    }

    /// Takes a node's step in group 0; a refusal is an answer.
    pub(crate) async fn node_step(&self, node: u64, step: NodeStep<'_>) -> Result<Option<Box<str>>, ShardError> {
        match self.group(GroupId::META).command(&Command::MetaNode { node, step }).await? {
            Reply::Node { refused } => Ok(refused.map(|refusal| format!("node {node}: {refusal}").into())),
            other => unreachable!("a node's step is not answered with {other:?}"),
        }
    }

    /// Removes a node that no group has any more. It is told while it is still listened to, as long as it was heard lately.
    async fn dismiss(self: &Rc<Self>, node: u64) -> Result<(), ShardError> {
        self.node_step(node, NodeStep::Gone).await?;
        tracing::info!(node, "the node is removed: no group has it any more");
        let table: NodeTable = self.meta().nodes().clone();
        let leader = self.config.node_id;
        let Standing { term, applied_index: committed, .. } = self.group(GroupId::META).replica.standing();
        if let Some(node) = NodeId::new(node) {
            // From then on nobody tells it anything. A leader that has just begun has heard nobody yet.
            loop {
                let nodes = Some(table.clone());
                let news = Announcement { group: GroupId::META, leader, term, committed, is_member: false, nodes };
                if self.tell(node, news).await.is_ok() || !self.heard_nodes().contains(&node.get()) {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY.0).await;
            }
        }
        self.take_nodes(&table);
        Ok(())
    }
}
