//! The command line. What a command takes beside [`Common`] stands in the command's own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::all::AllArgs;
use crate::append::AppendArgs;
use crate::fanout::FanoutArgs;
use crate::fold::FoldArgs;
use crate::idle::IdleArgs;
use crate::long_poll::LongPollArgs;
use crate::read::ReadArgs;
use crate::restart::RestartArgs;
use crate::spec::ServerSpec;

/// Loads servers of the Durable Streams Protocol and says what they spend.
#[derive(Debug, Parser)]
#[command(name = "weir-bench")]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One thing.
    #[command(flatten)]
    Case(Case),
    /// The standard set, one table per case.
    All(AllArgs),
}

/// One thing to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Case {
    /// Durable appends: every connection sends its next one when the last is answered.
    Append(AppendArgs),
    /// Deliveries over SSE: one writer at a fixed rate, many subscribers.
    Fanout(FanoutArgs),
    /// Deliveries to long-polling readers: one writer at a fixed rate.
    LongPoll(LongPollArgs),
    /// Reads of a stream from its beginning.
    Read(ReadArgs),
    /// Memory per idle stream, connection and subscriber.
    Idle(IdleArgs),
    /// Time until a killed server serves again.
    Restart(RestartArgs),
    /// A summary's first read: how fast it takes what is there.
    Fold(FoldArgs),
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// A server: `name=weir,url=http://127.0.0.1:4437/v1/stream,pid=123` for one that runs, or
    /// `name=weir,cmd=weir serve --listen 127.0.0.1:{port} ...` to start one. `{port}`, `{admin_port}` and `{dir}` are
    /// filled in; `cmd` comes last and may hold commas; `root=/v1/stream` before it sets where its streams are.
    /// `prepare=/bench` gets a PUT before anything else, for a server whose buckets must be created.
    /// `trouble=/bucket/stream` has that stream get requests beside appends, and `stalled=1000` has that many further
    /// subscribers of `fanout` never read: name a server once with and once without.
    /// The first server is what the others are compared with.
    #[arg(long = "server", global = true)]
    pub(crate) servers: Vec<ServerSpec>,
    /// Rounds per server, interleaved with those of the others.
    #[arg(long, global = true, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Length of a measured round, where it is the load that ends it.
    #[arg(long, global = true, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Where data directories of started servers are made [default: the system's temporary directory].
    #[arg(long, global = true)]
    pub(crate) dir: Option<PathBuf>,
    /// Also write all rounds as JSON to this file.
    #[arg(long, global = true)]
    pub(crate) json: Option<PathBuf>,
    /// Do not count instructions.
    #[arg(long = "no-perf", global = true, action = clap::ArgAction::SetFalse)]
    pub(crate) perf: bool,
}
