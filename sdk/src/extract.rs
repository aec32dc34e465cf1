//! Records as a validator's parameters: the parameter's type says how to read a record. A record that cannot be read is
//! rejected.

use std::ops::Deref;

use serde::Deserialize;

use crate::batch::Record;
use crate::validator::Rejection;

/// A type that a validator may ask for in place of the raw [`Record`].
#[diagnostic::on_unimplemented(
    message = "a validator cannot take a `{Self}`",
    label = "not read from a record",
    note = "take `Record<'_>`, `Text<'_>`, or `Json<T>` where `T: serde::Deserialize`",
    note = "take the config and the context by reference: `&Config`, `&Context`; take `Batch<'_>` for all records at once"
)]
pub trait FromRecord<'a>: Sized {
    /// Reads the record.
    ///
    /// # Errors
    /// Why the record cannot be read. The append is refused with this rejection, without asking the validator.
    fn from_record(record: Record<'a>) -> Result<Self, Rejection>;
}

impl<'a> FromRecord<'a> for Record<'a> {
    fn from_record(record: Record<'a>) -> Result<Self, Rejection> {
        Ok(record)
    }
}

/// A record read as JSON into `T`, which may borrow from it. A record that is not a `T` is rejected with the code
/// `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<'a, T: Deserialize<'a>> FromRecord<'a> for Json<T> {
    fn from_record(record: Record<'a>) -> Result<Self, Rejection> {
        record.json().map(Json).map_err(|error| Rejection::new("json", error.to_string()))
    }
}

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A record read as text. A record that is not UTF-8 is rejected with the code `utf-8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub &'a str);

impl<'a> FromRecord<'a> for Text<'a> {
    fn from_record(record: Record<'a>) -> Result<Self, Rejection> {
        std::str::from_utf8(record.data).map(Text).map_err(|error| Rejection::new("utf-8", error.to_string()))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.0
    }
}
