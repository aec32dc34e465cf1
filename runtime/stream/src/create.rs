//! Creating a stream, or finding it there as it was asked for.
//!
//! Source: Durable Streams Protocol, section 5.1: an existing stream answers success only when content type, expiry and
//! closure are the same, and what it was forked from, if it was; the body of such a request is not looked at.

use weir_types::{Incarnation, cut_at_slash};

use crate::content_type;
use crate::fork::{EncodedFork, Fork};
use crate::group::{At, Change, Group, Outcome};
use crate::key::KeyRef;
use crate::records::Records;
use crate::reply::{Expiry, Refusal, Reply};
use crate::stream::Stream;

/// What is to be created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewStream<'a> {
    pub(crate) incarnation: Incarnation,
    pub(crate) content_type: &'a str,
    pub(crate) expiry: Expiry,
    pub(crate) closed: bool,
    /// Whether one that is there already is a refusal.
    pub(crate) only_new: bool,
    /// The group's bindings that the records were checked under.
    pub(crate) bindings_epoch: u64,
    /// What it begins with, if it is a fork.
    pub(crate) fork: Option<EncodedFork<'a>>,
    /// The first records as they are stored, at the end of the command's frame.
    pub(crate) records: Records<'a>,
}

impl Group {
    pub(crate) fn create(&mut self, at: &At, key: KeyRef<'_>, new: NewStream<'_>) -> Outcome {
        let fork = new.fork.map(EncodedFork::decode);
        if let Some(existing) = self.slots.get(key) {
            let asked = fork.as_ref().map(|new| &new.fork);
            return if existing.is_gone() {
                Outcome::refused(Refusal::NameHeld)
            } else if new.only_new {
                Outcome::refused(Refusal::Exists { tail: existing.tail() })
            } else if existing.is_made_as(new.content_type, new.expiry, new.closed, asked) {
                Outcome::unchanged(Reply::Exists(existing.facts()))
            } else {
                Outcome::refused(Refusal::ConfigConflict)
            };
        }
        let Some(bucket) = self.buckets.get(key.bucket()) else {
            return Outcome::refused(Refusal::BucketNotFound);
        };
        if bucket.fenced {
            return Outcome::refused(Refusal::BucketBusy);
        }
        let has_records = new.records.count() > 0 || fork.as_ref().is_some_and(|fork| fork.base < fork.fork.begin);
        if has_records && new.bindings_epoch != self.bindings_epoch {
            return Outcome::refused(Refusal::Stale);
        }
        if fork.as_ref().is_some_and(|fork| at.time_ms > fork.until_ms) {
            return Outcome::refused(Refusal::ForkLate);
        }
        let content_type = self.content_types.intern(new.content_type);
        let mut stream = Stream::new(key.as_str(), new.incarnation, content_type, new.expiry, at.time_ms);
        if let Some(fork) = fork {
            stream.begin_as(fork);
        }
        stream.push_packs(at, &new.records, &mut self.hotlog);
        let own_bytes = stream.tail - stream.begin();
        assert!(own_bytes == new.records.payload_bytes() as u64, "the tail is what is stored");
        stream.closed = new.closed;
        if self.watched_buckets > 0 && own_bytes > 0 {
            let begin = stream.begin();
            stream.follow(&bucket.watches, self.watch_epoch, begin);
            stream.note_pending(begin, &mut self.pending);
        }
        let reply = Reply::Created(stream.facts());
        self.count_in(&stream);
        self.slots.insert(key, stream);
        Outcome { reply, change: Change::Created { incarnation: new.incarnation } }
    }

    /// Counts a stream that is about to be inserted, in a bucket that is there.
    pub(crate) fn count_in(&mut self, stream: &Stream) {
        let (bucket, _) = cut_at_slash(&stream.key).expect("a stream's key has a bucket");
        self.buckets.get_mut(bucket).expect("a stream is created in a bucket").streams += 1;
        self.index_bytes += stream.memory_bytes();
        if stream.expiry() != Expiry::Never && !stream.is_gone() {
            self.expirable += 1;
        }
    }
}

impl Stream {
    /// Whether a create with this configuration, which asks for no fork, finds the stream as it was asked for.
    pub fn is_configured_as(&self, content_type: &str, expiry: Expiry, closed: bool) -> bool {
        self.is_made_as(content_type, expiry, closed, None)
    }

    fn is_made_as(&self, content_type: &str, expiry: Expiry, closed: bool, fork: Option<&Fork>) -> bool {
        let is_same_fork = match (self.fork(), fork) {
            (Some(own), Some(asked)) => own.is_like(asked),
            (None, None) => true,
            _ => false,
        };
        is_same_fork
            && content_type::same(&self.content_type, content_type)
            && self.expiry() == expiry
            && self.is_closed() == closed
    }
}
