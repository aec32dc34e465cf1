//! Every fault of a store, while somebody writes and somebody reads: nothing is lost, and nothing wrong is served.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Fault, S3, Server, metric, wait_until};

use crate::ledger::{Ledger, Read};
use crate::{HEALS_WITHIN, append, assert_whole, history, setup, wait_cold};

/// How long a fault lasts. The variable `WEIR_TEST_FAULT_SECONDS` says otherwise, and `WEIR_TEST_FAULT` names the only one to meet.
const FAULT_SECONDS: u64 = 4;
/// Faults at a time.
const WORKERS: usize = 3;
const STREAMS: usize = 3;
const RECORD_BYTES: usize = 4096;
/// Records of each stream that are in the cold tier before: together several times what the cache keeps.
const HISTORY_RECORDS: usize = 400;
/// An append waits for the log and never for the store, however ill that is.
const APPEND_WITHIN: Duration = Duration::from_secs(2);
/// An append may wait for so many syncs, where the machine's disk is what is slow.
const APPEND_SYNCS: u32 = 3;
/// Between two appends, or the streams grow longer than a test can read again and again.
const APPEND_EVERY: Duration = Duration::from_millis(5);
const SYNC_EVERY: Duration = Duration::from_millis(20);

const FAULTS: [(&str, Fault); 13] = [
    ("latency", Fault::Latency(Duration::from_millis(700))),
    ("internal-error", Fault::Status(500, "InternalError")),
    ("slow-down", Fault::Status(503, "SlowDown")),
    ("conflict", Fault::Status(409, "ConditionalRequestConflict")),
    ("too-many-requests", Fault::Status(429, "TooManyRequests")),
    ("expired-credentials", Fault::Status(403, "ExpiredToken")),
    ("lost-reply", Fault::LostReply),
    ("truncated-body", Fault::Truncated),
    ("wrong-bytes", Fault::WrongBytes),
    ("missing-chunk", Fault::Missing),
    ("trickle", Fault::Trickle),
    ("reset", Fault::Reset),
    ("outage", Fault::Away),
];

/// What was counted during one fault.
#[derive(Debug, Default)]
struct Tally {
    faults: u64,
    stored: usize,
    refused: usize,
    append_max: Duration,
    sync_max: Duration,
    read_whole: usize,
    read_damaged: usize,
    read_unavailable: usize,
    healed_within: Duration,
}

#[test]
fn every_fault_of_a_store_loses_nothing_and_serves_nothing_wrong() {
    let only = std::env::var("WEIR_TEST_FAULT").ok();
    let faults: Vec<_> =
        FAULTS.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)).collect();
    assert!(!faults.is_empty(), "WEIR_TEST_FAULT names one of them");
    let next = AtomicUsize::new(0);
    let tallies: Mutex<Vec<(&str, Tally)>> = Mutex::default();
    let work = || {
        while let Some(&(name, fault)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tally = meet(name, fault);
            tallies.lock().expect("nobody panics with it").push((name, tally));
        }
    };
    let ends: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let tallies = tallies.into_inner().expect("nobody panics with it");
    eprintln!(
        "{:20}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "fault", "met", "appended", "refused", "slowest", "sync", "read", "damaged", "unavail.", "healed"
    );
    for (name, tally) in &tallies {
        eprintln!(
            "{name:20}{:>9}{:>9}{:>9}{:>6} ms{:>6} ms{:>9}{:>9}{:>9}{:>7.1} s",
            tally.faults,
            tally.stored,
            tally.refused,
            tally.append_max.as_millis(),
            tally.sync_max.as_millis(),
            tally.read_whole,
            tally.read_damaged,
            tally.read_unavailable,
            tally.healed_within.as_secs_f32()
        );
    }
    assert!(ends.iter().all(Result::is_ok), "a fault was not met as it should be");
    for (name, tally) in &tallies {
        let within = APPEND_WITHIN + APPEND_SYNCS * tally.sync_max;
        assert!(tally.append_max < within, "{name}: an append took {:?}", tally.append_max);
        assert!(tally.stored > 0, "{name}: no append was acknowledged");
        // Only what is wrong in a chunk is said to be damaged.
        let is_wrong = matches!(name, &"wrong-bytes" | &"missing-chunk");
        assert!(is_wrong || tally.read_damaged == 0, "{name}: a whole chunk is said to be damaged");
    }
}

