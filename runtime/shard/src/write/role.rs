//! What a change of leadership means for writes, and for those who follow streams.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use weir_raft::Role;
use weir_types::GroupId;

use crate::core::Core;
use crate::group::Failure;
use crate::meta::reconcile;
use crate::nodes::{announce, driver};
use crate::write::job::LocalGroup;

/// How often a leader is looked at that may have lost the others.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long a leader may be without its lease until those who follow its streams are sent elsewhere: about an election.
const LEASELESS_MAX: Duration = Duration::from_secs(2);

/// Follows the role of a group's replica. Runs for the shard's life.
///
/// Who waits for a round under way goes on waiting: it may be committed yet. What was not proposed never will be.
pub(crate) async fn follow(core: Rc<Core>, group: Rc<LocalGroup>) {
    // A node that is alone leads from the start.
    let mut last = if core.is_alone() { Some(group.replica.role()) } else { None };
    let mut leaseless_since: Option<Instant> = None;
    loop {
        let role = group.replica.role();
        if last.replace(role) != Some(role) {
            leaseless_since = None;
            match role {
                // When others led, nobody told this shard what was used.
                Role::Leading { term } => {
                    group.begin_to_lead(term, core.clock.now_ms());
                    if group.id == GroupId::META && !core.is_alone() {
                        core.spawn(reconcile::lead(core.clone(), term));
                        core.spawn(driver::lead(core.clone(), term));
                    }
                    if !core.is_alone() {
                        core.spawn(announce::lead(core.clone(), group.clone(), term));
                    }
                }
                Role::Following { .. } => {
                    core.fail(group.discard(), &Failure::Unavailable.into());
                    core.feeds.lose_group(group.id);
                }
                Role::Stopped if core.is_alone() => return,
                Role::Stopped => core.feeds.lose_group(group.id),
            }
            core.tell_lead(&group);
            if role == Role::Stopped {
                return;
            }
        }
        match role {
            Role::Leading { .. } if !core.is_alone() => {
                // Nobody says that the others are gone.
                let _ = timeout(LOOK_EVERY, group.replica.role_changed()).await;
                let since = leaseless_since.take();
                if !group.replica.is_leading() {
                    let since = since.unwrap_or_else(Instant::now);
                    if since.elapsed() >= LEASELESS_MAX {
                        core.feeds.lose_group(group.id);
                    }
                    leaseless_since = Some(since);
                }
            }
            _ => group.replica.role_changed().await,
        }
    }
}
