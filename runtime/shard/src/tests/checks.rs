//! Checks of the cold tier: what is damaged is found, and nothing else is.

use tokio::sync::{Semaphore, mpsc};
use weir_cold::{Flaw, verify};

use super::*;
use crate::{CheckNews, DamagedChunk};

impl Node {
    /// Has all chunks verified; gives those that are damaged, and how many were looked at.
    async fn check(&self) -> (Vec<DamagedChunk>, u64) {
        let (damaged, repaired, seen) = self.check_and(false).await;
        assert_eq!(repaired, [], "nobody has asked for it");
        (damaged, seen)
    }

    /// Has all chunks verified, and those that are damaged built again; gives those that are damaged still, and the others.
    async fn repair(&self) -> (Vec<DamagedChunk>, Vec<DamagedChunk>) {
        let (damaged, repaired, _) = self.check_and(true).await;
        (damaged, repaired)
    }

    async fn check_and(&self, repairs: bool) -> (Vec<DamagedChunk>, Vec<DamagedChunk>, u64) {
        let (sender, mut news) = mpsc::channel(1);
        let turn = Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody has it"));
        for shard in &self.shards {
            crate::upkeep::begin_check(&shard.0, repairs, sender.clone(), turn.clone());
        }
        drop(sender);
        let (mut damaged, mut repaired, mut seen, mut ended) = (Vec::new(), Vec::new(), 0, 0);
        while let Some(told) = news.recv().await {
            match told {
                CheckNews::Begun { .. } => {}
                CheckNews::Whole { .. } => seen += 1,
                CheckNews::Damaged(chunk) => damaged.push(chunk),
                CheckNews::Repaired(chunk) => repaired.push(chunk),
                CheckNews::Unread { chunk, reason, .. } => panic!("{chunk} is not read: {reason}"),
                CheckNews::Elsewhere(group) => panic!("group {group} is led here"),
                CheckNews::Ended => ended += 1,
            }
        }
        assert_eq!(ended, self.shards.len());
        seen += (damaged.len() + repaired.len()) as u64;
        (damaged, repaired, seen)
    }

    /// Name, size and checksum of every chunk.
    fn chunks(&self) -> Vec<(ChunkName, u64, u32)> {
        let groups = self.shards.iter().flat_map(|shard| shard.0.local_groups());
        let of_group = |group: Rc<crate::write::job::LocalGroup>| {
            let state = group.applied();
            state.chunks().map(|chunk| (group.chunk_name(chunk.id), chunk.bytes, chunk.crc)).collect::<Vec<_>>()
        };
        groups.flat_map(of_group).collect()
    }

