//! JSON mode: a body is checked once and cut into messages, which are kept verbatim.
//!
//! A body that is an array is flattened by one level: each element is a message; any other value is one message. The
//! parser walks values without building or recursing into them, so that nesting costs bytes and not stack. What parsers of
//! readers would refuse is refused here, or one message would make a page unreadable: nesting beyond [`JSON_DEPTH_MAX`], and
//! half of a surrogate pair in a string.
//!
//! Source: Durable Streams Protocol, section 9.1.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::{SmallVec, smallvec};
use weir_types::limits::JSON_DEPTH_MAX;

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
        let messages = messages.map_err(|error| invalid(error.to_string()))?;
        check_readable(body, JSON_DEPTH_MAX).map(|()| messages)
    } else {
        let message: &RawValue = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        check_readable(body, JSON_DEPTH_MAX - 1).map(|()| smallvec![range_in(text, message)])
    }
}

/// Whether common parsers can read a JSON text, which is known to be one.
fn check_readable(text: &[u8], depth_max: usize) -> Result<(), Refusal> {
    let refused = |reason: String| Err(Refusal::JsonInvalid { reason });
    // Few bodies have so many brackets, or an escape: the others need no look at what is within strings.
    if text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= depth_max && !text.contains(&b'\\') {
        return Ok(());
    }
    let (mut depth, mut rest) = (0, text);
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'[' | b'{' | b']' | b'}' | b'"')) {
        let byte = rest[at];
        rest = &rest[at + 1..];
        match byte {
            b'[' | b'{' => depth += 1,
            b'"' => {
                let Some(after) = after_string(rest) else {
                    return refused("a string has half of a surrogate pair".to_string());
                };
                rest = after;
            }
            _ => depth -= 1,
        }
        if depth > depth_max {
            return refused(format!(
                "it is nested deeper than {JSON_DEPTH_MAX} levels, the array of messages included"
            ));
        }
    }
    Ok(())
}

/// What follows a string that has just begun; nothing if it has half of a surrogate pair.
fn after_string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let at = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).expect("a string ends");
        if rest[at] == b'"' {
            return Some(&rest[at + 1..]);
        }
        rest = &rest[at + 1..];
        match escaped_unit(rest) {
            Some(0xdc00..=0xdfff) => return None,
            Some(0xd800..=0xdbff) => {
                let low = rest[5..].strip_prefix(b"\\")?;
                if !matches!(escaped_unit(low), Some(0xdc00..=0xdfff)) {
                    return None;
                }
                rest = &low[5..];
            }
            _ => rest = &rest[1..],
        }
    }
}

/// The UTF-16 unit of `u` and four hexadecimal digits, behind a backslash.
fn escaped_unit(escape: &[u8]) -> Option<u16> {
    let digits = escape.strip_prefix(b"u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
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
    checked.map_err(|error| Refusal::JsonInvalid { reason: error.to_string() })?;
    check_readable(message, JSON_DEPTH_MAX - 1)
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
    fn what_common_parsers_refuse_is_refused() {
        let nested = |open: &str, levels: usize, close: &str| open.repeat(levels) + "1" + &close.repeat(levels);
        // A page puts an array around single values and around elements alike.
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deepest = nested(open, JSON_DEPTH_MAX - 1, close);
            assert!(split(format!("[{deepest}]").as_bytes()).is_ok() && check(deepest.as_bytes()).is_ok(), "{open}");
            let deeper = nested(open, JSON_DEPTH_MAX, close);
            assert!(split(format!("[{deeper}]").as_bytes()).is_err() && check(deeper.as_bytes()).is_err(), "{open}");
        }
        assert!(split(nested("{\"a\":", JSON_DEPTH_MAX, "}").as_bytes()).is_err());
        let wide = format!("[{}1]", "[],{},\"[[\",".repeat(1000));
        assert!(split(wide.as_bytes()).is_ok(), "many are not deep");
        for readable in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\u0041\"\\""#, r#"{"\uD83D\uDE00":"\n"}"#] {
            assert!(check(readable.as_bytes()).is_ok(), "{readable}");
        }
        for half in [
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\n""#,
            r#""\ud83dx\ude00""#,
            r#"{"\ud83d\u0041":1}"#,
            r#"["a","\uD83D"]"#,
        ] {
            assert!(check(half.as_bytes()).is_err() && split(half.as_bytes()).is_err(), "{half}");
        }
    }

    #[test]
    fn nesting_does_not_use_the_stack() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let work = move || {
            let too_deep = |body: String| match split(body.as_bytes()) {
                Err(Refusal::JsonInvalid { reason }) => reason.contains("deeper than 128"),
                _ => false,
            };
            assert!(too_deep(deep(100_000)));
            assert!(too_deep("{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000)));
            assert!(split("[".repeat(100_000).as_bytes()).is_err());
        };
        let small_stack = std::thread::Builder::new().stack_size(128 << 10).spawn(work);
        small_stack.expect("a thread").join().expect("no overflow");
    }
}
