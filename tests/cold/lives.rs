//! Names that are deleted and used again while what was below them is on its way to the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Client, Fault, Request, S3, Server, wait_until};

use crate::ledger::Ledger;
use crate::{MOVES_WITHIN, append, assert_whole, setup};

const NAMES: usize = 4;
const RECORDS: usize = 8;
const RECORD_BYTES: usize = 40_000;
/// How often something is appended to a stream of longer lives. Its bytes are due for the store when those of short lives are not.
const APPEND_EVERY: Duration = Duration::from_millis(20);
const LONG_RECORDS: usize = 40;
const LASTS: Duration = Duration::from_secs(8);
/// How long it goes on where that is too short for much to be moved.
const LASTS_MAX: Duration = Duration::from_secs(60);
/// The longest that a life goes on after its records are written.
const LIFE_MS_MAX: u64 = 400;

#[test]
fn a_name_that_is_used_again_never_has_a_byte_of_another_life() {
    let s3 = S3::start();
    s3.fail(Fault::Latency(Duration::from_millis(50)));
    let mut setup = setup(&s3).env("WEIR_COLD_FLUSH_AGE_MS", 1).env("WEIR_COLD_FLUSH_BYTES", 1 << 20);
    let server = setup.start();
    let lives: Vec<AtomicU64> = (0..NAMES).map(|_| AtomicU64::new(0)).collect();
    let begun = Instant::now();
    let is_enough = || {
        let counts = s3.counts();
        counts.puts > 10 && counts.gets > 10 && counts.deletes > 0
    };
    let goes_on = || begun.elapsed() < LASTS || (!is_enough() && begun.elapsed() < LASTS_MAX);
    thread::scope(|scope| {
        let (server, goes_on) = (&server, &goes_on);
        for (name, life) in lives.iter().enumerate() {
            scope.spawn(move || watch(server, name, life, goes_on));
            scope.spawn(move || live(server, name, life, goes_on));
        }
        while goes_on() {
            let mut long = Ledger::new("/cold/long-life", 1000);
            long.create(server);
            for _ in 0..LONG_RECORDS {
                append(server, &mut long, 1);
                thread::sleep(APPEND_EVERY);
            }
            assert_whole(server, &long);
            let _ = server.client().send(Request::delete(long.target())).expect(204);
        }
    });
    let counts = s3.counts();
    let total: u64 = lives.iter().map(|life| life.load(Ordering::Relaxed)).sum();
    eprintln!("lives: {total} of {NAMES} names; {counts:?}");
    assert!(is_enough(), "too little was moved: {counts:?}");
    server.kill();

    let server = setup.start();
    let mut client = server.client();
    for (name, life) in lives.iter().enumerate() {
        assert_eq!(read(&mut client, name), Some(text(name, life.load(Ordering::Relaxed), RECORDS)));
        let _ = client.send(Request::delete(&target(name))).expect(204);
    }
    s3.heal();
    wait_until("all chunks are gone", MOVES_WITHIN, || s3.chunks().is_empty());
}

/// One life after the other; the last one is not ended.
fn live(server: &Server, name: usize, life: &AtomicU64, goes_on: &dyn Fn() -> bool) {
    let mut client = server.client();
    let mut number = 0;
    loop {
        number += 1;
        life.store(number, Ordering::SeqCst);
        let create = Request::put(&target(name)).header("Content-Type", "text/plain");
        let _ = client.send(create).expect(201);
        for record in 0..RECORDS {
            let append = Request::post(&target(name)).body("text/plain", self::record(name, number, record));
            let _ = client.send(append).expect(204);
        }
        let expected = Some(text(name, number, RECORDS));
        assert_eq!(read(&mut client, name), expected, "at once, in life {number}");
        // Now in the middle of a flush, now behind it.
        let pause = Duration::from_millis(number * 37 % LIFE_MS_MAX);
        thread::sleep(pause);
        assert_eq!(read(&mut client, name), expected, "{pause:?} later, in life {number}");
        if !goes_on() {
            return;
        }
        let _ = client.send(Request::delete(&target(name))).expect(204);
        assert_eq!(read(&mut client, name), None, "after life {number}");
    }
}

/// Reads all the time what somebody else writes and deletes.
fn watch(server: &Server, name: usize, life: &AtomicU64, goes_on: &dyn Fn() -> bool) {
    let mut client = server.client();
    while goes_on() {
        let first = life.load(Ordering::SeqCst).saturating_sub(1);
        let Some(found) = read(&mut client, name).filter(|found| !found.is_empty()) else { continue };
        let last = life.load(Ordering::SeqCst);
        let records = found.len() / RECORD_BYTES;
        let is_of_one_life = (first..=last).any(|life| found == text(name, life, records));
        assert!(is_of_one_life, "between lives {first} and {last}, {records} records: {found:.60}");
    }
}

fn target(name: usize) -> String {
    format!("/cold/life-{name}")
}

fn record(name: usize, life: u64, record: usize) -> String {
    let begin = format!("name {name}, life {life}, record {record} ");
    let dots = RECORD_BYTES - begin.len() - 1;
    begin + &".".repeat(dots) + "\n"
}

/// The first `records` records of a life.
fn text(name: usize, life: u64, records: usize) -> String {
    (0..records).map(|number| record(name, life, number)).collect()
}

/// What is read; `None` when there is no such stream.
fn read(client: &mut Client, name: usize) -> Option<String> {
    let answer = client.send(Request::get(&target(name)));
    (answer.status != 404).then(|| answer.expect(200).text())
}
