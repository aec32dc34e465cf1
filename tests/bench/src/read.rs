//! Reads: a stream from its beginning, again and again. With a large stream this is catch-up and bytes per second
//! count; with a small one it is the cost of a request.

use std::time::{Duration, Instant};

use crate::cli::Common;
use crate::counters::Spent;
use crate::load::{Load, Wire};
use crate::report::{Figure, Report, Round, compare};
use crate::servers::Target;
use crate::streams;

/// Arguments of `read`.
#[derive(clap::Args, Debug)]
pub(crate) struct ReadArgs {
    /// Kept-open connections, one request in flight on each.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Bytes of the stream that is read.
    #[arg(long, default_value_t = 4 << 20)]
    bytes_stored: usize,
    /// Bytes of the appends it was made of.
    #[arg(long, default_value_t = 16 << 10)]
    append_bytes: usize,
}

/// Reads from every server in turn.
///
/// # Errors
/// A sentence when a server does not start.
pub(crate) fn read(args: &ReadArgs, common: &Common, title: String) -> Result<Report, String> {
    let targets = Target::start_all(common)?;
    let heads: Vec<Result<Vec<u8>, String>> = targets.iter().map(|target| fill(target, args)).collect();
    Ok(compare(common, title, |i| round(&targets[i], heads[i].as_ref()?, args, common)))
}

/// Makes the stream, and gives the head of a read of it.
fn fill(target: &Target, args: &ReadArgs) -> Result<Vec<u8>, String> {
    let paths = streams::create(target, 1, "application/octet-stream")?;
    let heads = streams::append_heads(target, &paths, args.append_bytes);
    let wire = Wire { head: &heads[0], body: &streams::payload(args.append_bytes) };
    let appends = args.bytes_stored.div_ceil(args.append_bytes);
    streams::setup_load(target)?.send_all(std::iter::repeat_n(wire, appends))?;
    Ok(streams::get_head(target, &format!("{}?offset=-1", paths[0])))
}

fn round(target: &Target, head: &[u8], args: &ReadArgs, common: &Common) -> Result<Round, String> {
    let mut load = Load::open(target, args.connections)?;
    let (measured, spent) = Spent::during(target.pid, common.perf, || {
        let until = Instant::now() + Duration::from_secs_f64(common.seconds);
        load.run(|_, now| (now < until).then_some(Wire { head, body: &[] }))
    })?;
    let (latencies, seconds) = (&measured.latencies, measured.elapsed.as_secs_f64());
    let (requests, bytes) = (latencies.total(), measured.body_bytes as f64);
    let millis = |fraction| latencies.quantile(fraction) as f64 / 1e6;
    let mut figures = vec![
        Figure::new("reads/s", 0, requests as f64 / seconds).compared(),
        Figure::new("MiB/s", 1, bytes / seconds / (1 << 20) as f64).compared(),
        // A server may answer with less than all of the stream.
        Figure::new("KiB/read", 1, bytes / requests as f64 / 1024.0),
        Figure::new("p50 ms", 3, millis(0.5)),
        Figure::new("p99 ms", 3, millis(0.99)),
        spent.cpu_us(requests).compared(),
    ];
    figures.extend(spent.instructions(requests));
    figures.push(spent.resident());
    Ok(figures)
}
