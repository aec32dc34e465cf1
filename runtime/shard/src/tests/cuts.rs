//! Power cuts at every call of the store and every operation of the disks, while a node flushes, merges, takes snapshots, purges,
//! trims and deletes. What is on the disks and in the store then is of one moment. It goes by number, so every call and
//! operation of the scenario has its turn.
//!
//! `WEIR_TEST_CUTS` says how often, for a campaign: each time other parts of the writes are torn.

use futures_util::FutureExt;
use weir_cold::survey;

use super::*;

/// How often the power goes at each operation of a disk, if `WEIR_TEST_CUTS` does not say.
const CUTS: u64 = 1;
/// Streams of one group, so that they go into one chunk.
const STREAMS: usize = 6;
/// Those that stay: less than half, so that the chunk is emptied.
const LASTING: usize = 3;
/// So much of each is trimmed or deleted later. All together it is more than a segment.
const RECORD_BYTES: usize = 200 << 10;
const DISK_BYTES: u64 = 32 << 20;
/// Nodes that run at a time: most of the time they wait.
const NODES: usize = 8;

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Never,
    /// Before this call of the store has done anything.
    Before(u64),
    /// When this call of the store has done its work, and nobody was told.
    After(u64),
    /// During this operation of a disk, counted from the begin of the node.
    During(u64),
}

/// A store that has the power of the disks: what is asked of it when that is gone is never answered.
#[derive(Clone)]
struct PoweredStore {
    chunks: ChunkMemory,
    power: FaultyDisk,
    calls: Arc<AtomicU64>,
    cut: Cut,
}

impl PoweredStore {
    async fn call<T>(&self, work: impl FnOnce() -> T) -> T {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if matches!(self.cut, Cut::Before(at) if at == call) {
            self.power.cut_power();
        }
        let done = self.power.while_powered(work);
        if matches!(self.cut, Cut::After(at) if at == call) {
            self.power.cut_power();
            return std::future::pending().await;
        }
        match done {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }
}

impl ChunkStore for PoweredStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call(|| self.chunks.put(object, bytes).now_or_never().expect("it is memory")))
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.call(|| self.chunks.get(object, range).now_or_never().expect("it is memory")))
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call(|| self.chunks.delete(object).now_or_never().expect("it is memory")))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(self.call(|| self.chunks.list().now_or_never().expect("it is memory")))
    }
}

/// A node on its power, and what it has acknowledged.
struct Life {
    when: String,
    node: Node,
    power: FaultyDisk,
    chunks: ChunkMemory,
    model: Model,
}

struct Model {
    keys: Vec<StreamKey>,
    /// What is in each; nothing for one that is not there.
    contents: Vec<Option<String>>,
    /// What one of them becomes with what was asked for last: nobody has said whether that has happened.
    asked: Option<(usize, Option<String>)>,
}

impl Model {
    /// Reads all streams of a node, and notes what has become of what was asked for last.
    async fn check(&mut self, node: &Node, when: &str) {
        for (n, key) in self.keys.iter().enumerate() {
            let found = match node.content(key).await {
                Ok(found) => Some(found),
                Err(ShardError::Refused(Refusal::NotFound)) => None,
                Err(error) => panic!("{key} {when}: {error:?}"),
            };
            let asked = self.asked.take_if(|(asked, _)| *asked == n).map(|(_, becomes)| becomes);
            let is_known = found == self.contents[n] || asked.as_ref() == Some(&found);
            let bytes = |content: &Option<String>| content.as_ref().map(String::len);
            let (expected, maybe) = (bytes(&self.contents[n]), asked.as_ref().map(bytes));
            assert!(is_known, "{key} {when}: {:?} bytes, and not {expected:?} or {maybe:?}", bytes(&found));
            self.contents[n] = found;
        }
    }

    fn has(&self, n: usize) -> bool {
        self.contents[n].is_some()
    }

    fn with(&self, n: usize, record: &str) -> String {
        self.contents[n].clone().unwrap_or_default() + record
    }
}

