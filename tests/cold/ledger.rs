//! What a test has appended to a stream, and what it has read of it.

use weir_testkit::{Client, Request, Response, Server};

/// What has become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Stored,
    Refused,
    /// The server does not know either.
    Unknown,
}

/// The records of one stream, all of the same length, numbered as they were sent.
#[derive(Debug)]
pub(crate) struct Ledger {
    target: String,
    record_bytes: usize,
    fates: Vec<Fate>,
}

impl Ledger {
    pub(crate) fn new(target: &str, record_bytes: usize) -> Ledger {
        Ledger { target: target.to_owned(), record_bytes, fates: Vec::new() }
    }

    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    pub(crate) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Records sent so far.
    pub(crate) fn len(&self) -> usize {
        self.fates.len()
    }

    /// Records that were acknowledged.
    pub(crate) fn stored(&self) -> usize {
        self.fates.iter().filter(|fate| **fate == Fate::Stored).count()
    }

    pub(crate) fn create(&self, server: &Server) {
        let create = Request::put(&self.target).header("Content-Type", "text/plain");
        let _ = server.client().send(create).expect(201);
    }

    /// The number of the next record, which is about to be sent.
    pub(crate) fn begin(&mut self) -> usize {
        self.fates.push(Fate::Sent);
        self.fates.len() - 1
    }

    /// The request that appends record `number`.
    pub(crate) fn append(&self, number: usize) -> Request {
        Request::post(&self.target).body("text/plain", self.record(number))
    }

    /// Notes how record `number` was answered; true when it is stored.
    ///
    /// # Panics
    /// When it was answered as it never should be.
    pub(crate) fn end(&mut self, number: usize, answer: &Response) -> bool {
        self.fates[number] = match answer.status {
            200 | 204 => Fate::Stored,
            503 | 507 if !answer.code().is_empty() => Fate::Refused,
            504 => Fate::Unknown,
            _ => panic!("an append to {} is answered with {answer:?}", self.target),
        };
        self.fates[number] == Fate::Stored
    }

    /// Asserts that `read` is a beginning of what was sent, in order, and if it goes to the end, that nothing of the first
    /// `count` records is missing which was acknowledged.
    ///
    /// # Panics
    /// When a byte is another one.
    pub(crate) fn check(&self, read: &Read, count: usize) {
        let mut rest = read.bytes.as_slice();
        for (number, fate) in self.fates.iter().enumerate() {
            if rest.is_empty() && (read.refusal.is_some() || number >= count) {
                return;
            }
            if *fate != Fate::Refused && rest.starts_with(self.record(number).as_bytes()) {
                rest = &rest[self.record_bytes..];
            } else {
                let begin = String::from_utf8_lossy(&rest[..rest.len().min(60)]);
                let target = &self.target;
                assert_ne!(*fate, Fate::Stored, "{target}: record {number} is not there, but {begin:?}");
            }
        }
        let begin = String::from_utf8_lossy(&rest[..rest.len().min(60)]);
        assert!(rest.is_empty(), "{}: there is more than was sent: {begin:?}", self.target);
    }

    fn record(&self, number: usize) -> String {
        let begin = format!("{} {number} ", self.target);
        let dots = self.record_bytes - begin.len() - 1;
        begin + &".".repeat(dots) + "\n"
    }
}

/// What was read of a stream from its beginning.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    /// The code of the `503` that came before the end.
    pub(crate) refusal: Option<String>,
}

impl Read {
    /// Reads the stream at `target` up to its end, or up to a page that is refused with `503`.
    ///
    /// # Panics
    /// When it is refused in another way, or because of anything but the cold tier.
    pub(crate) fn whole(client: &mut Client, target: &str) -> Read {
        let mut read = Read { bytes: Vec::new(), refusal: None };
        let mut offset = "-1".to_owned();
        loop {
            let page = client.send(Request::get(&format!("{target}?offset={offset}")));
            if page.status == 503 {
                let code = page.code();
                assert!(matches!(code.as_str(), "cold_damaged" | "cold_unavailable"), "{target}: {page:?}");
                read.refusal = Some(code);
                return read;
            }
            let page = page.expect(200);
            read.bytes.extend_from_slice(&page.body);
            if page.header("stream-up-to-date").is_some() {
                return read;
            }
            offset = page.next_offset().to_owned();
        }
    }
}
