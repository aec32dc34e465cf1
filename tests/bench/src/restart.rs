//! Restarts: a server with much on its disk is killed, and what is timed is how long it takes to serve a stream again.

use std::time::Duration;

use weir_testkit::Request;

use crate::cli::Common;
use crate::counters::Spent;
use crate::load::Wire;
use crate::report::{Figure, Report, Round, compare};
use crate::servers::Target;
use crate::streams;

/// How often the server is asked whether it is ready; the figures are no finer than this.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Bytes of the one small append that every stream gets.
const SMALL_BYTES: usize = 256;
/// Bytes of the appends that make up the rest.
const LARGE_BYTES: usize = 256 << 10;

/// Arguments of `restart`.
#[derive(clap::Args, Debug)]
pub(crate) struct RestartArgs {
    /// Streams on the server.
    #[arg(long, default_value_t = 100_000)]
    streams: usize,
    /// Bytes in all of them together.
    #[arg(long, default_value_t = 1 << 30)]
    bytes: usize,
}

/// Kills and starts every server in turn.
///
/// # Errors
/// A sentence when a server does not start.
pub(crate) fn restart(args: &RestartArgs, common: &Common, title: String) -> Result<Report, String> {
    let mut targets = Target::start_all(common)?;
    let paths: Vec<Result<String, String>> = targets.iter().map(|target| fill(target, args)).collect();
    Ok(compare(common, title, |i| round(&mut targets[i], paths[i].as_ref()?)))
}

/// Fills the server and gives the path of a stream that is small.
fn fill(target: &Target, args: &RestartArgs) -> Result<String, String> {
    let paths = streams::create(target, args.streams, "application/octet-stream")?;
    let last = paths.last().ok_or("restart needs streams")?;
    let (small, large) = (streams::payload(SMALL_BYTES), streams::payload(LARGE_BYTES));
    let mut load = streams::setup_load(target)?;
    let heads = streams::append_heads(target, &paths, SMALL_BYTES);
    load.send_all(heads.iter().map(|head| Wire { head, body: &small }))?;
    let appends = args.bytes.saturating_sub(args.streams * SMALL_BYTES).div_ceil(LARGE_BYTES);
    let heads = streams::append_heads(target, &paths, LARGE_BYTES);
    load.send_all(heads.iter().cycle().take(appends).map(|head| Wire { head, body: &large }))?;
    eprintln!("{}: filled", target.name);
    Ok(last.clone())
}

fn round(target: &mut Target, path: &str) -> Result<Round, String> {
    let begun = target.crash_and_start_again()?;
    let (ready, spent) = Spent::during(target.pid, false, || {
        let request = Request::get(&format!("{path}?offset=-1"));
        target.wait_for(&request, ASK_EVERY, |status| status == 200)?;
        Ok(begun.elapsed())
    })?;
    let ready_ms = Figure::new("ready ms", 0, ready.as_secs_f64() * 1e3).compared();
    Ok(vec![ready_ms, spent.cpu_ms(), spent.resident()])
}
