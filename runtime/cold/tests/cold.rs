//! Chunks as they are put, read back, and found damaged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cap_std::fs::Dir;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::{Builder, Handle};
use weir_cold::claim::{ClaimError, Member, claim, claim_for_cluster, owner, take_over};
use weir_cold::{
    ChunkBuilder, ChunkName, ChunkStore, ClaimedStore, Cold, ColdError, LocalStore, MemoryStore, MovedStore, PackIn,
    PartRef, ReadMax, StoreError,
};
use weir_types::{GroupId, Incarnation};

const NAME: ChunkName = ChunkName { group: GroupId(3), term: 7, number: 42, nonce: 0xbeef };

fn run<T>(test: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime").block_on(test)
}

fn cold(store: impl ChunkStore) -> Cold {
    Cold::new(Arc::new(store), 64 << 20, Handle::current(), BTreeSet::new())
}

fn upto(bytes: usize) -> ReadMax {
    ReadMax { bytes, packs: usize::MAX }
}

/// Packs of these lengths, each with a head of four bytes before its payload.
fn packs(payloads: &[Vec<u8>]) -> Vec<PackIn> {
    (100..)
        .zip(payloads)
        .map(|(time_ms, payload)| PackIn {
            bytes: [b"head", &payload[..]].concat().into(),
            payload_bytes: payload.len() as u32,
            time_ms: time_ms * 3,
        })
        .collect()
}

/// A chunk of streams, and their parts.
fn built(streams: &[(u64, Vec<Vec<u8>>)]) -> (Bytes, Vec<PartRef>) {
    let mut builder = ChunkBuilder::new(NAME, 0);
    let parts = (1..).zip(streams).map(|(n, (start, payloads))| {
        let incarnation = Incarnation(n);
        let at = builder.part(&format!("b/s{n}"), incarnation, *start, &packs(payloads));
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        PartRef { chunk: NAME, at, incarnation, range: *start..start + bytes as u64 }
    });
    let parts = parts.collect();
    (builder.finish().0, parts)
}

/// Reads a part from `from` on, and gives what there is of it.
async fn read(cold: &Cold, part: &PartRef, from: u64, bytes_max: usize) -> Result<Vec<u8>, ColdError> {
    let read = cold.read(PartRef { range: from..part.range.end, ..part.clone() }, upto(bytes_max), |_| true).await?;
    let mut payloads = Vec::new();
    let mut position = read.packs[0].start;
    assert!(position <= from && read.packs[0].end > from, "the first pack holds the first byte");
    for pack in &read.packs {
        assert_eq!((pack.start, pack.time_ms % 3), (position, 0));
        let bytes = &read.bytes[pack.pos as usize..][..pack.len as usize];
        assert_eq!(&bytes[..4], b"head");
        payloads.extend_from_slice(&bytes[4..]);
        position = pack.end;
    }
    Ok(payloads.split_off((from - read.packs[0].start) as usize))
}

/// Reads all of a part, in pages.
async fn read_all(cold: &Cold, part: &PartRef, bytes_max: usize) -> Result<Vec<u8>, ColdError> {
    let mut all = Vec::new();
    while (all.len() as u64) < part.range.end - part.range.start {
        let page = read(cold, part, part.range.start + all.len() as u64, bytes_max).await?;
        assert!(!page.is_empty(), "a page goes on");
        all.extend_from_slice(&page);
    }
    Ok(all)
}

