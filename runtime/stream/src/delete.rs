//! Deleting a stream: its name is free at once. Its bytes go when the log is purged, or when nothing else is in their chunks. One that
//! has forks is only *gone* until the last of them is.

use weir_types::{Incarnation, Offset};

use crate::extents::ChunkBytes;
use crate::extents::buried::RUNS_PER_STEP;
use crate::extents::hot::Hot;
use crate::group::{Change, Group, Outcome, recount};
use crate::key::KeyRef;
use crate::reply::{Expiry, Refusal, Reply};
use crate::stream::Stream;

impl Group {
    /// Deletes one life of a name, at the tail that is expected. If it has ended meanwhile, another one is not what was meant.
    pub(crate) fn delete(&mut self, key: KeyRef<'_>, incarnation: Incarnation, if_match: Option<Offset>) -> Outcome {
        let meant = self.life_at(key, incarnation);
        let checked = meant.ok_or(Refusal::NotFound).and_then(|stream| match stream.is_gone() {
            true => Err(Refusal::SoftDeleted),
            false => stream.check_tail(if_match),
        });
        match checked {
            Ok(()) => self.end(key).expect("it was just there"),
            Err(refusal) => Outcome::refused(refusal),
        }
    }

    /// Ends a stream that is not gone: removes it, or keeps it for its forks alone. `None` when there is none.
    pub(crate) fn end(&mut self, key: KeyRef<'_>) -> Option<Outcome> {
        if self.slots.get(key)?.forks() == 0 {
            return self.remove(key);
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (before_bytes, before) = (stream.memory_bytes(), stream.needed());
        let pins = stream.origin_mut().pins.as_mut().expect("it has forks");
        assert!(!pins.is_gone, "a stream ends once");
        pins.is_gone = true;
        // Nobody writes to it any more.
        let rare = stream.rare_mut();
        (rare.seq, rare.producers) = Default::default();
        let cursors = std::mem::take(&mut stream.origin_mut().cursors);
        self.pending.forget_stream(&cursors, &stream.key);
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        let (incarnation, expiry) = (stream.incarnation(), stream.expiry());
        self.count_out(expiry);
        self.give_up(key, before);
        Some(Outcome { reply: Reply::Done, change: Change::Removed { incarnation } })
    }

    /// Takes the stream out of everything that counts or names it; `None` when there is none.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Outcome> {
        let mut stream = self.slots.remove(key)?;
        let bucket = self.buckets.get_mut(key.bucket()).expect("a bucket is dropped only when it has no streams");
        assert!(bucket.streams > 0, "a bucket counts its streams");
        bucket.streams -= 1;
        assert!(self.index_bytes >= stream.memory_bytes(), "what a stream takes was counted");
        self.index_bytes -= stream.memory_bytes();
        self.content_types.release(&stream.content_type);
        self.release_bytes(&mut stream);
        if let Some(cursors) = stream.cursors() {
            self.pending.forget_stream(cursors, &stream.key);
        }
        let incarnation = stream.incarnation();
        if let Some(fork) = stream.fork() {
            self.release_source(incarnation, fork, false);
        }
        if stream.is_gone() {
            return Some(Outcome::unchanged(Reply::Done));
        }
        self.count_out(stream.expiry());
        Some(Outcome { reply: Reply::Done, change: Change::Removed { incarnation } })
    }

    /// A stream that would end by itself has ended.
    fn count_out(&mut self, expiry: Expiry) {
        if expiry != Expiry::Never {
            assert!(self.expirable > 0, "streams that end by themselves are counted");
            self.expirable -= 1;
        }
    }

