//! Clients that leave: live readers whose head is still on its way, and who has asked for much work.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use weir_testkit::{Request, Server, Setup};

use crate::http2::{begin, cancel, get};
use crate::{MIB, append, assert_serves, create, metric, on_disk, raise_open_files_limit, wait_until};

const PAGE: &str = "/floods/page";
const FOLLOWED: &str = "/floods/followed";
/// More than the client's socket takes and less than the server's: so a head behind it is met by a socket that is full.
const PAGE_BYTES: usize = 100_000;
const RECEIVE_BYTES: usize = 4096;
/// Answers between the page and the live read: they decide where in the socket its head comes to lie.
const ANSWERS_MAX: usize = 60;
const ROUNDS: usize = 3;

#[test]
fn readers_that_leave_before_their_first_event_leave_nothing_behind() {
    raise_open_files_limit();
    let mut server = start(on_disk(MIB));
    for _ in 0..ROUNDS {
        for answers in 0..ANSWERS_MAX {
            let mut leaver = connect(&server);
            let mut requests = Request::get(PAGE).to_bytes("127.0.0.1");
            requests.extend(Request::get("/floods/nothing").to_bytes("127.0.0.1").repeat(answers));
            requests.extend(Request::get(&format!("{FOLLOWED}?offset=now&live=sse")).to_bytes("127.0.0.1"));
            leaver.write_all(&requests).expect("the requests are written");
            wait_until("the live read", || metric(&server, "weir_subscribers") >= 1.0);
            drop(leaver);
        }
        wait_until("the end of all readers", || metric(&server, "weir_subscribers") == 0.0);
    }
    wait_until("the end of all connections", || metric(&server, "weir_connections_open") == 0.0);
    assert_serves(&mut server);
}

#[test]
fn readers_that_take_nothing_of_their_head_are_cut_off_and_leave_nothing_behind() {
    raise_open_files_limit();
    let mut server = start(on_disk(MIB).env("WEIR_HTTP_WRITE_TIMEOUT_MS", 1000));
    let stalled: Vec<TcpStream> = (0..ANSWERS_MAX)
        .map(|answers| {
            let mut stalled = connect(&server);
            let mut requests = Request::get(PAGE).to_bytes("127.0.0.1").repeat(40);
            requests.extend(Request::get("/floods/nothing").to_bytes("127.0.0.1").repeat(answers));
            requests.extend(Request::get(&format!("{FOLLOWED}?offset=now&live=sse")).to_bytes("127.0.0.1"));
            stalled.write_all(&requests).expect("the requests are written");
            stalled
        })
        .collect();
    wait_until("the end of all connections", || metric(&server, "weir_connections_open") == 0.0);
    assert_eq!(metric(&server, "weir_subscribers"), 0.0);
    drop(stalled);
    assert_serves(&mut server);
}

#[test]
fn a_fold_ends_with_the_only_client_that_wants_it() {
    const FOLDED: &str = "/floods/folded";
    const SUMMARY: &str = "/floods/folded?summary=s";
    // A few seconds of work for a guest, and not too much for whoever stays on a machine with other things to do.
    const BODIES: usize = 10;
    let mut server = on_disk(MIB).start();
    let mut client = server.client();
    let binding = r#"{"streams":"folded","module":"builtin:stats","role":"summary"}"#;
    let _ = client.send(Request::put("/floods/-/bindings/s").body("application/json", binding)).expect(201);
    let _ = client.send(Request::put(FOLDED).header("Content-Type", "application/json")).expect(201);
    let body = format!("[{}]", vec!["1"; 100_000].join(","));
    for _ in 0..BODIES {
        let _ = client.send(Request::post(FOLDED).body("application/json", body.clone())).expect(204);
    }
    let busy = || metric(&server, "weir_guest_busy_seconds_total");
    let leave = |how: &str, leave: &mut dyn FnMut()| {
        let before = metric(&server, "weir_guest_calls_total");
        wait_until("the fold's begin", || metric(&server, "weir_guest_calls_total") > before);
        leave();
        wait_until(&format!("the end of the work, {how}"), || metric(&server, "weir_in_flight_bytes") == 0.0);
        // What was handed to the guest is done, and nothing after it.
        std::thread::sleep(Duration::from_millis(200));
        let after = busy();
        std::thread::sleep(Duration::from_millis(500));
        assert!(busy() - after < 0.01, "{how}: {} s more", busy() - after);
    };
    let mut connection = Some(server.connect());
    let asked = Request::get(SUMMARY).to_bytes("localhost");
    connection.as_mut().expect("it is open").write(&asked).expect("the request is written");
    leave("by closing", &mut || drop(connection.take()));
    let mut connection = begin(&server);
    connection.write(&get(1, SUMMARY)).expect("the request is written");
    leave("by a reset", &mut || connection.write(&cancel(1)).expect("the reset is written"));
    // Who stays gets all of it.
    let whole = client.send(Request::get(SUMMARY)).expect(200);
    assert!(whole.text().contains(&format!("{}", BODIES * 100_000)), "{}", whole.text());
    assert_serves(&mut server);
}

fn start(mut setup: Setup) -> Server {
    let server = setup.start();
    let mut client = server.client();
    create(&mut client, PAGE);
    let _ = client.send(append(PAGE, vec![b'x'; PAGE_BYTES])).expect(204);
    create(&mut client, FOLLOWED);
    drop(client);
    wait_until("the client's end", || metric(&server, "weir_connections_open") == 0.0);
    server
}

/// A connection that can receive next to nothing.
pub(crate) fn connect(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BYTES).expect("a small buffer");
    socket.connect_timeout(&server.address().into(), Duration::from_secs(10)).expect("the server listens");
    socket.into()
}
