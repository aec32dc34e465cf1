//! Leadership, handed to other nodes before this one ends.

use std::time::Duration;

use futures_util::future::join_all;
use send_wrapper::SendWrapper;
use tokio::time::{Instant, sleep, timeout_at};
use weir_raft::Role;

use crate::core::{Core, Shard};
use crate::message::Lead;
use crate::write::job::LocalGroup;

/// How long it may take until others lead all of the groups, and whoever waits for this node has its answer.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// How long answers may take to be sent at the end.
const QUIET_WITHIN: Duration = Duration::from_secs(1);
/// How long mail is refused at the end: longer than it takes until all nodes know who leads instead.
const REFUSES_FOR: Duration = Duration::from_millis(500);
/// How often a node is looked for that has all of a group's log, and whether anybody waits.
const AGAIN_EVERY: Duration = Duration::from_millis(10);

impl Shard {
    /// Hands over what this shard leads, each group to a node that has all of its log and has answered lately. Returns when others
    /// lead and have what this shard had to say to them, or when that has taken too long: then they find out by themselves.
    pub async fn hand_over(&self) {
        let core = SendWrapper::new((*self.0).clone());
        let deadline = Instant::now() + HAND_OVER_MAX;
        let groups = core.local_groups();
        let handing_over = join_all(groups.iter().map(|group| core.hand_over_group(group)));
        if timeout_at(deadline, handing_over).await.is_err() {
            tracing::warn!("not every group was handed over: the others will find out that it has no leader");
        }
        core.wait_quiet(deadline).await;
    }
}

impl Core {
    /// Takes no mail any more, once others have what this shard had to say to them. Who has not heard yet that others lead now and
    /// asks this node is refused for a while, and so knows that nothing was done.
    pub(crate) async fn leave(&self) {
        if !self.is_alone() {
            self.wait_quiet(Instant::now() + QUIET_WITHIN).await;
            self.is_leaving.set(true);
            sleep(REFUSES_FOR).await;
        }
    }

    /// Waits until what was proposed has an outcome, and who has asked from another node has it.
    async fn wait_quiet(&self, deadline: Instant) {
        let is_quiet = || {
            let waits = self.groups.iter().flatten().any(|group| group.next_deadline().is_some());
            !waits && self.post.nodes().iter().all(|node| node.is_quiet())
        };
        while !is_quiet() && Instant::now() < deadline {
            sleep(AGAIN_EVERY).await;
        }
    }

    async fn hand_over_group(&self, group: &LocalGroup) {
        let Some(nodes) = &self.nodes else { return };
        if !matches!(group.replica.role(), Role::Leading { .. }) {
            return;
        }
        let (voters, _) = group.replica.members();
        if voters.iter().all(|voter| *voter == self.config.node_id) {
            return;
        }
        // Without its lease it has nobody to hand over to.
        'offered: while group.replica.is_leading() {
            for node in nodes.roster.addresses().keys() {
                if group.replica.transfer(node.get()).await.is_ok() {
                    break 'offered;
                }
            }
            sleep(AGAIN_EVERY).await;
        }
        while !matches!(self.leaders.of(group.id), Lead::Away(_)) {
            self.leaders.changed().await;
        }
    }
}
