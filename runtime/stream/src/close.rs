//! Closing a stream: it takes no further records, forever; and what a closed stream answers to a write.
//!
//! Sources: Durable Streams Protocol, sections 4.1, 5.2 and 5.2.1. A close alone may be repeated; a close with records,
//! or by a producer, only by the very request that closed the stream, which its producer's (id, epoch, seq) tells.

use crate::append::Write;
use crate::producer::ProducerRef;
use crate::reply::{Appended, Refusal};
use crate::stream::Stream;

impl Stream {
    /// Ends an open stream at its tail.
    pub(crate) fn close(&mut self) {
        assert!(!self.closed, "a closed stream answers and changes no more");
        self.closed = true;
    }

    /// Answers a write to this closed stream.
    ///
    /// # Errors
    /// [`Refusal::Closed`] for all but a repeated close. A close alone still honours `If-Match`.
    pub(crate) fn answer_closed(&self, write: &Write<'_>) -> Result<Appended, Refusal> {
        match write.producer {
            Some(producer) => self.closing_duplicate(producer).ok_or(Refusal::Closed { tail: self.tail() }),
            None if write.close && !write.has_records() => {
                self.check_tail(write.if_match)?;
                Ok(Appended { next: self.tail(), closed: true, producer: None, duplicate: false })
            }
            None => Err(Refusal::Closed { tail: self.tail() }),
        }
    }

    /// The answer for `producer`'s request if it is the one that closed the stream.
    pub(crate) fn closing_duplicate(&self, producer: ProducerRef<'_>) -> Option<Appended> {
        let state = self.producers()?.closing(producer)?;
        Some(self.duplicate(self.tail, state))
    }
}
