//! A whole node on one thread: two shards over memory disks, as a simulator would run it.

mod anchors;
mod checks;
mod cluster;
mod cuts;
mod forks;
mod members;
mod reigns;
mod subscriptions;
mod trims;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::Instant;
use weir_cold::{ChunkName, ChunkStore, Cold, MemoryStore as ChunkMemory, StoreError};
use weir_hooks::Hooks;
use weir_storage::{Arena, Claim, Disk, FRAME_HEADER_BYTES, FaultyDisk, MemoryDisk, Wal, WalConfig, WriteMode};
use weir_stream::{Appended, Command, Expiry, Facts, KeyRef, Refusal, Retention, Split};
use weir_types::limits::PAGE_BYTES_MAX;
use weir_types::{BucketName, GroupId, Incarnation, Lineage, Offset, ReadFrom, ShardId, StreamKey};
use weir_wasm::{Host, HostConfig, InProcess, MemoryStore};

use crate::seams::TestClock;
use crate::write::job::{AppendJob, Judged};
use crate::write::validate::drain;
use crate::write::validations::{Validation, Verdicts};
use crate::{
    AppendRequest, Body, CreateRequest, Entropy, Limit, LiveEvent, LongPoll, Seams, Shard, ShardConfig, ShardError,
    Topology, TrimRequest, mesh,
};

const TOPOLOGY: Topology = Topology { shards: 2, wals: 2, groups: 4 };

struct Counter(AtomicU64);

impl Entropy for Counter {
    fn u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

struct Node {
    shards: Vec<Shard>,
    clock: Arc<TestClock>,
    disks: Vec<Arc<dyn Disk>>,
    cold: Option<Cold>,
    config: ShardConfig,
}

/// A disk for each log of a node.
fn disks() -> Vec<Arc<dyn Disk>> {
    (0..TOPOLOGY.wals).map(|_| formed(MemoryDisk::new(64 << 20))).collect()
}

/// A disk with an empty log in it.
fn formed(disk: impl Disk) -> Arc<dyn Disk> {
    Wal::form(&disk, 1).expect("an empty disk takes a log");
    Arc::new(disk)
}

impl Node {
    async fn start() -> Node {
        Node::start_on(disks(), config()).await
    }

    async fn start_on(disks: Vec<Arc<dyn Disk>>, config: ShardConfig) -> Node {
        Node::start_with(disks, None, config).await
    }

    async fn start_with(disks: Vec<Arc<dyn Disk>>, cold: Option<Cold>, config: ShardConfig) -> Node {
        Node::try_start(disks, cold, config).await.expect("it starts")
    }

    /// As [`Node::start_with`], or why it cannot.
    async fn try_start(disks: Vec<Arc<dyn Disk>>, cold: Option<Cold>, config: ShardConfig) -> Result<Node, String> {
        Node::try_start_calling(disks, cold, None, config).await
    }

    /// As [`Node::try_start`]; it may call webhooks.
    async fn try_start_calling(
        disks: Vec<Arc<dyn Disk>>,
        cold: Option<Cold>,
        hooks: Option<Hooks>,
        config: ShardConfig,
    ) -> Result<Node, String> {
        let clock = Arc::new(TestClock::default());
        // No life has the numbers of another.
        static LIVES: AtomicU64 = AtomicU64::new(1);
        let entropy = Arc::new(Counter(AtomicU64::new(LIVES.fetch_add(1, Ordering::Relaxed))));
        let modules = Host::new(Arc::new(MemoryStore::default()), Arc::new(InProcess), HostConfig::default());
        let modules = modules.expect("the engine runs");
        let (builtins, turn) = (Arc::new([]), (|| {}) as fn());
        let seams = Seams {
            clock: clock.clone(),
            entropy,
            disks: disks.clone(),
            cold: cold.clone(),
            hooks,
            modules,
            builtins,
            nodes: None,
            turn,
        };
        let mut shards = Vec::new();
        for (id, mailbox) in mesh(TOPOLOGY.shards).0.into_iter().enumerate() {
            let id = ShardId(id as u16);
            let shard = Shard::open(id, TOPOLOGY, mailbox, seams.clone(), config.clone()).await;
            shards.push(shard.map_err(|error| format!("{error:?}"))?);
        }
        shards[0].form().await.map_err(|error| format!("{error:?}"))?;
        Ok(Node { shards, clock, disks, cold, config })
    }

    /// Its clock is where it was at the first start.
    async fn restart(self) -> Node {
        for shard in &self.shards {
            shard.shutdown().await;
        }
        Node::start_with(self.disks, self.cold, self.config).await
    }

    fn advance(&self, by: Duration) {
        self.clock.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// A shard that does not own the stream, so that every request hops.
    fn far(&self, key: &StreamKey) -> &Shard {
        let owner = self.shards[0].owner_of(key);
        self.shards.iter().find(|shard| shard.0.id != owner).expect("there are two shards")
    }

    /// The shard that owns the stream.
    fn near(&self, key: &StreamKey) -> &Shard {
        let owner = self.shards[0].owner_of(key);
        &self.shards[usize::from(owner.0)]
    }

    async fn create(&self, key: &StreamKey, expiry: Expiry) {
        let request = CreateRequest {
            content_type: "text/plain".into(),
            expiry,
            closed: false,
            body: Body::default(),
            condition: None,
        };
        self.far(key).create(key.clone(), request).await.expect("creates");
    }

    async fn append(&self, key: &StreamKey, body: &str) -> Result<Appended, ShardError> {
        self.far(key).append(key.clone(), append(body)).await
    }

    async fn trim(&self, key: &StreamKey, before: ReadFrom) -> Result<Facts, ShardError> {
        self.far(key).trim(key.clone(), TrimRequest { before, force: false }).await
    }

    async fn content(&self, key: &StreamKey) -> Result<String, ShardError> {
        let page = self.far(key).read(key.clone(), ReadFrom::Start, PAGE_BYTES_MAX).await?;
        Ok(String::from_utf8(page.chunks.concat()).expect("text"))
    }
}

fn config() -> ShardConfig {
    ShardConfig {
        node_id: 1,
        wal: WalConfig {
            segment_bytes: 4 << 20,
            budget_bytes: 48 << 20,
            // Almost nothing stays in memory, so that reads go to the WAL.
            cache_bytes: 8 << 10,
            write: WriteMode::Inline,
        },
        hot_index_bytes_max: 16 << 20,
        in_flight_bytes_max: 16 << 20,
        live_bytes_max: 64 << 10,
        live_bytes_per_stream_max: 64 << 10,
        subscribers_max: 1000,
        flush_bytes: 1 << 20,
        flush_age: Duration::from_secs(600),
        pages: crate::PageBudget::new(64 << 20),
        fork_judged_bytes_max: 1 << 20,
        bindings_per_bucket_max: 32,
        producers_per_stream_max: 16,
        buckets_auto_create: true,
        body_bytes_max: 1 << 20,
        folds_max: 16,
        compile_wait: Duration::from_secs(10),
        write_deadline: Duration::from_secs(5),
        hook_key_age: Duration::MAX,
    }
}

fn append(body: &str) -> AppendRequest {
    AppendRequest {
        content_type: Some("text/plain".into()),
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        body: Bytes::copy_from_slice(body.as_bytes()).into(),
    }
}

fn key(name: &str) -> StreamKey {
    StreamKey::new("demo", name).expect("a valid address")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.expect("a runtime").block_on(test);
}

#[test]
fn appends_of_other_shards_streams_are_read_back_and_survive_a_restart() {
    run(async {
        let mut node = Node::start().await;
        for name in ["a", "b", "c", "d"] {
            node.create(&key(name), Expiry::Never).await;
            for i in 0..50 {
                node.append(&key(name), &format!("{name}{i} ")).await.expect("appends");
            }
        }
        let expected = |name: &str| (0..50).map(|i| format!("{name}{i} ")).collect::<String>();
        for round in 0..3 {
            for name in ["a", "b", "c", "d"] {
                assert_eq!(node.content(&key(name)).await.expect("reads"), expected(name), "round {round}");
            }
            node = node.restart().await;
        }
    });
}

#[test]
fn a_subscription_sees_history_then_every_append_then_the_close() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        node.append(&key, "old ").await.expect("appends");
        let mut subscription = node.far(&key).subscribe(key.clone(), ReadFrom::Start).await.expect("subscribes");
        let mut seen = String::new();
        for i in 0..20 {
            node.append(&key, &format!("{i} ")).await.expect("appends");
        }
        node.far(&key).append(key.clone(), AppendRequest { close: true, ..append("end") }).await.expect("closes");
        loop {
            match subscription.next().await {
                LiveEvent::Data(data) => {
                    seen.push_str(std::str::from_utf8(&data.chunks.concat()).expect("text"));
                    if data.closed {
                        break;
                    }
                }
                LiveEvent::CaughtUp { .. } => {}
                LiveEvent::Closed { .. } => break,
                LiveEvent::Removed | LiveEvent::Lagged | LiveEvent::Failed(_) => panic!("ended early after {seen}"),
            }
        }
        assert_eq!(seen, format!("old {}end", (0..20).map(|i| format!("{i} ")).collect::<String>()));
        assert!(matches!(subscription.next().await, LiveEvent::Closed { .. }));
    });
}

