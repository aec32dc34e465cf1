//! What a node that is new has to know before it can begin: how many groups there are, and who belongs to the cluster.

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use weir_cluster::{Accepted, DiskId, Incoming, Known, List, Message, NodeId, is_one_word};

use crate::core::Shard;
use crate::nodes::salute;

/// A question of a node that is new, and its answer.
const JOIN: u8 = 4;

/// What a node that is new is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster's groups.
    pub groups: u16,
    /// Who belongs to the cluster.
    pub list: List,
}

#[derive(Serialize, Deserialize)]
struct Told {
    /// The node that tells it.
    node: u64,
    groups: u16,
    epoch: u64,
    level: u16,
    /// Number, address, disk, whether it was removed.
    nodes: Vec<(u64, String, Option<u128>, bool)>,
}

impl Joined {
    /// The question.
    pub fn question() -> Message {
        salute::message(JOIN, &(), Vec::new())
    }

    /// What the node at `address` has answered; none if that makes no sense.
    pub fn read(answer: &Message, address: &str) -> Option<Joined> {
        if answer.kind != JOIN {
            return None;
        }
        let Told { node: teller, groups, epoch, level, nodes } = salute::head(answer)?;
        let known = |(node, known_as, disk, is_removed): (u64, String, Option<u128>, bool)| {
            // It may not know how others reach it.
            let address = if known_as.is_empty() && node == teller { address.to_string() } else { known_as };
            if !is_one_word(&address) {
                return None;
            }
            Some((NodeId::new(node)?, Known { address, disk: disk.map(DiskId), is_removed }))
        };
        let nodes = nodes.into_iter().map(known).collect::<Option<_>>()?;
        (groups > 0).then_some(Joined { groups, list: List { epoch, level, nodes } })
    }
}

impl Shard {
    /// Answers the questions of a node that is new, which the roster has let in.
    pub(crate) fn answer_join(&self, accepted: Accepted) {
        let core = (*self.0).clone();
        let Some(nodes) = &core.nodes else { return };
        let (node, config) = (accepted.hello.identity.node.get(), nodes.endpoint.config);
        let mut incoming = Incoming::new(accepted, BytesMut::with_capacity, &config);
        let of_task = core.clone();
        core.spawn_request(async move {
            while let Some((message, responder)) = incoming.next().await {
                let Some(nodes) = of_task.nodes.as_ref().filter(|_| message.kind == JOIN) else { break };
                tracing::info!(node, "a node that is new asks what it has to know");
                let List { epoch, level, nodes } = nodes.roster.current();
                let told = |(node, known): (NodeId, Known)| {
                    (node.get(), known.address, known.disk.map(|disk| disk.0), known.is_removed)
                };
                let nodes = nodes.into_iter().map(told).collect();
                let (node, groups) = (of_task.config.node_id, of_task.topology.groups);
                let told = Told { node, groups, epoch, level, nodes };
                responder.send(salute::message(JOIN, &told, Vec::new()));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_it_is_where_it_was_asked() {
        let known = |address: &str| (address.to_string(), Some(7), false);
        let nodes = [(1, known("")), (2, known("b:1")), (3, known(""))];
        let nodes = nodes.into_iter().map(|(node, (address, disk, removed))| (node, address, disk, removed)).collect();
        let answer = salute::message(JOIN, &Told { node: 1, groups: 3, epoch: 4, level: 1, nodes }, Vec::new());
        let joined = Joined::read(&answer, "a:1").expect("it makes sense");
        let addresses: Vec<&str> = joined.list.nodes.values().map(|known| known.address.as_str()).collect();
        assert_eq!((joined.groups, joined.list.epoch, joined.list.level), (3, 4, 1));
        assert_eq!(addresses, ["a:1", "b:1", ""]);
        assert_eq!(Joined::read(&Joined::question(), "a:1"), None);
        let nodes = vec![(2, "b:1\n3 - there c:1".to_string(), None, false)];
        let answer = salute::message(JOIN, &Told { node: 1, groups: 3, epoch: 4, level: 1, nodes }, Vec::new());
        assert_eq!(Joined::read(&answer, "a:1"), None, "nodes are written down a line each");
    }
}
