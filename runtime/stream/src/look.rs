//! The leader's early look: checks that need no order, made before a command is proposed.
//!
//! It may refuse only what apply would surely refuse too, and answer only what has been applied already. What another
//! command on its way could change (a free name, the tail, the next sequence number) is left to apply, which decides all
//! of it again. A closed stream, a content type and the bytes of a body do not change within an incarnation.

use weir_types::{Incarnation, StreamKey};

use crate::content_type;
use crate::group::Group;
use crate::json;
use crate::producer::ProducerRef;
use crate::records::Split;
use crate::reply::{Appended, Refusal};

/// What the leader does with an append that it has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Answer at once: the request was applied before.
    Answer(Appended),
    /// Propose it, for this life of the stream, cut like this.
    Propose {
        /// The incarnation that was checked.
        incarnation: Incarnation,
        /// How the body falls into records.
        split: Split,
    },
}

impl Group {
    /// Looks at an append, a close, or both, before it is proposed. An empty `body` is none. What [`Split::json`] says of it
    /// may be known already.
    ///
    /// # Errors
    /// In this order: [`Refusal::NotFound`], [`Refusal::Closed`], [`Refusal::Empty`] without a body,
    /// [`Refusal::ContentTypeMissing`], [`Refusal::ContentTypeMismatch`], [`Refusal::JsonInvalid`], and
    /// [`Refusal::Empty`] for an empty JSON array.
    pub fn check_append(
        &self,
        key: &StreamKey,
        content_type: Option<&str>,
        close: bool,
        producer: Option<ProducerRef<'_>>,
        body: &[u8],
        cut: Option<Result<Split, Refusal>>,
    ) -> Result<Look, Refusal> {
        let stream = self.find(key)?;
        let incarnation = stream.incarnation();
        if stream.is_closed() {
            if let Some(duplicate) = producer.and_then(|producer| stream.closing_duplicate(producer)) {
                return Ok(Look::Answer(duplicate));
            }
            // Closing again is no error, but `If-Match` has a say in it, and apply is where that is decided.
            if close && producer.is_none() && body.is_empty() {
                return Ok(Look::Propose { incarnation, split: Split::Whole });
            }
            return Err(Refusal::Closed { tail: stream.tail() });
        }
        if body.is_empty() {
            if !close {
                return Err(Refusal::Empty);
            }
        } else {
            let content_type = content_type.ok_or(Refusal::ContentTypeMissing)?;
            if !content_type::same(content_type, stream.content_type()) {
                let expected = stream.content_type().clone();
                return Err(Refusal::ContentTypeMismatch { sent: content_type.into(), expected });
            }
        }
        // Only a duplicate counts here: a gap may be filled by a command that is still on its way.
        if let Some(producer) = producer
            && let Ok(Some(duplicate)) = stream.check_producer(producer)
        {
            return Ok(Look::Answer(duplicate));
        }
        let split = split(stream.is_json(), body, cut)?;
        match &split {
            Split::Json(messages) if messages.is_empty() => Err(Refusal::Empty),
            _ => Ok(Look::Propose { incarnation, split }),
        }
    }

    /// Whether two content types are the same to a stream: case and parameters do not count.
    pub fn is_same_type(a: &str, b: &str) -> bool {
        content_type::same(a, b)
    }

    /// Whether a stream of this type would be in JSON mode: then its bodies are parsed, and must be in one piece.
    pub fn is_json(content_type: &str) -> bool {
        content_type::is_json(content_type)
    }

    /// Looks at one message that is to be stored in a stream in JSON mode as it is.
    ///
    /// # Errors
    /// [`Refusal::JsonInvalid`] when it is not one JSON value.
    pub fn check_message(message: &[u8]) -> Result<(), Refusal> {
        json::check(message)
    }

    /// Looks at a create's body before it is proposed, as [`Group::check_append`] does. An empty `body`, and an empty JSON
    /// array, are no records.
    ///
    /// # Errors
    /// [`Refusal::JsonInvalid`] for a stream in JSON mode.
    pub fn check_create(
        content_type: &str,
        body: &[u8],
        cut: Option<Result<Split, Refusal>>,
    ) -> Result<Split, Refusal> {
        split(content_type::is_json(content_type), body, cut)
    }
}

fn split(is_json: bool, body: &[u8], cut: Option<Result<Split, Refusal>>) -> Result<Split, Refusal> {
    if !is_json || body.is_empty() {
        return Ok(Split::Whole);
    }
    cut.unwrap_or_else(|| Split::json(body))
}
