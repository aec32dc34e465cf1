//! Deleting a stream: its name is free at once, its bytes go when the log is purged.

use weir_types::Incarnation;

use crate::command::KeyRef;
use crate::group::{Change, Group, Outcome};
use crate::reply::{Expiry, Refusal, Reply};

impl Group {
    /// Deletes one life of a name. If it has ended meanwhile, another one is not what was meant.
    pub(crate) fn delete(&mut self, key: KeyRef<'_>, incarnation: Incarnation) -> Outcome {
        let is_meant = self.slots.get(key).is_some_and(|stream| stream.incarnation() == incarnation);
        let removed = if is_meant { self.remove(key) } else { None };
        removed.unwrap_or_else(|| Outcome::refused(Refusal::NotFound))
    }

    /// Takes the stream out of everything that counts or names it; `None` when there is none.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Outcome> {
        let stream = self.slots.remove(key)?;
        let bucket = self.buckets.get_mut(key.bucket()).expect("a bucket is dropped only when it has no streams");
        bucket.streams -= 1;
        self.index_bytes -= stream.memory_bytes();
        self.content_types.release(&stream.content_type);
        if stream.expiry() != Expiry::Never {
            self.expirable -= 1;
        }
        Some(Outcome { reply: Reply::Done, change: Change::Removed { incarnation: stream.incarnation() } })
    }
}