#[test]
fn subscribers_that_come_and_go_never_go_deaf() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        for i in 0..50 {
            // The last one leaves, an append makes its shard tell the owner so, and the next comes at the same time.
            let mut subscription = node.far(&key).subscribe(key.clone(), ReadFrom::Now).await.expect("subscribes");
            assert!(matches!(subscription.next().await, LiveEvent::CaughtUp { .. }));
            let body = i.to_string();
            let (event, _) = tokio::join!(subscription.next(), node.append(&key, &body));
            let LiveEvent::Data(data) = event else { panic!("round {i}") };
            assert_eq!(data.chunks.concat(), i.to_string().as_bytes());
            drop(subscription);
            let next = node.far(&key).subscribe(key.clone(), ReadFrom::Now);
            let (next, _) = tokio::join!(next, node.append(&key, "x"));
            let mut next = next.expect("subscribes");
            node.append(&key, "y").await.expect("appends");
            let mut seen = Vec::new();
            while !seen.ends_with(b"y") {
                match next.next().await {
                    LiveEvent::Data(data) => seen.extend(data.chunks.concat()),
                    LiveEvent::CaughtUp { .. } => {}
                    _ => panic!("round {i}"),
                }
            }
        }
        assert_eq!(node.shards.iter().map(|shard| shard.stats().subscribers).sum::<u64>(), 0);
    });
}

#[test]
fn nobody_has_a_feed_of_a_stream_that_nobody_follows() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        let feeds = || node.shards.iter().map(|shard| shard.0.feeds.len()).collect::<Vec<_>>();
        let gone = async || {
            while feeds() != [0, 0] {
                tokio::task::yield_now().await;
            }
        };
        let follow = async |shard: &Shard| {
            let mut subscription = shard.subscribe(key.clone(), ReadFrom::Now).await.expect("subscribes");
            assert!(matches!(subscription.next().await, LiveEvent::CaughtUp { .. }));
            subscription
        };
        node.create(&key, Expiry::Never).await;
        // An idle stream that was followed from its own shard, from another, and from another by two.
        drop(follow(node.near(&key)).await);
        gone().await;
        let first = follow(node.far(&key)).await;
        drop(follow(node.far(&key)).await);
        assert_eq!(feeds(), [1, 1]);
        drop(first);
        gone().await;
        // A client that leaves before its watch is answered.
        tokio::select! {
            biased;
            _ = node.far(&key).subscribe(key.clone(), ReadFrom::Now) => panic!("the answer is on another shard"),
            () = std::future::ready(()) => {}
        }
        node.append(&key, "x").await.expect("appends");
        gone().await;
        // A stream that is closed, or deleted, while it is followed; its readers leave later.
        let mut reader = follow(node.far(&key)).await;
        let close = AppendRequest { close: true, ..append("") };
        node.near(&key).append(key.clone(), close).await.expect("closes");
        assert!(matches!(reader.next().await, LiveEvent::Closed { .. }));
        assert_eq!(node.near(&key).0.feeds.len(), 0, "of a closed stream there is nothing to tell");
        drop(reader);
        gone().await;
        node.near(&key).delete(key.clone(), None).await.expect("deletes");
        node.create(&key, Expiry::Never).await;
        let mut reader = follow(node.far(&key)).await;
        node.near(&key).delete(key.clone(), None).await.expect("deletes");
        assert!(matches!(reader.next().await, LiveEvent::Removed));
        assert_eq!(node.near(&key).0.feeds.len(), 0, "of a removed stream there is nothing to tell");
        drop(reader);
        gone().await;
    });
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_off_and_holds_nothing() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let mut slow = node.far(&key).subscribe(key.clone(), ReadFrom::Start).await.expect("subscribes");
        assert!(matches!(slow.next().await, LiveEvent::CaughtUp { .. }));
        for _ in 0..100 {
            node.append(&key, &"x".repeat(4096)).await.expect("appends");
        }
        assert!(node.far(&key).stats().live_bytes <= 64 << 10);
        assert!(matches!(slow.next().await, LiveEvent::Lagged));
        drop(slow);
        assert_eq!(node.far(&key).stats().live_bytes, 0);
    });
}

#[test]
fn a_long_poll_ends_with_bytes_with_the_close_or_with_time() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let poll = |from, ms| node.far(&key).long_poll(key.clone(), from, Duration::from_millis(ms));
        assert!(matches!(poll(ReadFrom::Start, 1).await, Ok(LongPoll::Nothing { closed: false, .. })));
        let (polled, _) = tokio::join!(poll(ReadFrom::Now, 60_000), node.append(&key, "a"));
        let Ok(LongPoll::Page(page)) = polled else { panic!("no page") };
        assert_eq!(page.chunks.concat(), b"a");
        let close = AppendRequest { close: true, ..append("") };
        let (polled, _) = tokio::join!(poll(ReadFrom::Now, 60_000), node.far(&key).append(key.clone(), close));
        assert!(matches!(polled, Ok(LongPoll::Nothing { closed: true, .. })));
    });
}

#[test]
fn a_sliding_ttl_is_extended_by_reads_and_ends_the_stream_without_them() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
        for _ in 0..3 {
            node.advance(Duration::from_secs(9));
            assert_eq!(node.content(&key).await.expect("reads"), "");
        }
        node.advance(Duration::from_secs(9));
        node.far(&key).head(key.clone()).await.expect("still there");
        node.advance(Duration::from_secs(2));
        assert!(matches!(node.content(&key).await, Err(ShardError::Refused(Refusal::NotFound))));
        assert!(matches!(node.append(&key, "x").await, Err(ShardError::Refused(Refusal::NotFound))));
        node.create(&key, Expiry::Never).await;
        assert_eq!(node.content(&key).await.expect("reads"), "");
    });
}

#[test]
fn streams_that_nobody_asks_for_end_many_in_a_round_and_leave_nothing() {
    run(async {
        let node = Node::start().await;
        for i in 0..600 {
            node.create(&key(&format!("ttl/{i}")), Expiry::Idle { ttl_s: 5 }).await;
        }
        node.create(&key("used"), Expiry::Idle { ttl_s: 5 }).await;
        let figures = || {
            let stats = node.shards.iter().map(Shard::stats).collect::<Vec<_>>();
            (stats.iter().map(|s| s.streams).sum::<u64>(), stats.iter().map(|s| s.batches).sum::<u64>())
        };
        let agenda = || node.shards.iter().map(|shard| shard.0.agenda.bytes()).sum::<usize>();
        let before = figures();
        assert_eq!(before.0, 601);
        assert!(agenda() > 601 * 100, "what is remembered of them is counted");
        node.advance(Duration::from_secs(4));
        assert_eq!(node.content(&key("used")).await.expect("reads"), "");
        node.advance(Duration::from_secs(2));
        let ended = async {
            while figures().0 > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended).await.expect("they end");
        let rounds = figures().1 - before.1;
        assert!(rounds <= 12, "{rounds} rounds for 600 streams of two shards");
        node.near(&key("used")).delete(key("used"), None).await.expect("was read, so it is there");
        assert_eq!(agenda(), 0);
    });
}

