//! `stats`: counts a stream. Records and bytes, first and last time, and for JSON objects how often each top-level field
//! was a number, with its smallest, largest and mean value.
//!
//! `/` shows all of it as one JSON object:
//!
//! ```json
//! {"count":3,"bytes":61,"first_time_ms":1,"last_time_ms":2,"fields":{"qty":{"count":2,"min":1.0,"max":4.0,"mean":2.5}}}
//! ```
//!
//! - Numbers are taken as 64-bit floats: integers above 2^53 are rounded.
//! - A record that is no JSON object counts with its bytes only; so does one with a number that no float can hold,
//!   or nested deeper than 128.
//! - A field that is named twice in one record counts twice.
//! - [`FIELDS_MAX`] fields are told apart, with names of up to [`NAME_BYTES_MAX`] bytes; numbers of others are counted as
//!   `fields_omitted`.

mod numbers;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_sdk::{Query, Record, Summary, View, summary};

/// How many fields are told apart: the state must not grow with what a client makes up.
pub const FIELDS_MAX: usize = 1_000;

/// The longest field name that is kept, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// What is known of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    count: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_time_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_time_ms: Option<u64>,
    fields: BTreeMap<String, Field>,
    #[serde(default, skip_serializing_if = "is_zero")]
    fields_omitted: u64,
}

/// What is known of one field.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    count: u64,
    min: f64,
    max: f64,
    mean: f64,
}

#[summary]
impl Summary for Stats {
    fn apply(&mut self, record: Record<'_>) {
        self.count += 1;
        self.bytes += record.data.len() as u64;
        self.first_time_ms.get_or_insert(record.time_ms);
        self.last_time_ms = Some(record.time_ms);
        for (name, value) in numbers::top_level(record.data) {
            self.take(&name, value);
        }
    }

    fn query(&self, query: Query<'_>) -> View {
        match query.path {
            "" | "/" => View::json(self),
            path => View::refused(format!("stats has no {path}, all it has is at /")),
        }
    }
}

impl Stats {
    fn take(&mut self, name: &str, value: f64) {
        // Looked up before it is inserted: the name is copied once per field, not once per record.
        if let Some(field) = self.fields.get_mut(name) {
            field.take(value);
        } else if self.fields.len() < FIELDS_MAX && name.len() <= NAME_BYTES_MAX {
            self.fields.insert(name.to_owned(), Field { count: 1, min: value, max: value, mean: value });
        } else {
            self.fields_omitted += 1;
        }
    }
}

impl Field {
    fn take(&mut self, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        // A sum of large values would leave the floats, and what is not finite cannot be stored; this never does.
        let count = self.count as f64;
        self.mean += value / count - self.mean / count;
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests;
