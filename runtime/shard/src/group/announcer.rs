//! From apply to those who watch: what a committed batch has changed is told to live readers and to the agenda of streams
//! that end by themselves, before anybody is answered.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;
use weir_raft::Observer;
use weir_stream::{Batch, Change, Command, Expiry, Group, Outcome, Pack, Reply, packs};
use weir_types::GroupId;

use crate::agenda::Agenda;
use crate::live::feeds::Feeds;
use crate::message::Advance;
use crate::seams::SteadyClock;

/// Tells the feeds and the agenda what apply has done.
pub(crate) struct Announcer {
    pub(crate) group: GroupId,
    pub(crate) feeds: Feeds,
    pub(crate) agenda: Agenda,
    pub(crate) clock: SteadyClock,
}

impl Observer for Announcer {
    fn restored(&mut self, group: &Group) {
        // A leader has sent all of it, and what lies between is told to nobody: who follows streams here is to ask that leader.
        self.feeds.lose_group(self.group);
        if group.has_expirable() {
            self.agenda.note_unfilled(self.group);
        }
    }

    fn applied(&mut self, _index: u64, batch: &Bytes, outcomes: &[Outcome]) {
        self.note_lives(batch, outcomes);
        self.tell_readers(batch, outcomes);
    }
}

impl Announcer {
    fn note_lives(&self, batch: &Bytes, outcomes: &[Outcome]) {
        let ends = |reply: &Reply| matches!(reply, Reply::Created(stream) if stream.expiry != Expiry::Never);
        if outcomes.iter().any(|outcome| ends(&outcome.reply)) {
            let commands = Batch::read(batch).expect("apply has read the batch").commands();
            for (outcome, command) in outcomes.iter().zip(commands) {
                let command = command.map(|(_, command)| command).expect("apply has read the command");
                if let (Reply::Created(stream), Command::Create { key, .. }) = (&outcome.reply, command) {
                    self.agenda.add(self.group, key.as_str(), stream, self.clock.now_ms());
                }
            }
        }
        if !self.agenda.is_empty() {
            for outcome in outcomes {
                if let Change::Removed { incarnation } = outcome.change {
                    self.agenda.remove(incarnation);
                }
            }
        }
    }

    fn tell_readers(&self, batch: &Bytes, outcomes: &[Outcome]) {
        if self.feeds.is_empty() {
            return;
        }
        let at = Instant::now();
        for outcome in outcomes {
            let incarnation = match outcome.change {
                Change::Advanced { incarnation, .. } | Change::Removed { incarnation } => incarnation,
                Change::None | Change::Created { .. } => continue,
            };
            if !self.feeds.is_followed(incarnation) {
                continue;
            }
            let (closed, removed) = (false, false);
            let advance = match outcome.change {
                Change::Advanced { start, end, packs_pos, packs_end, closed, .. } => {
                    let payloads = payloads(batch, packs_pos as usize..packs_end as usize, (end - start) as usize);
                    Advance { incarnation, at, start, end, payloads, closed, removed }
                }
                _ => Advance { incarnation, at, start: 0, end: 0, payloads: SmallVec::new(), closed, removed: true },
            };
            self.feeds.announce(&advance);
        }
    }
}

/// The payloads of a command's packs, `bytes` together. A small part of a batch is copied: shared, it would keep the whole
/// batch in memory.
fn payloads(batch: &Bytes, range: Range<usize>, bytes: usize) -> SmallVec<[Bytes; 1]> {
    let is_copied = bytes * 4 < batch.len();
    let mut pos = range.start;
    let payload = |pack: &[u8]| {
        pos += pack.len();
        let bytes = Pack::read(pack).expect("apply has read the command").payload().len();
        let payload = batch.slice(pos - bytes..pos);
        if is_copied { Bytes::copy_from_slice(&payload) } else { payload }
    };
    packs(&batch[range]).map(|pack| pack.expect("apply has read the command")).map(payload).collect()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::task::Waker;

    use weir_types::{Incarnation, ShardId};

    use super::*;
    use crate::live::feed::Found;
    use crate::mailbox::{Post, mesh};
    use crate::seams::TestClock;

    #[test]
    fn who_follows_a_stream_of_a_state_that_another_node_has_sent_is_told() {
        let post = Rc::new(Post::new(ShardId(0), mesh(1).1));
        let feeds = Feeds::new(post, 1 << 20, 1 << 20, |_| {});
        let follower = |group, incarnation| {
            let watch = feeds.begin_watch();
            feeds.join_own(GroupId(group), watch.number, Incarnation(incarnation), 5, false);
            watch.into_follower()
        };
        let (sent, other) = (follower(1, 7), follower(2, 8));
        let (agenda, clock) = (Agenda::default(), SteadyClock::new(Arc::new(TestClock::default())));
        let mut announcer = Announcer { group: GroupId(1), feeds: feeds.clone(), agenda, clock };
        announcer.restored(&Group::new());
        assert!(matches!(sent.find(5, Waker::noop()), Found::Lost));
        assert!(matches!(other.find(5, Waker::noop()), Found::Nothing { .. }));
        assert!(!feeds.is_followed(Incarnation(7)) && feeds.is_followed(Incarnation(8)));
    }
}
