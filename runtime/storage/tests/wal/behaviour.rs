//! Behaviour of a log on a disk that is slow, full, refuses, or is simply used.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{A, B, CONFIG, Log, Outcomes, frame, unit_writes};
use weir_storage::{
    BLOCK_BYTES, Claim, Disk, EntryBody, EntryId, FRAME_HEADER_BYTES, FaultyDisk, FullCause, MemoryDisk, RealDisk,
    Room, WalConfig, WriteMode,
};
use weir_types::GroupId;

fn faulty() -> (FaultyDisk, Log) {
    let disk = FaultyDisk::new(64 << 20, 3);
    let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("an empty disk");
    (disk, log)
}

#[test]
fn all_that_waits_is_one_durable_write() {
    let (disk, log) = faulty();
    log.append_durably(A, 1, b"first").expect("a good disk");
    let before = unit_writes(&disk).len();
    let outcomes = Outcomes::default();
    for _ in 0..4 {
        log.append(A, 1, b"a", outcomes.done());
        log.append(B, 1, b"b", outcomes.done());
    }
    log.wal.save_vote(B, b"vote", outcomes.done());
    assert_eq!(outcomes.all(), 0);
    log.until(|| outcomes.good() == 9);
    let history = unit_writes(&disk);
    assert_eq!(history.len(), before + 1);
    assert_eq!(history[before].bytes, 9 * BLOCK_BYTES as u64);
    let stats = log.wal.stats();
    assert_eq!((stats.units, stats.copies), (2, 0));
}

#[test]
fn entries_are_readable_before_they_are_durable_and_leave_memory_after() {
    let (_, log) = faulty();
    let outcomes = Outcomes::default();
    for i in 0..40u8 {
        log.append(A, 1, &[i; 3000], outcomes.done());
    }
    log.wal.applied(A, 39);
    assert!(matches!(log.wal.entry(A, 0).expect("there").body, EntryBody::Cached(..)), "not durable yet");
    log.until(|| outcomes.good() == 40);
    assert!(matches!(log.wal.entry(A, 0).expect("there").body, EntryBody::Stored(_)));
    assert!(matches!(log.wal.entry(A, 39).expect("there").body, EntryBody::Cached(..)));
    assert!(log.wal.stats().cache_bytes <= CONFIG.cache_bytes);
    for i in 0..40u8 {
        assert_eq!(log.body(A, u64::from(i)), Some(vec![i; 3000]));
    }
    let unapplied = log.append_durably(B, 1, &[1; 50_000]).expect("a good disk");
    assert!(matches!(log.wal.entry(B, unapplied.index).expect("there").body, EntryBody::Cached(..)));
}

#[test]
fn small_entries_stay_in_memory_without_the_rest_of_their_blocks() {
    let (_, log) = faulty();
    for i in 0..100u8 {
        let id = log.append_durably(A, 1, &[i; 300]).expect("a good disk");
        log.wal.applied(A, id.index);
    }
    assert!(log.wal.stats().cache_bytes <= CONFIG.cache_bytes);
    for i in 0..100u8 {
        assert!(matches!(log.wal.entry(A, i.into()).expect("there").body, EntryBody::Cached(..)), "{i}");
        assert_eq!(log.body(A, i.into()), Some(vec![i; 300]));
    }
}

#[test]
fn a_restart_goes_on_in_the_same_segment() {
    let (disk, log) = faulty();
    log.append_durably(A, 1, b"one").expect("a good disk");
    let mut disk = disk.crash();
    for restart in 0..5u64 {
        let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("no damage");
        assert_eq!(log.wal.last(A).map(|last| last.index), Some(restart));
        log.append_durably(A, 1, b"more").expect("a good disk");
        disk = disk.crash();
        assert_eq!(log_segments(&disk), 1);
    }
}

fn log_segments(disk: &FaultyDisk) -> usize {
    let has_header = |name: &String| disk.read(name).expect("a file").starts_with(b"WEIRSEG");
    disk.list().expect("a list").iter().filter(|name| has_header(name)).count()
}

/// Appends to `group` until there is no room, and says why.
fn fill(log: &Log, group: GroupId) -> FullCause {
    loop {
        match log.wal.room(10_000) {
            Room::Free => drop(log.append_durably(group, 1, &[1; 9000]).expect("a good disk")),
            Room::Preparing => log.run(log.wal.room_changed()),
            Room::Full(cause) => return cause,
        }
    }
}

