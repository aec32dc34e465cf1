//! The streams under load: how records become bodies, and bodies records again.

use std::io;
use std::net::SocketAddr;

use crate::history::Read;
use crate::http::{Connection, Request};
use crate::sse::Events;
use serde_json::value::RawValue;

/// How a stream's records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line each.
    Text,
    /// A JSON message each.
    Json,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// Its address.
    pub target: String,
    /// How its records are written.
    pub kind: Kind,
}

impl Stream {
    /// The request that appends `records`, all or none.
    pub fn append(&self, records: &[String]) -> Request {
        let body = match self.kind {
            Kind::Text => records.join("\n") + "\n",
            Kind::Json => format!("[{}]", records.join(",")),
        };
        Request::post(&self.target).body(self.content_type(), body)
    }

    /// The request that creates the stream.
    pub fn create(&self) -> Request {
        Request::put(&self.target).header("Content-Type", self.content_type())
    }

    /// Reads one page from `offset`; also gives the offset to read on from, and whether that was the tail.
    pub fn page(&self, connection: &mut Connection, offset: &str) -> io::Result<(Read, String, bool)> {
        let response = connection.send(&Request::get(&format!("{}?offset={offset}", self.target)))?;
        assert_eq!(response.status, 200, "a read from {offset} of {}: {response:?}", self.target);
        let next = response.next_offset().to_owned();
        let read = Read { start: position(offset), end: position(&next), records: self.records(&response.text()) };
        Ok((read, next, response.header("stream-up-to-date").is_some()))
    }

    /// Reads everything.
    pub fn all(&self, connection: &mut Connection) -> Vec<String> {
        let (mut records, mut offset) = (Vec::new(), "-1".to_owned());
        loop {
            let (read, next, is_tail) = self.page(connection, &offset).expect("the server is running");
            records.extend(read.records);
            if is_tail {
                return records;
            }
            offset = next;
        }
    }

    /// Follows the stream from `offset` until the connection breaks; gives back what was delivered and the last `id:`.
    pub fn follow(&self, address: SocketAddr, offset: &str) -> (Read, String) {
        let mut read = Read { start: position(offset), end: position(offset), records: Vec::new() };
        let mut last = offset.to_owned();
        let request = Request::get(&format!("{}?offset={offset}&live=sse", self.target));
        let Ok(answer) = Events::open_if_alive(address, &request) else { return (read, last) };
        let (mut events, _) = answer.unwrap_or_else(|r| panic!("no live read: {r:?}"));
        while let Ok(Some(event)) = events.next_event() {
            assert!(event.id >= last || last == "-1", "a live read went back from {last} to {}", event.id);
            match event.kind.as_str() {
                "data" => read.records.extend(self.records(&event.data)),
                "control" => assert_eq!(event.control()["streamNextOffset"], event.id),
                other => panic!("an event of kind {other:?}"),
            }
            read.end = position(&event.id);
            last = event.id;
        }
        (read, last)
    }

    /// The records of a body or an event.
    pub fn records(&self, text: &str) -> Vec<String> {
        match self.kind {
            Kind::Text => text.split_terminator('\n').map(str::to_owned).collect(),
            Kind::Json => {
                let messages: Vec<&RawValue> =
                    serde_json::from_str(text).unwrap_or_else(|e| panic!("no array ({e}): {text}"));
                messages.into_iter().map(|message| message.get().to_owned()).collect()
            }
        }
    }

    fn content_type(&self) -> &'static str {
        match self.kind {
            Kind::Text => "text/plain",
            Kind::Json => "application/json",
        }
    }
}

/// The position that an offset's token begins with; `-1` is the beginning.
pub fn position(token: &str) -> u64 {
    match token {
        "-1" => 0,
        _ => token.get(..20).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no token: {token}")),
    }
}