impl Life {
    /// Waits for `work` as long as the power lasts.
    async fn powered<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let off = async {
            while self.power.has_power() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = off => None,
        }
    }

    /// Asks for what makes the `n`th stream `becomes`; `None` when the power goes before it is acknowledged.
    async fn ask<T>(
        &mut self,
        n: usize,
        becomes: Option<String>,
        work: impl AsyncFnOnce(&Node, StreamKey) -> Result<T, ShardError>,
    ) -> Option<()> {
        self.model.asked = Some((n, becomes.clone()));
        let answer = self.powered(work(&self.node, self.model.keys[n].clone())).await?;
        if let Err(error) = answer {
            assert!(!self.power.has_power(), "{n} is refused {}: {error:?}", self.when);
            return None;
        }
        self.model.asked = None;
        self.model.contents[n] = becomes;
        Some(())
    }

    async fn append(&mut self, record: &str) -> Option<()> {
        for n in 0..STREAMS {
            if self.model.has(n) {
                let becomes = self.model.with(n, record);
                self.ask(n, Some(becomes), async |node, key| node.append(&key, record).await).await?;
            }
        }
        Some(())
    }

    /// Gives up the first `bytes` of a stream.
    async fn trim(&mut self, n: usize, bytes: usize) -> Option<()> {
        let becomes = self.model.with(n, "").split_off(bytes);
        let trim = async |node: &Node, key: StreamKey| {
            let next = node.near(&key).head(key.clone()).await?.next;
            node.trim(&key, ReadFrom::At(Offset { position: bytes as u64, ..next })).await
        };
        self.ask(n, Some(becomes), trim).await
    }

    async fn until(&self, is_so: impl Fn(&Life) -> bool) -> Option<()> {
        until("it goes on", || !self.power.has_power() || is_so(self)).await;
        self.power.has_power().then_some(())
    }

    fn is_cold(&self) -> bool {
        self.node.sum(|stats| stats.hot_bytes) == 0
    }

    /// Whether the store has exactly what is named: chunks, and one snapshot of each group if it has snapshots.
    fn is_swept(&self) -> bool {
        let is_chunk = |name: &&String| ChunkName::parse(name).is_some();
        let chunks = self.chunks.objects().keys().filter(is_chunk).count() as u64;
        let surveys = survey(&self.chunks).now_or_never().expect("it is memory").expect("it answers");
        let of_others = surveys.values().map(|survey| survey.others().len()).sum::<usize>();
        let named: usize = surveys.values().flat_map(|survey| &survey.snapshots).map(|of| of.objects().len()).sum();
        let objects = self.chunks.objects().len() as u64;
        chunks == self.node.sum(|stats| stats.chunks) && of_others == 0 && objects == chunks + named as u64
    }

    /// The first entry in the log of the streams' group.
    fn log_begin(&self) -> u64 {
        let group = self.node.near(&self.model.keys[0]).0.local_group(&self.model.keys[0]);
        group.wal.first_index(group.id)
    }

    /// Runs the scenario as far as the power lasts.
    async fn scenario(&mut self) -> Option<()> {
        for n in 0..STREAMS {
            let create = async |node: &Node, key: StreamKey| {
                let request = CreateRequest {
                    content_type: "text/plain".into(),
                    expiry: Expiry::Never,
                    closed: false,
                    body: Body::default(),
                    condition: None,
                };
                node.far(&key).create(key.clone(), request).await
            };
            self.ask(n, Some(String::new()), create).await?;
        }
        let begin = self.log_begin();
        self.append(&"x".repeat(RECORD_BYTES)).await?;
        self.append("cold").await?;
        self.until(Life::is_cold).await?;
        self.append("hot").await?;
        // One loses a part of what it has in the chunk, and one all of it.
        self.trim(0, RECORD_BYTES).await?;
        self.trim(1, RECORD_BYTES + "cold".len()).await?;
        for n in LASTING..STREAMS {
            self.ask(n, None, async |node, key| node.far(&key).delete(key.clone(), None).await).await?;
        }
        let is_quiet = |life: &Life| {
            let has_merged = life.node.sum(|stats| stats.merges) > 0 && life.node.sum(|stats| stats.snapshots) > 0;
            has_merged && life.is_cold() && life.is_swept() && life.log_begin() > begin
        };
        self.until(is_quiet).await
    }
}

/// What a run of the scenario took until it was over or the power went.
struct Taken {
    calls: u64,
    operations: u64,
    is_over: bool,
}

