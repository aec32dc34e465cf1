//! The process: how it begins, how it ends, and what it says when it cannot.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use weir_testkit::{Client, Events, Request, Server, Setup};

use crate::{append, create, in_memory, metric, on_disk, read, wait_until};

const TARGET: &str = "/demo/process";

#[test]
fn a_server_that_is_asked_to_stop_finishes_what_it_has_begun() {
    let mut setup = on_disk();
    let mut server = setup.start();
    let mut client = server.client();
    let tail = create(&mut client, TARGET).next_offset().to_owned();
    let mut upload = server.connect();
    upload
        .write(b"POST /demo/process HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nhalf")
        .expect("half a request is written");
    let poll = Request::get(&format!("{TARGET}?offset={tail}&live=long-poll"));
    let mut waiting = server.connect();
    waiting.write(&poll.to_bytes("localhost")).expect("the request is written");
    let live = Request::get(&format!("{TARGET}?offset=now&live=sse"));
    let (mut events, _) = Events::open(server.address(), &live).expect("a live read");
    assert_eq!(events.next_event().expect("the connection holds").expect("an event").kind, "control");
    wait_until("both live reads", || metric(&server, "weir_subscribers") == 2.0);
    let mut idle = server.connect();
    let _ = idle.send(&Request::head(TARGET)).expect("an answer").expect(200);

    server.signal(Signal::TERM);
    // Live reads end properly, idle connections are closed, no new ones are taken.
    assert_eq!(events.next_event().expect("a proper end"), None);
    assert!(idle.ends_within(Duration::from_secs(5)), "an idle connection is kept");
    wait_until("the end of the listener", || weir_testkit::Connection::open(server.address()).is_err());
    upload.write(b"done").expect("the other half is written");
    let _ = upload.read_response(false).expect("the append is answered").expect(204);
    let answer = waiting.read_response(false).expect("the long-poll is answered");
    assert!(answer.status == 204 || answer.header("retry-after").is_some(), "{answer:?}");
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0), "{}", exit.log);

    let mut server = setup.start();
    assert_eq!(read(&mut server.client(), TARGET), "halfdone");
    // The other signal that asks.
    server.signal(Signal::INT);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn a_server_that_drains_is_not_ready_and_goes_on_for_a_while() {
    let mut server = in_memory().env("WEIR_DRAIN_DELAY_MS", 3_000).start();
    server.signal(Signal::TERM);
    wait_until("the probe to fail", || ready_status(&server) == 503);
    create(&mut server.client(), TARGET);
    wait_until("the end of the listener", || weir_testkit::Connection::open(server.address()).is_err());
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0), "{}", exit.log);
}

#[test]
fn a_second_signal_ends_it_at_once_but_not_within_a_second_of_the_first() {
    let mut setup = in_memory().env("WEIR_DRAIN_DELAY_MS", 60_000);
    let mut server = setup.start();
    server.signal(Signal::TERM);
    wait_until("the first signal", || ready_status(&server) == 503);
    server.signal(Signal::INT);
    wait_until("the second signal", || setup.log().contains("counts once"));
    create(&mut server.client(), TARGET);
    wait_until("the end", || {
        server.signal(Signal::TERM);
        !server.is_running()
    });
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(1), "{}", exit.log);
    assert!(exit.log.contains("asked to a second time"), "{}", exit.log);
}

#[test]
fn a_hangup_changes_nothing() {
    let mut setup = in_memory();
    let server = setup.start();
    server.signal(Signal::HUP);
    wait_until("a word of it in the log", || setup.log().contains("SIGHUP"));
    create(&mut server.client(), TARGET);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_service_manager_is_told_of_the_beginning_and_the_end() {
    let mut setup = in_memory();
    let path = setup.home().join("notify");
    let manager = manager(&path);
    setup = setup.env("NOTIFY_SOCKET", path.display());
    let server = setup.start();
    assert_eq!(told(&manager), "READY=1\n");
    assert_eq!(server.stop().code, Some(0));
    assert_eq!(told(&manager), "STOPPING=1\n");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("notify");
    let manager = manager(&path);
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["serve", "--in-memory", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &path)
        .stderr(File::options().write(true).open("/dev/full").expect("a full device"))
        .spawn()
        .expect("the server starts");
    assert_eq!(told(&manager), "READY=1\n");
    let pid = Pid::from_raw(child.id() as i32).expect("a process id");
    rustix::process::kill_process(pid, Signal::TERM).expect("the server is our child");
    assert_eq!(child.wait().expect("the server is our child").code(), Some(0));
}

/// The socket of a service manager that waits for a server's messages.
fn manager(path: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    manager
}

fn told(manager: &UnixDatagram) -> String {
    let mut message = [0; 64];
    let bytes = manager.recv(&mut message).expect("a message");
    String::from_utf8_lossy(&message[..bytes]).into_owned()
}

fn ready_status(server: &Server) -> u16 {
    Client::new(server.admin()).send(Request::get("/readyz")).status
}

#[test]
fn a_server_without_connections_stops_at_once() {
    for setup in [in_memory(), on_disk()] {
        let exit = setup.clone().start().stop();
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        assert!(exit.log.contains("listening on http://127.0.0.1:"), "{}", exit.log);
    }
}

#[test]
fn a_data_directory_has_one_process() {
    let mut setup = on_disk();
    let server = setup.start();
    let second = setup.clone().on_other_ports().run();
    assert_eq!(second.code, Some(4), "{}", second.log);
    assert!(second.log.contains(&*setup.data_dir().to_string_lossy()), "{}", second.log);
    create(&mut server.client(), TARGET);
    // The lock goes with the process, however it ends.
    server.kill();
    assert_eq!(setup.start().stop().code, Some(0));
}

#[test]
fn a_taken_port_is_an_error() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = held.local_addr().expect("an address");
    let exit = in_memory().listen(address).run();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    assert!(exit.log.contains(&address.to_string()), "{}", exit.log);
}

