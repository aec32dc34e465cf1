//! Deleting a stream: its name is free at once, its bytes go when the log is purged.

use crate::command::KeyRef;
use crate::group::{Change, Group, Outcome};
use crate::reply::{Refusal, Reply};

impl Group {
    pub(crate) fn delete(&mut self, key: KeyRef<'_>) -> Outcome {
        self.remove(key).unwrap_or_else(|| Outcome::refused(Refusal::NotFound))
    }

    /// Takes the stream out of everything that counts or names it; `None` when there is none.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Outcome> {
        let stream = self.slots.remove(key)?;
        let bucket = self.buckets.get_mut(key.bucket()).expect("a bucket is dropped only when it has no streams");
        bucket.streams -= 1;
        self.index_bytes -= stream.memory_bytes();
        self.content_types.release(&stream.content_type);
        self.expiring.remove(key.as_str());
        Some(Outcome { reply: Reply::Done, change: Change::Removed { incarnation: stream.incarnation() } })
    }
}
