//! Folds: how fast a summary takes a stream's history. The stream is filled first; what is timed is one read of the summary,
//! which has all of it to take.

use std::time::{Duration, Instant};

use weir_testkit::{Connection, Request, Response};

use crate::cli::FoldArgs;
use crate::servers::Target;

/// Records of one append.
const RECORDS_PER_APPEND: usize = 500;

/// Folds a new stream of every server in turn and prints how fast that was.
///
/// # Errors
/// A sentence: a server did not start, or refused a request.
pub(crate) fn fold(args: &FoldArgs) -> Result<(), String> {
    let mut targets = Vec::new();
    for spec in &args.servers {
        targets.push(Target::start(spec, None)?);
    }
    for target in &targets {
        let mut rates = Vec::new();
        for round in 0..args.rounds {
            let took = fold_once(target, args)?;
            let rate = args.records as f64 / took.as_secs_f64();
            eprintln!("round {} of {}: {}: {rate:.0} records/s", round + 1, args.rounds, target.name);
            rates.push(rate);
        }
        rates.sort_by(f64::total_cmp);
        println!("{}: {:.0} records/s (median of {})", target.name, rates[rates.len() / 2], args.rounds);
    }
    Ok(())
}

fn fold_once(target: &Target, args: &FoldArgs) -> Result<Duration, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", target.name);
    let mut connection = Connection::open(target.address).map_err(failed)?;
    let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos());
    let path = format!("{}/fold-{nanoseconds}", target.root);
    let create = Request::put(&path).header("Content-Type", "application/json");
    expect(connection.send(&create).map_err(failed)?, 201)?;
    let mut left = args.records;
    while left > 0 {
        let count = left.min(RECORDS_PER_APPEND);
        let records: Vec<String> = (0..count).map(|n| record(left - n, args.bytes)).collect();
        let append = Request::post(&path).body("application/json", format!("[{}]", records.join(",")));
        expect(connection.send(&append).map_err(failed)?, 204)?;
        left -= count;
    }
    let begun = Instant::now();
    let summary = Request::get(&format!("{path}?summary={}", args.binding));
    expect(connection.send(&summary).map_err(failed)?, 200)?;
    Ok(begun.elapsed())
}

/// A JSON object of `bytes` bytes with six numbers in it.
fn record(n: usize, bytes: usize) -> String {
    let numbers = format!(r#"{{"id":{n},"qty":{},"price":{}.25,"a":1,"b":-2.5,"c":3e2,"text":"#, n % 10, n % 1000);
    let fill = bytes.saturating_sub(numbers.len() + 3);
    format!("{numbers}\"{}\"}}", "x".repeat(fill))
}

fn expect(response: Response, status: u16) -> Result<(), String> {
    if response.status == status { Ok(()) } else { Err(format!("expected {status}, got {response:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_json_of_the_size_that_was_asked_for() {
        for n in [1, 123_456] {
            let record = record(n, 256);
            assert_eq!(record.len(), 256);
            let object: serde_json::Value = serde_json::from_str(&record).expect("JSON");
            assert_eq!(object.as_object().map(|object| object.len()), Some(7));
        }
    }
}
