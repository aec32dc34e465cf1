//! `weir-bench`: loads one or more servers of the Durable Streams Protocol and says what an append costs each of them.
//!
//! - [`cli`]: the command line.
//! - [`servers`]: the servers under test, started here or already running.
//! - [`fold`](mod@fold): how fast a summary takes a history.
//! - [`load`]: the closed-loop load, one thread over kept-open connections.
//! - [`counters`]: what the kernel knows about a process: CPU time, instructions, memory.
//! - [`histogram`](mod@histogram): counts latencies.
//! - [`trouble`]: what goes on beside a load.
//! - [`report`]: medians, the table, the JSON file.
//!
//! Rounds of the servers are interleaved, and their order turns around with every round, so that a slow minute of a
//! shared machine falls on all of them. Ratios within one run mean something; microseconds across runs do not.

mod cli;
mod counters;
mod fold;
mod histogram;
mod load;
mod report;
mod servers;
mod trouble;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::cli::{AppendArgs, Cli, Command};
use crate::counters::{Counters, Instructions};
use crate::load::Load;
use crate::report::Round;
use crate::servers::Target;
use crate::trouble::Trouble;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Append(args) => append(&args),
        Command::Fold(args) => fold::fold(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("weir-bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Appends to every server in turn and prints what it cost.
///
/// # Errors
/// A sentence: a server did not start, refused a request, or died.
fn append(args: &AppendArgs) -> Result<(), String> {
    let mut targets = Vec::new();
    for spec in &args.servers {
        targets.push(Target::start(spec, args.dir.as_deref())?);
    }
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); targets.len()];
    for round in 0..args.rounds {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let measured = append_round(&targets[i], args)?;
            eprintln!("round {} of {}: {}", round + 1, args.rounds, measured.line(&targets[i].name));
            rounds[i].push(measured);
        }
    }
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    print!("{}", report::table(&names, &rounds));
    if let Some(path) = &args.json {
        let document = report::json(args, &names, &rounds);
        std::fs::write(path, document).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}

fn append_round(target: &Target, args: &AppendArgs) -> Result<Round, String> {
    let streams = target.create_streams(args.streams)?;
    let mut load = Load::open(target, &streams, args.connections, args.bytes)?;
    let _trouble = target.trouble.as_deref().map(|path| Trouble::begin(target, path));
    load.run(Duration::from_secs_f64(args.warmup_seconds))?;
    let mut instructions = if args.perf { Instructions::attach(target.pid) } else { None };
    let before = Counters::of(target.pid)?;
    if let Some(counting) = &mut instructions {
        counting.start();
    }
    let measured = load.run(Duration::from_secs_f64(args.seconds))?;
    let counted = instructions.and_then(Instructions::finish);
    let after = Counters::of(target.pid)?;
    Ok(Round::new(&measured, before, after, counted))
}
