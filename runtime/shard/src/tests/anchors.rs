//! Snapshots in the store: whatever fails, and whenever the node ends, it can be built again from the newest one there.

use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt;
use weir_cold::{Manifest, survey};
use weir_raft::read_snapshot;
use weir_storage::SnapshotReader;

use super::*;

/// What a store does with a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// What is asked for.
    Well,
    /// Nothing.
    Dead,
    /// What is asked for, and it says that it has not.
    Deaf,
}

/// A store that fails as it is told. After every change to it, it must be possible to build the node again from it.
#[derive(Clone, Default)]
struct Watched {
    objects: ChunkMemory,
    calls: Arc<AtomicUsize>,
    /// From this call on it is dead; before that call it may be deaf. 0: it is well.
    dies_at: Arc<AtomicUsize>,
    deaf: bool,
    /// How often it was looked at, and how often it was found as it must be.
    looks: Arc<AtomicUsize>,
    found_whole: Arc<AtomicUsize>,
}

impl Watched {
    fn mood(&self) -> Mood {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.dies_at.load(Ordering::Relaxed) {
            0 => Mood::Well,
            at if call == at && self.deaf => Mood::Deaf,
            at if call >= at => Mood::Dead,
            _ => Mood::Well,
        }
    }

    fn call<T>(&self, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let failed = || StoreError::Failed("it has failed".to_string());
        match self.mood() {
            Mood::Dead => Err(failed()),
            Mood::Deaf => act().and_then(|_| Err(failed())).inspect_err(|_| self.look()),
            Mood::Well => act().inspect(|_| self.look()),
        }
    }

    /// A panic here ends only the task that has called, so it is noticed at the end.
    fn look(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        drop(recovered(&self.objects));
        self.found_whole.fetch_add(1, Ordering::Relaxed);
    }
}

impl ChunkStore for Watched {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.call(|| self.objects.put(object, bytes).now_or_never().expect("it is memory")) })
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.call(|| self.objects.get(object, range).now_or_never().expect("it is memory")) })
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.call(|| self.objects.delete(object).now_or_never().expect("it is memory")) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(async move { self.call(|| self.objects.list().now_or_never().expect("it is memory")) })
    }
}

/// The newest snapshot of every group, of which all is there: the pieces, and every chunk that is named.
pub(super) fn recovered(objects: &ChunkMemory) -> Vec<(Manifest, weir_stream::Group)> {
    let surveys = survey(objects).now_or_never().expect("it is memory").expect("it answers");
    let newest = surveys.into_values().filter_map(|survey| survey.snapshots.into_iter().next());
    let recover = |manifest: Manifest| {
        let read = |piece| manifest.read(objects, piece).now_or_never().expect("it is memory").expect("it answers");
        let pieces = (0..manifest.pieces.len()).map(|piece| read(piece).expect("it is as it was put"));
        let file = pieces.collect::<Vec<_>>().concat();
        let group = manifest.name.group;
        let reader = SnapshotReader::of_bytes(group, file.into()).expect("it is a snapshot");
        let (last, state) = read_snapshot(reader).expect("it is whole");
        assert_eq!((last.term, last.index), (manifest.name.term, manifest.name.index));
        for chunk in state.chunks() {
            let weir_stream::ChunkId { term, number, nonce } = chunk.id;
            let name = ChunkName { group, term, number, nonce }.object();
            let objects = objects.objects();
            let found = objects.get(&name).unwrap_or_else(|| panic!("{name} is named by a snapshot, and not there"));
            assert_eq!((found.len() as u64, crc32c::crc32c(found)), (chunk.bytes, chunk.crc), "{name}");
        }
        (manifest, state)
    };
    newest.map(recover).collect()
}

