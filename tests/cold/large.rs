//! A data set many times as large as the log and larger than the memory: written, killed, read whole and from anywhere.
//!
//! `WEIR_TEST_COLD_MIB` says how large, for a campaign; `WEIR_TEST_S3` names another S3 server, `http://host:port`, with a bucket
//! `weir` and the credentials of these tests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Client, Request, Server, Setup, metric};

use crate::moto::Moto;
use crate::setup_at;

const MIB: usize = 1 << 20;
/// A segment is so many bytes, many times.
const BLOCK_BYTES: usize = 4096;
/// What there is, if nobody says.
const DATA_MIB: usize = 480;
/// What the log may have is a twentieth of the data, but not less or more than this. A log that is too small for a few chunks in
/// the making cannot take what four clients send as fast as they can.
const BUDGETS: usize = 20;
const BUDGET_MIN: usize = 128 * MIB;
const BUDGET_MAX: usize = 512 * MIB;
/// What the server may have of memory.
const MEMORY_MAX: u64 = 256 << 20;
const STREAMS: usize = 4;
/// Records are of different lengths, up to this.
const RECORD_BYTES_MAX: usize = 128 << 10;
/// Reads at random offsets, of each stream.
const READS: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A stream: what is in it follows from its number and that of the record.
struct Stream {
    number: u64,
    /// The offset of each record, and behind the last.
    offsets: Vec<String>,
    bytes: usize,
}

impl Stream {
    fn target(&self) -> String {
        format!("/cold/large-{}", self.number)
    }

    fn create(number: u64, client: &mut Client) -> Stream {
        let mut stream = Stream { number, offsets: Vec::new(), bytes: 0 };
        let create = Request::put(&stream.target()).header("Content-Type", "application/octet-stream");
        stream.offsets.push(client.send(create).expect(201).next_offset().to_owned());
        stream
    }

    fn record(&self, number: usize) -> Vec<u8> {
        let mut random = Random((self.number + 1) * 1_000_003 + number as u64);
        let len = 1 + random.next() as usize % RECORD_BYTES_MAX;
        let mut record = Vec::with_capacity(len + 8);
        while record.len() < len {
            record.extend_from_slice(&random.next().to_le_bytes());
        }
        record.truncate(len);
        record
    }

    /// Appends the next record; says how often there was no room for it at first.
    fn append(&mut self, client: &mut Client) -> usize {
        let record = self.record(self.offsets.len() - 1);
        self.bytes += record.len();
        let mut refusals = 0;
        let appended = loop {
            let append = Request::post(&self.target()).body("application/octet-stream", record.clone());
            let answer = client.send(append);
            if answer.status != 507 {
                break answer.expect(204);
            }
            refusals += 1;
            thread::sleep(LOOK_EVERY);
        };
        self.offsets.push(appended.next_offset().to_owned());
        refusals
    }

    /// Reads a page from record `first` on, and returns behind which record it ends.
    fn read_page(&self, client: &mut Client, first: usize) -> usize {
        let page = client.send(Request::get(&format!("{}?offset={}", self.target(), self.offsets[first]))).expect(200);
        let mut rest = page.body.as_slice();
        let mut next = first;
        while !rest.is_empty() {
            let record = self.record(next);
            assert!(rest.starts_with(&record), "{}: record {next} is not what was appended", self.target());
            rest = &rest[record.len()..];
            next += 1;
        }
        assert_eq!(page.next_offset(), self.offsets[next], "{}: a page that begins at {first}", self.target());
        next
    }
}