#[test]
fn what_ends_by_itself_is_known_after_a_restart() {
    run(async {
        let node = Node::start().await;
        for i in 0..20 {
            node.create(&key(&format!("ttl/{i}")), Expiry::At { at_ms: 1_005_000 }).await;
        }
        node.near(&key("ttl/7")).delete(key("ttl/7"), None).await.expect("deletes");
        let node = node.restart().await;
        let armed = node.shards.iter().map(|shard| shard.0.agenda.take_due(1_005_000, 1_005_001, 99).len());
        assert_eq!(armed.sum::<usize>(), 19);
    });
}

#[test]
fn an_append_that_finds_its_stream_expired_is_answered_when_that_is_durable() {
    run(async {
        let key = key("s");
        let (node, disk) = start_with_stream_on_faulty_disk(&key, config()).await;
        node.near(&key).delete(key.clone(), None).await.expect("deletes");
        node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
        node.advance(Duration::from_secs(11));
        let before = disk.history().len();
        assert!(matches!(node.append(&key, "x").await, Err(ShardError::Refused(Refusal::NotFound))));
        assert_eq!(disk.history().len() - before, 1, "the end is written before it is told");
        node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
        node.advance(Duration::from_secs(11));
        // Nobody is told of an end that may be taken back.
        let failure = loop {
            disk.refuse_write_at(disk.operations() + 1);
            match node.append(&key, "x").await {
                Err(ShardError::Refused(Refusal::NotFound)) => {
                    node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
                    node.advance(Duration::from_secs(11));
                }
                Err(error) => break error,
                Ok(_) => panic!("appended to what has ended"),
            }
        };
        assert!(matches!(failure, ShardError::Unknown | ShardError::LogFailed), "{failure}");
        assert!(matches!(node.content(&key).await, Err(ShardError::LogFailed)));
    });
}

#[test]
fn a_stream_that_was_said_to_have_expired_does_not_come_back() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
        node.advance(Duration::from_secs(11));
        assert!(matches!(node.far(&key).head(key.clone()).await, Err(ShardError::Refused(Refusal::NotFound))));
        let node = node.restart().await;
        assert!(matches!(node.far(&key).head(key.clone()).await, Err(ShardError::Refused(Refusal::NotFound))));
    });
}

#[test]
fn a_stream_ends_in_time_where_the_clock_was_set_back_over_a_restart() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.advance(Duration::from_secs(3600));
        node.create(&key, Expiry::Never).await;
        let node = node.restart().await;
        node.near(&key).delete(key.clone(), None).await.expect("deletes");
        // Its group's time is an hour ahead.
        node.create(&key, Expiry::Idle { ttl_s: 10 }).await;
        node.append(&key, "x").await.expect("appends");
        node.advance(Duration::from_secs(9));
        assert_eq!(node.content(&key).await.expect("reads"), "x");
        for waits_s in [9, 11] {
            let is_there = node.far(&key).head(key.clone()).await.is_ok();
            assert!(is_there, "it was used");
            node.advance(Duration::from_secs(waits_s));
        }
        until("nothing is left of it", || node.streams() == 0).await;
        assert!(matches!(node.append(&key, "x").await, Err(ShardError::Refused(Refusal::NotFound))));
    });
}

#[test]
fn a_page_ends_at_a_record_and_begins_only_at_one() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        let request = CreateRequest {
            content_type: "application/json".into(),
            expiry: Expiry::Never,
            closed: false,
            body: Bytes::from_static(b"[1,22,333]").into(),
            condition: None,
        };
        node.far(&key).create(key.clone(), request).await.expect("creates");
        let read = async |from, bytes_max| {
            let page = node.far(&key).read(key.clone(), from, bytes_max).await?;
            Ok::<_, ShardError>((String::from_utf8(page.chunks.concat()).expect("text"), page.next, page.up_to_date))
        };
        let (first, next, up_to_date) = read(ReadFrom::Start, 3).await.expect("reads");
        assert_eq!((&*first, up_to_date), ("1,", false));
        let (second, next, _) = read(ReadFrom::At(next), 3).await.expect("reads");
        assert_eq!(second, "22,");
        let (third, _, up_to_date) = read(ReadFrom::At(next), 1).await.expect("reads");
        assert_eq!((&*third, up_to_date), ("333,", true));
        let inside = weir_types::Offset { position: next.position - 1, ..next };
        assert!(matches!(read(ReadFrom::At(inside), 9).await, Err(ShardError::Refused(Refusal::OffsetInvalid))));
    });
}

/// A stream in JSON mode with one body of `count` messages, a digit each.
async fn create_with_messages(node: &Node, key: &StreamKey, count: usize) -> String {
    let body = format!("[{}]", vec!["1"; count].join(","));
    let (content_type, expiry) = ("application/json".into(), Expiry::Never);
    let request =
        CreateRequest { content_type, expiry, closed: false, body: Bytes::from(body).into(), condition: None };
    node.far(key).create(key.clone(), request).await.expect("creates");
    "1,".repeat(count)
}

#[test]
fn a_large_body_is_read_in_small_pages_from_memory_and_from_disk() {
    run(async {
        let key = key("s");
        let in_memory = ShardConfig { wal: WalConfig { cache_bytes: 16 << 20, ..config().wal }, ..config() };
        for config in [in_memory, config()] {
            let node = Node::start_on(disks(), config).await;
            let expected = create_with_messages(&node, &key, 400_000).await;
            let (mut from, mut content) = (ReadFrom::Start, String::new());
            loop {
                let page = node.far(&key).read(key.clone(), from, 100_001).await.expect("reads");
                let bytes = page.chunks.concat();
                assert!(bytes.len() <= 100_001 && bytes.ends_with(b","), "a page ends at a record");
                content.push_str(std::str::from_utf8(&bytes).expect("text"));
                from = ReadFrom::At(page.next);
                if page.up_to_date {
                    break;
                }
            }
            assert!(content == expected);
            let inside =
                weir_types::Offset { position: 300_001, ..node.far(&key).head(key.clone()).await.expect("is").next };
            let refused = node.far(&key).read(key.clone(), ReadFrom::At(inside), 9).await;
            assert!(matches!(refused, Err(ShardError::Refused(Refusal::OffsetInvalid))));
        }
    });
}

#[test]
fn a_large_append_reaches_a_live_reader_in_parts() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        create_with_messages(&node, &key, 1).await;
        let mut subscription = node.far(&key).subscribe(key.clone(), ReadFrom::Now).await.expect("subscribes");
        assert!(matches!(subscription.next().await, LiveEvent::CaughtUp { .. }));
        let body = format!("[{}]", vec!["22"; 200_000].join(","));
        let request = AppendRequest { content_type: Some("application/json".into()), ..append(&body) };
        node.far(&key).append(key.clone(), request).await.expect("appends");
        let mut seen = Vec::new();
        while seen.len() < 600_000 {
            let LiveEvent::Data(data) = subscription.next().await else { panic!("no data") };
            let bytes = data.chunks.concat();
            assert!(bytes.len() <= weir_stream::PACK_BYTES_MAX && bytes.ends_with(b","));
            seen.extend(bytes);
            assert_eq!(data.up_to_date, seen.len() == 600_000);
        }
        assert!(seen == "22,".repeat(200_000).as_bytes());
        drop(subscription);
        assert_eq!(node.far(&key).stats().live_bytes, 0);
    });
}

#[test]
fn a_page_has_a_bounded_number_of_pieces_and_keeps_no_more_than_is_claimed() {
    run(async {
        let pages = crate::PageBudget::new(64 << 20);
        let config = || ShardConfig {
            wal: WalConfig { cache_bytes: 16 << 20, ..config().wal },
            pages: pages.clone(),
            ..config()
        };
        let node = Node::start_on(disks(), config()).await;
        // Of two streams, so that most packs of one are not near the next in an entry.
        let (first, second) = (key("s"), (0..).map(|i| key(&format!("s{i}"))));
        let mut second = second.filter(|second| second.slot().index() % 2 == first.slot().index() % 2);
        let second = second.next().expect("there are many names");
        node.create(&first, Expiry::Never).await;
        node.create(&second, Expiry::Never).await;
        let appends = (0..3000).flat_map(|_| [(&first, "x".to_string()), (&second, "y".repeat(1000))]);
        let appends = appends.map(|(key, body)| {
            let (shard, key) = (node.near(key).clone(), key.clone());
            tokio::task::spawn_local(async move { shard.append(key, append(&body)).await })
        });
        for answer in appends.collect::<Vec<_>>() {
            answer.await.expect("runs").expect("appends");
        }
        let (mut from, mut lengths) = (ReadFrom::Start, Vec::new());
        loop {
            let page = node.far(&first).read(first.clone(), from, PAGE_BYTES_MAX).await.expect("reads");
            let bytes = page.chunks.concat().len();
            assert_eq!(pages.claimed(), bytes, "pieces of a byte are copied, not shared with what lies around them");
            lengths.push(bytes);
            from = ReadFrom::At(page.next);
            if page.up_to_date {
                break;
            }
        }
        assert_eq!(lengths, [1024, 1024, 952]);
        // A page of one small part of a large entry keeps a copy of that part.
        let page = node.far(&first).read(first.clone(), ReadFrom::Start, 1).await.expect("reads");
        assert_eq!((page.chunks.concat().len(), pages.claimed()), (1, 1));
    });
}

