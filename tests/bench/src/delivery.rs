//! Deliveries: one writer appends at a fixed rate, followers receive, and what counts is the time from an append's
//! first byte to a delivery's last. The rate is open as long as an append takes less than the time between two.

use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Connection, Request};

use crate::cli::Common;
use crate::counters::Spent;
use crate::followers::{Followers, Live};
use crate::histogram::Histogram;
use crate::marker;
use crate::report::{Figure, Round};
use crate::servers::Target;
use crate::streams;

/// Deliveries that are missing so long after the one before them do not come any more.
const MISSING_AFTER: Duration = Duration::from_secs(5);
/// From the last request to the first append, for requests that are not answered before there is something.
const SETTLE: Duration = Duration::from_millis(300);

/// What the writer does.
#[derive(clap::Args, Debug)]
pub(crate) struct WriterArgs {
    /// Appends per second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Bytes of one append.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
}

/// What followers saw.
struct Seen {
    /// What times in markers count from.
    origin: Instant,
    latencies: Histogram,
    last_at: Instant,
    /// Appends, known when the writer is done.
    appends: u64,
}

/// One round on one server.
///
/// # Errors
/// A sentence: the server refused a request, or a connection broke.
pub(crate) fn round(
    target: &Target,
    live: Live,
    count: usize,
    args: &WriterArgs,
    common: &Common,
) -> Result<Round, String> {
    let paths = streams::create(target, 1, "text/plain")?;
    let _stalled = Followers::open(target, Live::Stalled, &paths, target.stalled)?;
    let mut followers = Followers::open(target, live, &paths, count)?;
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled {
        followers.receive(SETTLE, |_| {})?;
    }
    let (seen, spent) = Spent::during(target.pid, common.perf, || {
        watch(&mut followers, count, |origin| write(target, &paths[0], args, common.seconds, origin))
    })?;
    let Seen { appends, latencies, .. } = &seen;
    let (deliveries, elapsed) = (latencies.total(), seen.last_at - seen.origin);
    let millis = |fraction| latencies.quantile(fraction) as f64 / 1e6;
    let mut figures = vec![
        Figure::new("appends/s", 1, *appends as f64 / common.seconds),
        Figure::new("deliveries/s", 0, deliveries as f64 / elapsed.as_secs_f64()).compared(),
        Figure::new("missing", 0, *appends as f64 * count as f64 - deliveries as f64),
        Figure::new("p50 ms", 2, millis(0.5)),
        Figure::new("p99 ms", 2, millis(0.99)).compared(),
        spent.cpu_us(deliveries),
        spent.cpu_ms_per_s(elapsed).compared(),
    ];
    figures.extend(spent.instructions(deliveries));
    figures.push(spent.resident());
    Ok(figures)
}

/// Receives while `write` goes on in a thread of its own, and until nothing is missing or nothing more comes.
fn watch(
    followers: &mut Followers,
    count: usize,
    write: impl FnOnce(Instant) -> Result<u64, String> + Send,
) -> Result<Seen, String> {
    let origin = Instant::now();
    let mut seen = Seen { origin, latencies: Histogram::new(), last_at: origin, appends: 0 };
    thread::scope(|scope| {
        let writer = scope.spawn(move || write(origin));
        while !writer.is_finished() {
            seen.receive(followers)?;
        }
        seen.appends = writer.join().map_err(|_| "the writer panicked")??;
        let wanted = seen.appends * count as u64;
        while seen.latencies.total() < wanted && seen.last_at.elapsed() < MISSING_AFTER {
            seen.receive(followers)?;
        }
        Ok(seen)
    })
}

/// Appends at the rate, each with its time in it, and says how often.
fn write(target: &Target, path: &str, args: &WriterArgs, seconds: f64, origin: Instant) -> Result<u64, String> {
    let mut connection = Connection::open(target.address).map_err(|e| e.to_string())?;
    let interval = Duration::from_secs_f64(1.0 / args.rate);
    let (until, mut due, mut appends) = (origin + Duration::from_secs_f64(seconds), origin, 0);
    while due < until && Instant::now() < until {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let append = Request::post(path).body("text/plain", marker::payload(origin, args.bytes));
        let response = connection.send(&append).map_err(|e| format!("an append failed: {e}"))?;
        if !matches!(response.status, 200..300) {
            return Err(format!("an append was refused: {response:?}"));
        }
        appends += 1;
        due += interval;
    }
    Ok(appends)
}

impl Seen {
    fn receive(&mut self, followers: &mut Followers) -> Result<(), String> {
        followers.receive(Duration::from_millis(50), |sent| {
            self.last_at = Instant::now();
            let now = (self.last_at - self.origin).as_nanos() as u64;
            self.latencies.record(now.saturating_sub(sent));
        })
    }
}
