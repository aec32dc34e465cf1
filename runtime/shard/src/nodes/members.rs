//! What a group's leader is asked about the group's members.

use std::rc::Rc;

use weir_raft::{Other, View};

use crate::core::Core;
use crate::message::{Answer, Following, GroupStanding, MembersAnswer, MembersRequest, Response, ShardError};
use crate::write::job::LocalGroup;

impl Core {
    /// Carries out what a group's leader is asked; another replica of the group says that it does not lead.
    pub(crate) async fn members(self: &Rc<Self>, request: MembersRequest) -> Response {
        let group = self.group(request.group());
        // What it says of others is only true while it leads.
        let standing = self.standing(&group).ok_or(ShardError::Unavailable)?;
        let answer = match request {
            MembersRequest::Standing(_) => MembersAnswer::Standing(Box::new(standing)),
            MembersRequest::Transfer { node, .. } => self.transfer(&group, &standing, node).await,
        };
        Ok(Answer::Members(answer))
    }

    /// How a group of this shard stands, if this node leads it.
    fn standing(&self, group: &LocalGroup) -> Option<GroupStanding> {
        let View { term, last_index, voters, learners, others } = group.replica.view()?;
        let following = |(node, Other { lag_entries, lag_bytes, heard }): (u64, Other)| Following {
            node,
            lag_entries,
            lag_bytes,
            heard_ms: heard.map(|heard| heard.as_millis() as u64),
        };
        let others = others.into_iter().map(following).collect();
        let leader = self.config.node_id;
        Some(GroupStanding { group: group.id.0, leader, term, last_index, voters, learners, others })
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
}