#[test]
fn a_body_in_pieces_is_one_record_or_one_json_value() {
    run(async {
        let node = Node::start().await;
        let in_pieces = |pieces: &[&'static str]| {
            let mut body = Body::default();
            pieces.iter().for_each(|piece| body.push(Bytes::from_static(piece.as_bytes())));
            body
        };
        let text = key("text");
        node.create(&text, Expiry::Never).await;
        let request = AppendRequest { body: in_pieces(&["one ", "re", "cord"]), ..append("") };
        node.far(&text).append(text.clone(), request).await.expect("appends");
        assert_eq!(node.content(&text).await.expect("reads"), "one record");
        let json = key("json");
        let request = CreateRequest {
            content_type: "application/json".into(),
            expiry: Expiry::Never,
            closed: false,
            body: in_pieces(&["[1,2", "2]"]),
            condition: None,
        };
        node.far(&json).create(json.clone(), request).await.expect("creates");
        let body = in_pieces(&["{\"a\"", ":[]}"]);
        let request = AppendRequest { content_type: Some("application/json".into()), body, ..append("") };
        node.far(&json).append(json.clone(), request).await.expect("appends");
        assert_eq!(node.content(&json).await.expect("reads"), "1,22,{\"a\":[]},");
    });
}

/// The address of a stream in a group.
fn key_in(group: GroupId, prefix: &str) -> StreamKey {
    let mut keys = (0..).map(|i| key(&format!("{prefix}{i}")));
    keys.find(|key| TOPOLOGY.group_of(key.slot()) == group).expect("there are many")
}

#[test]
fn a_large_body_is_cut_elsewhere_and_what_that_takes_is_counted() {
    run(async {
        let node = Node::start_on(disks(), ShardConfig { in_flight_bytes_max: 2 << 20, ..config() }).await;
        let (json, text) = (key("json"), key("text"));
        create_with_messages(&node, &json, 1).await;
        node.create(&text, Expiry::Never).await;
        let json_append = |body: &str| AppendRequest { content_type: Some("application/json".into()), ..append(body) };
        // A byte of body for every eight of what is known of it.
        let digits = format!("[{}]", vec!["2"; 200_000].join(","));
        let mut expected = "1,".to_string();
        for shard in [node.far(&json), node.near(&json)] {
            let mut other = shard.in_flight();
            other.grow(1).expect("one byte");
            let refused = shard.append(json.clone(), json_append(&digits)).await;
            assert!(matches!(refused, Err(ShardError::Limit(Limit::InFlight))), "{refused:?}");
            drop(other);
            shard.append(json.clone(), json_append(&digits)).await.expect("alone, it may have more");
            expected += &"2,".repeat(200_000);
            // What is no JSON is refused, and by a stream of text taken as it is.
            let no_json = &digits[1..];
            let refused = shard.append(json.clone(), json_append(no_json)).await;
            assert!(matches!(refused, Err(ShardError::Refused(Refusal::JsonInvalid { .. }))), "{refused:?}");
            let mismatch = shard.append(text.clone(), json_append(no_json)).await;
            assert!(matches!(mismatch, Err(ShardError::Refused(Refusal::ContentTypeMismatch { .. }))), "{mismatch:?}");
            assert_eq!(shard.stats().in_flight_bytes, 0);
        }
        assert!(node.content(&json).await.expect("reads") == expected);
        for (name, shard) in [("far", node.far(&json)), ("near", node.near(&json))] {
            let (content_type, expiry) = ("application/json".into(), Expiry::Never);
            let body = Bytes::from(digits.clone()).into();
            let request = CreateRequest { content_type, expiry, closed: false, body, condition: None };
            let created = key_in(TOPOLOGY.group_of(json.slot()), name);
            shard.create(created, request).await.expect("alone, it may have more");
        }
        assert_eq!(node.near(&json).stats().in_flight_bytes, 0);
    });
}

#[test]
fn a_name_that_is_created_again_is_another_stream() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let before = node.append(&key, "first life").await.expect("appends").next;
        node.far(&key).delete(key.clone(), None).await.expect("deletes");
        node.create(&key, Expiry::Never).await;
        node.append(&key, "another life").await.expect("appends");
        let read = node.far(&key).read(key.clone(), ReadFrom::At(before), PAGE_BYTES_MAX).await;
        assert!(matches!(read, Err(ShardError::Refused(Refusal::OffsetGone))), "{read:?}");
    });
}

#[test]
fn a_bucket_is_listed_page_by_page_and_deleted_only_when_empty() {
    run(async {
        let node = Node::start().await;
        for name in ["b/2", "a", "b/1", "c"] {
            node.create(&key(name), Expiry::Never).await;
        }
        let list = async |prefix: &str, limit| {
            let (mut names, mut after) = (Vec::new(), None);
            loop {
                let page = node.shards[1].list("demo", prefix, after, limit).await.expect("lists");
                assert!(page.streams.len() <= limit);
                names.extend(page.streams.into_iter().map(|stream| stream.name.into_string()));
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            names.sort();
            names.join(" ")
        };
        for limit in 1..6 {
            assert_eq!(list("", limit).await, "a b/1 b/2 c", "{limit}");
            assert_eq!(list("b/", limit).await, "b/1 b/2", "{limit}");
            assert_eq!(list("x", limit).await, "", "{limit}");
        }
        let demo = || BucketName::new("demo").expect("a valid name");
        assert_eq!(node.shards[1].bucket(demo()).await.expect("is there").streams, 4);
        let busy = node.shards[1].bucket_delete(demo()).await;
        assert!(matches!(busy, Err(ShardError::Refused(Refusal::BucketBusy))));
        for name in ["b/2", "a", "b/1", "c"] {
            node.far(&key(name)).delete(key(name), None).await.expect("deletes");
        }
        node.shards[1].bucket_delete(demo()).await.expect("is empty");
        assert!(matches!(node.shards[1].bucket(demo()).await, Err(ShardError::Refused(Refusal::BucketNotFound))));
        assert!(!node.shards[1].bucket_create(demo(), None).await.expect("creates"));
    });
}

/// A node on disks that fail on command.
async fn start_on_faulty_disks(config: ShardConfig) -> (Node, Vec<Arc<FaultyDisk>>) {
    let faulty = |wal| {
        let disk = FaultyDisk::new(64 << 20, u64::from(wal));
        formed(disk.clone());
        Arc::new(disk)
    };
    let disks: Vec<_> = (0..TOPOLOGY.wals).map(faulty).collect();
    let node = Node::start_on(disks.iter().map(|disk| disk.clone() as Arc<dyn Disk>).collect(), config).await;
    (node, disks)
}

/// A node with the stream `key` on disks that fail on command, and the disk of the group that the stream is in.
async fn start_with_stream_on_faulty_disk(key: &StreamKey, config: ShardConfig) -> (Node, Arc<FaultyDisk>) {
    let (node, disks) = start_on_faulty_disks(config).await;
    node.create(key, Expiry::Never).await;
    let wal = TOPOLOGY.wal_of(TOPOLOGY.group_of(key.slot()));
    (node, disks[usize::from(wal.0)].clone())
}

#[test]
fn what_arrives_together_is_one_durable_write_before_its_answers_and_none_after() {
    run(async {
        let key = key("s");
        let (node, disk) = start_with_stream_on_faulty_disk(&key, config()).await;
        let writes = || disk.history().iter().filter(|write| write.name != "mark").count();
        let before = writes();
        node.append(&key, "alone").await.expect("appends");
        assert_eq!(writes() - before, 1);
        let together = (0..64).map(|i| {
            let (shard, key) = (node.near(&key).clone(), key.clone());
            tokio::task::spawn_local(async move { shard.append(key, append(&i.to_string())).await })
        });
        let before = writes();
        for answer in together.collect::<Vec<_>>() {
            answer.await.expect("runs").expect("appends");
            assert_eq!(writes() - before, 1, "answered, so written, and nothing more");
        }
        // What would still be written after the answers would be written in one of these turns.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(writes() - before, 1);
    });
}

#[test]
fn a_stopped_replica_refuses_writes_serves_reads_and_is_counted() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        node.append(&key, "kept").await.expect("appends");
        let core = &node.near(&key).0;
        let group = core.local_group(&key);
        let mut garbage = Arena::new(100).into_buf();
        garbage.resize(FRAME_HEADER_BYTES + 100, 0xee);
        let ticket = group.wal.reserve(garbage.len(), Claim::Spare).map_err(drop).expect("there is room");
        // Apply finds that it is no batch, and stops the group.
        assert!(group.replica.propose(Arena::seal(garbage), ticket).await.is_err());
        let refused = node.append(&key, "refused").await;
        assert!(matches!(refused, Err(ShardError::LogFailed)), "{refused:?}");
        assert_eq!(node.content(&key).await.expect("reads"), "kept");
        assert_eq!(node.near(&key).stats().groups_failed, 1);
    });
}

