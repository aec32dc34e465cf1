//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Loads servers of the Durable Streams Protocol and says what they spend.
#[derive(Debug, Parser)]
#[command(name = "weir-bench")]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Durable appends: every connection sends its next one when the last is answered.
    Append(AppendArgs),
    /// A summary's first read: how fast it takes what is there.
    Fold(FoldArgs),
}

/// Arguments of `fold`.
#[derive(Debug, Args)]
pub(crate) struct FoldArgs {
    /// The binding, which has to be there for all streams under the server's root.
    #[arg(long, default_value = "totals")]
    pub(crate) binding: String,
    /// Records of a stream.
    #[arg(long, default_value_t = 500_000)]
    pub(crate) records: usize,
    /// Bytes of one record.
    #[arg(long, default_value_t = 256)]
    pub(crate) bytes: usize,
    /// Streams per server, one after the other.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// A server, as for `append`.
    #[arg(long = "server", required = true)]
    pub(crate) servers: Vec<ServerSpec>,
}

/// Arguments of `append`.
#[derive(Debug, Args)]
pub(crate) struct AppendArgs {
    /// Kept-open connections, one request in flight on each.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Streams; connection i appends to stream i modulo this.
    #[arg(long, default_value_t = 64)]
    pub(crate) streams: usize,
    /// Bytes of one append.
    #[arg(long, default_value_t = 256)]
    pub(crate) bytes: usize,
    /// Length of a measured round.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Load before each round that is not measured.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup_seconds: f64,
    /// Rounds per server, interleaved with those of the others.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// A server: `name=weir,url=http://127.0.0.1:4437/v1/stream,pid=123` for one that runs, or
    /// `name=weir,cmd=weir serve --listen 127.0.0.1:{port} ...` to start one. `{port}`, `{admin_port}` and `{dir}` are
    /// filled in; `cmd` comes last and may hold commas; `root=/v1/stream` before it sets where its streams are.
    /// `trouble=/bucket/stream` has that stream get requests beside the load: name a server once with and once without.
    /// The first server is what the others are compared with.
    #[arg(long = "server", required = true)]
    pub(crate) servers: Vec<ServerSpec>,
    /// Where data directories of started servers are made [default: the system's temporary directory].
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Also write all rounds as JSON to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Do not count instructions.
    #[arg(long = "no-perf", action = clap::ArgAction::SetFalse)]
    pub(crate) perf: bool,
}

/// One `--server`.
#[derive(Clone, Debug)]
pub(crate) struct ServerSpec {
    /// What the report calls it.
    pub(crate) name: String,
    /// The path of a stream that gets requests beside the measured load.
    pub(crate) trouble: Option<String>,
    /// How to get at it.
    pub(crate) source: ServerSource,
}

/// Where a server comes from.
#[derive(Clone, Debug)]
pub(crate) enum ServerSource {
    /// It runs already.
    Running {
        /// The URL that stream names are appended to.
        url: String,
        /// Its process.
        pid: u32,
    },
    /// It is started here.
    Started {
        /// The command, split at spaces, with `{port}`, `{admin_port}` and `{dir}` to be filled in.
        command: String,
        /// The path that stream names are appended to.
        root: String,
    },
}

impl std::str::FromStr for ServerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<ServerSpec, String> {
        let (mut name, mut url, mut pid, mut command, mut trouble) = (None, None, None, None, None);
        let mut root = "/v1/stream".to_owned();
        let mut rest = text;
        while !rest.is_empty() {
            let (key, tail) = rest.split_once('=').ok_or_else(|| format!("no '=' in {rest:?}"))?;
            let (value, tail) = match key {
                "cmd" => (tail, ""),
                _ => tail.split_once(',').unwrap_or((tail, "")),
            };
            match key {
                "name" => name = Some(value.to_owned()),
                "url" => url = Some(value.to_owned()),
                "pid" => pid = Some(value.parse().map_err(|_| format!("pid={value} is no number"))?),
                "cmd" => command = Some(value.to_owned()),
                "root" => root = value.to_owned(),
                "trouble" => trouble = Some(value.to_owned()),
                _ => return Err(format!("unknown key {key:?}; known are name, url, pid, root, trouble and cmd")),
            }
            rest = tail;
        }
        let source = match (url, pid, command) {
            (Some(url), Some(pid), None) => ServerSource::Running { url, pid },
            (None, None, Some(command)) => ServerSource::Started { command, root },
            _ => return Err("a server needs either url and pid, or cmd".to_owned()),
        };
        Ok(ServerSpec { name: name.ok_or("a server needs a name")?, trouble, source })
    }
}
