//! Idle things: what a stream, a connection and a subscriber take while nothing happens to them. A server is started
//! for every round, and loaded a little first, so that its own buffers are not mistaken for theirs.

use crate::cli::Common;
use crate::followers::{Followers, Live};
use crate::load::{Load, Wire};
use crate::memory::Memory;
use crate::report::{Figure, Report, Round, compare};
use crate::servers::Target;
use crate::spec::{ServerSource, ServerSpec};
use crate::streams;

/// Bytes of an append.
const APPEND_BYTES: usize = 256;
/// Streams that the load before uses.
const WARM_STREAMS: usize = 64;
/// Its appends before it reads, and after: enough to fill what a server keeps of what was written lately.
const WARM_APPENDS: usize = 20_000;
const WARM_APPENDS_MORE: usize = 800_000;
/// Its reads.
const WARM_READS: usize = 640;

/// Arguments of `idle`.
#[derive(clap::Args, Debug)]
pub(crate) struct IdleArgs {
    /// Streams, with names of 16 bytes and one append of 256 bytes each.
    #[arg(long, default_value_t = 100_000)]
    streams: usize,
    /// Connections, which have had one request each.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Subscribers over SSE, on a stream each.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
}

/// Measures every server in turn.
///
/// # Errors
/// A sentence when a server was not started here.
pub(crate) fn idle(args: &IdleArgs, common: &Common, title: String) -> Result<Report, String> {
    if common.servers.iter().any(|spec| matches!(spec.source, ServerSource::Running { .. })) {
        return Err("idle needs servers with cmd=: it begins with an empty one".to_owned());
    }
    Ok(compare(common, title, |i| round(&common.servers[i], args, common)))
}

fn round(spec: &ServerSpec, args: &IdleArgs, common: &Common) -> Result<Round, String> {
    let target = Target::start(spec, common.dir.as_deref())?;
    let body = streams::payload(APPEND_BYTES);
    warm_up(&target, &body)?;
    let empty = Memory::settled(target.pid)?;

    let paths = streams::create(&target, args.streams, "application/octet-stream")?;
    let heads = streams::append_heads(&target, &paths, APPEND_BYTES);
    streams::setup_load(&target)?.send_all(heads.iter().map(|head| Wire { head, body: &body }))?;
    let with_streams = Memory::settled(target.pid)?;

    let mut load = Load::open(&target, args.connections)?;
    let read = streams::get_head(&target, &format!("{}?offset=-1", paths[0]));
    let reads = || std::iter::repeat_n(Wire { head: &read, body: &[] }, args.connections);
    load.send_all(reads())?;
    let with_connections = Memory::settled(target.pid)?;
    // A server that has closed them meanwhile was not measured with them.
    let are_open = load.send_all(reads()).is_ok();

    let _subscribers = Followers::open(&target, Live::Sse, &paths, args.subscribers)?;
    let with_subscribers = Memory::settled(target.pid)?;

    let mib = |bytes: f64| bytes / (1 << 20) as f64;
    let grown = |from: Memory, to: Memory| to.resident_bytes as f64 - from.resident_bytes as f64;
    let per_connection = grown(with_streams, with_connections) / args.connections as f64;
    let proportional = with_streams.proportional_bytes as f64 - empty.proportional_bytes as f64;
    Ok(vec![
        Figure::new("empty MiB", 1, mib(empty.resident_bytes as f64)),
        Figure::new("streams MiB", 1, mib(grown(empty, with_streams))).compared(),
        Figure::new("Pss MiB", 1, mib(proportional)),
        Figure::new("B/stream", 0, grown(empty, with_streams) / args.streams as f64),
        Figure::new("B/connection", 0, are_open.then_some(per_connection)),
        Figure::new("B/subscriber", 0, grown(with_connections, with_subscribers) / args.subscribers as f64),
    ])
}

/// Appends to a few streams and reads them, so that what the server allocates once is there, and its caches are full.
fn warm_up(target: &Target, body: &[u8]) -> Result<(), String> {
    let paths = streams::create(target, WARM_STREAMS, "application/octet-stream")?;
    let appends = streams::append_heads(target, &paths, APPEND_BYTES);
    let reads: Vec<Vec<u8>> =
        paths.iter().map(|path| streams::get_head(target, &format!("{path}?offset=-1"))).collect();
    let mut load = streams::setup_load(target)?;
    load.send_all(appends.iter().cycle().take(WARM_APPENDS).map(|head| Wire { head, body }))?;
    load.send_all(reads.iter().cycle().take(WARM_READS).map(|head| Wire { head, body: &[] }))?;
    load.send_all(appends.iter().cycle().take(WARM_APPENDS_MORE).map(|head| Wire { head, body }))?;
    Ok(())
}