/// Has chunks come and go, and the node end and begin in between. Waits for nothing from a store that is dead.
async fn live(store: Watched, ends_early: bool) -> usize {
    let cold = Cold::new(Arc::new(store.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
    let config = ShardConfig { flush_age: Duration::from_millis(20), ..config() };
    let mut node = Node::start_with(disks(), Some(cold.keeping_snapshots()), config).await;
    let keys: Vec<StreamKey> = (0..3).map(|n| key_in(GroupId(0), &format!("s{n}-"))).collect();
    let is_dead = || {
        store.dies_at.load(Ordering::Relaxed) != 0
            && store.calls.load(Ordering::Relaxed) >= store.dies_at.load(Ordering::Relaxed)
    };
    let snapshots = || recovered(&store.objects);
    for key in &keys {
        node.create(key, Expiry::Never).await;
    }
    for round in 0..2 {
        for key in &keys[round..] {
            node.append(key, &"x".repeat(1000)).await.expect("appends");
        }
        until("all is in a stored snapshot", || {
            let (hot, stored) = (node.sum(|stats| stats.hot_bytes), snapshots());
            let all = |(_, state): &(Manifest, weir_stream::Group)| {
                state
                    .stream(&keys[2])
                    .is_some_and(|stream| stream.tail().position == 1000 * (round as u64 + 1) && state.hot_bytes() == 0)
            };
            is_dead() || (hot == 0 && stored.iter().any(all))
        })
        .await;
        if ends_early && is_dead() {
            // The node ends with its store, and both are there again.
            store.dies_at.store(0, Ordering::Relaxed);
            node = node.restart().await;
        }
        node.far(&keys[round]).delete(keys[round].clone(), None).await.expect("deletes");
    }
    if !is_dead() {
        node.far(&keys[2]).delete(keys[2].clone(), None).await.expect("deletes");
        let left = || store.objects.objects().keys().filter(|name| name.ends_with(".chunk")).count();
        until("chunks go when no snapshot names them", || is_dead() || left() == 0).await;
    }
    for shard in &node.shards {
        shard.shutdown().await;
    }
    store.look();
    assert_eq!(store.looks.load(Ordering::Relaxed), store.found_whole.load(Ordering::Relaxed));
    store.calls.load(Ordering::Relaxed)
}

#[test]
fn whatever_call_fails_and_whenever_the_node_ends_the_stored_snapshot_is_whole() {
    run(async {
        let calls = live(Watched::default(), false).await;
        assert!(calls > 15, "there is something to fail: {calls} calls");
        let mut cases = Vec::new();
        for at in 1..=calls {
            for (deaf, ends_early) in [(false, true), (true, true), (at % 2 == 0, false)] {
                let store = Watched { deaf, ..Watched::default() };
                store.dies_at.store(at, Ordering::Relaxed);
                cases.push((store, ends_early));
            }
        }
        // Some at a time: most of the time they wait.
        for batch in cases.chunks(24) {
            join_all(batch.iter().map(|(store, ends_early)| live(store.clone(), *ends_early))).await;
        }
    });
}

#[test]
fn there_is_one_stored_snapshot_of_each_group_and_nothing_is_left_of_others() {
    run(async {
        let store = ChunkMemory::default();
        let cold = Cold::new(Arc::new(store.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        let config = ShardConfig { flush_age: Duration::from_millis(100), ..config() };
        let mut node = Node::start_with(disks(), Some(cold.keeping_snapshots()), config).await;
        let key = key_in(GroupId(1), "s");
        node.create(&key, Expiry::Never).await;
        let left = [
            "00001-00000000000000000001-00000000000000000001-00000001-00000.piece",
            "00001-00000000000000000009-00000000000000000099-00000001.snapshot",
            "other.snapshot",
        ];
        for round in 1..4 {
            for object in left {
                store.objects().insert(object.to_string(), Bytes::from_static(b"left"));
            }
            node = node.restart().await;
            node.append(&key, "cold ").await.expect("appends");
            let has_all = |(manifest, state): &(Manifest, weir_stream::Group)| {
                manifest.name.group == GroupId(1)
                    && state
                        .stream(&key)
                        .is_some_and(|stream| stream.tail().position == 5 * round && state.hot_bytes() == 0)
            };
            until("a snapshot is stored", || recovered(&store).iter().any(has_all)).await;
            let objects = || {
                store.objects().keys().filter(|name| name.starts_with("00001-") && !name.ends_with(".chunk")).count()
            };
            until("nothing else is left", || objects() == 2).await;
            assert!(store.objects().contains_key("other.snapshot"), "what is not ours stays");
            let (manifest, _) = recovered(&store).into_iter().find(has_all).expect("it is there");
            assert_eq!((manifest.cluster, manifest.groups), (node.config.node_id, TOPOLOGY.groups));
        }
        until("every group is there", || recovered(&store).len() == usize::from(TOPOLOGY.groups)).await;
    });
}

#[test]
fn a_group_that_is_always_written_stores_a_snapshot_now_and_then() {
    run(async {
        const SECONDS: u64 = 6;
        let chunks = ChunkMemory::default();
        let cold = Cold::new(Arc::new(chunks), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        let config = ShardConfig { flush_age: Duration::from_secs(1), ..config() };
        let node = Node::start_with(disks(), Some(cold.keeping_snapshots()), config).await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        for _ in 0..SECONDS * 20 {
            node.append(&key, "more").await.expect("appends");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let stored = node.sum(|stats| stats.snapshots_stored);
        // One a second of the group, and a first one of every other.
        let most = SECONDS + u64::from(TOPOLOGY.groups) + 2;
        assert!((2..=most).contains(&stored), "{stored} snapshots");
    });
}
