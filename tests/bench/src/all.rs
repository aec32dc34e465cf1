//! The standard set: cases as their command lines, so that each can be run by itself.

use clap::Parser;
use serde_json::json;

use crate::cli::{Cli, Command, Common};
use crate::report::Report;

/// What is measured on one node, without `--server` and what else is the same for all.
const CASES: &[&str] = &[
    "append --connections 1 --streams 1",
    "append --connections 64 --streams 1",
    "append --connections 64 --streams 64",
    "append --connections 64 --streams 10000",
    "append --connections 64 --streams 100000",
    "append --connections 512 --streams 64",
    "append --connections 512 --streams 10000",
    "append --connections 64 --streams 64 --bytes 4096",
    "append --connections 64 --streams 64 --bytes 262144",
    "fanout --subscribers 1",
    "fanout --subscribers 1000",
    "fanout --subscribers 10000 --rate 2",
    "long-poll --connections 64",
    "read --bytes-stored 4194304 --append-bytes 16384 --connections 8",
    "read --bytes-stored 1024 --append-bytes 1024 --connections 64",
    "restart --streams 100000 --bytes 1073741824",
    "idle --streams 100000 --connections 1000 --subscribers 1000",
];

/// Arguments of `all`.
#[derive(clap::Args, Debug)]
pub(crate) struct AllArgs {
    /// Only cases whose command line holds this text.
    #[arg(long, default_value = "")]
    only: String,
}

/// Runs the cases one after the other, each on servers of its own where those are started here.
///
/// # Errors
/// A sentence naming what failed; the other cases were run.
pub(crate) fn all(args: &AllArgs, common: &Common) -> Result<(), String> {
    let (mut failures, mut documents) = (Vec::new(), Vec::new());
    for words in CASES.iter().filter(|words| words.contains(&args.only)) {
        eprintln!("{words}");
        match run(words, common) {
            Ok(report) => {
                println!("{words}\n{}", report.table());
                documents.push(report.json());
                failures.extend(report.failures.iter().map(|reason| format!("{words}: {reason}")));
            }
            Err(reason) => {
                println!("{words}\n{reason}\n");
                documents.push(json!({ "case": words, "failures": [reason] }));
                failures.push(format!("{words}: {reason}"));
            }
        }
        // After every case, so that a run which is cut short has left something.
        crate::write_json(common, &json!({ "seconds": common.seconds, "cases": documents }))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn run(words: &str, common: &Common) -> Result<Report, String> {
    let line = ["weir-bench"].into_iter().chain(words.split(' '));
    match Cli::try_parse_from(line).map_err(|e| e.to_string())?.command {
        Command::Case(case) => crate::run(&case, common, words.to_owned()),
        Command::All(_) => Err("the standard set holds itself".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_are_command_lines() {
        for words in CASES {
            let line = ["weir-bench"].into_iter().chain(words.split(' '));
            assert!(matches!(Cli::try_parse_from(line), Ok(Cli { command: Command::Case(_), .. })), "{words}");
        }
    }
}
