//! `#[summary]`: defaults, snapshots of several versions, and a harness that finds folds that break their promise.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use weir_sdk::log::Level;
use weir_sdk::testing::{SummaryHarness, logs};
use weir_sdk::{Query, Record, Summary, View, info, summary};

#[derive(Default, Serialize, Deserialize)]
struct Words {
    counts: BTreeMap<String, u64>,
    last_time_ms: u64,
}

#[summary]
impl Summary for Words {
    fn apply(&mut self, record: Record<'_>) {
        *self.counts.entry(String::from_utf8_lossy(record.data).into_owned()).or_default() += 1;
        self.last_time_ms = record.time_ms;
    }

    fn query(&self, query: Query<'_>) -> View {
        match (query.path, query.param("word")) {
            ("/", None) => View::json(self),
            ("/", Some(word)) => View::text(self.counts.get(word).unwrap_or(&0).to_string()),
            (path, _) => View::refused(format!("there is no {path}")),
        }
    }
}

/// Reads what its first version has stored, a number in decimal digits, besides its own.
struct Longest {
    bytes: usize,
    ignored_above: usize,
}

#[derive(Deserialize)]
struct Limits {
    ignored_above: usize,
}

#[summary(state_version = 2)]
impl Summary for Longest {
    type Config = Limits;

    fn new(config: &Limits) -> Longest {
        Longest { bytes: 0, ignored_above: config.ignored_above }
    }

    fn apply(&mut self, record: Record<'_>) {
        if record.data.len() > self.ignored_above {
            info!("ignored {} bytes", record.data.len());
        } else {
            self.bytes = self.bytes.max(record.data.len());
        }
    }

    fn query(&self, _query: Query<'_>) -> View {
        View::text(self.bytes.to_string())
    }

    fn snapshot(&self) -> Vec<u8> {
        (self.bytes as u64).to_le_bytes().to_vec()
    }

    fn restore(state_version: u32, snapshot: &[u8], config: &Limits) -> Result<Longest, String> {
        let bytes = match state_version {
            1 => std::str::from_utf8(snapshot).ok().and_then(|digits| digits.parse().ok()),
            _ => snapshot.try_into().ok().map(|bytes| u64::from_le_bytes(bytes) as usize),
        };
        Ok(Longest { bytes: bytes.ok_or("not a length")?, ignored_above: config.ignored_above })
    }
}

/// Breaks the promise: a map whose order is another in each instance.
#[derive(Default, Serialize, Deserialize)]
struct Unordered(HashMap<String, u64>);

#[summary]
impl Summary for Unordered {
    fn apply(&mut self, record: Record<'_>) {
        *self.0.entry(String::from_utf8_lossy(record.data).into_owned()).or_default() += 1;
    }

    fn query(&self, _query: Query<'_>) -> View {
        View::json(self)
    }
}

/// Breaks the promise: what it goes by is not in its snapshot.
#[derive(Default, Serialize, Deserialize)]
struct Forgetful {
    #[serde(skip)]
    seen: u64,
    even: u64,
}

#[summary]
impl Summary for Forgetful {
    fn apply(&mut self, _record: Record<'_>) {
        self.seen += 1;
        self.even += u64::from(self.seen.is_multiple_of(2));
    }

    fn query(&self, _query: Query<'_>) -> View {
        View::json(self)
    }
}

#[test]
fn records_are_folded_and_queried() {
    let mut stream = SummaryHarness::<Words>::new();
    stream.at(5).append(["tea", "tea"]).at(6).append(["milk"]);
    assert_eq!(stream.query("/"), r#"{"counts":{"milk":1,"tea":2},"last_time_ms":6}"#);
    assert_eq!(stream.query_with("/", &[("word", "tea")]), "2");
    assert_eq!(stream.query("/x"), "refused: there is no /x");
    stream.check_snapshots();
}

#[test]
fn a_summary_may_have_config_and_snapshots_of_its_own() {
    let mut stream = SummaryHarness::<Longest>::with_config(BTreeMap::from([("ignored_above", 3)]));
    stream.append(["a", "abc", "abcd"]).check_snapshots();
    assert_eq!(stream.query("/"), "3");
    let ignored = (Level::Info, "ignored 4 bytes".to_owned());
    assert!(logs().contains(&ignored));
    assert!(SummaryHarness::<Longest>::configure("null").is_err(), "the config is needed");
}

#[test]
fn a_snapshot_says_its_state_version() {
    let config = Limits { ignored_above: 9 };
    let stored = weir_sdk::summary::snapshot(&Longest { bytes: 3, ignored_above: 9 });
    assert_eq!(stored, b"\x02\0\0\0\x03\0\0\0\0\0\0\0");
    let restore = |bytes: &[u8]| weir_sdk::summary::restore::<Longest>(bytes, &config).map(|fold| fold.bytes);
    assert_eq!(restore(&stored), Ok(3));
    assert_eq!(restore(b"\x01\0\0\x003"), Ok(3));
    assert_eq!(restore(b"\x02\0"), Err("the snapshot is too short to have a state version".to_owned()));
}

#[test]
fn a_snapshot_of_another_version_is_refused_by_default() {
    let restore = |bytes: &[u8]| {
        weir_sdk::summary::restore::<Words>(bytes, &weir_sdk::NoConfig).err().expect("this is no snapshot")
    };
    assert_eq!(restore(b"\x02\0\0\0{}"), "the snapshot has state version 2, the module reads 1");
    assert_eq!(
        restore(b"\x01\0\0\0{}"),
        "the snapshot is not a state of the module: missing field `counts` at line 1 column 2"
    );
}

#[test]
#[should_panic(expected = "comes to another state")]
fn the_harness_finds_an_order_that_changes() {
    let words: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    SummaryHarness::<Unordered>::new().append(words).check_snapshots();
}

#[test]
#[should_panic(expected = "the fold that was restored comes to another state")]
fn the_harness_finds_state_that_is_not_stored() {
    SummaryHarness::<Forgetful>::new().append(["a", "b", "c", "d"]).check_snapshots();
}
