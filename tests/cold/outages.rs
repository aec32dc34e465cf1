//! Stores that are away for long: at a start, and until the log is full.

use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Client, Fault, Request, S3, wait_until};

use crate::ledger::{Ledger, Read};
use crate::{HEALS_WITHIN, append, assert_whole, setup, wait_cold};

const SEGMENT_BYTES: u64 = 2 << 20;
const SEGMENTS: u64 = 8;
const RECORD_BYTES: usize = 50_000;
/// Far more appends than fit the log.
const APPENDS_MAX: usize = 2000;
/// How long the log stays full.
const FULL_FOR: Duration = Duration::from_secs(6);
/// How many appends succeed when the store is back.
const APPENDS_SINCE: usize = 100;
/// How much more memory a server may take because its store is away.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

#[test]
fn a_name_that_does_not_resolve_takes_away_old_bytes_only() {
    let s3 = S3::start();
    let setup = setup(&s3);
    let mut old = Ledger::new("/cold/old", 4096);
    let server = setup.clone().start();
    old.create(&server);
    append(&server, &mut old, 300);
    wait_cold(&server, std::slice::from_ref(&old));
    server.kill();

    let server = setup.clone().env("WEIR_COLD_ENDPOINT", "http://does-not-exist.invalid:1").start();
    let mut new = Ledger::new("/cold/new", 4096);
    new.create(&server);
    append(&server, &mut new, 300);
    append(&server, &mut old, 300);
    assert_whole(&server, &new);
    let read = Read::whole(&mut server.client(), old.target());
    old.check(&read, old.len());
    assert_eq!(read.refusal.as_deref(), Some("cold_unavailable"));
    assert_whole(&server, &new);
    server.kill();

    let server = setup.clone().start();
    let ledgers = [old, new];
    wait_cold(&server, &ledgers);
    for ledger in &ledgers {
        assert_whole(&server, ledger);
    }
}

#[test]
fn an_outage_that_lasts_longer_than_the_log_loses_nothing() {
    let s3 = S3::start();
    let mut setup = setup(&s3)
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 16)
        .env("WEIR_WAL_SEGMENT_BYTES", SEGMENT_BYTES)
        .env("WEIR_WAL_BUDGET_BYTES", SEGMENTS * SEGMENT_BYTES);
    let server = setup.start();
    let mut client = server.client();
    let mut ledger = Ledger::new("/cold/outage", RECORD_BYTES);
    ledger.create(&server);
    // As much as the log takes has gone through it before.
    for _ in 0..SEGMENTS {
        append(&server, &mut ledger, SEGMENT_BYTES as usize / RECORD_BYTES);
        wait_cold(&server, std::slice::from_ref(&ledger));
    }
    let resident_before = server.resident_bytes();

    s3.fail(Fault::Away);
    let mut appends = 0;
    while try_append(&mut client, &mut ledger).is_none() {
        appends += 1;
        assert!(appends < APPENDS_MAX, "{APPENDS_MAX} appends of {RECORD_BYTES} bytes fit the log");
    }
    assert!(appends > 10, "only {appends} appends fit the log");
    let (full, mut resident_max) = (Instant::now(), 0);
    while full.elapsed() < FULL_FOR {
        if let Some(code) = try_append(&mut client, &mut ledger) {
            assert_eq!(code, "wal_full");
        }
        let read = Read::whole(&mut client, ledger.target());
        ledger.check(&read, ledger.len());
        let _ = client.send(Request::get(&format!("{}?offset=now", ledger.target()))).expect(200);
        resident_max = resident_max.max(server.resident_bytes());
        thread::sleep(Duration::from_millis(50));
    }

    s3.heal();
    // Appends may fill the log faster than it empties: refused ones come again.
    let mut appends_since = 0;
    wait_until("appends succeed", HEALS_WITHIN, || {
        resident_max = resident_max.max(server.resident_bytes());
        match try_append(&mut client, &mut ledger) {
            None => appends_since += 1,
            Some(code) => assert_eq!(code, "wal_full"),
        }
        appends_since == APPENDS_SINCE
    });
    wait_cold(&server, std::slice::from_ref(&ledger));
    assert_whole(&server, &ledger);
    let growth = resident_max.saturating_sub(resident_before);
    eprintln!("outage: {appends} appends fit the log, {} MiB more of memory", growth >> 20);
    assert!(growth < GROWTH_BYTES_MAX, "memory has grown by {growth} bytes");
    server.kill();
    assert_whole(&setup.start(), &ledger);
}

/// Appends a record; the code if it is refused.
fn try_append(client: &mut Client, ledger: &mut Ledger) -> Option<String> {
    let number = ledger.begin();
    let answer = client.send(ledger.append(number));
    (!ledger.end(number, &answer)).then(|| answer.code())
}
