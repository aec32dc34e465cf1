//! Creating a stream, or finding it there as it was asked for.
//!
//! Source: Durable Streams Protocol, section 5.1: an existing stream answers success only when content type, expiry and
//! closure are the same; the body of such a request is not looked at.

use weir_types::{Incarnation, cut_at_slash};

use crate::content_type;
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
    /// The first records as they are stored, at the end of the command's frame.
    pub(crate) records: Records<'a>,
}

impl Group {
    pub(crate) fn create(&mut self, at: &At, key: KeyRef<'_>, new: NewStream<'_>) -> Outcome {
        if let Some(existing) = self.slots.get(key) {
            return if new.only_new {
                Outcome::refused(Refusal::Exists { tail: existing.tail() })
            } else if existing.is_configured_as(new.content_type, new.expiry, new.closed) {
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
        if new.records.count() > 0 && new.bindings_epoch != self.bindings_epoch {
            return Outcome::refused(Refusal::Stale);
        }
        let content_type = self.content_types.intern(new.content_type);
        let mut stream = Stream::new(key.as_str(), new.incarnation, content_type, new.expiry, at.time_ms);
        stream.push_packs(at, &new.records, &mut self.hotlog);
        assert!(stream.tail == new.records.payload_bytes() as u64, "the tail is what is stored");
        stream.closed = new.closed;
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
        if stream.expiry() != Expiry::Never {
            self.expirable += 1;
        }
    }
}

impl Stream {
    /// Whether a create with this configuration finds the stream as it was asked for.
    pub fn is_configured_as(&self, content_type: &str, expiry: Expiry, closed: bool) -> bool {
        content_type::same(&self.content_type, content_type) && self.expiry() == expiry && self.is_closed() == closed
    }
}
