//! A client's script, and the server that it has killed and started again in the middle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;
use weir_testkit::{Request, Server, Setup};

/// What a script says that it has written to a stream, and what its client has read of it in each way.
#[derive(Deserialize)]
struct Report {
    name: String,
    written: Vec<Value>,
    reads: BTreeMap<String, Vec<Value>>,
}

/// Runs `script` to its end on a server of its own, which is killed once. Gives back the server and the script's report.
#[track_caller]
pub(crate) fn run(script: &mut Command) -> (Server, Value) {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"));
    let mut server = Some(setup.start());
    let url = server.as_ref().expect("it is running").url();
    let stderr = setup.home().join("script");
    let file = File::create(&stderr).expect("a file for what the script complains about");
    script.env("WEIR_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
    let mut script = script.spawn().unwrap_or_else(|e| panic!("{script:?} does not start: {e}"));
    let mut stdin = script.stdin.take().expect("it is piped");
    let (mut kills, mut report) = (0, None);
    for line in BufReader::new(script.stdout.take().expect("it is piped")).lines() {
        match line.expect("scripts write text").as_str() {
            "kill" => {
                server.take().expect("it is running").kill();
                kills += 1;
            }
            "start" => server = Some(setup.start()),
            line => {
                report = Some(serde_json::from_str(line).unwrap_or_else(|e| panic!("no report ({e}): {line}")));
                continue;
            }
        }
        // A script that has ended meanwhile says so by its status.
        let _ = stdin.write_all(b"done\n");
    }
    let status = script.wait().expect("it is our child");
    let stderr = fs::read_to_string(stderr).expect("the script writes text");
    assert!(status.success(), "{status}; the script's complaints:\n{stderr}\nthe server's log:\n{}", setup.log());
    assert_eq!(kills, 1, "the server was killed");
    (server.expect("it was started again"), report.expect("the script reports"))
}

/// As [`run`], of a script that reports on one stream of JSON: nothing of what it wrote is lost, nothing is there
/// twice, and the stream is closed.
#[track_caller]
pub(crate) fn check(script: &mut Command) {
    let (server, report) = run(script);
    let Report { name, written, reads } = serde_json::from_value(report).expect("a report on a stream");
    assert!(!written.is_empty() && !reads.is_empty(), "{name} was written and read");
    let target = format!("/v1/stream/{name}");
    let stored = server.client().send(Request::get(&format!("{target}?offset=-1"))).expect(200);
    let ends = (stored.header("stream-up-to-date"), stored.header("stream-closed"));
    assert_eq!(ends, (Some("true"), Some("true")), "{name} is read to its end in one page, and closed");
    let stored = serde_json::from_slice(&stored.body).expect("an array");
    for (way, records) in reads.into_iter().chain([("raw".to_owned(), stored)]) {
        assert_same(&format!("{name}, {way}"), &records, &written);
    }
}

/// `records` are the `written` ones, each once, in order.
#[track_caller]
fn assert_same(what: &str, records: &[Value], written: &[Value]) {
    if records == written {
        return;
    }
    let same = records.iter().zip(written).take_while(|(record, written)| record == written).count();
    panic!(
        "{what}: {} records of {} written; number {same} is {:?}, written was {:?}",
        records.len(),
        written.len(),
        records.get(same),
        written.get(same),
    );
}
