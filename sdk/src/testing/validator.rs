//! A validator bound to a stream, in a test.

use serde::Serialize;

use crate::batch::{Batch, Records};
use crate::validator::{BatchVerdict, Context, Validator};

/// A validator, its config, and the stream it is asked about: `orders` in the bucket `test`, of JSON, empty, at 0 ms.
///
/// Named by the function: `ValidatorHarness::<check>::new()`.
pub struct ValidatorHarness<V: Validator> {
    config: V::Config,
    bucket: String,
    stream: String,
    content_type: String,
    next_offset: u64,
    time_ms: u64,
}

impl<V: Validator> ValidatorHarness<V> {
    /// Bound without a config.
    ///
    /// # Panics
    /// If the validator needs one.
    #[expect(clippy::new_without_default, reason = "a test says what it makes")]
    pub fn new() -> ValidatorHarness<V> {
        ValidatorHarness::configure("null").unwrap_or_else(|error| panic!("{error}"))
    }

    /// Bound with this config.
    ///
    /// # Panics
    /// If the validator refuses it.
    pub fn with_config(config: impl Serialize) -> ValidatorHarness<V> {
        let config = serde_json::to_string(&config).expect("a config has a JSON form");
        ValidatorHarness::configure(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Bound with a config given as JSON text, `null` for none.
    ///
    /// # Errors
    /// The sentence with which the validator refuses it.
    pub fn configure(config: &str) -> Result<ValidatorHarness<V>, String> {
        Ok(ValidatorHarness {
            config: crate::config::read(config)?,
            bucket: "test".to_owned(),
            stream: "orders".to_owned(),
            content_type: "application/json".to_owned(),
            next_offset: 0,
            time_ms: 0,
        })
    }

    /// The same on a stream of this name and content type.
    pub fn stream(mut self, name: &str, content_type: &str) -> ValidatorHarness<V> {
        (self.stream, self.content_type) = (name.to_owned(), content_type.to_owned());
        self
    }

    /// The same in this bucket.
    pub fn bucket(mut self, name: &str) -> ValidatorHarness<V> {
        name.clone_into(&mut self.bucket);
        self
    }

    /// The same with the tail at this offset and the time at this, in milliseconds since 1970.
    pub fn at(mut self, next_offset: u64, time_ms: u64) -> ValidatorHarness<V> {
        (self.next_offset, self.time_ms) = (next_offset, time_ms);
        self
    }

    /// Judges one append of these records: `accept`, `replace 'a' 'b'`, or `reject <index> <code>: <message>`.
    pub fn append<R: AsRef<[u8]>>(&self, records: impl IntoIterator<Item = R>) -> String {
        match self.validate(records) {
            BatchVerdict::Accept => "accept".to_owned(),
            BatchVerdict::Replace(records) => {
                let records = records.iter().map(|record| format!(" '{}'", String::from_utf8_lossy(record)));
                format!("replace{}", records.collect::<String>())
            }
            BatchVerdict::Reject { index, rejection } => {
                format!("reject {index} {}: {}", rejection.code, rejection.message)
            }
        }
    }

    /// Judges one append of these records.
    pub fn validate<R: AsRef<[u8]>>(&self, records: impl IntoIterator<Item = R>) -> BatchVerdict {
        let (ends, data) = records.into_iter().collect::<Records>().into_parts();
        let context = Context {
            bucket: &self.bucket,
            stream: &self.stream,
            content_type: &self.content_type,
            next_offset: self.next_offset,
            timestamp_ms: self.time_ms,
        };
        V::validate(Batch::new(self.next_offset, &ends, &[self.time_ms], &data), &context, &self.config)
    }
}
