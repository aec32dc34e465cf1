//! Guests built for wasm, a lane to run them on, and their answers as text.

use std::sync::Arc;

use bytes::Bytes;
pub(crate) use weir_testkit::guest;
use weir_types::{Digest, Role};
use weir_wasm::{
    AppendContext, Caller, FoldId, GuestBatch, GuestError, Host, HostConfig, InProcess, InstanceKey, Lane, MemoryStore,
    Verdict,
};

/// A lane on a host of its own. Guests are bound by their name.
pub(crate) struct Kit {
    pub(crate) host: Host,
    pub(crate) lane: Lane,
}

impl Kit {
    pub(crate) fn new() -> Kit {
        Kit::with(HostConfig::default())
    }

    pub(crate) fn with(config: HostConfig) -> Kit {
        let host = Host::new(Arc::new(MemoryStore::default()), Arc::new(InProcess), config).expect("the engine runs");
        let lane = Lane::start(host.clone(), "lane").expect("there can be a thread");
        Kit { host, lane }
    }

    /// Uploads a guest and makes it ready.
    pub(crate) fn bind(&self, name: &str) -> InstanceKey {
        let wasm = guest(name);
        let inspected = self.host.inspect(&wasm).expect("the guest is a module");
        let digest = self.host.store(&wasm).expect("it can be stored");
        assert_eq!(inspected.digest, digest);
        self.host.prepare(digest).expect("it can be compiled");
        key("demo", digest)
    }

    /// A validator's verdict on records.
    pub(crate) async fn validate(&self, key: &InstanceKey, records: &[&str]) -> String {
        let verdict = self.lane.validate(key.clone(), caller(), context(), batch(records)).await;
        match verdict {
            Ok(Verdict::Accept) => "accept".to_string(),
            Ok(Verdict::Replace(batch)) => format!("replace {}", text(&batch)),
            Ok(Verdict::Reject { index, code, message }) => format!("reject {index} {code}: {message}"),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) async fn open(&self, key: &InstanceKey) -> FoldId {
        self.lane.fold_open(key.clone(), caller(), None, false).await.expect("a fold can be made")
    }

    pub(crate) async fn apply(&self, fold: FoldId, records: &[&str]) -> String {
        answer(self.lane.fold_apply(fold, batch(records)).await.map(|_| "applied".to_string()))
    }

    pub(crate) async fn query(&self, fold: FoldId, path: &str) -> String {
        let view = self.lane.fold_query(fold, path.to_string(), Vec::new()).await;
        answer(view.map(|view| format!("{} {}", view.content_type, String::from_utf8_lossy(&view.body))))
    }

    pub(crate) async fn snapshot(&self, fold: FoldId) -> Bytes {
        self.lane.fold_snapshot(fold).await.expect("a fold has a snapshot").0.bytes().clone()
    }

    pub(crate) async fn check_config(&self, key: &InstanceKey, role: Role) -> String {
        answer(self.lane.check_config(key.clone(), role).await.map(|()| "configured".to_string()))
    }
}

fn answer(answer: Result<String, GuestError>) -> String {
    answer.unwrap_or_else(|error| error.to_string())
}

pub(crate) fn key(bucket: &str, digest: Digest) -> InstanceKey {
    InstanceKey { bucket: bucket.into(), digest, config: "null".into() }
}

pub(crate) fn caller() -> Caller {
    Caller { binding: "checked".into(), stream: "orders".into() }
}

pub(crate) fn context() -> AppendContext {
    AppendContext { content_type: "application/json".into(), next_offset: 7, timestamp_ms: 1_800_000_000_000 }
}

pub(crate) fn batch(records: &[&str]) -> GuestBatch {
    let mut end = 0;
    let ends = records.iter().map(|record| {
        end += record.len() as u32;
        end
    });
    let times = vec![1_800_000_000_000];
    GuestBatch { first_offset: 7, ends: ends.collect(), times, data: Bytes::from(records.concat()) }
}

fn text(batch: &GuestBatch) -> String {
    let starts = [0].into_iter().chain(batch.ends.iter().copied());
    let records = starts.zip(&batch.ends).map(|(start, &end)| &batch.data[start as usize..end as usize]);
    records.map(|record| format!("'{}'", String::from_utf8_lossy(record))).collect::<Vec<_>>().join(" ")
}

/// Runs a test's future to its end.
pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().expect("there can be a runtime").block_on(test);
}
