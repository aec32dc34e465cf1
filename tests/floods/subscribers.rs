//! Live readers that do not read, between others that do.

use std::thread;
use std::time::Duration;

use weir_testkit::{Events, Request, Server};

use crate::{
    CONNECTION_BYTES, MIB, Memory, SLACK_BYTES, append, assert_serves, create, metric, on_disk, raise_open_files_limit,
    wait_until,
};

const TARGET: &str = "/floods/subscribers";
const STALLED: usize = 1000;
const LIVELY: usize = 4;
/// The kernel takes about 2.6 MiB for a client that does not read; only then does the server notice.
const APPENDS: usize = 300;
const APPEND_BYTES: usize = 16 << 10;
const PACE: Duration = Duration::from_millis(30);
const LIVE_BYTES_MAX: u64 = 8 * MIB;

#[test]
fn subscribers_that_do_not_read_cost_the_others_nothing() {
    raise_open_files_limit();
    let mut server =
        on_disk(MIB).env("WEIR_HTTP_WRITE_TIMEOUT_MS", 2000).env("WEIR_LIMITS_LIVE_BYTES_MAX", LIVE_BYTES_MAX).start();
    let mut client = server.client();
    create(&mut client, TARGET);
    create(&mut client, "/floods/before");
    // What appends alone take is there before the subscribers come.
    for number in 0..APPENDS {
        let _ = client.send(append("/floods/before", record(number))).expect(204);
    }
    let memory = Memory::watch(&server);
    let mut stalled: Vec<Events> = (0..STALLED).map(|_| follow(&server)).collect();
    let lively: Vec<Events> = (0..LIVELY).map(|_| follow(&server)).collect();
    let all = (STALLED + LIVELY) as f64;
    wait_until("all subscriptions", || metric(&server, "weir_subscribers") == all);
    thread::scope(|scope| {
        for events in lively {
            scope.spawn(|| read_all(events));
        }
        for number in 0..APPENDS {
            let _ = client.send(append(TARGET, record(number))).expect(204);
            thread::sleep(PACE);
        }
    });
    wait_until("the end of all that do not read", || metric(&server, "weir_subscribers") == 0.0);
    memory.assert_grown_by_at_most(LIVE_BYTES_MAX + STALLED as u64 * CONNECTION_BYTES + SLACK_BYTES);
    for events in stalled.iter_mut().step_by(50) {
        assert!(events.connection().ends_within(Duration::from_secs(10)), "a stalled connection is kept");
    }
    assert_serves(&mut server);
}

fn follow(server: &Server) -> Events {
    let request = Request::get(&format!("{TARGET}?offset=now&live=sse"));
    let (events, _) = Events::open(server.address(), &request).unwrap_or_else(|r| panic!("no live read: {r:?}"));
    events
}

/// Reads every record, each in its place.
fn read_all(mut events: Events) {
    let (mut number, mut text) = (0, String::new());
    while number < APPENDS {
        let event = events.next_event().expect("the connection holds").expect("the response goes on");
        if event.kind != "data" {
            continue;
        }
        text += &event.data;
        while text.len() >= APPEND_BYTES {
            let rest = text.split_off(APPEND_BYTES);
            assert!(text == record(number), "record {number} is another one: {}", &text[text.len() - 8..]);
            (number, text) = (number + 1, rest);
        }
    }
}

/// Record `number`, its own and of a fixed length.
fn record(number: usize) -> String {
    format!("{number:0APPEND_BYTES$}")
}
