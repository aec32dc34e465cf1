//! What an operator asks of the cluster, on whichever node.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use weir_cluster::{Known, List};
use weir_stream::{NodeEntry, NodeState, NodeTable};
use weir_types::GroupId;

use crate::core::Core;
use crate::message::{
    Answer, ClusterOrder, ClusterReport, ClusterStatus, GroupStanding, GroupStatus, MembersAnswer, MembersRequest,
    NodeChange, NodeStatus, NodesView, Request, ShardError,
};

/// How long a group's leader is waited for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// How long a node that is to lead a group may take to do so.
const LEADS_WITHIN: Duration = Duration::from_secs(5);
/// When a group that another still leads is asked for again: an election takes less.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether the node leads.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Core {
    /// Does what an operator asks for, or says why not.
    pub(crate) async fn carry_out_order(self: Rc<Self>, order: ClusterOrder) -> ClusterReport {
        match order {
            ClusterOrder::Status => ClusterReport::Status(Box::new(self.cluster_status().await)),
            ClusterOrder::Transfer { group, .. } if group >= self.topology.groups => {
                let groups = self.topology.groups;
                ClusterReport::Refused(format!("there is no group {group}: they are 0 to {}", groups - 1).into())
            }
            ClusterOrder::Transfer { group, node } => self.order_transfer(GroupId(group), node).await,
            ClusterOrder::Change { node: 0, .. } => ClusterReport::Refused("nodes have numbers from 1 on".into()),
            ClusterOrder::Change { node, change } => {
                let done = match &change {
                    NodeChange::Add { address } => {
                        format!("node {node} at {address} is taken in; `weir cluster status` says how far that is")
                    }
                    NodeChange::Drain => format!("node {node} is drained; `weir cluster status` says how far that is"),
                    NodeChange::Undrain => format!("node {node} gets its part again"),
                    NodeChange::Remove => {
                        format!("node {node} is removed, for ever; `weir cluster status` says how far that is")
                    }
                };
                self.order(MembersRequest::Change { node, change }, done).await
            }
        }
    }

    async fn order(self: &Rc<Self>, request: MembersRequest, done: String) -> ClusterReport {
        let group = request.group();
        match self.ask_members(request).await {
            Ok(MembersAnswer::Refused(reason)) => ClusterReport::Refused(reason),
            Ok(_) => ClusterReport::Done(done.into()),
            Err(error) => ClusterReport::Refused(unanswered(group, &error)),
        }
    }

    /// Has a node lead a group, and waits until it does: an election that was begun for it may fail, or be won by another.
    async fn order_transfer(self: &Rc<Self>, group: GroupId, node: u64) -> ClusterReport {
        let request = || MembersRequest::Transfer { group, node };
        let done = self.order(request(), format!("group {} goes to node {node}", group.0)).await;
        if !matches!(done, ClusterReport::Done(_)) {
            return done;
        }
        let until = Instant::now() + LEADS_WITHIN;
        let mut asked = Instant::now();
        loop {
            match self.group_status(group).await {
                GroupStatus::Led(standing) if standing.leader == node => return done,
                _ if Instant::now() > until => {
                    let reason = format!("node {node} does not lead group {} yet: try again", group.0);
                    return ClusterReport::Refused(reason.into());
                }
                GroupStatus::Led(_) if asked.elapsed() > AGAIN_AFTER => {
                    // What it says of this is said by the next look, too.
                    let _ = self.ask_members(request()).await;
                    asked = Instant::now();
                }
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn cluster_status(self: &Rc<Self>) -> ClusterStatus {
        let asked = self.topology.groups().map(|group| self.group_status(group));
        let (view, groups) = tokio::join!(self.nodes_seen(), join_all(asked));
        let heard = |node: u64| {
            let standings = groups.iter().filter_map(GroupStatus::standing);
            let of = |standing: &GroupStanding| match standing.leader == node {
                true => Some(0),
                false => standing.other(node).and_then(|other| other.heard_ms),
            };
            let seen = view.heard_ms.iter().filter(|(other, _)| *other == node).map(|(_, heard_ms)| *heard_ms);
            standings.filter_map(of).chain(seen).min()
        };
        let nodes = view.table.present().map(|(node, entry)| NodeStatus {
            node,
            address: entry.address.clone(),
            state: entry.state,
            disk: (entry.disk != 0).then(|| format!("{:032x}", entry.disk).into()),
            heard_ms: heard(node),
            level: view.levels.iter().find(|(other, _)| *other == node).map(|(_, level)| *level),
        });
        let level = view.table.level;
        let (nodes, waits, is_known) = (nodes.collect(), view.waits, view.table.epoch > 0);
        let is_settled = is_known.then_some(view.is_settled);
        ClusterStatus { asked: self.config.node_id, nodes, groups, level, waits, is_settled }
    }

    /// What the leader of group 0 knows of the nodes or, if it does not answer, what this node knows.
    async fn nodes_seen(self: &Rc<Self>) -> NodesView {
        if let Ok(MembersAnswer::Nodes(view)) = self.ask_members(MembersRequest::Nodes).await
            && view.table.epoch > 0
        {
            return *view;
        }
        let own = (self.config.node_id, Known::default());
        let List { level, nodes: known, .. } =
            self.nodes.as_ref().map(|nodes| nodes.roster.current()).unwrap_or_default();
        let known = known.into_iter().map(|(node, known)| (node.get(), known));
        let entry = |(node, Known { address, disk, is_removed }): (u64, Known)| {
            let state = if is_removed { NodeState::Removed } else { NodeState::Active };
            (node, NodeEntry { address: address.into(), disk: disk.map_or(0, |disk| disk.0), state })
        };
        let nodes = [own].into_iter().chain(known).map(entry).collect();
        let heard_ms = vec![(self.config.node_id, 0)];
        let table = NodeTable { epoch: 0, level, nodes };
        let levels = self.levels().into_iter().collect();
        NodesView { table, heard_ms, levels, waits: Vec::new(), is_settled: false }
    }

    async fn group_status(self: &Rc<Self>, group: GroupId) -> GroupStatus {
        match self.ask_members(MembersRequest::Standing(group)).await {
            Ok(MembersAnswer::Standing(standing)) => GroupStatus::Led(standing),
            Ok(_) => unreachable!("answers are of the kind that was asked for"),
            Err(error) => GroupStatus::Leaderless { group: group.0, reason: unanswered(group, &error) },
        }
    }

    /// Asks a group's leader, wherever it is.
    pub(crate) async fn ask_members(self: &Rc<Self>, request: MembersRequest) -> Result<MembersAnswer, ShardError> {
        match timeout(ANSWERED_WITHIN, self.request(Request::Members(request))).await {
            Ok(Ok(Answer::Members(answer))) => Ok(answer),
            Ok(Ok(_)) => unreachable!("answers are of the kind that was asked for"),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ShardError::Unavailable),
        }
    }
}

fn unanswered(group: GroupId, error: &ShardError) -> Box<str> {
    match error {
        ShardError::Unavailable => format!("group {} has no leader that answers", group.0).into(),
        error => format!("the leader of group {} could not be asked: {error}", group.0).into(),
    }
}
