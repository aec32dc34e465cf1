//! `weir-bench`: loads one or more servers of the Durable Streams Protocol and says what each of them spends.
//!
//! - [`cli`], [`spec`]: the command line.
//! - [`servers`]: the servers under test, started here or already running; [`streams`] on them.
//! - What is measured: [`append`](mod@append), [`fanout`](mod@fanout) and [`long_poll`](mod@long_poll) (both are
//!   [`delivery`]), [`read`](mod@read), [`idle`](mod@idle), [`restart`](mod@restart), [`fold`](mod@fold), and
//!   [`all`](mod@all).
//! - [`load`]: the closed-loop load, one thread over kept-open connections; [`trouble`]: what goes on beside it.
//! - [`followers`]: live reads, one thread over many connections, and the [`marker`] that says when something was sent.
//! - [`poll`], [`response`]: sockets, and what arrives on them.
//! - [`counters`], [`memory`]: what the kernel knows about a process: CPU time, instructions, memory.
//! - [`histogram`](mod@histogram): counts latencies.
//! - [`report`]: interleaved rounds, medians, the table, the JSON file.
//!
//! Rounds of the servers are interleaved, and their order turns around with every round, so that a slow minute of a
//! shared machine falls on all of them. Ratios within one run mean something; microseconds across runs do not.

mod all;
mod append;
mod cli;
mod counters;
mod delivery;
mod fanout;
mod fold;
mod followers;
mod histogram;
mod idle;
mod load;
mod long_poll;
mod marker;
mod memory;
mod poll;
mod read;
mod report;
mod response;
mod restart;
mod servers;
mod spec;
mod streams;
mod trouble;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{Case, Cli, Command, Common};
use crate::report::Report;

/// The most that Linux allows a process unless `fs.nr_open` says otherwise.
const OPEN_FILES: u64 = 1 << 20;

fn main() -> ExitCode {
    match begin(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("weir-bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn begin(Cli { common, command }: &Cli) -> Result<(), String> {
    if common.servers.is_empty() {
        return Err("no --server to measure".to_owned());
    }
    allow_open_files()?;
    match command {
        Command::All(args) => all::all(args, common),
        Command::Case(case) => {
            let report = run(case, common, format!("{case:?}"))?;
            print!("{}", report.table());
            write_json(common, &report.json())?;
            if report.failures.is_empty() { Ok(()) } else { Err(report.failures.join("\n")) }
        }
    }
}

/// Measures one thing; `title` is what the report calls it.
///
/// # Errors
/// A sentence: a server did not start, or refused what every round needs.
fn run(case: &Case, common: &Common, title: String) -> Result<Report, String> {
    match case {
        Case::Append(args) => append::append(args, common, title),
        Case::Fanout(args) => fanout::fanout(args, common, title),
        Case::LongPoll(args) => long_poll::long_poll(args, common, title),
        Case::Read(args) => read::read(args, common, title),
        Case::Idle(args) => idle::idle(args, common, title),
        Case::Restart(args) => restart::restart(args, common, title),
        Case::Fold(args) => fold::fold(args, common, title),
    }
}

/// Writes the file of `--json`, if there is to be one.
///
/// # Errors
/// A sentence when it cannot be written.
fn write_json(common: &Common, document: &serde_json::Value) -> Result<(), String> {
    let Some(path) = &common.json else { return Ok(()) };
    std::fs::write(path, format!("{document:#}\n")).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Allows as many open files as the system lets us have, here and in servers that are started: every connection is one,
/// and some servers keep one per stream.
fn allow_open_files() -> Result<(), String> {
    let wanted = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    let allowed = getrlimit(Resource::Nofile);
    // Only root may go above the maximum that is set.
    let raised = setrlimit(Resource::Nofile, wanted)
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed }));
    raised.map_err(|e| format!("no more open files: {e}"))
}