/// Lets a server with some history meet `fault`, makes the store whole again, and kills the server.
fn meet(name: &str, fault: Fault) -> Tally {
    let s3 = S3::start();
    let mut setup = setup(&s3);
    let server = setup.start();
    let ledgers = history(&server, name, STREAMS, HISTORY_RECORDS, RECORD_BYTES);

    let ledgers: Vec<_> = ledgers.into_iter().map(Mutex::new).collect();
    let mut tally = endure(&server, &s3, fault, &ledgers, &setup.home().join("sync"));
    tally.faults = s3.counts().faults;

    let mut ledgers: Vec<_> = ledgers.into_iter().map(|ledger| ledger.into_inner().expect("it is whole")).collect();
    let healing = Instant::now();
    let flushes = metric(&server, "weir_cold_flushes_total");
    for ledger in &mut ledgers {
        append(&server, ledger, 1);
    }
    let mut client = server.client();
    for ledger in &ledgers {
        wait_until(&format!("{} is read", ledger.target()), HEALS_WITHIN.saturating_sub(healing.elapsed()), || {
            let read = Read::whole(&mut client, ledger.target());
            ledger.check(&read, ledger.len());
            read.refusal.is_none()
        });
    }
    wait_until(&format!("a flush after {name}"), HEALS_WITHIN.saturating_sub(healing.elapsed()), || {
        metric(&server, "weir_cold_flushes_total") > flushes
    });
    tally.healed_within = healing.elapsed();
    server.kill();

    let server = setup.start();
    wait_cold(&server, &ledgers);
    for ledger in &ledgers {
        assert_whole(&server, ledger);
    }
    tally
}

/// Writes and reads while the store is ill: half of the time each request meets the fault, and then one of three.
fn endure(server: &Server, s3: &S3, fault: Fault, ledgers: &[Mutex<Ledger>], file: &Path) -> Tally {
    let seconds = std::env::var("WEIR_TEST_FAULT_SECONDS").ok();
    let seconds = seconds.map_or(FAULT_SECONDS, |seconds| seconds.parse().expect("a number of seconds"));
    let lasts = Duration::from_secs(seconds);
    let is_over = AtomicBool::new(false);
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(server, ledgers, &is_over));
        let reader = scope.spawn(|| read(server, ledgers, &is_over));
        let syncer = scope.spawn(|| sync(file, &is_over));
        s3.fail(fault);
        thread::sleep(lasts / 2);
        s3.fail_every(3, fault);
        thread::sleep(lasts / 2);
        s3.heal();
        is_over.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer has met nothing unexpected");
        let read = reader.join().expect("the reader has met nothing unexpected");
        let sync_max = syncer.join().expect("the disk can be written");
        let Tally { stored, refused, append_max, .. } = written;
        tally = Tally { stored, refused, append_max, sync_max, ..read };
    });
    tally
}

/// Appends to one stream after the other.
fn write(server: &Server, ledgers: &[Mutex<Ledger>], is_over: &AtomicBool) -> Tally {
    let mut client = server.client();
    let mut tally = Tally::default();
    for ledger in ledgers.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let (number, request) = {
            let mut ledger = locked(ledger);
            let number = ledger.begin();
            (number, ledger.append(number))
        };
        let sent = Instant::now();
        let answer = client.send(request);
        tally.append_max = tally.append_max.max(sent.elapsed());
        match locked(ledger).end(number, &answer) {
            true => tally.stored += 1,
            false => tally.refused += 1,
        }
        thread::sleep(APPEND_EVERY);
    }
    tally
}

/// Reads one stream after the other from its beginning.
fn read(server: &Server, ledgers: &[Mutex<Ledger>], is_over: &AtomicBool) -> Tally {
    let mut client = server.client();
    let mut tally = Tally::default();
    for ledger in ledgers.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let (target, count) = {
            let ledger = locked(ledger);
            // The last one may be on its way.
            (ledger.target().to_owned(), ledger.len() - 1)
        };
        let read = Read::whole(&mut client, &target);
        locked(ledger).check(&read, count);
        match read.refusal.as_deref() {
            None => tally.read_whole += 1,
            Some("cold_damaged") => tally.read_damaged += 1,
            Some(_) => tally.read_unavailable += 1,
        }
    }
    tally
}

/// Writes to `file` now and then; the longest that took.
fn sync(file: &Path, is_over: &AtomicBool) -> Duration {
    let mut file = File::create(file).expect("a file of this test");
    let mut sync_max = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        file.write_all(&[1; RECORD_BYTES]).and_then(|()| file.sync_all()).expect("the disk has room");
        sync_max = sync_max.max(begun.elapsed());
        thread::sleep(SYNC_EVERY);
    }
    sync_max
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("nobody panics with it")
}