#[test]
fn a_full_disk_refuses_entries_takes_votes_and_resumes_by_itself() {
    let (disk, log) = faulty();
    log.append_durably(A, 1, b"one").expect("a good disk");
    log.until(|| log.wal.stats().spares == 2);
    disk.set_full(true);
    assert_eq!(fill(&log, A), FullCause::Disk);
    let outcomes = Outcomes::default();
    for _ in 0..10 {
        log.wal.save_vote(A, b"a vote", outcomes.done());
    }
    log.until(|| outcomes.good() == 10);
    assert!(!log.wal.failed());
    disk.set_full(false);
    while log.wal.room(10_000) != Room::Free {
        log.run(log.wal.room_changed());
    }
    log.append_durably(A, 1, b"again").expect("a good disk");
}

#[test]
fn a_full_log_restarts_votes_and_is_emptied() {
    let disk = FaultyDisk::new(64 << 20, 3);
    let config = WalConfig { budget_bytes: 4 * CONFIG.segment_bytes, ..CONFIG };
    let log = Log::open(Arc::new(disk.clone()), config).expect("an empty disk");
    assert_eq!(fill(&log, A), FullCause::Budget);
    assert!(log.wal.is_pinned_behind(A, None) && !log.wal.is_pinned_behind(B, None));
    let stats = log.wal.stats();
    assert!(stats.file_bytes <= config.budget_bytes);
    let left_bytes = stats.used_bytes_max.checked_sub(stats.used_bytes).expect("not more than there may be");
    assert!(left_bytes < 10_000 + BLOCK_BYTES as u64, "what is left of the last segment: {left_bytes}");
    let last = log.wal.last(A).expect("entries");
    // The room is asked for, and not waited for: what comes anyway waits, and is helped out by the purge behind it.
    let outcomes = Outcomes::default();
    let disk = disk.crash();
    let log = Log::open(Arc::new(disk.clone()), config).expect("no damage");
    assert_eq!(log.wal.last(A), Some(last));
    for _ in 0..3 {
        log.append(A, 1, &[2; 9000], outcomes.done());
    }
    log.wal.purge(A, last, outcomes.done());
    log.until(|| outcomes.good() == 4);
    while log.wal.room(10_000) != Room::Free {
        log.run(log.wal.room_changed());
    }
    assert_eq!(log.wal.first_index(A), last.index + 1);
    let log = Log::open(Arc::new(disk.crash()), config).expect("no damage");
    assert_eq!(log.wal.last(A), Some(EntryId { index: last.index + 3, term: 1 }));
}

/// A log of three segments with the reserve and `blocks` blocks left, and its disk.
fn nearly_full(blocks: usize) -> (FaultyDisk, Log, WalConfig) {
    let disk = FaultyDisk::new(64 << 20, 3);
    let config = WalConfig { budget_bytes: 3 * CONFIG.segment_bytes, ..CONFIG };
    let log = Log::open(Arc::new(disk.clone()), config).expect("an empty disk");
    let payload = BLOCK_BYTES - FRAME_HEADER_BYTES;
    log.append_durably(A, 1, b"one").expect("a good disk");
    log.until(|| log.wal.stats().spares == 2);
    loop {
        match log.wal.room(BLOCK_BYTES) {
            // With a spare left beside the reserve, the last segment has not begun.
            Room::Free if log.wal.stats().spares > 1 || log.wal.room(blocks * BLOCK_BYTES + 1) == Room::Free => {
                log.append_durably(A, 1, &vec![1; payload]).expect("a good disk");
            }
            Room::Preparing => log.run(log.wal.room_changed()),
            room => {
                assert_eq!(room, Room::Free, "{blocks} blocks are left");
                return (disk, log, config);
            }
        }
    }
}

