//! What a change of leadership means for writes.

use std::rc::Rc;

use weir_raft::Role;

use crate::core::Core;
use crate::group::Failure;
use crate::write::job::LocalGroup;

/// Follows the role of a group's replica. Runs for the shard's life.
///
/// Who waits for a round under way goes on waiting: it may be committed yet. What was not proposed never will be.
pub(crate) async fn follow(core: Rc<Core>, group: Rc<LocalGroup>) {
    loop {
        group.replica.role_changed().await;
        match group.replica.role() {
            // When others led, nobody told this shard what was used.
            Role::Leading { term } => group.begin_to_lead(term, core.clock.now_ms()),
            Role::Following { .. } => core.fail(group.discard(), &Failure::Unavailable.into()),
            Role::Stopped => return,
        }
    }
}
