//! What live readers get is what history gives, whatever the bytes, the content type and the cuts between appends.

use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use weir_testkit::{Client, Events, Request, Server};

use crate::in_memory;

/// Appends in their order, none of them empty.
fn cut(bytes: Vec<u8>, cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let mut begin = 0;
    let pieces = ends.into_iter().map(|end| bytes[std::mem::replace(&mut begin, end)..end].to_vec());
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// Text of characters of all lengths and line breaks of all kinds, cut anywhere; or bytes that may be no text at all.
fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let characters = vec(
        prop_oneof![Just("a"), Just(" "), Just("\r"), Just("\n"), Just("\u{e9}"), Just("\u{4f60}"), Just("\u{1f600}")],
        1..30,
    );
    let bytes = vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(0xe4), Just(0xbd), Just(0xa0)], 1..60);
    let whole = prop_oneof![characters.prop_map(|characters| characters.concat().into_bytes()), bytes];
    (whole, vec(any::<prop::sample::Index>(), 0..12)).prop_map(|(whole, cuts)| cut(whole, &cuts))
}

/// Bodies of messages, with line breaks between and within them.
fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let message = prop_oneof![Just("1"), Just("\"a,\\\"]\""), Just("{\"a\":\r\n[1,2]}"), Just("[ [], \"\u{4f60}\" ]")];
    let body = (vec(message, 1..5), prop_oneof![Just(","), Just(" ,\n")]);
    vec(body.prop_map(|(messages, between)| format!("[{}]", messages.join(between)).into_bytes()), 1..6)
}

/// The data of all events of a stream that is read from its beginning, while `pieces` are appended, the stream is closed and
/// the response ends.
fn followed(server: &Server, target: &str, content_type: &str, pieces: &[Vec<u8>]) -> Vec<String> {
    let mut client = server.client();
    let _ = client.send(Request::put(target).header("Content-Type", content_type)).expect(201);
    let request = Request::get(&format!("{target}?offset=-1&live=sse"));
    let (mut events, _) = Events::open(server.address(), &request).expect("a live read");
    for piece in pieces {
        let _ = client.send(Request::post(target).body(content_type, piece.clone())).expect(204);
    }
    let _ = client.send(Request::post(target).header("Stream-Closed", "true")).expect(204);
    data_of(&mut client, target, &mut events)
}

/// The data of all events; every offset that they name can be read from.
fn data_of(client: &mut Client, target: &str, events: &mut Events) -> Vec<String> {
    let mut data = Vec::new();
    while let Some(event) = events.next_event().expect("the connection holds") {
        let _ = client.send(Request::get(&format!("{target}?offset={}", event.id))).expect(200);
        if event.kind == "data" {
            data.push(event.data);
        }
    }
    data
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n")
}

/// Runs `check` with one server and a new stream for every case.
fn for_all<T: std::fmt::Debug>(cases: impl Strategy<Value = T>, check: impl Fn(&Server, &str, T)) {
    let (server, number) = (in_memory().start(), Cell::new(0));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let run = runner.run(&cases, |case| {
        number.set(number.get() + 1);
        check(&server, &format!("/demo/{}", number.get()), case);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn of_text() {
    for_all(pieces(), |server, target, pieces| {
        let live = followed(server, target, "text/plain", &pieces).concat();
        let history = server.client().read_all(target);
        assert_eq!(history, pieces.concat());
        assert_eq!(live, text(&history));
        // Whoever comes late gets it from history, as events.
        let request = Request::get(&format!("{target}?offset=-1&live=sse"));
        let (mut late, _) = Events::open(server.address(), &request).expect("a live read");
        assert_eq!(data_of(&mut server.client(), target, &mut late).concat(), live);
    });
}

#[test]
fn of_other_bytes() {
    for_all(pieces(), |server, target, pieces| {
        let live = followed(server, target, "application/octet-stream", &pieces);
        let live: Vec<u8> = live.iter().flat_map(|data| STANDARD.decode(data).expect("base64")).collect();
        assert_eq!(live, server.client().read_all(target));
    });
}

#[test]
fn of_messages() {
    for_all(bodies(), |server, target, bodies| {
        let live = followed(server, target, "application/json", &bodies);
        let messages = |text: &str| serde_json::from_str::<Vec<Value>>(text).expect("an array");
        let longest = live.iter().flat_map(|data| data.lines()).map(str::len).max().expect("there is data");
        assert!(longest < 30, "a line has one message: {live:?}");
        let live: Vec<Value> = live.iter().flat_map(|data| messages(data)).collect();
        let history = server.client().read_all(target);
        assert_eq!(live, messages(std::str::from_utf8(&history).expect("UTF-8")));
    });
}