#[test]
fn an_address_may_be_a_name_or_all_interfaces() {
    for setup in [in_memory().host("localhost"), in_memory().host("").args(&["--insecure"])] {
        let server = setup.clone().start();
        create(&mut server.client(), TARGET);
        assert_eq!(server.stop().code, Some(0));
    }
    for (setup, said) in [
        (in_memory().host(""), "--insecure"),
        (in_memory().host("no host"), "the host \"no host\" cannot be resolved"),
        (in_memory().host("::1"), "written in brackets"),
    ] {
        let exit = setup.run();
        assert_eq!(exit.code, Some(2), "{}", exit.log);
        assert!(exit.log.contains(said), "{}", exit.log);
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let file = |content: &str| {
        let setup = in_memory();
        let path = setup.home().join("weir.toml");
        fs::write(&path, content).expect("a configuration file");
        setup.args(&["--config", &path.to_string_lossy()])
    };
    let cases: [(Setup, &str); 7] = [
        (file("[http]\nlong_pol_timeout_ms = 1\n"), "long_pol_timeout_ms"),
        (file("[htp]\n"), "htp"),
        (file("[http\n"), "weir.toml"),
        (in_memory().args(&["--config", "/does/not/exist.toml"]), "/does/not/exist.toml"),
        (in_memory().env("WEIR_HTTP_LONG_POLL_TIMEOUT_MS", "soon"), "WEIR_HTTP_LONG_POLL_TIMEOUT_MS"),
        (in_memory().listen(([0, 0, 0, 0], 4437).into()), "0.0.0.0:4437"),
        (in_memory().args(&["--colour", "blue"]), "--colour"),
    ];
    for (setup, named) in cases {
        let exit = setup.run();
        assert_eq!(exit.code, Some(2), "{named}: {}", exit.log);
        assert!(exit.log.contains(named), "{named} is not named: {}", exit.log);
    }
}

#[test]
fn a_variable_that_is_no_setting_is_named_and_ends_nothing() {
    let mut setup = in_memory().env("WEIR_HTTP_LONG_POL_TIMEOUT_MS", 1).env("WEIR_PORT", "tcp://10.0.0.1:4437");
    let server = setup.start();
    create(&mut server.client(), "/demo/s");
    assert_eq!(server.stop().code, Some(0));
    let log = setup.log();
    assert!(log.contains("WEIR_HTTP_LONG_POL_TIMEOUT_MS"), "a misspelt setting is not named: {log}");
    assert!(!log.contains("WEIR_PORT"), "Kubernetes gives this to every pod: {log}");
}

#[test]
fn a_data_directory_that_is_none_is_refused() {
    let setup = on_disk();
    fs::write(setup.data_dir(), "a file").expect("a file in its place");
    let exit = setup.run();
    assert_eq!(exit.code, Some(5), "{}", exit.log);

    let mut setup = on_disk();
    assert_eq!(setup.start().stop().code, Some(0));
    let node = setup.data_dir().join("node.toml");
    let text = fs::read_to_string(&node).expect("the node's file");
    fs::write(&node, text.replacen("format = 2", "format = 99", 1)).expect("the node's file");
    let exit = setup.run();
    assert_eq!(exit.code, Some(5), "{}", exit.log);
    assert!(exit.log.contains("99"), "{}", exit.log);
    fs::remove_file(&node).expect("the node's file");
    assert_eq!(setup.run().code, Some(5), "logs without the node's file are not formed anew");
    fs::write(&node, text).expect("the node's file");
    assert_eq!(setup.clone().args(&["--groups", "7"]).run().code, Some(2), "the number of groups is final");
    assert_eq!(setup.start().stop().code, Some(0));
}

#[test]
fn the_admin_listener_says_how_it_is() {
    let server = in_memory().start();
    let mut admin = Client::new(server.admin());
    let _ = admin.send(Request::get("/livez")).expect(200);
    let _ = admin.send(Request::get("/readyz")).expect(200);
    let before = metric(&server, "weir_appends_total");
    create(&mut server.client(), TARGET);
    append(&mut server.client(), TARGET, "one");
    assert_eq!(metric(&server, "weir_appends_total") - before, 1.0);
    assert_eq!(metric(&server, "weir_build_info"), 1.0);
    assert_eq!(metric(&server, "weir_streams"), 1.0);
    // Neither listener has what the other has.
    let _ = server.client().send(Request::get("/metrics")).expect(404);
    let _ = admin.send(Request::get(TARGET)).expect(404);
}