#[test]
fn a_listing_ends_with_its_client_on_this_shard_and_on_others() {
    run(async {
        let node = Node::start().await;
        let keys: Vec<StreamKey> = (0..64).map(|i| key(&format!("s{i}"))).collect();
        for key in &keys {
            node.create(key, Expiry::Never).await;
        }
        for shard in &node.shards {
            for _ in 0..100 {
                // Begun, and left before it has come to its end.
                let listing = std::pin::pin!(shard.list("demo", "", None, 1000));
                let left = tokio::time::timeout(Duration::ZERO, listing).await;
                drop(left);
            }
        }
        let is_idle = || node.shards.iter().all(|shard| shard.stats().in_flight_bytes == 0);
        let idle = async {
            while !is_idle() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), idle).await.expect("nobody works for who has left");
        let listed = node.shards[1].list("demo", "", None, 1000).await.expect("lists");
        assert_eq!(listed.streams.len(), keys.len());
    });
}

#[test]
fn a_write_error_leaves_the_outcome_unknown_and_then_refuses() {
    run(async {
        let key = key("s");
        let (node, disk) = start_with_stream_on_faulty_disk(&key, config()).await;
        let mut kept = String::new();
        // The next operation may be one of the thread that makes segments ahead; then the append after it is the one.
        let unknown = loop {
            disk.refuse_write_at(disk.operations() + 1);
            match node.append(&key, "x").await {
                Ok(_) => kept.push('x'),
                Err(error) => break error,
            }
        };
        assert!(matches!(unknown, ShardError::Unknown), "{unknown}");
        assert!(matches!(node.append(&key, "refused").await, Err(ShardError::LogFailed)));
        assert_eq!(node.content(&key).await.expect("reads"), kept);
        assert_eq!(node.near(&key).stats().groups_failed, TOPOLOGY.groups / TOPOLOGY.wals);
        let other = (0..).map(|i| StreamKey::new("demo", &format!("other{i}")).expect("a valid address"));
        let mut others = other.filter(|other| node.near(other).0.id != node.near(&key).0.id);
        let other = others.next().expect("there is another shard");
        node.create(&other, Expiry::Never).await;
        node.append(&other, "goes on").await.expect("another WAL has not failed");
    });
}

#[test]
fn what_waits_behind_a_slow_round_is_answered_in_time_and_never_written() {
    run(async {
        let key = key("s");
        let wal = WalConfig { write: WriteMode::Thread, ..config().wal };
        let write_deadline = Duration::from_millis(200);
        let (node, disk) =
            start_with_stream_on_faulty_disk(&key, ShardConfig { wal, write_deadline, ..config() }).await;
        disk.set_write_delay(Duration::from_secs(1));
        let (shard, first) = (node.near(&key).clone(), key.clone());
        let first = tokio::task::spawn_local(async move { shard.append(first, append("proposed ")).await });
        let group = node.near(&key).0.local_group(&key);
        let is_proposed = || group.next_deadline().is_some() && group.ready().is_none();
        while !is_proposed() {
            tokio::task::yield_now().await;
        }
        let late = node.append(&key, "waiting ").await;
        assert!(matches!(late, Err(ShardError::Unavailable)), "{late:?}");
        let bucket = BucketName::new("demo").expect("a valid name");
        let late = node.near(&key).bucket_delete(bucket).await;
        assert!(matches!(late, Err(ShardError::Unavailable)), "{late:?}");
        let unknown = first.await.expect("runs");
        assert!(matches!(unknown, Err(ShardError::Unknown)), "{unknown:?}");
        disk.set_write_delay(Duration::ZERO);
        while node.append(&key, "after").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(node.content(&key).await.expect("reads"), "proposed after");
    });
}

