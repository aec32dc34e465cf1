//! Checks of the cold tier: what is damaged is found, and nothing else is.

use tokio::sync::{Semaphore, mpsc};
use weir_cold::{Flaw, verify};

use super::*;
use crate::{CheckNews, DamagedChunk};

impl Node {
    /// Has all chunks verified; gives those that are damaged, and how many were looked at.
    async fn check(&self) -> (Vec<DamagedChunk>, u64) {
        let (sender, mut news) = mpsc::channel(1);
        let turn = Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody has it"));
        for shard in &self.shards {
            crate::upkeep::begin_check(&shard.0, sender.clone(), turn.clone());
        }
        drop(sender);
        let (mut damaged, mut seen, mut ended) = (Vec::new(), 0, 0);
        while let Some(told) = news.recv().await {
            match told {
                CheckNews::Begun { .. } => {}
                CheckNews::Whole { .. } => seen += 1,
                CheckNews::Damaged(chunk) => damaged.push(chunk),
                CheckNews::Unread { chunk, reason, .. } => panic!("{chunk} is not read: {reason}"),
                CheckNews::Ended => ended += 1,
            }
        }
        assert_eq!(ended, self.shards.len());
        seen += damaged.len() as u64;
        (damaged, seen)
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