    /// Gives up what a stream holds that nobody reads any more. Before, what lay behind the position `before` was read.
    pub(crate) fn give_up(&mut self, key: KeyRef<'_>, before: u64) {
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (begin, now, incarnation) = (stream.begin(), stream.needed(), stream.incarnation());
        assert!(before <= now, "what was given up does not come back");
        if before < begin && begin <= now {
            let fork = stream.fork().expect("only a fork begins elsewhere").clone();
            self.release_source(incarnation, &fork, true);
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let held = before.max(begin)..now.max(begin);
        if !held.is_empty() {
            let before_bytes = stream.memory_bytes();
            let (runs, hot) = stream.extents.trim(&held, stream.tail);
            recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
            self.release_runs(runs);
            self.release_hot(hot);
        }
        self.give_up_end(key);
        self.give_up_gap(key);
    }

    /// Gives up chunks of which a stream holds only what lies between what its forks read and what its own readers do.
    pub(crate) fn give_up_gap(&mut self, key: KeyRef<'_>) {
        if self.slots.get(key).is_none_or(|stream| stream.unread().is_empty()) {
            return;
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (unread, before_bytes) = (stream.unread(), stream.memory_bytes());
        let runs = stream.extents.punch(&unread, stream.tail);
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        self.release_runs(runs);
    }

    /// Gives up what a stream that is gone holds behind all that its forks read. It ends there.
    fn give_up_end(&mut self, key: KeyRef<'_>) {
        let stream = self.slots.get_mut(key).expect("it was just there");
        let Some(pins) = stream.pins().filter(|pins| pins.is_gone) else { return };
        let (position, held, before_bytes) = (pins.ceiling(), stream.held(), stream.memory_bytes());
        let (end, runs, hot) = stream.extents.cut_end(position.max(held), (held, stream.tail));
        stream.tail = end;
        let origin = stream.origin_mut();
        origin.base = origin.base.min(end);
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        self.release_runs(runs);
        self.release_hot(hot);
    }

    /// Gives back what a stream names that is gone.
    fn release_bytes(&mut self, stream: &mut Stream) {
        self.release_runs(stream.extents.chunks(stream.held(), stream.tail).collect());
        self.release_hot(std::mem::take(&mut stream.extents.hot));
    }

    /// Gives back what was named of the log: at once, or bit by bit if it is much.
    pub(crate) fn release_hot(&mut self, mut hot: Hot) {
        if hot.is_small() {
            hot.take_before(u64::MAX, |index, bytes| self.hotlog.release(index, bytes));
        } else {
            self.buried.bury(hot);
        }
    }

    /// Gives back what was named of chunks: at once, or bit by bit if it is much.
    pub(crate) fn release_runs(&mut self, runs: Vec<ChunkBytes>) {
        if runs.len() > RUNS_PER_STEP {
            self.buried.bury_runs(runs);
            return;
        }
        for ChunkBytes { chunk, bytes } in runs {
            self.chunks.release(chunk, bytes);
            self.chunks.forget_if_dead(chunk);
        }
    }

    /// Gives back a part of what deleted and trimmed streams named of the log and of chunks, in at most `steps_max` steps of some
    /// microseconds; false when nothing is left.
    pub fn reap(&mut self, steps_max: usize) -> bool {
        (0..steps_max).all(|_| self.reap_runs() || self.buried.reap_leaf(&mut self.hotlog))
    }

    /// Gives back some of what was named of chunks; false when there was nothing.
    pub(crate) fn reap_runs(&mut self) -> bool {
        let Some(runs) = self.buried.take_runs() else { return false };
        self.release_runs(runs);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Frame, Limits};
    use crate::binding::EncodedBindings;
    use crate::bucket::{BucketTold, Retention};
    use crate::create::NewStream;
    use crate::group::At;
    use crate::records::Records;
    use crate::subscription::watch::EncodedWatches;

    #[test]
    fn a_deleted_stream_gives_its_type_back() {
        let mut group = Group::new();
        let (bindings, watches) = (EncodedBindings::of(&[0, 0]), EncodedWatches::NONE);
        let retention = Retention::default();
        group.bucket_told("b", 1, BucketTold::There { created_ms: 0, fenced: false, retention, bindings, watches });
        let key = KeyRef::parse("b/s").expect("a key");
        let frame = Frame { pos: 0, len: 0 };
        let at = At { term: 1, index: 1, frame, time_ms: 0, limits: Limits { producers_max: 1 } };
        let new = NewStream {
            incarnation: Incarnation(1),
            content_type: "text/plain",
            expiry: Expiry::Never,
            closed: false,
            only_new: false,
            bindings_epoch: 0,
            fork: None,
            records: Records::NONE,
        };
        group.create(&at, key, new);
        group.create(&at, key, new);
        assert_eq!(group.content_types.len(), 1);
        group.delete(key, Incarnation(1), None);
        assert_eq!((group.content_types.len(), group.index_bytes()), (0, 0));
    }
}