#[test]
fn who_comes_with_little_time_left_is_answered_in_it() {
    run(async {
        let key = key("s");
        let wal = WalConfig { write: WriteMode::Thread, ..config().wal };
        let (node, disk) = start_with_stream_on_faulty_disk(&key, ShardConfig { wal, ..config() }).await;
        disk.set_write_delay(Duration::from_secs(3));
        let (shard, first) = (node.near(&key).clone(), key.clone());
        let first = tokio::task::spawn_local(async move { shard.append(first, append("proposed")).await });
        let group = node.near(&key).0.local_group(&key);
        let is_proposed = || group.next_deadline().is_some() && group.ready().is_none();
        while !is_proposed() {
            tokio::task::yield_now().await;
        }
        // The alarm is set for the first, which has five seconds.
        let begun = Instant::now();
        let command = Command::Expire { key: KeyRef::from(&key), incarnation: Incarnation(0) };
        let late = group.command_until(&command, begun + Duration::from_millis(200)).await;
        assert!(matches!(late, Err(ShardError::Unavailable)), "{late:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        first.await.expect("runs").expect("is written in its time");
    });
}

#[test]
fn who_comes_with_no_time_left_takes_nobody_elses() {
    run(async {
        let key = key("s");
        let wal = WalConfig { write: WriteMode::Thread, ..config().wal };
        let (node, disk) = start_with_stream_on_faulty_disk(&key, ShardConfig { wal, ..config() }).await;
        disk.set_write_delay(Duration::from_millis(500));
        let begin = |body| {
            let (shard, key) = (node.near(&key).clone(), key.clone());
            tokio::task::spawn_local(async move { shard.append(key, append(body)).await })
        };
        let group = node.near(&key).0.local_group(&key);
        let first = begin("proposed ");
        while group.next_deadline().is_none() || group.ready().is_some() {
            tokio::task::yield_now().await;
        }
        let second = begin("waiting");
        while group.open_commands() == 0 {
            tokio::task::yield_now().await;
        }
        let command = Command::Expire { key: KeyRef::from(&key), incarnation: Incarnation(0) };
        let late = group.command_until(&command, Instant::now()).await;
        assert!(matches!(late, Err(ShardError::Unavailable)), "{late:?}");
        for written in [first, second] {
            written.await.expect("runs").expect("is written in its time");
        }
        assert_eq!(node.content(&key).await.expect("reads"), "proposed waiting");
    });
}

#[test]
fn appends_leave_their_validators_in_the_order_in_which_they_came() {
    run(async {
        let node = Node::start().await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let core = Rc::clone(&node.near(&key).0);
        let group = core.local_group(&key);
        let (bindings_epoch, incarnation) = {
            let state = group.applied();
            (state.bindings_epoch(), state.stream(&key).expect("it is there").incarnation())
        };
        let place = group.arrive();
        let validation = |body: &str, arrival, verdicts, deadline| {
            let job = AppendJob {
                key: key.clone(),
                request: append(body),
                origin: core.id.into(),
                call: core.calls.begin(None).id(),
                arrival: place + arrival,
                deadline,
                stale_retries: 0,
                judged: None,
                counted: core.count_in_flight(0).expect("there is memory"),
            };
            let judged = Judged { bindings_epoch, incarnation, split: Split::Whole, replaced: None };
            Validation { group: group.clone(), job, judged, verdicts }
        };
        let (judge, verdict) = tokio::sync::oneshot::channel::<()>();
        let verdicts: Verdicts = Box::pin(async move {
            verdict.await.expect("it is judged");
            Ok(None)
        });
        let in_time = group.deadline();
        assert!(core.guests.validations.push(validation("second ", 2, Some(verdicts), in_time)));
        let draining = tokio::task::spawn_local(drain(core.clone(), incarnation));
        tokio::task::yield_now().await;
        // They were judged under other bindings, and come again while a later one is at the validators.
        assert!(!core.guests.validations.push(validation("third ", 3, None, in_time)));
        assert!(!core.guests.validations.push(validation("first ", 1, None, in_time)));
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(!core.guests.validations.push(validation("late ", 0, None, soon)));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(core.stats.appends_refused.get(), 1, "who is due is answered while others wait");
        judge.send(()).expect("it is waited for");
        draining.await.expect("ends");
        while core.stats.appends.get() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(node.content(&key).await.expect("reads"), "first second third ");
    });
}

#[test]
fn a_bucket_whose_deletion_did_not_reach_every_group_is_whole_again_after_a_restart() {
    run(async {
        let bucket = BucketName::new("demo").expect("a valid name");
        let (node, disks) = start_on_faulty_disks(config()).await;
        let shard = node.shards[0].clone();
        // The group that is told last fails; the next operation may be one of the thread that makes segments ahead.
        let disk = &disks[usize::from(TOPOLOGY.wal_of(GroupId(TOPOLOGY.groups - 1)).0)];
        loop {
            shard.bucket_create(bucket.clone(), None).await.expect("creates");
            disk.refuse_write_at(disk.operations() + 1);
            if shard.bucket_delete(bucket.clone()).await.is_err() {
                break;
            }
        }
        let mut keys = (0..).map(|i| key(&format!("s{i}")));
        let last = keys.find(|key| TOPOLOGY.group_of(key.slot()).0 == TOPOLOGY.groups - 1).expect("there are many");
        let node = node.restart().await;
        node.create(&last, Expiry::Never).await;
        node.append(&last, "kept").await.expect("appends");
        let busy = node.near(&last).bucket_delete(bucket.clone()).await;
        assert!(matches!(busy, Err(ShardError::Refused(Refusal::BucketBusy))), "{busy:?}");
        node.near(&last).delete(last.clone(), None).await.expect("deletes");
        node.near(&last).bucket_delete(bucket).await.expect("is empty");
    });
}

#[test]
fn a_full_disk_refuses_until_there_is_space_again() {
    run(async {
        let key = key("s");
        let (node, disk) = start_with_stream_on_faulty_disk(&key, config()).await;
        disk.set_full(true);
        let body = "x".repeat(512 << 10);
        let mut acknowledged = 0;
        let refusal = loop {
            match node.append(&key, &body).await {
                Ok(_) => acknowledged += body.len() as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, ShardError::Limit(crate::Limit::Disk)), "{refusal}");
        disk.set_full(false);
        let resumed = async {
            while node.append(&key, &body).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), resumed).await.expect("resumes by itself");
        let tail = node.far(&key).head(key.clone()).await.expect("is there").next.position;
        assert_eq!(tail, acknowledged + body.len() as u64);
    });
}

#[test]
fn beyond_the_hot_index_writes_are_refused_until_streams_go() {
    run(async {
        let node = Node::start_on(disks(), ShardConfig { hot_index_bytes_max: 256 << 10, ..config() }).await;
        let keys = || (0..).map(|i| key(&format!("{i:0900}"))).filter(|key| node.near(key).0.id == ShardId(0));
        let create = async |key: StreamKey| {
            let request = CreateRequest {
                content_type: "text/plain".into(),
                expiry: Expiry::Never,
                closed: false,
                body: Body::default(),
                condition: None,
            };
            node.near(&key).create(key.clone(), request).await
        };
        let mut created = 0;
        let refusal = loop {
            match create(keys().nth(created).expect("there are many")).await {
                Ok(_) => created += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, ShardError::Limit(Limit::HotIndex)), "{refusal}");
        assert!(created > 50, "{created} streams");
        let first = keys().next().expect("there are many");
        let refused = node.near(&first).append(first.clone(), append("more")).await;
        assert!(matches!(refused, Err(ShardError::Limit(Limit::HotIndex))), "{refused:?}");
        assert_eq!(node.content(&first).await.expect("reads go on"), "");
        for key in keys().take(created).skip(created / 2) {
            node.near(&key).delete(key.clone(), None).await.expect("deletes");
        }
        node.near(&first).append(first.clone(), append("more")).await.expect("there is room again");
        let others = (0..).map(|i| key(&format!("other{i}"))).find(|key| node.near(key).0.id == ShardId(1));
        create(others.expect("there are many")).await.expect("another shard has its own share");
    });
}

#[test]
fn beyond_the_wal_budget_appends_are_refused_and_reads_go_on() {
    run(async {
        let wal = WalConfig { budget_bytes: 16 << 20, ..config().wal };
        let node = Node::start_on(disks(), ShardConfig { wal, ..config() }).await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        let body = "x".repeat(512 << 10);
        let mut acknowledged = 0;
        let refusal = loop {
            match node.append(&key, &body).await {
                Ok(_) => acknowledged += body.len() as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, ShardError::Limit(crate::Limit::WalBudget)), "{refusal}");
        assert!(acknowledged > 0);
        assert_eq!(node.far(&key).head(key.clone()).await.expect("is there").next.position, acknowledged);
        assert_eq!(node.content(&key).await.expect("reads").len(), PAGE_BYTES_MAX.min(acknowledged as usize));
    });
}

