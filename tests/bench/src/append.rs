//! Appends: what a durable append costs. The loop is closed, so this is throughput with as many appends in flight as
//! there are connections.

use std::time::{Duration, Instant};

use crate::cli::Common;
use crate::counters::Spent;
use crate::load::{Load, Measured, Wire};
use crate::report::{Figure, Report, Round, compare};
use crate::servers::Target;
use crate::streams;
use crate::trouble::Trouble;

/// Arguments of `append`.
#[derive(clap::Args, Debug)]
pub(crate) struct AppendArgs {
    /// Kept-open connections, one request in flight on each.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Streams; of c connections, number i appends to the streams i, i + c, i + 2c and so on, in turn.
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// Bytes of one append.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Load before each round that is not measured.
    #[arg(long, default_value_t = 1.0)]
    warmup_seconds: f64,
}

/// Appends to every server in turn.
///
/// # Errors
/// A sentence when a server does not start.
pub(crate) fn append(args: &AppendArgs, common: &Common, title: String) -> Result<Report, String> {
    let targets = Target::start_all(common)?;
    Ok(compare(common, title, |i| round(&targets[i], args, common)))
}

fn round(target: &Target, args: &AppendArgs, common: &Common) -> Result<Round, String> {
    let (paths, homes) = streams::create_at_homes(target, args.streams, "application/octet-stream")?;
    let heads = streams::append_heads(target, &paths, args.bytes);
    let body = streams::payload(args.bytes);
    if args.connections < args.streams && homes.iter().any(|home| *home != target.address) {
        return Err(format!(
            "the streams are on several nodes: they need a connection each, --connections {}",
            args.streams
        ));
    }
    let mut load = Load::open_at((0..args.connections).map(|i| homes[i % args.streams]).collect())?;
    let _trouble = target.trouble.as_deref().map(|path| Trouble::begin(target, path));
    let mut places: Vec<usize> = (0..args.connections).map(|i| i % args.streams).collect();
    let mut run = |seconds: f64| -> Result<Measured, String> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        load.run(|i, now| {
            let place = places[i];
            places[i] =
                if place + args.connections < args.streams { place + args.connections } else { i % args.streams };
            (now < until).then_some(Wire { head: &heads[place], body: &body })
        })
    };
    run(args.warmup_seconds)?;
    let (measured, spent) = Spent::during(target.pid, common.perf, || run(common.seconds))?;
    let latencies = &measured.latencies;
    let micros = |fraction| latencies.quantile(fraction) as f64 / 1e3;
    let mut figures = vec![
        Figure::new("appends/s", 0, latencies.total() as f64 / measured.elapsed.as_secs_f64()).compared(),
        Figure::new("p50 us", 0, micros(0.5)),
        Figure::new("p99 us", 0, micros(0.99)),
        spent.cpu_us(latencies.total()),
    ];
    figures.extend(spent.instructions(latencies.total()));
    figures.push(spent.resident());
    Ok(figures)
}
