//! Where each group is led, as every shard of the node has heard it from the one that has the group's replica.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weir_cluster::NodeId;
use weir_types::GroupId;

use crate::message::Lead;

/// How long ago a node may have been heard to be there: twice as long as between two announcements, and an answer's time.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(4);

/// Where the groups are led.
pub(crate) struct Leaders {
    of: Vec<Cell<Lead>>,
    /// Who has said last that it leads, in which term, and when: for groups whose replica here knows less.
    heard: Vec<Cell<Option<(u64, NodeId, Instant)>>>,
    news: Notify,
}

impl Leaders {
    /// Of so many groups, all of them led there.
    pub(crate) fn new(groups: u16, lead: Lead) -> Leaders {
        let heard = vec![Cell::new(None); groups.into()];
        Leaders { of: vec![Cell::new(lead); groups.into()], heard, news: Notify::new() }
    }

    /// Where a group is led.
    pub(crate) fn of(&self, group: GroupId) -> Lead {
        self.of[usize::from(group.0)].get()
    }

    /// Hears that a node leads a group in a term; says whether that is news.
    pub(crate) fn hear(&self, group: GroupId, term: u64, node: NodeId) -> bool {
        let heard = &self.heard[usize::from(group.0)];
        let is_newer = heard.get().is_none_or(|(before, ..)| before < term);
        if is_newer || self.heard(group) == Some((term, node)) {
            heard.set(Some((term, node, Instant::now())));
        }
        is_newer
    }

    /// Who has said last that it leads a group, and in which term.
    pub(crate) fn heard(&self, group: GroupId) -> Option<(u64, NodeId)> {
        self.heard[usize::from(group.0)].get().map(|(term, node, _)| (term, node))
    }

    /// When it was said last, by who said so last.
    pub(crate) fn heard_at(&self, group: GroupId) -> Option<Instant> {
        self.heard[usize::from(group.0)].get().map(|(_, _, at)| at)
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
