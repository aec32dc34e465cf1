//! Letters: what a shard says to another node, and what that looks like in a message of a link.
//!
//! A message has a number of letters. They stand one behind the other in its first body, as `postcard` writes them; what is large
//! in them comes behind that, each in a body of its own, as it is. Whatever arrives is checked before anybody sees it: it has the
//! form that this node itself would have sent.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_types::{GroupId, Incarnation};

use crate::message::answer::Response;
use crate::message::apart::PARTS_MAX;
use crate::message::mail::{Advance, CallId};
use crate::message::peer::Addressee;
use crate::message::request::Request;

/// Letters of one message, at most.
pub(crate) const LETTERS_MAX: usize = 1024;
/// Bytes of a message's letters, at most, without what is large in them. One that is longer is not sent.
pub(crate) const LETTERS_BYTES_MAX: usize = 8 << 20;
/// A message that has so many bytes takes no further letter.
const MESSAGE_BYTES: usize = 1 << 20;

/// One thing to say to another node. Who says it, the message knows.
#[derive(Serialize, Deserialize)]
pub(crate) enum Letter {
    /// As [`Mail::Request`](crate::message::Mail::Request), to the shard of the request's group.
    Request { call: CallId, request: Request },
    /// As [`Mail::Cancel`](crate::message::Mail::Cancel), to the shard of the group.
    Cancel { group: GroupId, call: CallId },
    /// As [`Mail::Response`](crate::message::Mail::Response).
    Response { to: Addressee, call: CallId, response: Response },
    /// As [`Mail::Advanced`](crate::message::Mail::Advanced).
    Advanced { to: Addressee, advance: Advance },
    /// As [`Mail::Ended`](crate::message::Mail::Ended).
    Ended { to: Addressee, incarnation: Incarnation },
    /// As [`Mail::Unwatch`](crate::message::Mail::Unwatch).
    Unwatch { to: Addressee, incarnation: Incarnation, answered: u64 },
}

/// Bytes that are no letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another node has sent what is no mail of this version: {0}")]
pub(crate) struct LetterError(&'static str);

impl Letter {
    /// Has `visit` take what is large out, or put it in.
    fn exchange(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        match self {
            Letter::Request { request, .. } => request.exchange(visit),
            Letter::Response { response: Ok(answer), .. } => answer.exchange(visit),
            Letter::Advanced { advance, .. } => advance.payloads.iter_mut().for_each(visit),
            Letter::Response { response: Err(_), .. }
            | Letter::Cancel { .. }
            | Letter::Ended { .. }
            | Letter::Unwatch { .. } => {}
        }
    }

    /// Whether this node could have sent it.
    fn is_sound(&self) -> bool {
        match self {
            Letter::Request { request, .. } => request.is_sound(),
            Letter::Response { response: Ok(answer), .. } => answer.is_sound(),
            Letter::Advanced { advance, .. } => advance.is_sound(),
            Letter::Response { response: Err(_), .. }
            | Letter::Cancel { .. }
            | Letter::Ended { .. }
            | Letter::Unwatch { .. } => true,
        }
    }

    /// What is to be known of it when it is lost.
    pub(crate) fn trace(&self) -> Sent {
        match self {
            Letter::Request { call, .. } => Sent::Request(*call),
            Letter::Response { to, .. } | Letter::Advanced { to, .. } | Letter::Ended { to, .. } => Sent::Owed(to.life),
            Letter::Cancel { .. } | Letter::Unwatch { .. } => Sent::Other,
        }
    }

    /// Bytes of what is large in it, and about those of the rest.
    pub(crate) fn bytes(&mut self) -> usize {
        let mut bytes = size_of::<Letter>();
        self.exchange(&mut |part| bytes += part.len());
        bytes
    }
}

/// Takes letters from the front, as many as a message takes, and returns them, and the message's bodies. What is too long to be sent
/// is handed to `refused`, and the letter that it returns, which is a short one, is sent in its place.
pub(crate) fn encode(
    letters: &mut VecDeque<Letter>,
    mut refused: impl FnMut(Letter) -> Option<Letter>,
) -> (Vec<Sent>, Vec<Bytes>) {
    let (mut sent, mut text, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts_bytes = 0;
    while sent.len() < LETTERS_MAX && text.len() + parts_bytes < MESSAGE_BYTES {
        let Some(mut letter) = letters.pop_front() else { break };
        let mut own = 0;
        letter.exchange(&mut |_| own += 1);
        if parts.len() + own > PARTS_MAX && !parts.is_empty() {
            letters.push_front(letter);
            break;
        }
        // Nothing of it can fail to be written.
        let written = postcard::to_allocvec(&letter).expect("letters are plain values");
        if written.len() + text.len() > LETTERS_BYTES_MAX {
            if text.is_empty() {
                letters.extend(refused(letter));
            } else {
                letters.push_front(letter);
                break;
            }
            continue;
        }
        text.extend_from_slice(&written);
        letter.exchange(&mut |part| {
            parts_bytes += part.len();
            parts.push(std::mem::take(part));
        });
        sent.push(letter.trace());
    }
    let bodies = match sent.is_empty() {
        true => Vec::new(),
        false => [Bytes::from(text)].into_iter().chain(parts).collect(),
    };
    (sent, bodies)
}

/// What became part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A call.
    Request(CallId),
    /// Something that this life of the other process waits for.
    Owed(u64),
    /// What may be lost without anybody's waiting for it.
    Other,
}

/// The letters of a message that has `count` of them.
///
/// # Errors
/// [`LetterError`] for what [`encode`] does not write.
pub(crate) fn decode(count: usize, bodies: Vec<Bytes>) -> Result<Vec<Letter>, LetterError> {
    let mut bodies = bodies.into_iter();
    let text = match (count, bodies.next()) {
        (0, None) => return Ok(Vec::new()),
        (1..=LETTERS_MAX, Some(text)) if text.len() <= LETTERS_BYTES_MAX => text,
        _ => return Err(LetterError("it has another number of letters")),
    };
    let mut rest = &text[..];
    let mut letters = Vec::new();
    for _ in 0..count {
        let (mut letter, behind) =
            postcard::take_from_bytes::<Letter>(rest).map_err(|_| LetterError("a letter cannot be read"))?;
        rest = behind;
        let mut is_whole = true;
        letter.exchange(&mut |part| match bodies.next() {
            Some(body) => *part = body,
            None => is_whole = false,
        });
        if !is_whole || !letter.is_sound() {
            return Err(LetterError("a letter has a form that is never sent"));
        }
        letters.push(letter);
    }
    match rest.is_empty() && bodies.next().is_none() {
        true => Ok(letters),
        false => Err(LetterError("something is behind the last letter")),
    }
}

#[cfg(test)]
mod tests;
