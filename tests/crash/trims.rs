//! What gives space back while the server is killed: a stream that is trimmed as it grows, and a name that is deleted and created
//! again and again.

use std::io;
use std::net::SocketAddr;

use weir_testkit::streams::position;
use weir_testkit::{Connection, Request, Response};

const TRIMMED: &str = "/crash/trimmed";
const REBORN: &str = "/crash/reborn";
/// Appends between two trims, and between two lives.
const EVERY: usize = 10;
/// Records that a trim leaves, about.
const LEFT: usize = 40;
const PADDING: usize = 3000;

/// A stream that grows at its end and is trimmed at its begin, for as long as the server lives.
#[derive(Debug, Default)]
pub(crate) struct Trimmer {
    next: u64,
    /// Records that were acknowledged: which, and the offset behind each.
    stored: Vec<(u64, String)>,
    /// The position that was trimmed to for sure, and perhaps.
    pub(crate) trimmed: u64,
    tried: u64,
}

impl Trimmer {
    /// Appends and trims until the connection breaks.
    pub(crate) fn run(&mut self, address: SocketAddr) {
        // The server was killed: that is what the test is about.
        let _ = self.go_on(address);
    }

    fn go_on(&mut self, address: SocketAddr) -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        create(&mut connection, TRIMMED)?;
        loop {
            for _ in 0..EVERY {
                let number = self.next;
                self.next += 1;
                let append = Request::post(TRIMMED).body("text/plain", record(number));
                let answer = connection.send(&append)?;
                if is_done(&answer) {
                    self.stored.push((number, answer.next_offset().to_owned()));
                }
            }
            let Some((_, before)) = self.stored.iter().rev().nth(LEFT) else { continue };
            self.tried = position(before);
            let trim = Request::post(&format!("/crash/-/trim/trimmed?before={before}"));
            let answer = connection.send(&trim)?;
            if is_done(&answer) {
                let earliest = answer.header("stream-earliest-offset").expect("a trim says where the stream begins");
                assert_eq!(position(earliest), self.tried, "{answer:?}");
                self.trimmed = self.tried;
            }
        }
    }

    /// Asserts that what was trimmed is gone, and nothing else.
    pub(crate) fn check(&self, connection: &mut Connection) {
        if self.stored.is_empty() {
            return;
        }
        let head = connection.send(&Request::head(TRIMMED)).expect("the server is running").expect(200);
        let earliest = head.header("stream-earliest-offset").map_or(0, position);
        assert!((self.trimmed..=self.tried).contains(&earliest), "it begins at {earliest}: {self:?}");
        let text = read(connection, TRIMMED);
        let found: Vec<u64> = text.lines().map(number_of).collect();
        assert!(found.is_sorted_by(|one, next| one < next), "records come once, in order: {found:?}");
        for (number, end) in &self.stored {
            let start = position(end) - record(*number).len() as u64;
            assert_eq!(found.binary_search(number).is_ok(), start >= earliest, "record {number} of {found:?}");
        }
        assert!(text.lines().all(|line| record(number_of(line)).trim_end() == line), "records are as they were sent");
        println!("{TRIMMED}: {} appends, {} records left, trimmed to {earliest}", self.next, found.len());
    }
}

/// A name that has one life after the other, for as long as the server lives.
#[derive(Debug, Default)]
pub(crate) struct Reborn {
    /// The life that was begun last, and how many of its records were acknowledged.
    life: u64,
    stored: u64,
    /// Whether that life's end was asked for, and not acknowledged.
    is_ending: bool,
}

impl Reborn {
    /// Lives until the connection breaks.
    pub(crate) fn run(&mut self, address: SocketAddr) {
        // The server was killed: that is what the test is about.
        let _ = self.go_on(address);
    }

    fn go_on(&mut self, address: SocketAddr) -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        loop {
            self.is_ending = true;
            let deleted = connection.send(&Request::delete(REBORN))?;
            if !matches!(deleted.status, 204 | 404) {
                continue;
            }
            (self.life, self.stored) = (self.life + 1, 0);
            create(&mut connection, REBORN)?;
            self.is_ending = false;
            for _ in 0..EVERY {
                let append = Request::post(REBORN).body("text/plain", record(self.life));
                if is_done(&connection.send(&append)?) {
                    self.stored += 1;
                }
            }
        }
    }

    /// Asserts that nothing of an earlier life is there, and nothing of the last is missing.
    pub(crate) fn check(&self, connection: &mut Connection) {
        let head = connection.send(&Request::head(REBORN)).expect("the server is running");
        if head.status == 404 {
            assert!(self.is_ending, "it is gone: {self:?}");
            return;
        }
        let text = read(connection, REBORN);
        assert!(text.lines().all(|line| number_of(line) == self.life), "a byte of another life: {self:?}");
        assert!(text.lines().count() as u64 >= self.stored, "{} records: {self:?}", text.lines().count());
        println!("{REBORN}: {} lives", self.life);
    }
}

fn create(connection: &mut Connection, target: &str) -> io::Result<()> {
    connection.send(&Request::put(target).header("Content-Type", "text/plain")).map(drop)
}

fn is_done(answer: &Response) -> bool {
    assert!(matches!(answer.status, 204 | 503 | 504), "{answer:?}");
    answer.status == 204
}

fn record(number: u64) -> String {
    format!("{number} {}\n", "x".repeat(PADDING + number as usize % 1000))
}

fn number_of(line: &str) -> u64 {
    let number = line.split(' ').next().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no record: {line:.60}"))
}

fn read(connection: &mut Connection, target: &str) -> String {
    let (mut text, mut offset) = (String::new(), "-1".to_owned());
    loop {
        let page = connection.send(&Request::get(&format!("{target}?offset={offset}"))).expect("the server is running");
        let page = page.expect(200);
        text += &page.text();
        if page.header("stream-up-to-date").is_some() {
            return text;
        }
        offset = page.next_offset().to_owned();
    }
}