#[test]
fn what_is_deleted_makes_room_in_the_log_and_a_restart_knows_it() {
    run(async {
        const ROUNDS: usize = 30;
        let body = "x".repeat(256 << 10);
        let mut node = Node::start().await;
        let lasting = key("lasting");
        node.create(&lasting, Expiry::Never).await;
        node.append(&lasting, "first ").await.expect("appends");
        let idle = key("idle");
        node.create(&idle, Expiry::Idle { ttl_s: 3600 }).await;
        // Several times what the log may hold: deleted streams are all that gives room. The stream that stays keeps its own
        // bytes in the log, so those behind it must not go with what is around them.
        for round in 0..ROUNDS {
            let passing = key(&format!("passing-{round}"));
            node.create(&passing, Expiry::Never).await;
            for _ in 0..16 {
                let begun = std::time::Instant::now();
                while let Err(error) = node.append(&passing, &body).await {
                    assert!(matches!(error, ShardError::Limit(Limit::WalBudget)), "{error}");
                    assert!(begun.elapsed() < Duration::from_secs(20), "room comes");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            node.far(&passing).delete(passing.clone(), None).await.expect("deletes");
            if round == ROUNDS / 2 {
                // What was first in the log is so no longer.
                let again = key("lasting");
                node.far(&again).delete(again.clone(), None).await.expect("deletes");
                node.create(&again, Expiry::Never).await;
                node.append(&again, "second").await.expect("appends");
                node = node.restart().await;
                assert_eq!(node.content(&lasting).await.expect("reads"), "second");
            }
        }
        let mut stats = Vec::new();
        for shard in &node.shards {
            stats.push(shard.0.figures());
        }
        assert!(stats.iter().map(|stats| stats.snapshots).sum::<u64>() > 0, "snapshots were taken");
        let used = stats.iter().flat_map(|stats| &stats.wals).map(|wal| wal.used_bytes).max();
        assert!(used <= Some(config().wal.budget_bytes), "{used:?}");
        node = node.restart().await;
        assert_eq!(node.content(&lasting).await.expect("reads"), "second");
        // A stream that comes out of a snapshot still ends by itself.
        assert_eq!(node.content(&idle).await.expect("it is there"), "");
        node.advance(Duration::from_secs(3600 * 2));
        assert!(node.content(&idle).await.is_err(), "its time is over");
    });
}

/// Waits until `is_so`.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Node {
    fn sum(&self, figure: impl Fn(&crate::ShardStats) -> u64) -> u64 {
        self.shards.iter().map(|shard| figure(&shard.0.figures())).sum()
    }

    /// A node with a cold tier in memory, to which bytes go as soon as there is a megabyte.
    async fn start_cold(config: ShardConfig) -> (Node, ChunkMemory) {
        let chunks = ChunkMemory::default();
        let cold = Cold::new(Arc::new(chunks.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        (Node::start_with(disks(), Some(cold), config).await, chunks)
    }

    /// All of a stream, in pages of at most `bytes_max`.
    async fn pages(&self, key: &StreamKey, bytes_max: usize) -> Result<Vec<u8>, ShardError> {
        let (mut all, mut from) = (Vec::new(), ReadFrom::Start);
        loop {
            let page = self.far(key).read(key.clone(), from, bytes_max).await?;
            let bytes = page.chunks.concat();
            assert!(bytes.len() <= bytes_max.max(100), "{} bytes of {bytes_max}", bytes.len());
            all.extend_from_slice(&bytes);
            if page.up_to_date {
                return Ok(all);
            }
            assert!(!bytes.is_empty(), "a page goes on");
            from = ReadFrom::At(page.next);
        }
    }
}

#[test]
fn cold_bytes_are_read_like_hot_ones_and_the_log_gives_room() {
    run(async {
        let (mut node, chunks) = Node::start_cold(ShardConfig { flush_bytes: 512 << 10, ..config() }).await;
        let keys: Vec<StreamKey> = (0..8).map(|n| key(&format!("s{n}"))).collect();
        let mut expected = vec![Vec::new(); keys.len()];
        for key in &keys {
            node.create(key, Expiry::Never).await;
        }
        for round in 0..3 {
            for i in 0..900 {
                for (key, expected) in keys.iter().zip(&mut expected) {
                    let record = format!("{round}-{i}-{}|", "x".repeat(i % 700));
                    node.append(key, &record).await.expect("appends");
                    expected.extend_from_slice(record.as_bytes());
                }
            }
            let config = node.config.clone();
            until("old bytes leave the log", || {
                node.sum(|stats| stats.hot_bytes) <= u64::from(TOPOLOGY.groups) * config.flush_bytes
                    && node.sum(|stats| stats.cold_bytes) > 0
            })
            .await;
            for (key, expected) in keys.iter().zip(&expected) {
                for bytes_max in [PAGE_BYTES_MAX, 100_000, 9_000] {
                    let found = node.pages(key, bytes_max).await.expect("reads");
                    assert!(&found == expected, "{} bytes of {}", found.len(), expected.len());
                }
            }
            node = node.restart().await;
        }
        assert!(node.sum(|stats| stats.flushes_failed) == 0 && !chunks.objects().is_empty());
        // Nothing is left of deleted streams.
        for key in &keys {
            node.far(key).delete(key.clone(), None).await.expect("deletes");
        }
        until("chunks go with their streams", || chunks.objects().is_empty()).await;
        assert_eq!(node.sum(|stats| stats.chunks + stats.hot_bytes), 0);
    });
}

#[test]
fn old_bytes_leave_the_log_however_few_they_are() {
    run(async {
        let (node, _) = Node::start_cold(ShardConfig { flush_age: Duration::from_millis(300), ..config() }).await;
        let key = key("slow");
        node.create(&key, Expiry::Never).await;
        for i in 0..3 {
            node.append(&key, &format!("{i} ")).await.expect("appends");
            until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
            assert_eq!(node.sum(|stats| stats.cold_bytes), 2 * (i + 1));
        }
        assert_eq!(node.content(&key).await.expect("reads"), "0 1 2 ");
        node.append(&key, "hot").await.expect("appends");
        assert_eq!(node.content(&key).await.expect("reads"), "0 1 2 hot");
        let mut subscription = node.far(&key).subscribe(key.clone(), ReadFrom::Start).await.expect("subscribes");
        let mut seen = String::new();
        while seen.len() < 9 {
            let LiveEvent::Data(data) = subscription.next().await else { panic!("ended early after {seen}") };
            seen += std::str::from_utf8(&data.chunks.concat()).expect("text");
        }
        assert_eq!(seen, "0 1 2 hot");
    });
}

#[test]
fn a_slow_stream_has_few_runs_however_old_it_gets() {
    run(async {
        let (mut node, chunks) =
            Node::start_cold(ShardConfig { flush_age: Duration::from_millis(20), ..config() }).await;
        let keys = [key("slow"), key("slower")];
        let mut expected = [String::new(), String::new()];
        for key in &keys {
            node.create(key, Expiry::Never).await;
        }
        for i in 0..44 {
            for (key, expected) in keys.iter().zip(&mut expected).take(1 + usize::from(i % 2 == 0)) {
                node.append(key, &format!("{i} ")).await.expect("appends");
                *expected += &format!("{i} ");
            }
            until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
            if i == 20 {
                node = node.restart().await;
            }
        }
        let runs = |node: &Node, key: &StreamKey| {
            node.near(key).0.local_group(key).applied().stream(key).expect("it is there").runs()
        };
        until("runs are merged", || keys.iter().all(|key| runs(&node, key) <= 31)).await;
        assert!(node.sum(|stats| stats.merges) > 0);
        until("merged chunks go", || chunks.objects().len() as u64 == node.sum(|stats| stats.chunks)).await;
        for (key, expected) in keys.iter().zip(&expected) {
            assert_eq!(&node.content(key).await.expect("reads"), expected);
        }
    });
}

#[test]
fn runs_are_merged_around_one_that_is_damaged() {
    run(async {
        let (node, chunks) = Node::start_cold(ShardConfig { flush_age: Duration::from_millis(20), ..config() }).await;
        let key = key("slow");
        node.create(&key, Expiry::Never).await;
        let mut expected = String::new();
        let mut damaged = None;
        for i in 10..54 {
            let behind = node.append(&key, &format!("{i} ")).await.expect("appends").next;
            expected += &format!("{i} ");
            until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
            if i == 20 {
                let has_it = |bytes: &Bytes| bytes.windows(3).any(|window| window == b"20 ");
                let chunk =
                    chunks.objects().iter().find(|(_, bytes)| has_it(bytes)).map(|(n, b)| (n.clone(), b.clone()));
                let (name, whole) = chunk.expect("it has left the log");
                chunks.objects().insert(name.clone(), whole.slice(..whole.len() / 2));
                damaged = Some((name, whole, behind));
            }
        }
        let (name, whole, behind) = damaged.expect("there were more");
        let runs = || node.near(&key).0.local_group(&key).applied().stream(&key).expect("it is there").runs();
        until("the others are merged", || runs() <= 31).await;
        assert_eq!(node.sum(|stats| stats.cold_damaged), 1, "it is not read again and again");
        let rest = node.far(&key).read(key.clone(), ReadFrom::At(behind), PAGE_BYTES_MAX).await.expect("reads");
        assert_eq!(rest.chunks.concat(), expected.as_bytes()[behind.position as usize..]);
        assert!(matches!(node.content(&key).await, Err(ShardError::ColdDamaged(_))));
        chunks.objects().insert(name, whole);
        assert_eq!(node.content(&key).await.expect("it is whole again"), expected);
    });
}

#[test]
fn a_chunk_that_is_mostly_garbage_is_emptied() {
    run(async {
        let (node, chunks) = Node::start_cold(ShardConfig { flush_age: Duration::from_millis(100), ..config() }).await;
        let keys: Vec<StreamKey> = (0..40).map(|n| key(&format!("s{n}"))).collect();
        for key in &keys {
            node.create(key, Expiry::Never).await;
            node.append(key, &"x".repeat(10_000)).await.expect("appends");
        }
        until("all leave the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        for key in keys.iter().skip(8) {
            node.far(key).delete(key.clone(), None).await.expect("deletes");
        }
        let bytes = || chunks.objects().values().map(Bytes::len).sum::<usize>();
        until("the space is given back", || bytes() < 10 * 10_000).await;
        for key in keys.iter().take(8) {
            assert_eq!(node.content(key).await.expect("reads").len(), 10_000);
        }
    });
}

#[test]
fn a_damaged_chunk_is_never_served_and_the_rest_is() {
    run(async {
        let (node, chunks) = Node::start_cold(ShardConfig { flush_age: Duration::from_millis(200), ..config() }).await;
        let (key, other) = (key("damaged"), key("whole"));
        for key in [&key, &other] {
            node.create(key, Expiry::Never).await;
            node.append(key, "cold ").await.expect("appends");
            until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        }
        let group = node.near(&key).0.local_group(&key);
        let applied = group.applied().applied();
        until("it cannot be built again", || group.replica.snapshot_index() >= applied).await;
        node.append(&key, "hot").await.expect("appends");
        let tail = node.near(&key).head(key.clone()).await.expect("it is there").next;
        let name = chunks
            .objects()
            .iter()
            .find(|(_, bytes)| bytes.windows(7).any(|w| w == b"damaged"))
            .map(|(n, _)| n.clone());
        let name = name.expect("a chunk names its streams");
        let whole = chunks.objects()[&name].clone();
        let at = whole.windows(5).position(|w| w == b"cold ").expect("its bytes are in it");
        let mut damaged = whole.to_vec();
        damaged[at] ^= 1;
        for bad in [Some(Bytes::from(damaged)), Some(whole.slice(..at)), Some(Bytes::new()), None] {
            match bad {
                Some(bytes) => drop(chunks.objects().insert(name.clone(), bytes)),
                None => drop(chunks.objects().remove(&name)),
            }
            node.cold.as_ref().expect("it has one").forget(ChunkName::parse(&name).expect("a name")).await;
            let error = node.content(&key).await.expect_err("it is damaged");
            assert!(matches!(error, ShardError::ColdDamaged(_)), "{error:?}");
            assert_eq!(node.content(&other).await.expect("reads"), "cold ");
            let from = ReadFrom::At(weir_types::Offset { position: 5, ..tail });
            let hot = node.far(&key).read(key.clone(), from, PAGE_BYTES_MAX).await.expect("the rest is read");
            assert_eq!(hot.chunks.concat(), b"hot");
        }
        chunks.objects().insert(name, whole);
        assert_eq!(node.content(&key).await.expect("it is whole again"), "cold hot");
    });
}

/// A store that keeps who reads waiting for as long as it is held.
#[derive(Clone, Default)]
struct Holding {
    chunks: ChunkMemory,
    is_held: Arc<AtomicBool>,
}

impl ChunkStore for Holding {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.chunks.put(object, bytes)
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async {
            while self.is_held.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.chunks.get(object, range).await
        })
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.chunks.delete(object)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        self.chunks.list()
    }
}

/// A store that can be away.
#[derive(Clone, Default)]
struct Absent {
    chunks: ChunkMemory,
    is_away: Arc<AtomicBool>,
}

impl Absent {
    fn reached(&self) -> Result<&ChunkMemory, StoreError> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(StoreError::Failed("it is away".to_string())),
            false => Ok(&self.chunks),
        }
    }
}

