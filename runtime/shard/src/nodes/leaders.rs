//! Where each group is led, as every shard of the node has heard it from the one that has the group's replica.

use std::cell::Cell;

use tokio::sync::Notify;
use weir_types::GroupId;

use crate::message::Lead;

/// Where the groups are led.
pub(crate) struct Leaders {
    of: Vec<Cell<Lead>>,
    news: Notify,
}

impl Leaders {
    /// Of so many groups, all of them led there.
    pub(crate) fn new(groups: u16, lead: Lead) -> Leaders {
        Leaders { of: vec![Cell::new(lead); groups.into()], news: Notify::new() }
    }

    /// Where a group is led.
    pub(crate) fn of(&self, group: GroupId) -> Lead {
        self.of[usize::from(group.0)].get()
    }

    /// It is led there from now on.
    pub(crate) fn set(&self, group: GroupId, lead: Lead) {
        if self.of[usize::from(group.0)].replace(lead) != lead {
            self.news.notify_waiters();
        }
    }

    /// Resolves when some group is led elsewhere than before.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }
}