#[test]
fn a_place_is_promised_once() {
    let (_, log, _) = nearly_full(2);
    let first = log.wal.reserve(2 * BLOCK_BYTES, Claim::Spare).expect("two blocks are left");
    assert!(
        matches!(log.wal.reserve(1, Claim::Spare), Err(Room::Preparing)),
        "nothing is left, until the promise is kept or dropped"
    );
    drop(first);
    let (first, second) = (log.wal.reserve(1, Claim::Spare), log.wal.reserve(1, Claim::Spare));
    assert!(first.is_ok() && second.is_ok(), "a block each");
    assert!(
        matches!(log.wal.reserve(3 * BLOCK_BYTES, Claim::Spare), Err(Room::Full(FullCause::Budget))),
        "there are only two"
    );
    assert!(matches!(log.wal.reserve(1, Claim::Spare), Err(Room::Preparing)));
}

#[test]
fn who_waits_for_a_promise_hears_when_it_is_dropped() {
    let (_, log, _) = nearly_full(1);
    let ticket = log.wal.reserve(1, Claim::Spare).expect("a block is left");
    assert!(matches!(log.wal.reserve(1, Claim::Spare), Err(Room::Preparing)));
    log.run(async {
        let changed = log.wal.room_changed();
        tokio::pin!(changed);
        // Polled once, so that it is waiting when the ticket goes.
        assert!(poll_once(&mut changed).await.is_pending());
        drop(ticket);
        changed.await;
    });
    assert!(log.wal.reserve(1, Claim::Spare).is_ok());
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context))).await
}

#[test]
fn a_promised_frame_is_written_though_votes_have_taken_its_place() {
    let (disk, log, config) = nearly_full(1);
    let ticket = log.wal.reserve(100, Claim::Spare).expect("a block is left");
    let outcomes = Outcomes::default();
    log.wal.save_vote(A, b"a vote", outcomes.done());
    let next = EntryId { index: log.wal.last(A).expect("entries").index + 1, term: 1 };
    log.wal.append(A, next, 0, frame(b"promised"), Claim::Reserve, outcomes.done());
    log.until(|| outcomes.good() == 2);
    drop(ticket);
    assert_eq!(log.wal.room(1), Room::Full(FullCause::Budget), "no command takes the reserve");
    // The rest of the reserve is there for what may take it.
    for _ in 0..5 {
        log.wal.save_vote(A, b"another", outcomes.done());
    }
    log.until(|| outcomes.good() == 7);
    let log = Log::open(Arc::new(disk.crash()), config).expect("no damage");
    assert_eq!(log.wal.last(A), Some(next));
}

#[test]
fn what_waits_for_space_is_told_from_what_waits_for_the_disk() {
    let (_, log, _) = nearly_full(1);
    let outcomes = Outcomes::default();
    assert_eq!(log.wal.blocked(), None, "nothing waits");
    log.append(A, 1, &[1; 9000], outcomes.done());
    log.run(tokio::task::yield_now());
    assert_eq!((log.wal.blocked(), outcomes.all()), (Some(FullCause::Budget), 0));
    log.wal.save_vote(A, b"urgent", outcomes.done());
    log.until(|| outcomes.good() == 2);
    assert_eq!(log.wal.blocked(), None);
}

#[test]
fn a_segment_begins_without_a_change_of_names() {
    let (disk, log) = faulty();
    log.append_durably(A, 1, b"one").expect("a good disk");
    log.until(|| log.wal.stats().spares == 2);
    let names = disk.list().expect("a list");
    let before = log.wal.stats().segments;
    // From here on the filling thread can make nothing, and names do not change.
    disk.set_full(true);
    while log.wal.stats().segments == before {
        log.append_durably(A, 1, &[2; 9000]).expect("a good disk");
    }
    assert_eq!(disk.list().expect("a list"), names);
}

#[test]
fn what_a_killed_process_has_written_is_synced_before_it_is_believed() {
    for seed in 0..20 {
        let disk = FaultyDisk::new(64 << 20, seed);
        let config = WalConfig { write: WriteMode::Thread, ..CONFIG };
        let log = Log::open(Arc::new(disk.clone()), config).expect("an empty disk");
        log.append_durably(A, 1, b"one").expect("a good disk");
        log.until(|| log.wal.stats().spares == 2);
        disk.set_write_delay(Duration::from_millis(20));
        let writes = disk.history().len();
        let outcomes = Outcomes::default();
        log.append(A, 1, &[2; 9000], outcomes.done());
        log.until(|| disk.history().len() > writes);
        let killed = disk.kill();
        drop(log);
        let log = Log::open(Arc::new(killed.clone()), config).expect("no damage");
        let found = log.wal.last(A);
        let after = killed.crash();
        drop(log);
        let log = Log::open(Arc::new(after), config).expect("no damage");
        assert_eq!(log.wal.last(A), found, "what was found once stays");
    }
}