impl ChunkStore for Absent {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { self.reached()?.put(object, bytes).await })
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async { self.reached()?.get(object, range).await })
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { self.reached()?.delete(object).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(async { self.reached()?.list().await })
    }
}

/// A small log, of the smallest number of segments.
fn small_wal() -> ShardConfig {
    ShardConfig { wal: WalConfig { budget_bytes: 16 << 20, ..config().wal }, ..config() }
}

/// Writes streams to one group, `appends` times `body` each, and deletes them: the log is written many times over.
async fn write_and_delete(node: &Node, body: &str, streams: usize, appends: usize) {
    for n in 0..streams {
        let passing = key_in(GroupId(0), &format!("passing-{n}-"));
        node.create(&passing, Expiry::Never).await;
        for _ in 0..appends {
            let begun = std::time::Instant::now();
            while let Err(error) = node.append(&passing, body).await {
                assert!(begun.elapsed() < Duration::from_secs(20), "stream {n}: the log gives no room: {error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        node.far(&passing).delete(passing.clone(), None).await.expect("deletes");
    }
}

#[test]
fn groups_that_are_idle_keep_no_log_from_giving_room() {
    run(async {
        const { assert!(TOPOLOGY.groups > TOPOLOGY.wals, "each log has an idle group") };
        let node = Node::start_on(disks(), small_wal()).await;
        write_and_delete(&node, &"x".repeat(256 << 10), 30, 8).await;
    });
}

#[test]
fn small_records_fill_a_log_by_what_they_take_there() {
    run(async {
        let node = Node::start_on(disks(), small_wal()).await;
        write_and_delete(&node, "x", 50, 200).await;
        let (cold, _) = Node::start_cold(small_wal()).await;
        write_and_delete(&cold, "x", 50, 200).await;
    });
}

#[test]
fn a_full_log_takes_deletes_and_has_room_then() {
    run(async {
        let node = Node::start_on(disks(), small_wal()).await;
        let large = key_in(GroupId(0), "large");
        node.create(&large, Expiry::Never).await;
        for len in [512 << 10, 64 << 10, 4 << 10, 1] {
            let body = "x".repeat(len);
            while node.append(&large, &body).await.is_ok() {}
            let refused = node.append(&large, &body).await;
            assert!(matches!(refused, Err(ShardError::Limit(Limit::WalBudget))), "{refused:?}");
        }
        node.far(&large).delete(large.clone(), None).await.expect("a delete gives room");
        let other = key_in(GroupId(0), "other");
        until("there is room again", || node.sum(|stats| stats.wals[0].used_bytes) < 8 << 20).await;
        node.create(&other, Expiry::Never).await;
        node.append(&other, "x").await.expect("appends");
    });
}

#[test]
fn a_log_that_was_filled_while_the_store_was_away_is_emptied_when_it_is_back() {
    run(async {
        let absent = Absent::default();
        let cold = Cold::new(Arc::new(absent.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        let config = ShardConfig { hot_index_bytes_max: 1 << 30, ..small_wal() };
        let node = Node::start_with(disks(), Some(cold), config).await;
        absent.is_away.store(true, Ordering::Relaxed);
        // Records that are hardly longer than what is said of their streams when they go.
        let keys: Vec<StreamKey> = (0..3000).map(|n| key(&format!("{n}-{}", "n".repeat(200)))).collect();
        for key in &keys {
            node.create(key, Expiry::Never).await;
        }
        let mut appended = vec![0; keys.len()];
        loop {
            let appends = join_all(keys.iter().map(|key| node.append(key, "x"))).await;
            for (appended, result) in appended.iter_mut().zip(&appends) {
                match result {
                    Ok(_) => *appended += 1,
                    Err(ShardError::Limit(Limit::WalBudget)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            if appends.iter().all(Result::is_err) {
                break;
            }
        }
        assert!(node.sum(|stats| stats.flushes_failed) > 0 && absent.chunks.objects().is_empty());
        absent.is_away.store(false, Ordering::Relaxed);
        let begun = std::time::Instant::now();
        while let Err(error) = node.append(&keys[0], "x").await {
            assert!(begun.elapsed() < Duration::from_secs(60), "the log gives no room: {error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        appended[0] += 1;
        for (key, appended) in keys.iter().zip(appended) {
            assert_eq!(node.content(key).await.expect("reads"), "x".repeat(appended));
        }
    });
}

#[test]
fn chunks_that_the_log_was_not_told_of_are_deleted() {
    run(async {
        let (mut node, chunks) =
            Node::start_cold(ShardConfig { flush_age: Duration::from_millis(200), ..config() }).await;
        let key = key("s");
        node.create(&key, Expiry::Never).await;
        node.append(&key, "cold").await.expect("appends");
        until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        let names: Vec<String> = chunks.objects().keys().cloned().collect();
        let named = ChunkName::parse(&names[0]).expect("a name");
        // What a life that ended too early has left, and what is not ours.
        let left = ChunkName { nonce: named.nonce ^ 1, ..named }.object();
        chunks.objects().insert(left.clone(), Bytes::new());
        chunks.objects().insert("other".to_string(), Bytes::new());
        node = node.restart().await;
        until("what is left is deleted", || !chunks.objects().contains_key(&left)).await;
        assert_eq!(chunks.objects().keys().cloned().collect::<Vec<_>>(), [names[0].clone(), "other".to_string()]);
        assert_eq!(node.content(&key).await.expect("reads"), "cold");
    });
}
