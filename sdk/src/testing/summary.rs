//! A summary bound to a stream, in a test.

use std::any::type_name;

use serde::Serialize;

use crate::batch::Record;
use crate::summary::{Query, Summary, View, restore, snapshot};

/// A fold, its config, and the records that it has taken.
pub struct SummaryHarness<S: Summary> {
    config: S::Config,
    fold: S,
    records: Vec<(Vec<u8>, u64)>,
    time_ms: u64,
}

impl<S: Summary> SummaryHarness<S> {
    /// Bound without a config.
    ///
    /// # Panics
    /// If the summary needs one.
    #[expect(clippy::new_without_default, reason = "a test says what it makes")]
    pub fn new() -> SummaryHarness<S> {
        SummaryHarness::configure("null").unwrap_or_else(|error| panic!("{error}"))
    }

    /// Bound with this config.
    ///
    /// # Panics
    /// If the summary refuses it.
    pub fn with_config(config: impl Serialize) -> SummaryHarness<S> {
        let config = serde_json::to_string(&config).expect("a config has a JSON form");
        SummaryHarness::configure(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Bound with a config given as JSON text, `null` for none.
    ///
    /// # Errors
    /// The sentence with which the summary refuses it.
    pub fn configure(config: &str) -> Result<SummaryHarness<S>, String> {
        let config = crate::config::read(config)?;
        let fold = S::new(&config);
        Ok(SummaryHarness { config, fold, records: Vec::new(), time_ms: 0 })
    }

    /// Lets the records that follow be appended at this time, in milliseconds since 1970. It is 0 at first.
    pub fn at(&mut self, time_ms: u64) -> &mut SummaryHarness<S> {
        self.time_ms = time_ms;
        self
    }

    /// Appends these records.
    pub fn append<R: AsRef<[u8]>>(&mut self, records: impl IntoIterator<Item = R>) -> &mut SummaryHarness<S> {
        for record in records {
            self.fold.apply(Record { data: record.as_ref(), time_ms: self.time_ms });
            self.records.push((record.as_ref().to_vec(), self.time_ms));
        }
        self
    }

    /// The body of the view at this path, as text; `refused: …` when the summary has none.
    pub fn query(&self, path: &str) -> String {
        self.query_with(path, &[])
    }

    /// The same with query parameters.
    pub fn query_with(&self, path: &str, params: &[(&str, &str)]) -> String {
        let params: Vec<_> = params.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        match self.fold.query(Query { path, params: &params }) {
            View::Body { body, .. } => String::from_utf8_lossy(&body).into_owned(),
            View::Refused(message) => format!("refused: {message}"),
        }
    }

    /// The fold itself.
    pub fn fold(&self) -> &S {
        &self.fold
    }

    /// Checks at every split of the records that a fold that was stored and restored there comes to the same state, byte
    /// for byte, as one that never stopped. Takes time with the square of the number of records.
    ///
    /// # Panics
    /// If not, with the record after which the two go apart.
    pub fn check_snapshots(&self) -> &SummaryHarness<S> {
        let whole = snapshot(&self.fold);
        let mut prefix = S::new(&self.config);
        for split in 0..=self.records.len() {
            let (before, after) = self.records.split_at(split);
            if let Some(last) = before.last() {
                prefix.apply(record(last));
            }
            let stored = snapshot(&prefix);
            let mut fold = self.restore(&stored, split);
            self.assert_same(&stored, &snapshot(&fold), split, "a snapshot of what was restored is another");
            after.iter().for_each(|suffix| fold.apply(record(suffix)));
            self.assert_same(&whole, &snapshot(&fold), split, "the fold that was restored comes to another state");
        }
        self.assert_same(&whole, &snapshot(&prefix), self.records.len(), "the same records come to another state");
        self
    }

    fn restore(&self, stored: &[u8], split: usize) -> S {
        restore(stored, &self.config).unwrap_or_else(|error| {
            panic!("{} cannot read its own snapshot after {split} records: {error}", type_name::<S>())
        })
    }

    fn assert_same(&self, expected: &[u8], actual: &[u8], split: usize, what: &str) {
        assert!(
            expected == actual,
            "{}, split after {split} records: {what}\n  expected {}\n  actual   {}",
            type_name::<S>(),
            expected.escape_ascii(),
            actual.escape_ascii(),
        );
    }
}

fn record((data, time_ms): &(Vec<u8>, u64)) -> Record<'_> {
    Record { data, time_ms: *time_ms }
}
