//! Live readers that leave while the head of their response is still on its way.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use weir_testkit::{Request, Server, Setup};

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
fn connect(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BYTES).expect("a small buffer");
    socket.connect_timeout(&server.address().into(), Duration::from_secs(10)).expect("the server listens");
    socket.into()
}
