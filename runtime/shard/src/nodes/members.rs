//! What a group's leader is asked about the group's members, and group 0's about the nodes.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;
use weir_cluster::is_address;
use weir_raft::{MemberError, Other, View};
use weir_stream::NodeStep;

use crate::core::{Core, Found};
use crate::message::{
    Answer, Following, GroupChange, GroupStanding, GroupStep, MembersAnswer, MembersRequest, NodeChange, NodesView,
    Response, ShardError,
};
use crate::write::job::LocalGroup;

/// How long a change of members may take. One that is not committed by then may be later.
const CHANGED_WITHIN: Duration = Duration::from_secs(10);

impl Core {
    /// Carries out what a group's leader is asked; another replica of the group says that it does not lead.
    pub(crate) async fn members(self: &Rc<Self>, request: MembersRequest) -> Response {
        let group = self.group(request.group());
        // What any node answers.
        match request {
            MembersRequest::Hear(announcement) => return self.hear(*announcement).await,
            MembersRequest::Keeps { index } => return Ok(Answer::Members(self.keeps_named(index).await)),
            _ => {}
        }
        // What it says of others is only true while it leads.
        let (standing, seen) = self.standing(&group).ok_or(ShardError::Unavailable)?;
        let answer = match request {
            MembersRequest::Standing(_) => MembersAnswer::Standing(Box::new(standing)),
            MembersRequest::Transfer { node, .. } => self.transfer(&group, &standing, node).await,
            MembersRequest::Step(step) => self.step(&group, &standing, &seen, *step).await?,
            MembersRequest::Nodes => MembersAnswer::Nodes(Box::new(self.nodes_view(&standing))),
            MembersRequest::Change { node, change } => self.change_node(node, &change).await?,
            MembersRequest::Hear(_) | MembersRequest::Keeps { .. } => unreachable!("answered above"),
        };
        Ok(Answer::Members(answer))
    }

    /// How a group of this shard stands, if this node leads it.
    fn standing(&self, group: &LocalGroup) -> Option<(GroupStanding, View)> {
        let view = group.replica.view()?;
        let View { term, last_index, voters, learners, others, .. } = view.clone();
        let following = |(node, Other { lag_entries, lag_bytes, heard }): (u64, Other)| Following {
            node,
            lag_entries,
            lag_bytes,
            heard_ms: heard.map(|heard| heard.as_millis() as u64),
        };
        let others = others.into_iter().map(following).collect();
        let leader = self.config.node_id;
        Some((GroupStanding { group: group.id.0, leader, term, last_index, voters, learners, others }, view))
    }

    /// Takes a step, if the group still stands as it did when that was decided on.
    async fn step(
        &self,
        group: &LocalGroup,
        standing: &GroupStanding,
        seen: &View,
        step: GroupStep,
    ) -> Result<MembersAnswer, ShardError> {
        if standing.step(step.change.clone()) != step {
            let reason = format!("group {} has changed since that was decided on", group.id.0);
            return Ok(MembersAnswer::Refused(reason.into()));
        }
        let replica = &group.replica;
        match step.change {
            GroupChange::Transfer { node } => Ok(self.transfer(group, standing, node).await),
            GroupChange::AddLearner { node } => changed(replica.add_learner(seen, node)).await,
            GroupChange::RemoveLearner { node } => changed(replica.remove_learner(seen, node)).await,
            GroupChange::Voters(voters) => changed(replica.change_voters(seen, voters)).await,
        }
    }

    async fn transfer(&self, group: &LocalGroup, standing: &GroupStanding, node: u64) -> MembersAnswer {
        let number = group.id.0;
        if node == standing.leader {
            return MembersAnswer::Done;
        }
        if !standing.all_voters().contains(&node) {
            return MembersAnswer::Refused(format!("node {node} does not vote in group {number}").into());
        }
        match group.replica.transfer(node).await {
            Ok(()) => MembersAnswer::Done,
            Err(_) => {
                let lag = standing.other(node).map_or(0, |other| other.lag_entries);
                let reason = format!(
                    "node {node} cannot lead group {number} now: it has not answered lately, or lacks entries ({lag} when it was asked)"
                );
                MembersAnswer::Refused(reason.into())
            }
        }
    }

    fn nodes_view(&self, standing: &GroupStanding) -> NodesView {
        let contacts = self.contacts.borrow();
        let answered = contacts.iter().map(|(node, at)| (node.get(), at.elapsed().as_millis() as u64));
        let heard = standing.others.iter().filter_map(|other| Some((other.node, other.heard_ms?)));
        let heard_ms = answered.chain(heard).chain([(self.config.node_id, 0)]).collect();
        let table = self.meta().nodes().clone();
        // What was found before the last change says nothing of it.
        let found =
            self.found.borrow().as_ref().filter(|(epoch, _)| *epoch == table.epoch).map(|(_, found)| found.clone());
        let Found { waits, is_settled } = found.unwrap_or_default();
        let levels = self.levels().into_iter().collect();
        NodesView { table, heard_ms, levels, waits, is_settled }
    }

    /// Notes in group 0 what is wanted of a node; the driver sees to it.
    async fn change_node(self: &Rc<Self>, node: u64, change: &NodeChange) -> Result<MembersAnswer, ShardError> {
        if self.is_alone() {
            let reason = "this node is alone: start it with --cluster-id, and it is the first node of a cluster";
            return Ok(MembersAnswer::Refused(reason.into()));
        }
        if self.meta().nodes().epoch == 0 {
            return Ok(MembersAnswer::Refused("the cluster is being formed: try again in a moment".into()));
        }
        let step = match change {
            NodeChange::Add { address } => {
                if let Some(reason) = self.is_taken(node, address) {
                    return Ok(MembersAnswer::Refused(reason));
                }
                NodeStep::Add { address }
            }
            NodeChange::Drain => NodeStep::Drain,
            NodeChange::Undrain => NodeStep::Undrain,
            NodeChange::Remove => NodeStep::Remove,
        };
        let refused = self.node_step(node, step).await?;
        let table = self.meta().nodes().clone();
        self.take_nodes(&table);
        Ok(refused.map_or(MembersAnswer::Done, MembersAnswer::Refused))
    }

    /// Why a node cannot be at an address, if it cannot.
    fn is_taken(&self, node: u64, address: &str) -> Option<Box<str>> {
        if !is_address(address) {
            return Some(format!("{address:?} is no address of a node: it is written as host:port").into());
        }
        let meta = self.meta();
        let other = meta.nodes().present().find(|(other, entry)| *other != node && &*entry.address == address);
        other.map(|(other, _)| format!("{address} is where node {other} is").into())
    }
}

/// What became of a change of members.
async fn changed(change: impl Future<Output = Result<(), MemberError>>) -> Result<MembersAnswer, ShardError> {
    match timeout(CHANGED_WITHIN, change).await {
        Ok(Ok(())) => Ok(MembersAnswer::Done),
        Ok(Err(MemberError::NotLeader)) => Err(ShardError::Unavailable),
        Ok(Err(MemberError::Refused { reason })) => Ok(MembersAnswer::Refused(reason.into())),
        Ok(Err(MemberError::Unknown)) | Err(_) => Err(ShardError::Unknown),
    }
}