/// Runs the scenario until the power goes, or cuts it at the end. What is left then is whole, and goes on.
async fn live(cut: Cut, keeps_snapshots: bool, seed: u64) -> Taken {
    let when = format!("after a cut {cut:?}, seed {seed}, snapshots in the store: {keeps_snapshots}");
    let wal = WalConfig { segment_bytes: 1 << 20, budget_bytes: 12 << 20, ..config().wal };
    // Several nodes share the thread.
    let write_deadline = Duration::from_secs(20);
    let config = ShardConfig { flush_age: Duration::from_millis(50), wal, write_deadline, ..config() };
    let power = FaultyDisk::new(DISK_BYTES, seed);
    let disks: Vec<_> =
        (0..TOPOLOGY.wals).map(|wal| if wal == 0 { power.clone() } else { power.beside(DISK_BYTES) }).collect();
    let store = PoweredStore { chunks: ChunkMemory::default(), power: power.clone(), calls: Arc::default(), cut };
    let cold = |store: &PoweredStore| {
        let cold = Cold::new(Arc::new(store.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        if keeps_snapshots { cold.keeping_snapshots() } else { cold }
    };
    let formed = disks.iter().map(|disk| formed(disk.clone())).collect();
    let begun = power.operations();
    if let Cut::During(operation) = cut {
        power.cut_power_at(begun + operation);
    }
    let keys = (0..STREAMS).map(|n| key_in(GroupId(1), &format!("s{n}-"))).collect();
    let mut model = Model { keys, contents: vec![None; STREAMS], asked: None };
    let (mut ended, mut is_over) = (Vec::new(), false);
    match Node::try_start(formed, Some(cold(&store)), config.clone()).await {
        Ok(node) => {
            let (when, power, chunks) = (when.clone(), power.clone(), store.chunks.clone());
            let mut life = Life { when, node, power, chunks, model };
            is_over = life.scenario().await.is_some();
            (model, ended) = (life.model, life.node.shards);
        }
        Err(error) => assert!(!power.has_power(), "{error} {when}"),
    }
    power.cut_power();
    let taken = Taken { calls: store.calls.load(Ordering::Relaxed), operations: power.operations() - begun, is_over };

    let disks: Vec<FaultyDisk> = disks.iter().map(FaultyDisk::crash).collect();
    let power = disks[0].clone();
    let disks = disks.into_iter().map(|disk| Arc::new(disk) as Arc<dyn Disk>).collect();
    let again = PoweredStore { power: power.clone(), calls: Arc::default(), cut: Cut::Never, ..store };
    let node = Node::start_with(disks, Some(cold(&again)), config).await;
    model.check(&node, &when).await;
    let mut life = Life { when, node, power, chunks: again.chunks.clone(), model };
    let when = life.when.clone();
    life.append("more").await.unwrap_or_else(|| panic!("it has power {when}"));
    let begun = std::time::Instant::now();
    while !life.is_cold() || !life.is_swept() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is as if nothing had been {when}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    life.model.check(&life.node, &when).await;
    assert_eq!(life.node.sum(|stats| stats.cold_damaged), 0, "{when}");
    for shard in life.node.shards.iter().chain(&ended) {
        shard.shutdown().await;
    }
    taken
}

/// Runs the scenario with each of these cuts.
fn live_with(cuts: &[(Cut, bool, u64)]) -> Vec<Taken> {
    let mut taken = Vec::new();
    for some in cuts.chunks(NODES) {
        // What is left of nodes that could not begin ends with the runtime.
        run(async { taken.extend(join_all(some.iter().map(|(cut, keeps, seed)| live(*cut, *keeps, *seed))).await) });
    }
    taken
}

#[test]
fn nothing_is_lost_or_left_wherever_the_power_goes_at_a_call_of_the_store() {
    for keeps_snapshots in [false, true] {
        let whole = live_with(&[(Cut::Never, keeps_snapshots, 1)]).remove(0);
        assert!(whole.is_over && whole.calls >= 8, "{} calls", whole.calls);
        let cuts = |call| [(Cut::Before(call), keeps_snapshots, call), (Cut::After(call), keeps_snapshots, call)];
        let taken = live_with(&(0..whole.calls).flat_map(cuts).collect::<Vec<_>>());
        let met = taken.iter().filter(|taken| !taken.is_over).count();
        eprintln!("snapshots in the store: {keeps_snapshots}; {} calls, {met} cuts", whole.calls);
        assert!(met as u64 >= whole.calls, "{met} cuts at {} calls", whole.calls);
    }
}

#[test]
fn nothing_is_lost_or_left_wherever_the_power_goes_at_an_operation_of_a_disk() {
    let rounds = std::env::var("WEIR_TEST_CUTS").map_or(CUTS, |cuts| cuts.parse().expect("a number"));
    for keeps_snapshots in [false, true] {
        let whole = live_with(&[(Cut::Never, keeps_snapshots, 1)]).remove(0);
        assert!(whole.is_over && whole.operations > 30, "{} operations", whole.operations);
        let all = whole.operations;
        let cuts: Vec<_> = (0..rounds * all).map(|n| (Cut::During(1 + n % all), keeps_snapshots, n)).collect();
        let met = live_with(&cuts).iter().filter(|taken| !taken.is_over).count();
        eprintln!("snapshots in the store: {keeps_snapshots}; {all} operations, {met} cuts");
        // No two runs are alike: the last operations may not come.
        assert!(met >= cuts.len() / 2, "{met} cuts");
    }
}
