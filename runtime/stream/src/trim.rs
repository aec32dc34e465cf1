//! Trimming: a stream's oldest records are given up. Offsets stay as they are; what lies before the *base* is gone.
//!
//! Where records begin is not known here: the leader has looked before it proposed, and within a life that never changes.

use weir_types::{Incarnation, Role};

use crate::group::{Group, Outcome, recount};
use crate::key::KeyRef;
use crate::reply::{Refusal, Reply};

impl Group {
    /// Gives up the records before the position `before` in one life of a name. What was given up already is a success.
    pub(crate) fn trim(&mut self, key: KeyRef<'_>, incarnation: Incarnation, before: u64, force: bool) -> Outcome {
        let is_summarized = self.bindings_of(key.bucket(), key.name(), Role::Summary).next().is_some();
        let Some(stream) = self.life_at(key, incarnation) else {
            return Outcome::refused(Refusal::NotFound);
        };
        if stream.is_gone() {
            return Outcome::refused(Refusal::SoftDeleted);
        }
        if before > stream.tail {
            return Outcome::refused(Refusal::OffsetInvalid);
        }
        if before <= stream.base() {
            return Outcome::unchanged(Reply::Trimmed(stream.facts()));
        }
        if is_summarized && !force {
            return Outcome::refused(Refusal::TrimSummarized);
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (before_bytes, needed) = (stream.memory_bytes(), stream.needed());
        stream.origin_mut().base = before;
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        let facts = stream.facts();
        // What its forks read stays.
        self.give_up(key, needed);
        Outcome::unchanged(Reply::Trimmed(facts))
    }
}
