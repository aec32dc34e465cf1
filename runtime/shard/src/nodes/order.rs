//! What an operator asks of the cluster, on whichever node.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use weir_types::GroupId;

use crate::core::Core;
use crate::message::{
    Answer, ClusterOrder, ClusterReport, ClusterStatus, GroupStanding, GroupStatus, MembersAnswer, MembersRequest,
    NodeStatus, Request, ShardError,
};

/// How long a group's leader is waited for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

impl Core {
    /// Does what an operator asks for, or says why not.
    pub(crate) async fn carry_out_order(self: Rc<Self>, order: ClusterOrder) -> ClusterReport {
        match order {
            ClusterOrder::Status => ClusterReport::Status(Box::new(self.cluster_status().await)),
            ClusterOrder::Transfer { group, .. } if group >= self.topology.groups => {
                let groups = self.topology.groups;
                ClusterReport::Refused(format!("there is no group {group}: they are 0 to {}", groups - 1).into())
            }
            ClusterOrder::Transfer { group, node } => {
                let request = MembersRequest::Transfer { group: GroupId(group), node };
                match self.ask_members(request).await {
                    Ok(MembersAnswer::Refused(reason)) => ClusterReport::Refused(reason),
                    Ok(_) => ClusterReport::Done(format!("group {group} goes to node {node}").into()),
                    Err(error) => ClusterReport::Refused(unanswered(GroupId(group), &error)),
                }
            }
        }
    }

    async fn cluster_status(self: &Rc<Self>) -> ClusterStatus {
        let groups = join_all(self.topology.groups().map(|group| self.group_status(group))).await;
        let mut addresses: BTreeMap<u64, Box<str>> = BTreeMap::from([(self.config.node_id, "".into())]);
        if let Some(nodes) = &self.nodes {
            addresses.extend(nodes.addresses.iter().map(|(node, address)| (node.get(), address.as_str().into())));
        }
        let heard = |node: u64| {
            let standings = groups.iter().filter_map(GroupStatus::standing);
            let of = |standing: &GroupStanding| match standing.leader == node {
                true => Some(0),
                false => standing.other(node).and_then(|other| other.heard_ms),
            };
            standings.filter_map(of).min()
        };
        let nodes = addresses.into_iter().map(|(node, address)| NodeStatus { node, address, heard_ms: heard(node) });
        ClusterStatus { asked: self.config.node_id, nodes: nodes.collect(), groups }
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
