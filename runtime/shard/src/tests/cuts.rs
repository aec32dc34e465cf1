//! Power cuts at every call of the store: a node begins to flush, merge and delete, and at one of its calls, before or after what
//! that does, the power goes. It goes by number, so every call of the scenario has its turn.

use super::*;

/// Streams of one group, so that they go into one chunk.
const STREAMS: usize = 6;
/// Those that stay: less than half, so that the chunk is emptied.
const LASTING: usize = 2;

/// Whether the call at which the power goes has done its work.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Before,
    After,
}

/// A store of a node whose power goes at one of its calls.
#[derive(Clone)]
struct CutStore {
    chunks: ChunkMemory,
    calls: Arc<AtomicU64>,
    at: u64,
    cut: Cut,
}

impl CutStore {
    fn is_off(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > self.at
    }

    /// Does what is called for, unless the power has gone: then nothing comes back.
    async fn call<T>(&self, work: impl AsyncFnOnce() -> T) -> T {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call < self.at {
            return work().await;
        }
        if call == self.at && matches!(self.cut, Cut::After) {
            work().await;
        }
        std::future::pending().await
    }
}

impl ChunkStore for CutStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.call(async || self.chunks.put(object, bytes).await).await })
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.call(async || self.chunks.get(object, range).await).await })
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.call(async || self.chunks.delete(object).await).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(async { self.call(async || self.chunks.list().await).await })
    }
}

/// What was acknowledged.
struct Model {
    keys: Vec<StreamKey>,
    /// What is in each; nothing for one that was deleted.
    contents: Vec<Option<String>>,
}

impl Model {
    async fn append(&mut self, node: &Node, record: &str) {
        for (key, content) in self.keys.iter().zip(&mut self.contents) {
            if let Some(content) = content {
                node.append(key, record).await.expect("appends");
                *content += record;
            }
        }
    }

    async fn check(&self, node: &Node, when: &str) {
        for (key, content) in self.keys.iter().zip(&self.contents) {
            match (node.content(key).await, content) {
                (Ok(found), Some(content)) => assert_eq!(&found, content, "{key} {when}"),
                (Err(ShardError::Refused(Refusal::NotFound)), None) => {}
                (found, _) => panic!("{key} {when}: {found:?}, and should be {content:?}"),
            }
        }
    }
}

/// Waits until `is_so` or the power has gone; false then.
async fn powered_until(store: &CutStore, is_so: impl Fn() -> bool) -> bool {
    until("it goes on", || store.is_off() || is_so()).await;
    !store.is_off()
}

/// Runs the scenario as far as the power lasts.
async fn scenario(node: &Node, store: &CutStore, model: &mut Model) -> bool {
    for key in &model.keys {
        node.create(key, Expiry::Never).await;
    }
    model.append(node, &"x".repeat(1000)).await;
    let is_cold = || node.sum(|stats| stats.hot_bytes) == 0;
    if !powered_until(store, is_cold).await {
        return false;
    }
    model.append(node, "hot").await;
    for (key, content) in model.keys.iter().zip(&mut model.contents).skip(LASTING) {
        node.far(key).delete(key.clone(), None).await.expect("deletes");
        *content = None;
    }
    let is_quiet = || is_cold() && node.sum(|stats| stats.merges) > 0 && is_swept(node, &store.chunks);
    powered_until(store, is_quiet).await
}

/// Whether the store has exactly what is named.
fn is_swept(node: &Node, chunks: &ChunkMemory) -> bool {
    chunks.objects().len() as u64 == node.sum(|stats| stats.chunks)
}

/// Cuts the power at that call; false when there are not so many.
async fn cut_at(at: u64, cut: Cut) -> bool {
    let when = format!("after a cut {cut:?} call {at}");
    let config = ShardConfig { flush_age: Duration::from_millis(50), ..config() };
    let store = CutStore { chunks: ChunkMemory::default(), calls: Arc::default(), at, cut };
    let cold = |store: &CutStore| {
        Cold::new(Arc::new(store.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new())
    };
    let disks: Vec<_> = (0..TOPOLOGY.wals).map(|wal| FaultyDisk::new(64 << 20, u64::from(wal))).collect();
    let formed = disks.iter().map(|disk| formed(disk.clone())).collect();
    let node = Node::start_with(formed, Some(cold(&store)), config.clone()).await;
    let keys = (0..STREAMS).map(|n| key_in(GroupId(1), &format!("s{n}-"))).collect();
    let mut model = Model { keys, contents: vec![Some(String::new()); STREAMS] };
    let is_over = scenario(&node, &store, &mut model).await;

    let disks = disks.iter().map(|disk| Arc::new(disk.crash()) as Arc<dyn Disk>).collect();
    let again = CutStore { at: u64::MAX, calls: Arc::default(), ..store.clone() };
    let next = Node::start_with(disks, Some(cold(&again)), config).await;
    model.check(&next, &when).await;
    model.append(&next, "more").await;
    until("it is as if nothing had been", || next.sum(|stats| stats.hot_bytes) == 0 && is_swept(&next, &store.chunks))
        .await;
    model.check(&next, &when).await;
    assert_eq!(next.sum(|stats| stats.cold_damaged), 0, "{when}");
    for shard in next.shards.iter().chain(&node.shards) {
        shard.shutdown().await;
    }
    !is_over
}

#[test]
fn nothing_is_lost_or_left_wherever_the_power_goes_while_chunks_are_made() {
    run(async {
        let mut cuts = 0;
        for cut in [Cut::Before, Cut::After] {
            for at in 0.. {
                if !cut_at(at, cut).await {
                    break;
                }
                cuts += 1;
            }
        }
        assert!(cuts >= 16, "{cuts} cuts");
    });
}
