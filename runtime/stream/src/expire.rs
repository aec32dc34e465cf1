//! Expiry: a stream ends by itself only through the leader's command, and only if group time agrees.
//!
//! The leader knows of reads, which no log entry records; apply knows of writes that were ordered before the command.
//! So the leader proposes and apply decides again: a stream that was written to meanwhile stays.

use weir_types::Incarnation;

use crate::group::{At, Group, Outcome};
use crate::key::KeyRef;
use crate::reply::Reply;
use crate::stream::Stream;

impl Group {
    pub(crate) fn expire(&mut self, at: &At, key: KeyRef<'_>, incarnation: Incarnation) -> Outcome {
        let due = self
            .life_at(key, incarnation)
            .is_some_and(|stream| !stream.is_gone() && stream.expires_ms().is_some_and(|end_ms| at.time_ms >= end_ms));
        assert!(!due || self.expirable > 0, "streams that end by themselves are counted");
        let removed = if due { self.end(key) } else { None };
        removed.unwrap_or_else(|| Outcome::unchanged(Reply::Done))
    }

    /// Whether any stream has an expiry.
    pub fn has_expirable(&self) -> bool {
        self.expirable > 0
    }
}

impl Stream {
    /// When it ends unless it is used, judged by writes alone, in milliseconds since 1970; `None` for never.
    pub fn expires_ms(&self) -> Option<u64> {
        self.expiry().ends_ms(self.last_write_ms())
    }
}
