//! Very many connections: those that say nothing, and those beyond the limit.

use std::time::Duration;

use weir_testkit::{Connection, Request, Server};

use crate::{MIB, Memory, append, assert_serves, create, metric, on_disk, raise_open_files_limit, read, wait_until};

const TARGET: &str = "/floods/connections";
const IDLE: usize = 5000;
const IDLE_CONNECTION_BYTES: u64 = 8 << 10;
const CONNECTIONS_MAX: usize = 50;

#[test]
fn connections_that_say_nothing_are_cheap_and_are_closed() {
    raise_open_files_limit();
    let mut server = on_disk(MIB).env("WEIR_HTTP_HEADER_READ_TIMEOUT_MS", 8000).start();
    create(&mut server.client(), TARGET);
    let appended = exchange(&server, 0);
    let memory = Memory::watch(&server);
    let mut idle: Vec<Connection> = (0..IDLE).map(|_| server.connect()).collect();
    wait_until("5,000 open connections", || metric(&server, "weir_connections_open") >= IDLE as f64);
    // Others come and go between them.
    (0..10).fold(appended, |appended, _| exchange(&server, appended));
    memory.assert_grown_by_at_most(IDLE as u64 * IDLE_CONNECTION_BYTES + 4 * MIB);
    wait_until("the end of all idle connections", || metric(&server, "weir_connections_open") == 0.0);
    for connection in &mut idle {
        assert!(connection.ends_within(Duration::from_secs(5)), "an idle connection is kept");
    }
    assert_serves(&mut server);
}

#[test]
fn connections_to_the_admin_listener_end_and_take_nothing_from_the_public_one() {
    const FLOOD: usize = 500;
    raise_open_files_limit();
    let mut server = on_disk(MIB).start();
    create(&mut server.client(), TARGET);
    let files_open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count();
    let before = files_open();
    let open = || Connection::open(server.admin()).expect("the kernel takes it");
    let mut idle: Vec<Connection> = (0..FLOOD).map(|_| open()).collect();
    idle.iter_mut().for_each(|connection| connection.write(b"GET /metr").expect("the kernel takes it"));
    exchange(&server, 0);
    assert!(files_open() < before + FLOOD / 4, "{} files", files_open());
    assert!(idle[0].ends_within(Duration::from_secs(10)), "one that says half of a request is kept");
    drop(idle);
    assert_serves(&mut server);
}

/// Ten appends and reads of `TARGET`, which holds `appended` bytes, on a new connection; gives back what it holds then.
fn exchange(server: &Server, appended: usize) -> usize {
    let mut client = server.client();
    for number in 1..=10 {
        let _ = client.send(append(TARGET, "x")).expect(204);
        assert_eq!(read(&mut client, TARGET).len(), appended + number);
    }
    appended + 10
}

#[test]
fn connections_beyond_the_limit_are_told_so_until_others_end() {
    let mut server = on_disk(MIB).env("WEIR_HTTP_CONNECTIONS_MAX", CONNECTIONS_MAX).start();
    let mut open: Vec<Connection> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    for _ in 0..100 {
        // It need not ask: whatever it would ask has this answer.
        let refused = server.connect().read_response(false).expect("an answer").expect(503);
        assert_eq!(refused.code(), "unavailable");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    // The admin listener is not counted, and those that were first are still served.
    assert_eq!(metric(&server, "weir_connections_turned_away_total"), 100.0);
    let list = Request::get("/floods/-/streams");
    for connection in &mut open {
        assert_ne!(connection.send(&list).expect("an answer").status, 503);
    }
    open.truncate(CONNECTIONS_MAX / 2);
    wait_until("room for a connection", || server.connect().send(&list).is_ok_and(|answer| answer.status != 503));
    drop(open);
    wait_until("the end of all connections", || metric(&server, "weir_connections_open") == 0.0);
    assert_serves(&mut server);
}