#[test]
fn what_a_failed_sync_has_left_is_written_again_before_it_is_believed() {
    for seed in 0..20 {
        let disk = FaultyDisk::new(64 << 20, seed);
        let log = Log::open(Arc::new(disk.clone()), CONFIG).expect("an empty disk");
        log.append_durably(A, 1, b"one").expect("a good disk");
        log.until(|| log.wal.stats().spares == 2);
        disk.fail_sync_at(disk.operations() + 1);
        let outcomes = Outcomes::default();
        log.append(A, 1, &[2; 9000], outcomes.done());
        log.until(|| outcomes.all() == 1);
        assert_eq!((outcomes.good(), log.wal.failed()), (0, true));
        // The next process reads it out of the page cache, and another sync would say that all is well.
        let next = disk.kill();
        drop(log);
        let log = Log::open(Arc::new(next.clone()), CONFIG).expect("no damage");
        assert_eq!(log.wal.last(A).map(|last| last.index), Some(1));
        let after = next.crash();
        drop(log);
        let log = Log::open(Arc::new(after), CONFIG).expect("no damage");
        assert_eq!(log.wal.last(A).map(|last| last.index), Some(1), "what was found once stays");
    }
}

#[test]
fn a_failed_write_ends_the_log() {
    let (disk, log) = faulty();
    log.append_durably(A, 1, b"one").expect("a good disk");
    log.until(|| log.wal.stats().spares == 2);
    disk.refuse_write_at(disk.operations() + 1);
    let outcomes = Outcomes::default();
    log.append(A, 1, b"two", outcomes.done());
    log.append(B, 1, b"three", outcomes.done());
    log.until(|| outcomes.all() == 2);
    assert_eq!((outcomes.good(), log.wal.failed()), (0, true));
    log.wal.save_vote(A, b"vote", outcomes.done());
    assert_eq!(outcomes.bad(), 3, "answered at once");
    assert_eq!(log.wal.room(100), Room::Free, "nobody waits for a log that has ended");
    let writes = disk.history().len();
    log.run(tokio::task::yield_now());
    assert_eq!(disk.history().len(), writes, "nothing is tried again");
    let log = Log::open(Arc::new(disk.crash()), CONFIG).expect("no damage");
    assert_eq!(log.wal.last(A).map(|last| last.index), Some(0));
}

#[test]
fn recycled_segments_do_not_bring_back_what_they_held() {
    let (mut disk, log) = faulty();
    drop(log);
    for round in 0..12u64 {
        let open = Log::open(Arc::new(disk.clone()), CONFIG).expect("no damage");
        for i in 0..20u8 {
            open.append_durably(A, round + 1, &[i; 4000]).expect("a good disk");
        }
        let last = open.wal.last(A).expect("entries");
        let outcomes = Outcomes::default();
        open.wal.purge(A, EntryId { index: last.index - 1, ..last }, outcomes.done());
        // One frame in a recycled segment, in front of what it held before.
        let own = open.append(B, 1, &[round as u8; 100], outcomes.done());
        if let Some(before) = own.index.checked_sub(1) {
            open.wal.purge(B, EntryId { index: before, term: 1 }, outcomes.done());
        }
        open.until(|| outcomes.good() == 2 + own.index.min(1) as usize);
        disk = disk.crash();
        let again = Log::open(Arc::new(disk.clone()), CONFIG).expect("no damage");
        assert_eq!((again.wal.first_index(A), again.wal.last(A)), (last.index, Some(last)));
        assert_eq!(again.body(B, round), Some(vec![round as u8; 100]));
    }
    let files = disk.list().expect("a list").len();
    assert!(files <= 16, "{files} files");
}

