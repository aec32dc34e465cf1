//! The cold tier in a bucket: what is refused at a start, and what becomes of streams while a store does what stores do.

mod backups;
mod checks;
mod faults;
mod flips;
mod large;
mod ledger;
mod lives;
mod moto;
mod outages;
mod recoveries;
mod starts;

use std::process::Command;
use std::time::Duration;

use weir_testkit::{S3, Server, Setup, metric, wait_until};

use crate::ledger::{Ledger, Read};

/// How long after its store is whole again a server may take until everything is as before.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// How long bytes may take into a store that is whole, and chunks out of it.
const MOVES_WITHIN: Duration = Duration::from_secs(30);
const URL: &str = "s3://weir/test";

/// A server on `endpoint`.
fn setup_at(endpoint: &str) -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--shards", "1"])
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("WEIR_COLD_URL", URL)
        .env("WEIR_COLD_ENDPOINT", endpoint)
        .env("WEIR_COLD_ALLOW_HTTP", true)
}

/// A server on `s3` that moves bytes at once and keeps few of them in memory.
fn setup(s3: &S3) -> Setup {
    setup_at(&s3.endpoint()).env("WEIR_COLD_FLUSH_AGE_MS", 200).env("WEIR_COLD_CACHE_BYTES", 1 << 20)
}

/// A command that reaches `s3`, as its arguments say what for.
fn command(s3: &S3) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("WEIR_COLD_ALLOW_HTTP", "true")]);
    command.env("WEIR_COLD_ENDPOINT", s3.endpoint());
    command
}

/// Appends `count` records to the stream of `ledger`, and all are stored.
fn append(server: &Server, ledger: &mut Ledger, count: usize) {
    let mut client = server.client();
    for _ in 0..count {
        let number = ledger.begin();
        let answer = client.send(ledger.append(number)).expect(204);
        ledger.end(number, &answer);
    }
}

/// Waits until the cold tier has all bytes.
fn wait_cold(server: &Server, ledgers: &[Ledger]) {
    let bytes: usize = ledgers.iter().map(|ledger| ledger.stored() * ledger.record_bytes()).sum();
    wait_until("everything is in the cold tier", MOVES_WITHIN, || metric(server, "weir_cold_bytes") >= bytes as f64);
}

/// Streams `/cold/{name}-{number}` of so many records each, all of it in the cold tier.
fn history(server: &Server, name: &str, streams: usize, records: usize, record_bytes: usize) -> Vec<Ledger> {
    let mut ledgers: Vec<_> =
        (0..streams).map(|number| Ledger::new(&format!("/cold/{name}-{number}"), record_bytes)).collect();
    for ledger in &mut ledgers {
        ledger.create(server);
        append(server, ledger, records);
    }
    wait_cold(server, &ledgers);
    ledgers
}

/// Asserts that the stream of `ledger` can be read, and is what was stored.
fn assert_whole(server: &Server, ledger: &Ledger) {
    let read = Read::whole(&mut server.client(), ledger.target());
    assert_eq!(read.refusal, None, "{}", ledger.target());
    ledger.check(&read, ledger.len());
}

/// A server whose old bytes are in its data directory goes on in a bucket, and not back.
#[test]
fn a_node_moves_from_its_folder_to_a_bucket_and_stays_there() {
    let s3 = S3::start();
    let mut ledger = Ledger::new("/cold/moved", 4096);
    let mut setup = setup(&s3).env("WEIR_COLD_URL", "local");
    let server = setup.start();
    ledger.create(&server);
    append(&server, &mut ledger, 500);
    wait_cold(&server, std::slice::from_ref(&ledger));
    server.kill();
    let files = std::fs::read_dir(setup.data_dir().join("cold")).expect("a folder").flatten();
    let files = files.filter(|file| file.file_name().to_string_lossy().ends_with(".chunk")).count();
    assert!(files > 0, "there are no chunks in the folder");

    let mut setup = setup.env("WEIR_COLD_URL", URL);
    let server = setup.start();
    assert_whole(&server, &ledger);
    append(&server, &mut ledger, 500);
    wait_cold(&server, std::slice::from_ref(&ledger));
    assert!(!s3.chunks().is_empty(), "there are no chunks in the bucket");
    assert_whole(&server, &ledger);
    server.kill();

    let server = setup.start();
    assert_whole(&server, &ledger);
    server.kill();
    starts::assert_refused(&setup.clone().env("WEIR_COLD_URL", "local"), 7, &["cold.url", "\"local\"", URL]);
    assert_whole(&setup.start(), &ledger);
}
