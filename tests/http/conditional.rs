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
    for value in ["\"", "", "now", tail.as_str(), &format!("\"{tail}\", *")] {
        let request = Request::post(TARGET).header("If-Match", value).body("text/plain", "y");
        assert_eq!(client.send(request).expect(400).code(), "header_invalid", "{value}");
    }
    for value in ["\"-1\"", "\"now\"", "\"\"", "\"a:0:1\"", &format!("W/\"{tail}\"")] {
        let request = Request::post(TARGET).header("If-Match", value).body("text/plain", "y");
        let refused = client.send(request).expect(412);
        assert_eq!((refused.code().as_str(), refused.next_offset()), ("tail_moved", tail.as_str()), "{value}");
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
    let refused = client.send(append_if(&old, "x")).expect(412);
    let tail = client.send(Request::head(TARGET)).next_offset().to_owned();
    assert_eq!((refused.code().as_str(), refused.next_offset()), ("tail_moved", tail.as_str()));
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

#[test]
fn a_condition_may_be_whatever_is_there_or_one_of_several() {
    let server = in_memory().start();
    let mut client = server.client();
    let before = create(&mut client, TARGET).next_offset().to_owned();
    let any = |text: &str| Request::post(TARGET).header("If-Match", "*").body("text/plain", text);
    let tail = client.send(any("a")).expect(204).next_offset().to_owned();
    let several = |text: &str, tags: String| Request::post(TARGET).header("If-Match", tags).body("text/plain", text);
    let next = client.send(several("b", format!("\"{before}\", W/\"{tail}\", \"{tail}\""))).expect(204);
    let refused = client.send(several("c", format!("\"{before}\",\"{tail}\""))).expect(412);
    assert_eq!(refused.next_offset(), next.next_offset());
    let none = Request::post(TARGET).header("If-None-Match", "*").body("text/plain", "c");
    assert_eq!(client.send(none).expect(412).next_offset(), next.next_offset());
    assert_eq!(read(&mut client, TARGET), "ab");
    let absent = Request::post("/demo/absent").header("If-Match", "*").body("text/plain", "x");
    let _ = client.send(absent).expect(404);
}

#[test]
fn a_delete_happens_only_at_the_tail_that_it_names() {
    let server = in_memory().start();
    let mut client = server.client();
    let before = create(&mut client, TARGET).next_offset().to_owned();
    let tail = append(&mut client, TARGET, "x");
    let delete = |tags: &str| Request::delete(TARGET).header("If-Match", tags);
    for tags in [format!("\"{before}\""), "\"zz\"".to_owned(), format!("W/\"{tail}\"")] {
        let refused = client.send(delete(&tags)).expect(412);
        assert_eq!((refused.code().as_str(), refused.next_offset()), ("tail_moved", tail.as_str()), "{tags}");
    }
    let _ = client.send(Request::delete(TARGET).header("If-None-Match", "*")).expect(412);
    assert_eq!(read(&mut client, TARGET), "x");
    let _ = client.send(delete(&format!("\"{before}\", \"{tail}\""))).expect(204);
    let _ = client.send(delete("*")).expect(404);
    create(&mut client, TARGET);
    let _ = client.send(delete("*")).expect(204);
}

#[test]
fn a_create_is_of_what_is_new_or_of_what_is_there() {
    let server = in_memory().start();
    let mut client = server.client();
    let put = |name: &str, value: &str| Request::put(TARGET).header(name, value).header("Content-Type", "text/plain");
    assert_eq!(client.send(put("If-Match", "*")).expect(412).code(), "stream_absent");
    assert_eq!(client.send(Request::get(TARGET)).status, 404);
    let created = client.send(put("If-None-Match", "*")).expect(201).next_offset().to_owned();
    let refused = client.send(put("If-None-Match", "*")).expect(412);
    assert_eq!((refused.code().as_str(), refused.next_offset()), ("stream_exists", created.as_str()));
    let tail = append(&mut client, TARGET, "x");
    let _ = client.send(put("If-Match", "*")).expect(200);
    let _ = client.send(put("If-Match", &format!("\"{tail}\""))).expect(200);
    assert_eq!(client.send(put("If-Match", &format!("\"{created}\""))).expect(412).next_offset(), tail);
    let other = Request::put(TARGET).header("If-Match", "*").header("Content-Type", "text/html");
    assert_eq!(client.send(other).expect(409).code(), "config_conflict");
    let _ = client.send(put("If-None-Match", "\"a\"")).expect(400);
    // Of those who come at once, one creates.
    let ready = Barrier::new(8);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let creator = |_| {
            let (mut client, ready) = (server.client(), &ready);
            scope.spawn(move || {
                ready.wait();
                client.send(Request::put("/demo/once").header("If-None-Match", "*")).status
            })
        };
        let creators: Vec<_> = (0..8).map(creator).collect();
        creators.into_iter().map(|creator| creator.join().expect("an answer")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
}