#[test]
fn a_held_place_keeps_its_segment() {
    let disk = FaultyDisk::new(64 << 20, 3);
    let config = WalConfig { cache_bytes: 0, ..CONFIG };
    let log = Log::open(Arc::new(disk.clone()), config).expect("an empty disk");
    let held = log.append_durably(A, 1, &[5; 1000]).expect("a good disk");
    log.wal.applied(A, held.index);
    let EntryBody::Stored(place) = log.wal.entry(A, held.index).expect("there").body else { panic!("not in memory") };
    let purge_all = || {
        for _ in 0..20 {
            log.append_durably(A, 1, &[6; 4000]).expect("a good disk");
        }
        let outcomes = Outcomes::default();
        log.wal.purge(A, log.wal.last(A).expect("entries"), outcomes.done());
        log.until(|| outcomes.good() == 1);
    };
    purge_all();
    purge_all();
    let reader = log.wal.reader();
    let read = std::thread::spawn(move || {
        let body = reader.read(&place, 0..1000).expect("a good disk");
        assert!(reader.read_frame(&place).is_ok());
        body
    });
    assert_eq!(read.join().expect("a reader"), vec![5; 1000]);
    let segments = log.wal.stats().segments;
    purge_all();
    assert!(log.wal.stats().segments < segments, "let go, it is recycled with those behind it");
}

#[test]
fn a_slow_disk_gets_a_thread() {
    let disk = FaultyDisk::new(64 << 20, 3);
    let log = Log::open(Arc::new(disk.clone()), WalConfig { write: WriteMode::Auto, ..CONFIG }).expect("an empty disk");
    disk.set_write_delay(Duration::from_millis(2));
    for i in 0..6u8 {
        log.append_durably(A, 1, &[i; 100]).expect("a good disk");
    }
    assert!(log.wal.stats().threaded);
    // What comes while a write is under way is written together.
    let outcomes = Outcomes::default();
    log.append(A, 1, b"x", outcomes.done());
    log.run(tokio::task::yield_now());
    let before = log.wal.stats().units;
    for _ in 0..10 {
        log.append(A, 1, b"y", outcomes.done());
    }
    log.until(|| outcomes.good() == 11);
    assert!(log.wal.stats().units - before <= 3);
}

#[test]
fn shared_buffers_are_copied_and_counted() {
    let (_, log) = faulty();
    let outcomes = Outcomes::default();
    let shared = frame(b"shared");
    log.wal.append(A, EntryId { index: 0, term: 1 }, 6, shared.clone(), Claim::Spare, outcomes.done());
    log.until(|| outcomes.good() == 1);
    assert_eq!(log.wal.stats().copies, 1);
    assert_eq!(log.body(A, 0), Some(b"shared".to_vec()));
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    let open = |config| Log::open(Arc::new(MemoryDisk::new(1 << 20)), config).map(|_| ()).map_err(|e| e.to_string());
    assert!(open(WalConfig { segment_bytes: 100_000, ..CONFIG }).is_err_and(|e| e.contains("multiple of 4096")));
    assert!(open(WalConfig { budget_bytes: 1, ..CONFIG }).is_err_and(|e| e.contains("budget")));
    let (_, log) = faulty();
    assert_eq!(log.wal.room(1 << 20), Room::Full(FullCause::Budget), "no segment holds such a frame");
}

#[test]
fn a_log_on_a_real_disk_survives_reopening() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || {
        let dir = cap_std::fs::Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).expect("a folder");
        Log::open(Arc::new(RealDisk::new(dir).expect("is read")), CONFIG).expect("a log")
    };
    let log = open();
    for i in 0..60u64 {
        log.append_durably(A, 1, &vec![i as u8; 5000]).expect("a good disk");
    }
    let outcomes = Outcomes::default();
    // More frames than one system call takes parts.
    for _ in 0..1500 {
        log.append(B, 1, b"small", outcomes.done());
    }
    log.wal.purge(A, EntryId { index: 30, term: 1 }, outcomes.done());
    log.until(|| outcomes.good() == 1501);
    assert!(log.wal.stats().copies == 0 && log.wal.stats().segments > 3);
    log.stop();
    let log = open();
    assert_eq!((log.wal.first_index(A), log.wal.last(A).map(|last| last.index)), (31, Some(59)));
    assert!((31..60).all(|i| log.body(A, i) == Some(vec![i as u8; 5000])));
    assert!((0..1500).all(|i| log.body(B, i) == Some(b"small".to_vec())));
}
