//! Leadership, handed to other nodes before this one ends.

use std::time::Duration;

use send_wrapper::SendWrapper;
use tokio::time::{Instant, sleep, timeout_at};
use weir_raft::Role;

use crate::core::Shard;
use crate::message::Lead;
use crate::write::job::LocalGroup;

/// How long it may take until others lead all of the groups. An election would take about as long.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// How often a node is looked for that has all of a group's log.
const AGAIN_EVERY: Duration = Duration::from_millis(10);

impl Shard {
    /// Hands over what this shard leads, each group to a node that has all of its log and has answered lately. Returns when others
    /// lead, or when that has taken too long: then they find out by themselves.
    pub async fn hand_over(&self) {
        let core = SendWrapper::new((*self.0).clone());
        let Some(nodes) = &core.nodes else { return };
        let deadline = Instant::now() + HAND_OVER_MAX;
        let leads = |group: &LocalGroup| matches!(group.replica.role(), Role::Leading { .. });
        for group in core.local_groups().into_iter().filter(|group| leads(group)) {
            let hand_over = async {
                'offered: loop {
                    for node in nodes.addresses.keys() {
                        if group.replica.transfer(node.get()).await.is_ok() {
                            break 'offered;
                        }
                    }
                    sleep(AGAIN_EVERY).await;
                }
                while !matches!(core.leaders.of(group.id), Lead::Away(_)) {
                    core.leaders.changed().await;
                }
            };
            if timeout_at(deadline, hand_over).await.is_err() {
                tracing::warn!(
                    group = group.id.0,
                    "nobody has taken the group over: the others will find out that it has no leader"
                );
            }
        }
    }
}
