//! Folds: how fast a summary takes a stream's history. The stream is filled first; what is timed is one read of the
//! summary, which has all of it to take.

use std::time::Instant;

use weir_testkit::{Connection, Request, Response};

use crate::cli::Common;
use crate::report::{Figure, Report, Round, compare};
use crate::servers::Target;
use crate::streams;

/// Records of one append.
const RECORDS_PER_APPEND: usize = 500;

/// Arguments of `fold`.
#[derive(clap::Args, Debug)]
pub(crate) struct FoldArgs {
    /// The binding, which has to be there for all streams under the server's root.
    #[arg(long, default_value = "totals")]
    binding: String,
    /// Records of a stream.
    #[arg(long, default_value_t = 500_000)]
    records: usize,
    /// Bytes of one record.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
}

/// Folds a new stream of every server in turn.
///
/// # Errors
/// A sentence when a server does not start.
pub(crate) fn fold(args: &FoldArgs, common: &Common, title: String) -> Result<Report, String> {
    let targets = Target::start_all(common)?;
    Ok(compare(common, title, |i| round(&targets[i], args)))
}

fn round(target: &Target, args: &FoldArgs) -> Result<Round, String> {
    let path = streams::create(target, 1, "application/json")?.remove(0);
    let mut connection = Connection::open(target.address).map_err(|e| e.to_string())?;
    let mut left = args.records;
    while left > 0 {
        let count = left.min(RECORDS_PER_APPEND);
        let records: Vec<String> = (0..count).map(|n| record(left - n, args.bytes)).collect();
        let append = Request::post(&path).body("application/json", format!("[{}]", records.join(",")));
        expect(connection.send(&append), 204)?;
        left -= count;
    }
    let begun = Instant::now();
    let summary = Request::get(&format!("{path}?summary={}", args.binding));
    expect(connection.send(&summary), 200)?;
    Ok(vec![Figure::new("records/s", 0, args.records as f64 / begun.elapsed().as_secs_f64()).compared()])
}

/// A JSON object of `bytes` bytes with six numbers in it.
fn record(n: usize, bytes: usize) -> String {
    let numbers = format!(r#"{{"id":{n},"qty":{},"price":{}.25,"a":1,"b":-2.5,"c":3e2,"text":"#, n % 10, n % 1000);
    let fill = bytes.saturating_sub(numbers.len() + 3);
    format!("{numbers}\"{}\"}}", "x".repeat(fill))
}

fn expect(response: std::io::Result<Response>, status: u16) -> Result<(), String> {
    let response = response.map_err(|e| e.to_string())?;
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
