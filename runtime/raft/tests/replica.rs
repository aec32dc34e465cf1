//! A replica as the shard holds it: what it writes and reads when it begins, and what it says when it cannot.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Builder, LocalOptions};
use weir_raft::{Observer, ProposeError, Replica, ReplicaOptions, StartError, State};
use weir_storage::{
    Arena, BLOCK_BYTES, Claim, FRAME_HEADER_BYTES, FaultyDisk, Room, Wal, WalConfig, WalError, WriteMode,
};
use weir_stream::{BatchBuilder, Command, Group, Limits, Outcome};
use weir_types::GroupId;

use crate::support::push_append;

const SEGMENT_BYTES: u64 = 64 << 10;
const CONFIG: WalConfig = WalConfig {
    segment_bytes: SEGMENT_BYTES,
    budget_bytes: 3 * SEGMENT_BYTES,
    cache_bytes: 0,
    write: WriteMode::Inline,
};
const NODE_ID: u64 = 7;
const STALL_MAX: Duration = Duration::from_secs(30);

struct Nobody;

impl Observer for Nobody {
    fn restored(&mut self, _group: &Group) {}

    fn applied(&mut self, _index: u64, _batch: &Bytes, _outcomes: &[Outcome]) {}
}

/// A disk with an empty log.
fn formed() -> FaultyDisk {
    let disk = FaultyDisk::new(16 << 20, 1);
    Wal::form(&disk, 1).expect("an empty disk");
    disk
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(test)
}

fn open(disk: &FaultyDisk) -> Result<Wal, WalError> {
    let salt = std::cell::Cell::new(disk.operations() << 8);
    let wal = Wal::open(Arc::new(disk.clone()), CONFIG, Box::new(move || salt.replace(salt.get() + 1)))?;
    tokio::task::spawn_local(wal.clone().run());
    Ok(wal)
}

async fn start(wal: &Wal, node_id: u64) -> Result<(Replica, State), StartError> {
    let state = State::new(Group::new());
    let options = ReplicaOptions::alone(node_id, GroupId::META);
    let replica = Replica::start(options, wal.clone(), state.clone(), Box::new(Nobody)).await?;
    replica.serving(STALL_MAX).await?;
    Ok((replica, state))
}

/// A batch of one command.
fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(Arena::new(1000).into_buf());
    builder.push(&Command::MetaForm { groups: 3 });
    Arena::seal(builder.finish(1, Limits { producers_max: 1 }))
}

/// Proposes batches, each a block of the disk, until there is no room; returns how many.
async fn fill(wal: &Wal, replica: &Replica) -> u64 {
    let mut batches = 0;
    loop {
        match wal.reserve(BLOCK_BYTES, Claim::Spare) {
            Ok(ticket) => {
                replica.propose(batch(), ticket).await.expect("it leads");
                batches += 1;
            }
            Err(Room::Full(_)) => return batches,
            Err(_) => wal.room_changed().await,
        }
    }
}

#[test]
fn a_full_log_begins_any_number_of_times_and_writes_nothing_for_it() {
    let mut disk = formed();
    let batches = run(async {
        let wal = open(&disk).expect("a log");
        let (replica, _) = start(&wal, NODE_ID).await.expect("it serves");
        fill(&wal, &replica).await
    });
    assert!(batches > 20, "{batches} batches");
    for restart in 0..50 {
        disk = disk.crash();
        run(async {
            let wal = open(&disk).expect("no damage");
            let (replica, state) = start(&wal, NODE_ID).await.expect("it serves");
            assert_eq!(state.borrow().meta().groups(), Some(3), "what was acknowledged is applied");
            assert_eq!((wal.stats().frames, fill(&wal, &replica).await), (0, 0), "restart {restart}");
        });
    }
}

#[test]
fn a_restart_reads_each_entry_once() {
    let disk = formed();
    let batches = run(async {
        let wal = open(&disk).expect("a log");
        let (replica, _) = start(&wal, NODE_ID).await.expect("it serves");
        fill(&wal, &replica).await
    });
    let disk = disk.crash();
    run(async {
        let wal = open(&disk).expect("no damage");
        let checked = disk.reads();
        start(&wal, NODE_ID).await.expect("it serves");
        // The batches, and what the group's first leader has written, of which the membership is looked at twice.
        let reads = disk.reads().count - checked.count;
        assert!((batches..batches + 5).contains(&reads), "{reads} reads of {batches} batches");
        assert!(disk.reads().longest_bytes <= 1 << 20, "{} bytes at once", disk.reads().longest_bytes);
    });
}

