//! What passes through a proxy in front of the server: nginx, set up as in the `nginx.conf` beside this file.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use weir_testkit::{Client, Connection, Events, Request, Response, Server, Setup, ports, wait_until};

/// Where Debian's package has it, which is on the search path of root alone.
const NGINX: &str = "/usr/sbin/nginx";

#[test]
fn a_location_is_the_one_that_clients_of_the_proxy_use() {
    let proxied = Proxied::start();
    let location = |target: &str| {
        let created = proxied.client().send(Request::put(target).header("Content-Type", "text/plain")).expect(201);
        created.header("location").expect("a location").to_owned()
    };
    assert_eq!(location("/ds/demo/s"), format!("https://{}/ds/demo/s", proxied.address));
    assert_eq!(location("/ds/made"), format!("https://{}/ds/made", proxied.address));
}

#[test]
fn events_are_not_held_back() {
    let proxied = Proxied::start();
    let mut direct = proxied.server.client();
    for prefix in ["", "/ds", "/cached"] {
        let stream = format!("/demo/held{}", prefix.replace('/', "-"));
        let _ = direct.send(Request::put(&stream).header("Content-Type", "text/plain")).expect(201);
        let follow = Request::get(&format!("{prefix}{stream}?offset=-1&live=sse"));
        let (mut events, _) = Events::open(proxied.address, &follow).expect("an event stream");
        // What is held back until the response ends comes after a minute; nobody here waits for so long.
        assert_eq!(next(&mut events).kind, "control", "{prefix}");
        for text in ["one", "two"] {
            let _ = direct.send(Request::post(&stream).body("text/plain", text)).expect(204);
            assert_eq!(next(&mut events).data, text, "{prefix}");
            assert_eq!(next(&mut events).kind, "control", "{prefix}");
        }
    }
}

#[test]
fn a_cache_keeps_history_and_never_the_tail() {
    let proxied = Proxied::start();
    let (mut direct, mut client) = (proxied.server.client(), proxied.client());
    let _ = direct.send(Request::put("/demo/s").header("Content-Type", "text/plain")).expect(201);
    let mut append = |text: &str| direct.send(Request::post("/demo/s").body("text/plain", text)).expect(204);
    let first = append("one").next_offset().to_owned();
    let history = |client: &mut Client| client.send(Request::get("/cached/demo/s?offset=-1")).expect(200);
    assert_eq!(cache(&history(&mut client)), "MISS");
    assert_eq!(cache(&history(&mut client)), "HIT");
    let mut tails = |tail: &str| {
        for request in [Request::head("/cached/demo/s"), Request::get("/cached/demo/s")] {
            let answer = client.send(request.clone()).expect(200);
            assert_eq!(answer.next_offset(), tail, "{request:?} was answered by {}", cache(&answer));
        }
    };
    tails(&first);
    tails(append("two").next_offset());
    // What is kept of the history is its beginning, and says itself where the rest is.
    let kept = history(&mut client);
    assert_eq!((cache(&kept), kept.text().as_str(), kept.next_offset()), ("HIT", "one", first.as_str()));
    let rest = client.send(Request::get(&format!("/cached/demo/s?offset={first}"))).expect(200);
    assert_eq!((cache(&rest), rest.text().as_str()), ("MISS", "two"));
}

fn cache(answer: &Response) -> &str {
    answer.header("x-cache").expect("nginx says what its cache did")
}

#[track_caller]
fn next(events: &mut Events) -> weir_testkit::Event {
    events.next_event().expect("an event in time").expect("the response goes on")
}

/// A server in memory that trusts the proxy before it.
struct Proxied {
    server: Server,
    nginx: Child,
    /// The proxy's listener.
    address: SocketAddr,
    _home: TempDir,
}

impl Proxied {
    fn start() -> Proxied {
        let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"))
            .args(&["--in-memory", "--shards", "2"])
            .env("WEIR_HTTP_TRUSTED_PROXIES", "127.0.0.1");
        let server = setup.start();
        let home = tempfile::Builder::new().prefix("weir-nginx-").tempdir().expect("a temporary directory");
        let address = ports::free();
        let path = |name: &str| home.path().join(name);
        let config = include_str!("nginx.conf")
            .replace("@HOME@", &home.path().display().to_string())
            .replace("@LISTEN@", &address.to_string())
            .replace("@WEIR@", &server.address().to_string());
        fs::write(path("nginx.conf"), config).expect("the directory can be written");
        let mut nginx = Command::new(NGINX)
            .arg("-c")
            .arg(path("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log")).expect("the directory can be written"))
            .spawn()
            .unwrap_or_else(|e| panic!("{NGINX} is needed to be behind it, but it does not start: {e}"));
        wait_until("nginx answers", Duration::from_secs(10), || {
            let log = || fs::read_to_string(path("log")).unwrap_or_default();
            assert!(nginx.try_wait().expect("it is our child").is_none(), "nginx has ended: {}", log());
            Connection::open(address).is_ok()
        });
        Proxied { server, nginx, address, _home: home }
    }

    /// A client of the proxy.
    fn client(&self) -> Client {
        Client::new(self.address)
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
    }
}
