//! Listing: the streams of one slot, so that whoever goes through many streams can pause between slots.

use crate::group::Group;
use crate::stream::Stream;

impl Group {
    /// The streams in slot `slot`, of all buckets, in no defined order: it differs between replicas.
    pub fn slot(&self, slot: usize) -> impl Iterator<Item = &Stream> {
        self.slots.slot(slot)
    }
}

impl Stream {
    /// The stream's name within `bucket`, if it is there.
    pub fn name_in(&self, bucket: &str) -> Option<&str> {
        self.key().strip_prefix(bucket)?.strip_prefix('/')
    }
}
