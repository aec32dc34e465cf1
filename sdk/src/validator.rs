//! Validators: what may enter a stream.
//!
//! The server asks a validator about every append before it stores the append, on the leader only. It then stores what
//! the verdict says: all records, their replacements, or none. A validator has no memory: two calls may go to different
//! instances. An append that was judged may still lose against one that came first.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::batch::{Batch, Record, Records};

/// What to do with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It enters the stream as it is.
    Accept,
    /// These bytes enter the stream in its place. In JSON mode they must be one JSON value.
    Replace(Vec<u8>),
    /// The whole append is refused.
    Reject(Rejection),
}

impl Verdict {
    /// Refuses the append. `code` is for programs: 1 to 64 of `a-z`, `0-9`, `-`, `_`. `message` is for people: one
    /// sentence.
    pub fn reject(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Verdict {
        Verdict::Reject(Rejection::new(code, message))
    }
}

/// Why a record is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs: 1 to 64 characters of `a-z`, `0-9`, `-` and `_`.
    pub code: Cow<'static, str>,
    /// For people: one sentence.
    pub message: String,
}

impl Rejection {
    /// A rejection with this code and sentence.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Rejection {
        Rejection { code: code.into(), message: message.into() }
    }
}

/// What to do with a batch: the answer of a validator that takes all records at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchVerdict {
    /// All records enter the stream as they are.
    Accept,
    /// These records enter the stream in their place. At least one.
    Replace(Records),
    /// No record enters the stream.
    Reject {
        /// Which record is at fault, counting from 0.
        index: u32,
        /// Why.
        rejection: Rejection,
    },
}

/// Where and when the records will be appended if they are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// The stream's bucket.
    pub bucket: &'a str,
    /// The stream's name within it.
    pub stream: &'a str,
    /// The stream's content type.
    pub content_type: &'a str,
    /// Where the tail is now. Other appends may come first.
    pub next_offset: u64,
    /// The server's time, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// What the attribute `#[validator]` makes of a function. You rarely write it by hand.
pub trait Validator: 'static {
    /// The type of the binding's config. [`crate::NoConfig`] if the function takes none.
    type Config: DeserializeOwned + 'static;

    /// Judges the records of one append.
    fn validate(batch: Batch<'_>, context: &Context<'_>, config: &Self::Config) -> BatchVerdict;
}

/// Judges record by record. The first rejection decides, and names the record's index.
#[doc(hidden)]
pub fn each<'a>(batch: Batch<'a>, mut check: impl FnMut(Record<'a>) -> Verdict) -> BatchVerdict {
    let mut replaced: Option<Records> = None;
    for (index, record) in batch.records().enumerate() {
        match (check(record), &mut replaced) {
            (Verdict::Accept, None) => {}
            (Verdict::Accept, Some(records)) => records.push(record.data),
            (Verdict::Replace(data), Some(records)) => records.push(&data),
            (Verdict::Replace(data), None) => {
                let mut records: Records = batch.records().take(index).map(|before| before.data).collect();
                records.push(&data);
                replaced = Some(records);
            }
            (Verdict::Reject(rejection), _) => {
                return BatchVerdict::Reject { index: u32::try_from(index).expect("ends are u32"), rejection };
            }
        }
    }
    replaced.map_or(BatchVerdict::Accept, BatchVerdict::Replace)
}

/// Returns a rejection from a validator: `reject!("code", "message with {}", arguments)`.
#[macro_export]
macro_rules! reject {
    ($code:expr, $($message:tt)+) => {
        return $crate::Verdict::reject($code, ::std::format!($($message)+))
    };
}

/// Returns a rejection from a validator unless a condition holds: `ensure!(condition, "code", "message with {}", arguments)`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $code:expr, $($message:tt)+) => {
        if !$condition {
            $crate::reject!($code, $($message)+);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(judge: impl Fn(&[u8]) -> Verdict) -> BatchVerdict {
        each(Batch::new(0, &[1, 2, 3], &[0], b"abc"), |record| judge(record.data))
    }

    #[test]
    fn what_is_accepted_is_not_copied() {
        assert_eq!(check(|_| Verdict::Accept), BatchVerdict::Accept);
    }

    #[test]
    fn one_replacement_keeps_the_others_in_place() {
        let verdict = check(|data| if data == b"b" { Verdict::Replace(b"BB".to_vec()) } else { Verdict::Accept });
        assert_eq!(verdict, BatchVerdict::Replace(["a", "BB", "c"].into_iter().collect()));
    }

    #[test]
    fn the_first_rejection_decides_and_names_its_index() {
        let verdict = check(|data| if data == b"a" { Verdict::Accept } else { Verdict::reject("code", "why") });
        assert_eq!(verdict, BatchVerdict::Reject { index: 1, rejection: Rejection::new("code", "why") });
    }
}
