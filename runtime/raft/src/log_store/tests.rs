//! What reading a log costs: openraft looks at all of it when it starts.

use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use weir_storage::{Arena, EntryId, FRAME_HEADER_BYTES, FaultyDisk, WalConfig, WriteMode};

use super::*;

const GROUP: GroupId = GroupId(0);
const BODY_BYTES: usize = 1 << 20;
/// Batches in the log, behind a membership.
const BATCHES: u64 = 12;
const CONFIG: WalConfig =
    WalConfig { segment_bytes: 8 << 20, budget_bytes: 64 << 20, cache_bytes: 0, write: WriteMode::Inline };

fn runtime() -> LocalRuntime {
    Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).expect("a runtime")
}

fn open(disk: &FaultyDisk) -> LogStore {
    let salt = std::cell::Cell::new(disk.operations());
    let salts = move || salt.replace(salt.get() + 1);
    let wal = Wal::open(Arc::new(disk.clone()), CONFIG, Box::new(salts)).expect("a log");
    LogStore::new(GROUP, SendWrapper::new(wal))
}

/// A disk with a membership and large batches, each in a term of its own but the first.
fn written() -> FaultyDisk {
    let disk = FaultyDisk::new(128 << 20, 1);
    Wal::form(&disk, 1).expect("an empty disk");
    let log = open(&disk);
    runtime().block_on(async {
        tokio::task::spawn_local(log.wal.clone().take().run());
        let voters = vec![std::collections::BTreeSet::from([1])];
        let nodes = std::collections::BTreeMap::from([(1, openraft::EmptyNode {})]);
        let membership = openraft::Membership::new(voters, nodes).expect("a membership");
        let (kind, frame, claim) = encode_frame(EntryPayload::Membership(membership));
        let (done, _) = durable();
        log.wal.append(GROUP, EntryId { index: 0, term: 0 }, kind, frame, claim, done);
        for index in 1..=BATCHES {
            let mut buf = Arena::new(BODY_BYTES).into_buf();
            buf.resize(FRAME_HEADER_BYTES + BODY_BYTES, index as u8);
            let (done, written) = durable();
            let id = EntryId { index, term: index.max(2) };
            log.wal.append(GROUP, id, KIND_BATCH, Arena::seal(buf), Claim::Spare, done);
            written.await.expect("a good disk");
        }
    });
    disk.crash()
}

#[test]
fn looking_for_ids_and_memberships_reads_no_batch() {
    let disk = written();
    let mut log = open(&disk);
    let before = disk.reads();
    runtime().block_on(async {
        let entries = log.try_get_log_entries(..).await.expect("all of them");
        assert_eq!(entries.len() as u64, BATCHES + 1);
        assert!(matches!(entries[0].payload, EntryPayload::Membership(_)));
        assert!(entries[1..].iter().all(|entry| matches!(entry.payload, EntryPayload::Normal(Batch::Stored(_)))));
        let ids = log.get_key_log_ids(entries[0].log_id()..=entries[BATCHES as usize].log_id()).await;
        let indices: Vec<u64> = ids.expect("from memory").iter().map(|id| id.index).collect();
        let expected: Vec<u64> = [0].into_iter().chain(2..=BATCHES).collect();
        assert_eq!(indices, expected, "the last of each term");
    });
    let after = disk.reads();
    assert_eq!(after.count - before.count, 1, "the membership");
    assert!(after.bytes - before.bytes < 4096);
}

#[test]
fn entries_whose_first_was_purged_are_not_sent_without_it() {
    let mut log = open(&written());
    runtime().block_on(async {
        tokio::task::spawn_local(log.wal.clone().take().run());
        log.purge(log_id(EntryId { index: 4, term: 4 })).await.expect("a good disk");
        for start in [0, 3, 4] {
            let entries = log.limited_get_log_entries(start, 8).await.expect("this is no damage");
            assert!(entries.is_empty(), "from {start}");
        }
        let entries = log.limited_get_log_entries(5, 8).await.expect("a good disk");
        assert_eq!(entries[0].log_id(), log_id(EntryId { index: 5, term: 5 }));
    });
}

#[test]
fn a_log_is_read_once_and_a_few_megabytes_at_a_time() {
    let disk = written();
    let mut log = open(&disk);
    let before = disk.reads();
    runtime().block_on(async {
        let entries = log.entries_stream(..).await;
        tokio::pin!(entries);
        let mut taken = 0;
        while let Some(entry) = entries.next().await {
            taken += entry.expect("a good disk").log_id().index;
            let held = disk.reads().bytes - before.bytes - (taken_bytes(taken));
            assert!(held <= (READ_BYTES_MAX + BODY_BYTES + 4096) as u64, "{held} bytes are read ahead");
        }
        assert_eq!(taken, (0..=BATCHES).sum::<u64>());
    });
    assert_eq!(disk.reads().count - before.count, BATCHES + 1);
}

/// Bytes of the batches whose indices add up to `sum`.
fn taken_bytes(sum: u64) -> u64 {
    let batches = (0..=BATCHES).take_while(|&last| (0..=last).sum::<u64>() <= sum).last().unwrap_or(0);
    batches * BODY_BYTES as u64
}