    /// A node with two streams in each of two chunks or more.
    async fn start_with_chunks() -> (Node, ChunkMemory) {
        let (node, chunks) = Node::start_cold(ShardConfig { flush_age: Duration::from_millis(100), ..config() }).await;
        for group in 0..2 {
            for name in ["a", "b"] {
                let key = key_in(GroupId(group), name);
                node.create(&key, Expiry::Never).await;
                for n in 0..20 {
                    node.append(&key, &format!("{name}{n} ").repeat(40 + 10 * n)).await.expect("appends");
                }
            }
        }
        until("all leave the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        (node, chunks)
    }
}

#[test]
fn chunks_that_are_whole_are_found_whole() {
    run(async {
        let (node, chunks) = Node::start_with_chunks().await;
        let (damaged, seen) = node.check().await;
        assert_eq!((damaged, seen), (Vec::new(), chunks.objects().len() as u64));
        assert_eq!(node.sum(|stats| stats.cold_damaged), 0);
    });
}

#[test]
fn chunks_that_are_missing_cut_or_changed_are_found_and_counted() {
    run(async {
        let (node, chunks) = Node::start_with_chunks().await;
        let (name, bytes, _) = node.chunks()[0];
        let whole = chunks.objects()[&name.object()].clone();
        let mut changed = whole.to_vec();
        changed[bytes as usize / 2] ^= 4;
        let longer = [&whole[..], b"x"].concat();
        let cases = [
            (None, "missing"),
            (Some(whole.slice(..whole.len() - 1)), "were written"),
            (Some(Bytes::new()), "it has 0 bytes"),
            (Some(longer.into()), "more than"),
            (Some(changed.into()), "checksum"),
        ];
        for (count, (bad, reason)) in (1..).zip(cases) {
            match bad {
                Some(bytes) => drop(chunks.objects().insert(name.object(), bytes)),
                None => drop(chunks.objects().remove(&name.object())),
            }
            let (damaged, _) = node.check().await;
            let [found] = &damaged[..] else { panic!("{reason}: {damaged:?}") };
            assert_eq!((&found.chunk, found.bytes, found.group), (&name.object(), bytes, name.group));
            assert!(found.reason.contains(reason), "{found:?}");
            assert!(found.streams > 0 && found.stream_bytes > 0, "{found:?}");
            assert_eq!(node.sum(|stats| stats.cold_damaged), count);
        }
        chunks.objects().insert(name.object(), whole);
        assert_eq!(node.check().await.0, []);
    });
}

#[test]
fn a_chunk_that_goes_with_its_streams_is_no_finding() {
    run(async {
        let store = Holding::default();
        store.is_held.store(true, Ordering::Relaxed);
        let cold = Cold::new(Arc::new(store.clone()), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        let config = ShardConfig { flush_age: Duration::from_millis(100), ..config() };
        let node = Node::start_with(disks(), Some(cold), config).await;
        let key = key("passing");
        node.create(&key, Expiry::Never).await;
        node.append(&key, "cold").await.expect("appends");
        until("it leaves the log", || node.sum(|stats| stats.hot_bytes) == 0).await;
        let meanwhile = async {
            node.far(&key).delete(key.clone(), None).await.expect("deletes");
            until("its chunk is deleted", || store.chunks.objects().is_empty()).await;
            store.is_held.store(false, Ordering::Relaxed);
        };
        let ((damaged, seen), ()) = tokio::join!(node.check(), meanwhile);
        assert_eq!((damaged, seen), (Vec::new(), 1));
    });
}

/// 2,000 bits, spread over each region of the chunks of a node: header, packs, indexes, table, tail.
#[test]
fn every_flipped_bit_is_found() {
    run(async {
        let (node, chunks) = Node::start_with_chunks().await;
        let named = node.chunks();
        assert!(named.len() >= 2, "there are chunks");
        let flips = 2000 / named.len() as u64;
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for (name, bytes, crc) in named {
            let whole = chunks.objects()[&name.object()].clone();
            let copy = ChunkMemory::default();
            for flip in 0..flips {
                // A quarter each at the beginning and at the end, where what is there is small; the rest anywhere.
                let at = match flip % 4 {
                    0 => random(34),
                    1 => bytes - 1 - random(300.min(bytes)),
                    _ => random(bytes),
                };
                let bit = random(8);
                let mut changed = whole.to_vec();
                changed[at as usize] ^= 1 << bit;
                copy.objects().insert(name.object(), changed.into());
                let found = verify(&copy, &name.object(), bytes, crc).await.expect("memory answers");
                assert!(matches!(found, Some(Flaw::Changed { .. })), "byte {at}, bit {bit}: {found:?}");
            }
        }
    });
}

/// Streams of one group whose bytes go to chunks as they are written, and no snapshot is taken unless somebody asks.
struct Writer {
    node: Node,
    chunks: ChunkMemory,
    keys: Vec<StreamKey>,
    contents: Vec<String>,
}

impl Writer {
    async fn start() -> Writer {
        let (node, chunks) = Node::start_cold(ShardConfig { flush_bytes: 64 << 10, ..config() }).await;
        let keys: Vec<StreamKey> = (0..5).map(|n| key_in(GroupId(1), &format!("s{n}-"))).collect();
        for key in &keys {
            node.create(key, Expiry::Never).await;
        }
        let contents = vec![String::new(); keys.len()];
        Writer { node, chunks, keys, contents }
    }

    fn group(&self) -> Rc<crate::write::job::LocalGroup> {
        self.node.near(&self.keys[0]).0.local_group(&self.keys[0])
    }

    /// Appends to all streams, records of many sizes, and waits until most of that is in chunks.
    async fn write(&mut self, name: &str) {
        let group = self.group();
        let flushes = self.node.sum(|stats| stats.flushes);
        for round in 0..60 {
            for (n, key) in self.keys.iter().enumerate() {
                let record = format!("{name} {n}.{round} ").repeat(1 + (round * 7 + n * 11) % 90 * 3);
                let tail = self.node.near(key).head(key.clone()).await.expect("it is there").next;
                // Two that both expect to be the next: apply refuses one.
                let one = || AppendRequest { if_match: Some(crate::IfMatch::Tails(vec![tail])), ..append(&record) };
                let shard = self.node.far(key);
                let both = tokio::join!(shard.append(key.clone(), one()), shard.append(key.clone(), one()));
                assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
                self.contents[n] += &record;
            }
        }
        until("bytes leave the log", || {
            let (flushed, hot) = (self.node.sum(|stats| stats.flushes), group.applied().hot_bytes());
            flushed > flushes && hot <= 64 << 10
        })
        .await;
    }

    /// Has a snapshot taken, and the log before it given up.
    async fn snapshot(&self) {
        let group = self.group();
        let applied = group.applied().applied();
        group.snapshot_wanted.set(applied);
        let begin = || Some(group.wal.first_index(group.id));
        let floor = group.applied().hot_floor();
        until("the log is given up", || group.replica.snapshot_index() >= applied && begin() >= floor.min(applied))
            .await;
    }

    async fn assert_whole(&self) {
        for (key, content) in self.keys.iter().zip(&self.contents) {
            assert_eq!(&self.node.content(key).await.expect("reads"), content);
        }
    }
}

#[test]
fn a_chunk_is_built_again_for_as_long_as_the_log_has_its_entries() {
    run(async {
        let mut writer = Writer::start().await;
        writer.write("early").await;
        let early = writer.node.chunks();
        writer.snapshot().await;
        writer.write("late").await;
        writer.write("later").await;
        let late: Vec<_> = writer.node.chunks().into_iter().filter(|chunk| !early.contains(chunk)).collect();
        assert!(late.len() > 1, "{} and {} chunks", early.len(), late.len());
        // What comes later does not matter.
        let deleted = writer.keys.pop().expect("there are several");
        writer.contents.pop();
        writer.node.far(&deleted).delete(deleted, None).await.expect("deletes");
        for restarts in [false, true] {
            if restarts {
                writer.node = writer.node.restart().await;
            }
            let mut again = 0;
            // The first of them may have bytes from before the snapshot.
            for (name, bytes, _) in late[1..].iter().rev().take(2) {
                let object = name.object();
                let whole = writer.chunks.objects()[&object].clone();
                let mut changed = whole.to_vec();
                changed[*bytes as usize / 3] ^= 2;
                for bad in [None, Some(whole.slice(..whole.len() / 2)), Some(Bytes::from(changed))] {
                    match bad {
                        Some(bytes) => drop(writer.chunks.objects().insert(object.clone(), bytes)),
                        None => drop(writer.chunks.objects().remove(&object)),
                    }
                    let (damaged, repaired) = writer.node.repair().await;
                    assert_eq!((damaged, repaired.len(), &repaired[0].chunk), (Vec::new(), 1, &object));
                    assert!(writer.chunks.objects()[&object] == whole, "it is the same, byte for byte");
                    again += 1;
                    assert_eq!(writer.node.sum(|stats| stats.chunks_rebuilt), again);
                    writer.assert_whole().await;
                }
            }
        }
        let (name, ..) = early[0];
        let whole = writer.chunks.objects().remove(&name.object()).expect("it is there");
        let (damaged, repaired) = writer.node.repair().await;
        assert_eq!((damaged.len(), repaired), (1, Vec::new()));
        let reason = damaged[0].unrepaired.as_deref().unwrap_or_default();
        assert!(reason.starts_with("no other copy exists"), "{reason}");
        writer.chunks.objects().insert(name.object(), whole);
        writer.assert_whole().await;
    });
}

#[test]
fn a_chunk_that_a_reader_has_met_damaged_is_built_again() {
    run(async {
        let mut writer = Writer::start().await;
        writer.write("only").await;
        let (name, ..) = writer.node.chunks()[0];
        let whole = writer.chunks.objects().insert(name.object(), Bytes::from_static(b"damaged"));
        writer.node.cold.as_ref().expect("it has one").forget(name).await;
        let refused = writer.node.content(&writer.keys[0]).await;
        assert!(matches!(refused, Err(ShardError::ColdDamaged(_))), "{refused:?}");
        until("it is whole again", || writer.chunks.objects().get(&name.object()) == whole.as_ref()).await;
        writer.assert_whole().await;
        // And one that is missing when the node begins.
        writer.chunks.objects().remove(&name.object());
        writer.node = writer.node.restart().await;
        until("it is there again", || writer.chunks.objects().get(&name.object()) == whole.as_ref()).await;
        writer.assert_whole().await;
    });
}