/// Takes its time over every batch.
struct Slow(Duration);

impl Observer for Slow {
    fn restored(&mut self, _group: &Group) {}

    fn applied(&mut self, _index: u64, _batch: &Bytes, _outcomes: &[Outcome]) {
        std::thread::sleep(self.0);
    }
}

#[test]
fn a_log_may_take_longer_to_apply_than_one_entry_may() {
    // So large that it is read back in several parts.
    const BATCHES: u64 = 24;
    let config = WalConfig { segment_bytes: 4 << 20, budget_bytes: 40 << 20, ..CONFIG };
    let disk = FaultyDisk::new(64 << 20, 1);
    Wal::form(&disk, 1).expect("an empty disk");
    let large = || {
        let mut builder = BatchBuilder::new(Arena::new(900 << 10).into_buf());
        let body = vec![b'x'; 800 << 10];
        push_append(&mut builder, "s", 0, &body);
        Arena::seal(builder.finish(1, Limits { producers_max: 1 }))
    };
    let open = |disk: &FaultyDisk| {
        let salt = std::cell::Cell::new(disk.operations() << 8);
        let wal = Wal::open(Arc::new(disk.clone()), config, Box::new(move || salt.replace(salt.get() + 1)));
        let wal = wal.expect("no damage");
        tokio::task::spawn_local(wal.clone().run());
        wal
    };
    run(async {
        let wal = open(&disk);
        let (replica, _) = start(&wal, NODE_ID).await.expect("it serves");
        for _ in 0..BATCHES {
            let frame = large();
            let ticket = loop {
                match wal.reserve(frame.len(), Claim::Spare) {
                    Ok(ticket) => break ticket,
                    Err(_) => wal.room_changed().await,
                }
            };
            replica.propose(frame, ticket).await.expect("it leads");
        }
    });
    run(async {
        let wal = open(&disk.crash());
        let options = ReplicaOptions::alone(NODE_ID, GroupId::META);
        let (state, slow) = (State::new(Group::new()), Box::new(Slow(Duration::from_millis(100))));
        let replica = Replica::start(options, wal.clone(), state, slow).await.expect("it starts");
        let begun = Instant::now();
        replica.serving(Duration::from_secs(1)).await.expect("it goes on");
        assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_new_group_without_space_says_so() {
    let disk = formed();
    disk.set_full(true);
    let error = run(async {
        let wal = open(&disk).expect("an empty log needs no space");
        start(&wal, NODE_ID).await.map(drop).expect_err("there is no space to begin in")
    });
    assert!(error.to_string().contains("no room") && error.to_string().contains("the disk has no space"), "{error}");
}

#[test]
fn another_nodes_log_is_refused() {
    let disk = formed();
    run(async {
        let wal = open(&disk).expect("a log");
        start(&wal, NODE_ID).await.expect("it serves");
    });
    let error = run(async {
        let wal = open(&disk.crash()).expect("no damage");
        start(&wal, NODE_ID + 1).await.map(drop).expect_err("it is no voter")
    });
    assert!(error.to_string().contains("another node's"), "{error}");
}

#[test]
fn a_stopped_replica_takes_nothing_and_says_so() {
    run(async {
        let disk = formed();
        let wal = open(&disk).expect("a log");
        let (replica, _) = start(&wal, NODE_ID).await.expect("it serves");
        let propose = |frame: Bytes| {
            let ticket = wal.reserve(frame.len(), Claim::Spare).map_err(drop).expect("there is room");
            replica.propose(frame, ticket)
        };
        assert!(propose(batch()).await.is_ok() && !replica.is_stopped());
        let mut garbage = Arena::new(100).into_buf();
        garbage.resize(FRAME_HEADER_BYTES + 100, 0xee);
        // It is committed before apply finds that it is no batch.
        assert_eq!(propose(Arena::seal(garbage)).await.map(drop), Err(ProposeError::Unknown));
        assert!(replica.is_stopped());
        let before = wal.stats().frames;
        assert_eq!(propose(batch()).await.map(drop), Err(ProposeError::Stopped));
        assert_eq!(wal.stats().frames, before, "nothing was written");
    });
}
