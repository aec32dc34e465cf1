//! When streams that end by themselves are to be looked at, and when they were used last.
//!
//! A use only notes its time; when the stream comes due, whoever looks arms it again for when it ends now. So a read costs a
//! look-up, and a sweep what is due and no more. Ordered maps: none of them ever has to be rebuilt in one go.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use weir_stream::Facts;
use weir_types::{GroupId, Incarnation, StreamKey};

/// What a stream takes here besides its name, about: two places in trees that are three quarters full.
const STREAM_BYTES: usize = (size_of::<(Incarnation, Timer)>() + size_of::<((u64, Incarnation), Due)>()) * 4 / 3;

/// The agenda of one shard. Cheap to clone: apply and the shard share it.
#[derive(Clone, Default)]
pub(crate) struct Agenda(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    timers: BTreeMap<Incarnation, Timer>,
    /// By the time when to look, in milliseconds since 1970.
    due: BTreeMap<(u64, Incarnation), Due>,
    names_bytes: usize,
    /// Groups whose streams are not all here.
    unfilled: BTreeSet<GroupId>,
}

struct Timer {
    check_ms: u64,
    /// When it was used last, in milliseconds since 1970; 0 for never.
    used_ms: u64,
}

/// A stream to look at.
#[derive(Clone)]
pub(crate) struct Due {
    pub(crate) group: GroupId,
    pub(crate) key: StreamKey,
}

impl Agenda {
    /// Whether there is no stream that ends by itself.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().timers.is_empty()
    }

    /// Memory of it.
    pub(crate) fn bytes(&self) -> usize {
        let inner = self.0.borrow();
        inner.timers.len() * STREAM_BYTES + inner.names_bytes
    }

    /// A group has streams that nobody has added.
    pub(crate) fn note_unfilled(&self, group: GroupId) {
        self.0.borrow_mut().unfilled.insert(group);
    }

    /// A group whose streams are to be looked through and added.
    pub(crate) fn take_unfilled(&self) -> Option<GroupId> {
        self.0.borrow_mut().unfilled.pop_first()
    }

    /// Arms a stream, if it ends by itself and is not armed yet. It is now `now_ms` by the clock, which group time may be ahead of.
    pub(crate) fn add(&self, group: GroupId, key: &str, stream: &Facts, now_ms: u64) {
        let Some(check_ms) = stream.expiry.ends_ms(stream.created_ms.min(now_ms)) else { return };
        let mut inner = self.0.borrow_mut();
        if inner.timers.contains_key(&stream.incarnation) {
            return;
        }
        let key = StreamKey::parse(key).expect("keys were checked when their request came");
        inner.names_bytes += key.as_str().len();
        inner.timers.insert(stream.incarnation, Timer { check_ms, used_ms: 0 });
        inner.due.insert((check_ms, stream.incarnation), Due { group, key });
    }

    /// Forgets a stream that is gone.
    pub(crate) fn remove(&self, incarnation: Incarnation) {
        let mut inner = self.0.borrow_mut();
        if let Some(timer) = inner.timers.remove(&incarnation) {
            let due = inner.due.remove(&(timer.check_ms, incarnation)).expect("an armed stream is due some time");
            inner.names_bytes -= due.key.as_str().len();
        }
    }

    /// Notes that a stream was used.
    pub(crate) fn touch(&self, incarnation: Incarnation, now_ms: u64) {
        if let Some(timer) = self.0.borrow_mut().timers.get_mut(&incarnation) {
            timer.used_ms = now_ms;
        }
    }

    /// When a stream was used last, in milliseconds since 1970; 0 for never.
    pub(crate) fn used_ms(&self, incarnation: Incarnation) -> u64 {
        self.0.borrow().timers.get(&incarnation).map_or(0, |timer| timer.used_ms)
    }

    /// Up to `streams_max` of those that are due, in the order in which they are. Each is armed again for `again_ms`, which
    /// is later, until whoever looks knows better.
    pub(crate) fn take_due(&self, now_ms: u64, again_ms: u64, streams_max: usize) -> Vec<(Incarnation, Due)> {
        assert!(again_ms > now_ms, "what was looked at is not due at once");
        let due: Vec<(Incarnation, Due)> = {
            let inner = self.0.borrow();
            let due = inner.due.range(..=(now_ms, Incarnation(u64::MAX))).take(streams_max);
            due.map(|(&(_, incarnation), due)| (incarnation, due.clone())).collect()
        };
        due.iter().for_each(|&(incarnation, _)| self.arm(incarnation, again_ms));
        due
    }

    /// Sets when to look at a stream again.
    pub(crate) fn arm(&self, incarnation: Incarnation, check_ms: u64) {
        let mut inner = self.0.borrow_mut();
        let Some(timer) = inner.timers.get_mut(&incarnation) else { return };
        let before = std::mem::replace(&mut timer.check_ms, check_ms);
        let due = inner.due.remove(&(before, incarnation)).expect("an armed stream is due some time");
        inner.due.insert((check_ms, incarnation), due);
    }
}

#[cfg(test)]
mod tests {
    use weir_stream::Expiry;
    use weir_types::{Lineage, Lineages};

    use super::*;

    fn stream(incarnation: u64, expiry: Expiry) -> Facts {
        let incarnation = Incarnation(incarnation);
        let lineages = Lineages::new(None, Lineage::of(incarnation));
        let (earliest, next, content_type) = (lineages.offset(0), lineages.offset(0), "a/b".into());
        Facts { incarnation, earliest, next, lineages, content_type, closed: false, expiry, created_ms: 1000 }
    }

    fn due(agenda: &Agenda, now_ms: u64, streams_max: usize) -> Vec<u64> {
        let due = agenda.take_due(now_ms, now_ms + 100, streams_max);
        due.into_iter().map(|(incarnation, _)| incarnation.0).collect()
    }

    #[test]
    fn a_stream_comes_due_until_it_is_gone() {
        let agenda = Agenda::default();
        agenda.add(GroupId(0), "b/never", &stream(1, Expiry::Never), 1000);
        assert!(agenda.is_empty());
        agenda.add(GroupId(0), "b/idle", &stream(2, Expiry::Idle { ttl_s: 5 }), 1000);
        agenda.add(GroupId(0), "b/at", &stream(3, Expiry::At { at_ms: 5000 }), 1000);
        agenda.add(GroupId(0), "b/at", &stream(3, Expiry::At { at_ms: 5000 }), 1000);
        agenda.add(GroupId(0), "b/later", &stream(4, Expiry::At { at_ms: 6001 }), 1000);
        assert_eq!(due(&agenda, 4999, 9), [0; 0]);
        assert_eq!(due(&agenda, 6000, 1), [3]);
        assert_eq!(due(&agenda, 6000, 9), [2]);
        assert_eq!(due(&agenda, 6000, 9), [0; 0]);
        agenda.arm(Incarnation(2), 7000);
        assert_eq!(due(&agenda, 6100, 9), [4, 3]);
        agenda.touch(Incarnation(2), 6500);
        assert_eq!((agenda.used_ms(Incarnation(2)), agenda.used_ms(Incarnation(3))), (6500, 0));
        for gone in 2..6 {
            agenda.remove(Incarnation(gone));
        }
        assert_eq!((due(&agenda, u64::MAX - 100, 9), agenda.bytes()), (vec![], 0));
    }
}
