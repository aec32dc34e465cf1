//! JSON mode: a body is checked once and cut into messages, which are kept verbatim.
//!
//! A body that is an array is flattened by one level: each element is a message; any other value is one message. The
//! parser walks values without building or recursing into them, so that nesting costs bytes and not stack.
//!
//! Source: Durable Streams Protocol, section 9.1.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::{SmallVec, smallvec};

use crate::reply::Refusal;

/// Where the messages of a body are.
pub(crate) type Messages = SmallVec<[Range<u32>; 2]>;

/// Where the messages of `body` are, in order; none for an empty array.
///
/// # Errors
/// [`Refusal::JsonInvalid`] when `body` is not one JSON value in UTF-8.
pub(crate) fn split(body: &[u8]) -> Result<Messages, Refusal> {
    assert!(u32::try_from(body.len()).is_ok(), "http limits bodies far below 4 GiB");
    let invalid = |reason: String| Refusal::JsonInvalid { reason };
    let text = std::str::from_utf8(body).map_err(|error| invalid(error.to_string()))?;
    let is_array = text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('[');
    if is_array {
        let mut parser = serde_json::Deserializer::from_str(text);
        let messages = parser.deserialize_seq(Elements(text)).and_then(|messages| parser.end().map(|()| messages));
        messages.map_err(|error| invalid(error.to_string()))
    } else {
        let message: &RawValue = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        Ok(smallvec![range_in(text, message)])
    }
}

/// How many messages `body` has at most.
pub(crate) fn messages_max(body: &[u8]) -> usize {
    body.iter().filter(|&&byte| byte == b',').count() + 1
}

/// Notes where the elements of an array are, and builds nothing else of them.
struct Elements<'a>(&'a str);

impl<'de> Visitor<'de> for Elements<'de> {
    type Value = Messages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Messages, A::Error> {
        let mut messages = Messages::new();
        while let Some(element) = elements.next_element::<&RawValue>()? {
            messages.push(range_in(self.0, element));
        }
        messages.shrink_to_fit();
        Ok(messages)
    }
}

/// Whether `message` is one JSON value, an array as good as any other.
///
/// # Errors
/// [`Refusal::JsonInvalid`] when it is not.
pub(crate) fn check(message: &[u8]) -> Result<(), Refusal> {
    let checked = serde_json::from_slice::<&RawValue>(message);
    checked.map(drop).map_err(|error| Refusal::JsonInvalid { reason: error.to_string() })
}

/// Where `message`, borrowed from `text`, lies in it.
fn range_in(text: &str, message: &RawValue) -> Range<u32> {
    let start = message.get().as_ptr().addr() - text.as_ptr().addr();
    start as u32..(start + message.get().len()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(body: &str) -> Result<Vec<&str>, Refusal> {
        Ok(split(body.as_bytes())?.into_iter().map(|m| &body[m.start as usize..m.end as usize]).collect())
    }

    #[test]
    fn arrays_are_flattened_by_one_level_and_values_kept_verbatim() {
        assert_eq!(messages(r#" {"a" : 1e2} "#), Ok(vec![r#"{"a" : 1e2}"#]));
        assert_eq!(messages("[ 1 ,\n[2, 3],\"x,]\" ]"), Ok(vec!["1", "[2, 3]", "\"x,]\""]));
        assert_eq!(messages("[[[1,2]]]"), Ok(vec!["[[1,2]]"]));
        assert_eq!(messages("[]"), Ok(vec![]));
        assert_eq!(messages("\"[]\""), Ok(vec!["\"[]\""]));
        assert_eq!(messages("null"), Ok(vec!["null"]));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for body in ["", " ", "{", "[1", "[1,]", "1 2", "{a:1}", "nul", "\"\n\"", "[1]]", "01", "\u{feff}1", "[] []"] {
            assert!(matches!(messages(body), Err(Refusal::JsonInvalid { .. })), "{body:?}");
        }
        assert!(matches!(split(b"\"\xff\""), Err(Refusal::JsonInvalid { .. })));
    }

    #[test]
    fn one_message_is_any_value_and_no_more_than_one() {
        for message in ["1", "[1,2]", " {\"a\":[]} ", "null"] {
            assert_eq!(check(message.as_bytes()), Ok(()), "{message}");
        }
        for message in ["", "1 2", "[1", "1,", "\u{feff}1"] {
            assert!(check(message.as_bytes()).is_err(), "{message:?}");
        }
        assert!(check(b"\"\xff\"").is_err());
    }

    #[test]
    fn nesting_does_not_use_the_stack() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let work = move || {
            assert_eq!(split(deep(100_000).as_bytes()).map(|messages| messages.len()), Ok(1));
            let objects = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
            assert_eq!(split(objects.as_bytes()).map(|messages| messages.len()), Ok(1));
            assert!(split("[".repeat(100_000).as_bytes()).is_err());
        };
        let small_stack = std::thread::Builder::new().stack_size(128 << 10).spawn(work);
        small_stack.expect("a thread").join().expect("no overflow");
    }
}
