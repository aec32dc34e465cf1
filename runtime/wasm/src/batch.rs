//! What goes into a guest and what comes out of it, and whether what came out fits the contract.

use std::sync::Arc;

use bytes::Bytes;
use weir_types::limits::{CONTENT_TYPE_BYTES_MAX, PAGE_BYTES_MAX};

use crate::contract::validator::exports::weir::module::validator::{BatchResult, Rejection, Verdict as WitVerdict};
use crate::error::GuestError;
pub(crate) use crate::text::MESSAGE_BYTES_MAX;
use crate::text::one_line;

/// Characters of a rejection's code.
const CODE_BYTES_MAX: usize = 64;
/// The code of a rejection whose own is none.
const CODE_DEFAULT: &str = "rejected";

/// Records that lie next to each other in one stream, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestBatch {
    /// The position of the first record in the stream's stored bytes: a hint for the guest.
    pub first_offset: u64,
    /// Where each record ends in `data`, rising; the last one is its length. At least one.
    pub ends: Vec<u32>,
    /// When each record was appended, or one time for all, in milliseconds since 1970.
    pub times: Vec<u64>,
    /// The records, one after the other.
    pub data: Bytes,
}

/// Where in their stream and when records are to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendContext {
    /// The stream's content type.
    pub content_type: Arc<str>,
    /// Where the tail is now.
    pub next_offset: u64,
    /// The leader's time, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// What a validator says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Accept,
    /// Append this instead: at least one record, with the offset and time of the batch that was given.
    Replace(GuestBatch),
    /// Append nothing.
    Reject {
        /// The record at fault, counted from 0, within the batch.
        index: u32,
        /// For programs: 1 to 64 characters of `a-z`, `0-9`, `-` and `_`.
        code: String,
        /// For people, at most 1 KiB.
        message: String,
    },
}

/// What a client gets to see of a fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// A media type, fit to be a header's value.
    pub content_type: String,
    /// The bytes.
    pub body: Bytes,
}

impl GuestBatch {
    /// Asserts what callers guarantee.
    pub(crate) fn assert_whole(&self) {
        assert!(!self.ends.is_empty(), "a batch has records");
        assert!(self.ends.last().is_some_and(|&end| end as usize == self.data.len()), "records fill their bytes");
        assert!(self.times.len() == 1 || self.times.len() == self.ends.len(), "one time, or one per record");
    }
}

/// Checks a verdict on `input`.
///
/// # Errors
/// [`GuestError::Garbage`].
pub(crate) fn verdict(input: &GuestBatch, verdict: WitVerdict) -> Result<Verdict, GuestError> {
    match verdict {
        WitVerdict::Accept => Ok(Verdict::Accept),
        WitVerdict::Replace(output) => replacement(input, output).map(Verdict::Replace),
        WitVerdict::Reject(rejection) => rejected(input, rejection),
    }
}

fn replacement(input: &GuestBatch, output: BatchResult) -> Result<GuestBatch, GuestError> {
    let BatchResult { ends, data, .. } = output;
    if ends.is_empty() {
        return Err(garbage("a replacement without records"));
    }
    let mut before = 0;
    for &end in &ends {
        if end <= before {
            return Err(garbage("the ends of a replacement do not rise"));
        }
        before = end;
    }
    if before as usize != data.len() {
        return Err(garbage("the ends of a replacement do not fit its bytes"));
    }
    // Records of one append have one time, so the first is that of all.
    let times = vec![input.times[0]];
    Ok(GuestBatch { first_offset: input.first_offset, ends, times, data: data.into() })
}

fn rejected(input: &GuestBatch, rejection: Rejection) -> Result<Verdict, GuestError> {
    let Rejection { index, code, message } = rejection;
    if index as usize >= input.ends.len() {
        return Err(garbage("a rejection of a record that is not in the batch"));
    }
    let is_code = (1..=CODE_BYTES_MAX).contains(&code.len())
        && code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    let code = if is_code { code } else { CODE_DEFAULT.to_string() };
    Ok(Verdict::Reject { index, code, message: one_line(&message) })
}

/// Checks a view.
///
/// # Errors
/// [`GuestError::Garbage`].
pub(crate) fn view(content_type: String, body: Vec<u8>) -> Result<View, GuestError> {
    let is_header = (1..=CONTENT_TYPE_BYTES_MAX).contains(&content_type.len())
        && content_type.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_header {
        return Err(garbage("the content type of a view is not one"));
    }
    if body.len() > PAGE_BYTES_MAX {
        return Err(GuestError::Garbage(format!(
            "a view of {} bytes, more than the {PAGE_BYTES_MAX} of a page",
            body.len()
        )));
    }
    Ok(View { content_type, body: body.into() })
}

fn garbage(what: &str) -> GuestError {
    GuestError::Garbage(what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> GuestBatch {
        GuestBatch { first_offset: 7, ends: vec![1, 3], times: vec![5], data: Bytes::from_static(b"abb") }
    }

    fn replace(ends: &[u32], data: &[u8]) -> Result<Verdict, GuestError> {
        let output = BatchResult { first_offset: 99, ends: ends.to_vec(), times: vec![1, 2, 3], data: data.to_vec() };
        verdict(&input(), WitVerdict::Replace(output))
    }

    #[test]
    fn a_replacement_has_the_place_and_time_of_what_it_replaces() {
        let data = Bytes::from_static(b"xyz");
        let expected = GuestBatch { first_offset: 7, ends: vec![3], times: vec![5], data };
        assert_eq!(replace(&[3], b"xyz"), Ok(Verdict::Replace(expected)));
    }

    #[test]
    fn a_replacement_that_does_not_fit_is_garbage() {
        for (ends, data) in
            [(&[][..], ""), (&[2], "x"), (&[1], "xy"), (&[2, 1], "xy"), (&[0, 2], "xy"), (&[2, 2], "xy")]
        {
            let answer = replace(ends, data.as_bytes());
            assert!(matches!(answer, Err(GuestError::Garbage(_))), "{ends:?} {data}: {answer:?}");
        }
    }

    #[test]
    fn a_rejection_is_made_fit_for_a_reply() {
        let reject = |index, code: &str, message: String| {
            verdict(&input(), WitVerdict::Reject(Rejection { index, code: code.to_string(), message }))
        };
        let rejected = |code: &str, message: String| Ok(Verdict::Reject { index: 1, code: code.to_string(), message });
        assert_eq!(reject(1, "qty-positive", "no".to_string()), rejected("qty-positive", "no".to_string()));
        for code in ["", "Bad Code", "ö", &"c".repeat(65)] {
            assert_eq!(reject(1, code, String::new()), rejected("rejected", String::new()), "{code}");
        }
        assert_eq!(reject(1, "c", "ö".repeat(1000)), rejected("c", "ö".repeat(512)));
        assert!(matches!(reject(2, "c", String::new()), Err(GuestError::Garbage(_))));
    }

    #[test]
    fn a_view_has_a_content_type_that_can_be_sent() {
        assert!(view("application/json; charset=utf-8".to_string(), vec![]).is_ok());
        for wrong in ["", "a\r\nb: c", "ö", &"a".repeat(256)] {
            assert!(matches!(view(wrong.to_string(), vec![]), Err(GuestError::Garbage(_))), "{wrong:?}");
        }
        assert!(view("a/b".to_string(), vec![0; PAGE_BYTES_MAX]).is_ok());
        assert!(matches!(view("a/b".to_string(), vec![0; PAGE_BYTES_MAX + 1]), Err(GuestError::Garbage(_))));
    }
}
