//! Appends that depend on the tail, and offsets that are no offsets of this stream.

use std::sync::Barrier;
use std::thread;

use weir_testkit::Request;

use crate::{append, create, in_memory, read};

const TARGET: &str = "/demo/cond";

fn append_if(offset: &str, text: &str) -> Request {
    Request::post(TARGET).header("If-Match", format!("\"{offset}\"")).body("text/plain", text)
}

#[test]
fn an_append_happens_only_at_the_tail_that_it_names() {
    let server = in_memory().start();
    let mut client = server.client();
    let start = create(&mut client, TARGET).next_offset().to_owned();
    let tail = client.send(append_if(&start, "one")).expect(204).next_offset().to_owned();
    let refused = client.send(append_if(&start, "two")).expect(412);
    assert_eq!((refused.next_offset(), refused.code().as_str()), (tail.as_str(), "tail_moved"));
    assert_eq!(read(&mut client, TARGET), "one");
    // What the refusal names is what the next attempt needs.
    let tail = client.send(append_if(refused.next_offset(), "two")).expect(204).next_offset().to_owned();
    // Closing is as conditional as appending.
    let close = |offset: &str| {
        Request::post(TARGET).header("If-Match", format!("\"{offset}\"")).header("Stream-Closed", "true")
    };
    let _ = client.send(close(&start)).expect(412);
    let _ = client.send(close(&tail)).expect(204);
    assert_eq!(read(&mut client, TARGET), "onetwo");
}

#[test]
fn of_appends_at_the_same_tail_one_wins() {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 10;
    let server = in_memory().start();
    let mut tail = create(&mut server.client(), TARGET).next_offset().to_owned();
    for round in 0..ROUNDS {
        let ready = Barrier::new(WRITERS);
        let answers: Vec<_> = thread::scope(|scope| {
            let writer = |number: usize| {
                let (mut client, tail, ready) = (server.client(), tail.as_str(), &ready);
                move || {
                    ready.wait();
                    client.send(append_if(tail, &format!("{round}.{number};")))
                }
            };
            let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(writer(number))).collect();
            writers.into_iter().map(|writer| writer.join().expect("an answer")).collect()
        });
        let won: Vec<_> = answers.iter().filter(|answer| answer.status == 204).collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:?}");
        tail = won[0].next_offset().to_owned();
        let lost = answers.iter().filter(|answer| answer.status == 412);
        assert_eq!(lost.filter(|answer| answer.next_offset() == tail).count(), WRITERS - 1, "{answers:?}");
    }
    assert_eq!(read(&mut server.client(), TARGET).matches(';').count(), ROUNDS);
}

#[test]
fn what_is_no_offset_is_refused() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let tail = append(&mut client, TARGET, "x");
    for value in ["*", "\"-1\"", "\"now\"", "\"\"", "\"0\"", tail.as_str(), &format!("\"{tail}\", \"{tail}\"")] {
        let request = Request::post(TARGET).header("If-Match", value).body("text/plain", "y");
        assert_eq!(client.send(request).expect(400).code(), "offset_malformed", "{value}");
    }
    let zeros = tail.replacen('1', "9", 1);
    let lineage = &tail[21..];
    let cases = [
        ("nonsense".to_owned(), 400),
        (String::new(), 400),
        (format!("-1&offset={tail}"), 400),
        ("NOW".to_owned(), 400),
        (tail[..20].to_owned(), 400),
        (zeros, 400),
        (format!("99999999999999999999-{lineage}"), 400),
        ("x".repeat(10_000), 400),
    ];
    for (offset, status) in cases {
        let answer = client.send(Request::get(&format!("{TARGET}?offset={offset}")));
        assert_eq!(answer.status, status, "{offset:.60}: {answer:?}");
    }
    assert_eq!(read(&mut client, TARGET), "x");
}

#[test]
fn an_offset_of_an_earlier_stream_of_the_name_is_gone() {
    let server = in_memory().start();
    let mut client = server.client();
    create(&mut client, TARGET);
    let old = append(&mut client, TARGET, "old");
    let _ = client.send(Request::delete(TARGET)).expect(204);
    create(&mut client, TARGET);
    append(&mut client, TARGET, "new");
    for live in ["", "&live=long-poll", "&live=sse"] {
        let answer = client.send(Request::get(&format!("{TARGET}?offset={old}{live}"))).expect(410);
        assert_eq!(answer.code(), "offset_gone", "{live}");
    }
    assert_eq!(client.send(append_if(&old, "x")).expect(410).code(), "offset_gone");
    assert_eq!(read(&mut client, TARGET), "new");
}

#[test]
fn an_offset_inside_a_record_is_no_offset() {
    let server = in_memory().start();
    let mut client = server.client();
    let start = create(&mut client, TARGET).next_offset().to_owned();
    append(&mut client, TARGET, "four");
    let inside = start.replacen("00000000000000000000", "00000000000000000002", 1);
    let answer = client.send(Request::get(&format!("{TARGET}?offset={inside}")));
    assert_eq!((answer.status, answer.code().as_str()), (400, "offset_invalid"), "{answer:?}");
}