fn streams() -> impl Strategy<Value = Vec<(u64, Vec<Vec<u8>>)>> {
    let payload = prop_oneof![8 => vec(any::<u8>(), 1..40), 1 => vec(any::<u8>(), 1..400_000)];
    vec((0..1000u64, vec(payload, 1..12)), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_put_is_read_back(streams in streams(), bytes_max in 1..500_000usize) {
        let folder = tempfile::tempdir().expect("there is a folder for tests");
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).expect("it can be opened");
        let (chunk, parts) = built(&streams);
        run(async {
            for cold in [cold(MemoryStore::default()), cold(LocalStore::new(dir).expect("it can be read"))] {
                cold.put(NAME, chunk.clone()).await.expect("it is put");
                assert_eq!(cold.chunks(GroupId(3)).await.expect("a list"), [(NAME, chunk.len() as u64)]);
                assert_eq!(cold.chunks(GroupId(4)).await.expect("a list"), []);
                for (part, (_, payloads)) in parts.iter().zip(&streams) {
                    assert_eq!(read_all(&cold, part, bytes_max).await.expect("it is whole"), payloads.concat());
                }
                cold.delete(NAME).await.expect("it is deleted");
                cold.delete(NAME).await.expect("twice is no error");
                assert_eq!(cold.chunks(GroupId(3)).await.expect("a list"), []);
            }
        });
    }

    #[test]
    fn a_damaged_chunk_is_noticed_or_the_damage_is_in_a_pack(
        streams in streams(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let (chunk, parts) = built(&streams);
        let store = MemoryStore::default();
        let mut damaged = chunk.to_vec();
        damaged[at.index(chunk.len())] ^= 1 << bit;
        run(async {
            store.objects().insert(NAME.object(), damaged.into());
            let cold = cold(store.clone());
            for (part, (_, payloads)) in parts.iter().zip(&streams) {
                let packs = packs(payloads);
                let Ok(read) = cold.read(part.clone(), upto(usize::MAX), |_| true).await else { continue };
                // Packs have a checksum of their own; where they are and what they are is the index's.
                let lens = |lens: &mut dyn Iterator<Item = u32>| lens.collect::<Vec<_>>();
                assert_eq!(
                    lens(&mut read.packs.iter().map(|pack| pack.len)),
                    lens(&mut packs.iter().map(|pack| pack.bytes.len() as u32)),
                );
                let different = read.bytes.iter().zip(packs.iter().flat_map(|pack| &pack.bytes)).filter(|(a, b)| a != b);
                assert!(different.count() <= 1, "one byte is another one");
            }
            // Nor is one that has lost its end read beyond it.
            let kept = cut.index(chunk.len());
            let short = MemoryStore::default();
            short.objects().insert(NAME.object(), chunk.slice(..kept));
            let cold = self::cold(short);
            for (part, (_, payloads)) in parts.iter().zip(&streams) {
                match read_all(&cold, part, usize::MAX).await {
                    Ok(bytes) => assert_eq!(bytes, payloads.concat()),
                    Err(ColdError::Damaged { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
}

#[test]
fn another_streams_part_and_another_chunk_are_noticed() {
    let (chunk, parts) = built(&[(0, vec![b"one".to_vec()]), (5, vec![b"other".to_vec()])]);
    run(async {
        let store = MemoryStore::default();
        let cold = cold(store.clone());
        cold.put(NAME, chunk.clone()).await.expect("it is put");
        let other = ChunkName { number: 43, ..NAME };
        cold.put(other, chunk).await.expect("it is put");
        for wrong in [
            PartRef { at: parts[1].at, ..parts[0].clone() },
            PartRef { incarnation: Incarnation(9), ..parts[0].clone() },
            PartRef { range: 0..4, ..parts[0].clone() },
            PartRef { range: 4..5, ..parts[1].clone() },
            PartRef { at: 3, ..parts[0].clone() },
            PartRef { chunk: other, ..parts[0].clone() },
            PartRef { chunk: ChunkName { number: 44, ..NAME }, ..parts[0].clone() },
        ] {
            let error = cold.read(wrong.clone(), upto(100), |_| true).await.expect_err("it is another one");
            assert!(matches!(error, ColdError::Damaged { .. }), "{wrong:?}: {error}");
        }
        // What was damaged where it was read from is read again.
        let whole = store.objects().get(&NAME.object()).cloned().expect("it is there");
        store.objects().insert(NAME.object(), Bytes::from_static(b"no chunk"));
        cold.forget(NAME).await;
        cold.read(parts[0].clone(), upto(100), |_| true).await.expect_err("it is damaged");
        store.objects().insert(NAME.object(), whole);
        assert_eq!(read_all(&cold, &parts[0], 100).await.expect("it is whole again"), b"one");
    });
}

/// How long a read of [`Counting`] takes.
const GET_TIME: Duration = Duration::from_secs(1);

/// Counts reads, and fails as often as it is told.
struct Counting {
    store: MemoryStore,
    gets: Arc<AtomicU64>,
    failing: Arc<AtomicU64>,
}

impl ChunkStore for Counting {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.put(object, bytes)
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let failing = self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        async move {
            // Others come meanwhile.
            tokio::time::sleep(GET_TIME).await;
            if failing {
                Err(StoreError::Failed("it is down".to_string()))
            } else {
                self.store.get(object, range).await
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.delete(object)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        self.store.list()
    }
}

#[test]
fn many_who_want_the_same_wait_for_one_read_and_a_failure_is_not_kept() {
    let (chunk, parts) = built(&[(0, vec![vec![b'x'; 3000]; 4])]);
    run(async {
        let (gets, failing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let store = Counting { store: MemoryStore::default(), gets: gets.clone(), failing: failing.clone() };
        let cold = cold(store);
        cold.put(NAME, chunk).await.expect("it is put");
        failing.store(1, Ordering::Relaxed);
        let error = cold.read(parts[0].clone(), upto(100), |_| true).await.expect_err("the store is down");
        assert!(matches!(error, ColdError::Unavailable(_)), "{error}");
        let reads = (0..50).map(|_| read_all(&cold, &parts[0], usize::MAX));
        for bytes in futures_util::future::join_all(reads).await {
            assert_eq!(bytes.expect("it is up again").len(), 12_000);
        }
        assert_eq!(gets.load(Ordering::Relaxed), 2, "the one that failed, and one for all");
    });
}

#[test]
fn however_many_parts_are_asked_for_few_are_read_at_a_time() {
    run(async {
        let (gets, failing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1000)));
        let store = Counting { store: MemoryStore::default(), gets: gets.clone(), failing };
        let cold = cold(store);
        let read = |number| {
            let chunk = ChunkName { number, ..NAME };
            let (cold, part) = (cold.clone(), PartRef { chunk, at: 0, incarnation: Incarnation(1), range: 0..1 });
            async move { cold.read(part, upto(100), |_| true).await }
        };
        let reads = tokio::spawn(futures_util::future::join_all((0..100).map(read)));
        for seconds in 1..=4 {
            tokio::time::sleep(GET_TIME / 2).await;
            assert_eq!(gets.load(Ordering::Relaxed), (32 * seconds).min(100));
            tokio::time::sleep(GET_TIME / 2).await;
        }
        assert_eq!(reads.await.expect("no panic").iter().filter(|read| read.is_err()).count(), 100);
        // Whoever is gone gives others room.
        let gone = futures_util::future::join_all((100..200).map(read));
        assert!(tokio::time::timeout(GET_TIME / 2, gone).await.is_err());
        assert!(read(200).await.is_err());
        assert_eq!(gets.load(Ordering::Relaxed), 133);
    });
}

#[test]
fn no_more_packs_are_read_than_asked_for_and_the_rest_of_the_index_is_looked_at() {
    let (chunk, parts) = built(&[(0, vec![b"one".to_vec(); 9])]);
    run(async {
        let store = MemoryStore::default();
        let cold = cold(store.clone());
        cold.put(NAME, chunk).await.expect("it is put");
        for packs in [0, 1, 4, 100] {
            let read =
                cold.read(parts[0].clone(), ReadMax { bytes: 1000, packs }, |_| true).await.expect("it is whole");
            assert_eq!(read.packs.len(), packs.clamp(1, 9));
            assert_eq!(read.bytes.len(), read.packs.len() * 7, "nothing is read along");
        }
        let beyond = PartRef { range: 0..28, ..parts[0].clone() };
        cold.read(beyond, ReadMax { bytes: 1000, packs: 1 }, |_| true).await.expect_err("there are only 27 bytes");
    });
}

#[test]
fn what_was_wrong_on_its_way_is_read_again_at_once() {
    let (chunk, parts) = built(&[(0, vec![b"one".to_vec()])]);
    run(async {
        let wrong = Arc::new(AtomicU64::new(1));
        let cold = cold(Flipping { store: MemoryStore::default(), wrong: wrong.clone() });
        cold.put(NAME, chunk).await.expect("it is put");
        let read =
            |cold: Cold| async move { cold.read(parts[0].clone(), upto(100), |pack| &pack[4..] == b"one").await };
        read(cold.clone()).await.expect("the second time it is whole");
        assert_eq!(wrong.load(Ordering::Relaxed), 0, "the first was wrong");
    });
}

/// Changes the payload of what is read as often as it is told.
struct Flipping {
    store: MemoryStore,
    wrong: Arc<AtomicU64>,
}

impl ChunkStore for Flipping {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.put(object, bytes)
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let wrong = self.wrong.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        async move {
            let bytes = self.store.get(object, range).await?;
            let at = bytes.windows(3).position(|window| window == b"one").filter(|_| wrong);
            let mut bytes = bytes.to_vec();
            at.into_iter().for_each(|at| bytes[at] ^= 1);
            Ok(bytes.into())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.delete(object)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        self.store.list()
    }
}

const RACE: Duration = Duration::from_secs(1);

#[test]
fn a_store_is_one_clusters() {
    run(async {
        let store = MemoryStore::default();
        claim(&store, 7, false, RACE).await.expect("it is nobody's");
        claim(&store, 7, false, RACE).await.expect("it is ours");
        claim(&store, 7, true, RACE).await.expect("it is ours");
        assert_eq!(claim(&store, 8, false, RACE).await, Err(ClaimError::Taken("0000000000000007".to_string())));
        let (marker, _) = store.objects().pop_first().expect("there is one object");
        assert_eq!(
            claim(&store, 7, true, RACE).await,
            Err(ClaimError::Lost),
            "what was ours and is empty is another one"
        );
        let (first, second) = tokio::join!(claim(&store, 7, false, RACE), claim(&store, 8, false, RACE));
        assert!(first.is_ok() != second.is_ok(), "one of both has it: {first:?}, {second:?}");
        store.objects().clear();
        store.objects().insert(NAME.object(), Bytes::new());
        assert_eq!(claim(&store, 7, false, RACE).await, Err(ClaimError::Unmarked));
        store.objects().insert(marker, Bytes::from_static(b"0000000000000007"));
        claim(&store, 7, false, RACE).await.expect_err("it is cut short");
    });
}

#[test]
fn a_store_that_was_moved_from_is_read_and_emptied() {
    let folder = tempfile::tempdir().expect("there is a folder for tests");
    let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).expect("it can be opened");
    let old = LocalStore::new(dir).expect("it can be read");
    run(async {
        let new = MemoryStore::default();
        old.put("a", Bytes::from_static(b"old")).await.expect("it is put");
        let store = MovedStore { old: old.clone(), new: Arc::new(new.clone()) };
        store.put("b", Bytes::from_static(b"new")).await.expect("it is put");
        assert_eq!(store.get("a", 0..9).await.expect("it is in the old one"), "old");
        assert_eq!(store.get("b", 1..9).await.expect("it is in the new one"), "ew");
        assert_eq!(store.get("c", 0..9).await, Err(StoreError::Missing("c".to_string())));
        assert_eq!(store.list().await.expect("a list"), [("a".to_string(), 3), ("b".to_string(), 3)]);
        assert!(
            new.objects().len() == 1 && old.list().await.expect("a list").len() == 1,
            "what is put goes to the new one"
        );
        store.delete("a").await.expect("it is deleted");
        store.delete("b").await.expect("it is deleted");
        assert_eq!(store.list().await.expect("a list"), []);
    });
}

#[test]
fn a_store_that_did_not_answer_is_asked_whose_it_is_before_anything_else() {
    run(async {
        let store = MemoryStore::default();
        claim(&store, 7, false, RACE).await.expect("it is nobody's");
        let ours = ClaimedStore::new(Arc::new(store.clone()), 7);
        ours.put("a", Bytes::from_static(b"x")).await.expect("it is ours");
        assert_eq!(ours.get("a", 0..9).await.expect("it is there"), "x");
        let (others, empty) = (Arc::new(store.clone()), Arc::new(MemoryStore::default()));
        for other in [ClaimedStore::new(others, 8), ClaimedStore::new(empty, 7)] {
            assert!(matches!(other.list().await, Err(StoreError::Denied(_))));
            assert!(matches!(other.delete("a").await, Err(StoreError::Denied(_))));
            assert!(matches!(other.put("b", Bytes::new()).await, Err(StoreError::Denied(_))));
        }
        assert_eq!(store.objects().len(), 2, "nothing was changed");
    });
}

#[test]
fn nodes_of_a_cluster_find_the_same_number_and_nobody_else_is_let_in() {
    const RACE: Duration = Duration::from_secs(1);
    let member = |node, disk| Member { cluster: "c1", node, disk, alone: 77 };
    run(async {
        let store = MemoryStore::default();
        let enter = |member, known, drawn| claim_for_cluster(&store, member, known, drawn, RACE);
        // Both begin at the same time, and one of them has put last.
        let (first, second) = tokio::join!(enter(member(1, 11), None, 5), enter(member(2, 12), None, 6));
        let number = first.expect("it is nobody's");
        assert_eq!(second, Ok(number));
        assert_eq!(enter(member(1, 11), None, 7).await, Ok(number), "it comes again before it has noted anything");
        assert_eq!(enter(member(1, 11), Some(number), 7).await, Ok(number));
        // One that was told another number has another store.
        let says = owner(&store).await.expect("it answers").expect("it is claimed");
        assert_eq!(enter(member(1, 11), Some(4), 7).await, Err(ClaimError::Taken(says.clone())));
        let seated = |node, disk: u128| Err(ClaimError::Seated { node, disk: format!("{disk:032x}") });
        assert_eq!(enter(member(2, 99), None, 7).await, seated(2, 12), "a cluster that is called the same");
        let other = Member { cluster: "c2", ..member(1, 11) };
        assert_eq!(enter(other, None, 7).await, Err(ClaimError::Taken(says.clone())));
        assert_eq!(claim(&store, number, false, RACE).await, Err(ClaimError::Taken(says)), "a node that is alone");
        // One of a store that did not answer at the start.
        let ours = ClaimedStore::of_cluster(Arc::new(store.clone()), number, member(1, 11).cluster);
        ours.put("a", Bytes::from_static(b"x")).await.expect("it is ours");
        let not = ClaimedStore::of_cluster(Arc::new(store.clone()), number + 1, member(1, 11).cluster);
        not.put("a", Bytes::new()).await.expect_err("it is another one's");
        take_over(&store, 3).await.expect("it answers");
        claim(&store, 3, true, RACE).await.expect("it is the node's now");
        enter(member(1, 11), Some(number), 7).await.expect_err("and the cluster's no longer");
        assert!(!store.objects().keys().any(|object| object.starts_with("weir-node")));
        store.objects().clear();
        assert_eq!(enter(member(1, 11), Some(number), 7).await, Err(ClaimError::Lost));
        // Two clusters that are called the same, at the same time.
        let (first, second) = tokio::join!(enter(member(1, 11), None, 5), enter(member(1, 12), None, 6));
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let left = MemoryStore::default();
        left.objects().insert(NAME.object(), Bytes::new());
        assert_eq!(claim_for_cluster(&left, member(1, 1), None, 1, RACE).await, Err(ClaimError::Unmarked));
        // A node's own store is no cluster's but its own.
        let alone = MemoryStore::default();
        claim(&alone, 7, false, RACE).await.expect("it is nobody's");
        let taken = claim_for_cluster(&alone, member(1, 1), None, 1, RACE).await;
        assert_eq!(taken, Err(ClaimError::Taken("0000000000000007".to_string())));
        let grown = Member { alone: 7, ..member(1, 1) };
        assert_eq!(claim_for_cluster(&alone, grown, None, 4, RACE).await, Ok(4));
        assert_eq!(claim_for_cluster(&alone, member(2, 2), None, 5, RACE).await, Ok(4));
    });
}