/// Numbers that look random, xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// The most memory that the process has had.
fn memory_bytes_max(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it is running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Does something with every stream, all at a time, while the log is watched; returns how long that took.
fn with_all(
    server: &Server,
    streams: &mut [Stream],
    budget: usize,
    work: impl Fn(&mut Stream, &mut Client) + Sync,
) -> Duration {
    let is_done = AtomicBool::new(false);
    let begun = Instant::now();
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let used = metric(server, "weir_wal_used_bytes");
                assert!(used <= budget as f64, "the log has {used} bytes, and may have {budget}");
                thread::sleep(LOOK_EVERY);
            }
        });
        let works: Vec<_> =
            streams.iter_mut().map(|stream| scope.spawn(|| work(stream, &mut server.client()))).collect();
        let failed = works.into_iter().filter_map(|work| work.join().err()).next();
        is_done.store(true, Ordering::Relaxed);
        watch.join().expect("the log keeps its budget");
        if let Some(panic) = failed {
            std::panic::resume_unwind(panic);
        }
    });
    begun.elapsed()
}

fn write_kill_and_read(setup: Setup) {
    let mib = std::env::var("WEIR_TEST_COLD_MIB").map_or(DATA_MIB, |mib| mib.parse().expect("a number of MiB"));
    let data = mib * MIB;
    let budget = (data / BUDGETS).clamp(BUDGET_MIN, BUDGET_MAX);
    let mut setup = setup
        .env("WEIR_HTTP_BODY_BYTES_MAX", MIB)
        .env("WEIR_WAL_SEGMENT_BYTES", budget / 6 / BLOCK_BYTES * BLOCK_BYTES)
        .env("WEIR_WAL_BUDGET_BYTES", budget)
        .env("WEIR_WAL_CACHE_BYTES", 32 * MIB)
        .env("WEIR_COLD_CACHE_BYTES", 32 * MIB);
    let server = setup.start();
    let mut client = server.client();
    let mut streams: Vec<_> = (0..STREAMS as u64).map(|number| Stream::create(number, &mut client)).collect();
    let refusals = AtomicUsize::new(0);
    let written = with_all(&server, &mut streams, budget, |stream, client| {
        while stream.bytes < data / STREAMS {
            refusals.fetch_add(stream.append(client), Ordering::Relaxed);
        }
    });
    let refusals = refusals.into_inner();
    let memory_writing = memory_bytes_max(&server);
    server.kill();

    let begun = Instant::now();
    let server = setup.start();
    let ready = begun.elapsed();
    let read = with_all(&server, &mut streams, budget, |stream, client| {
        let mut next = 0;
        while next + 1 < stream.offsets.len() {
            next = stream.read_page(client, next);
        }
    });
    with_all(&server, &mut streams, budget, |stream, client| {
        let mut random = Random(stream.number + 1);
        for _ in 0..READS {
            let first = random.next() as usize % (stream.offsets.len() - 1);
            assert!(stream.read_page(client, first) > first);
        }
    });
    let memory_reading = memory_bytes_max(&server);
    println!(
        "{mib} MiB through a log of {} MiB: written in {written:.1?}, {refusals} times refused, ready in {ready:.1?} after the kill, read in {read:.1?}; \
         memory at most {} MiB and {} MiB",
        budget / MIB,
        memory_writing >> 20,
        memory_reading >> 20
    );
    // A small log on a machine with much else to do may be full for a moment, until a chunk is put.
    assert!(refusals == 0 || budget < BUDGET_MAX, "there was no room {refusals} times");
    assert!(memory_writing.max(memory_reading) <= MEMORY_MAX, "it had {memory_writing} and {memory_reading} bytes");
}

#[test]
fn more_than_the_log_and_the_memory_hold_goes_to_a_folder_and_comes_back() {
    write_kill_and_read(Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--shards", "1"]));
}

#[test]
fn more_than_the_log_and_the_memory_hold_goes_to_a_bucket_and_comes_back() {
    match std::env::var("WEIR_TEST_S3") {
        Ok(endpoint) => write_kill_and_read(setup_at(&endpoint)),
        Err(_) => {
            let moto = Moto::start();
            write_kill_and_read(setup_at(&moto.with_bucket()));
        }
    }
}
