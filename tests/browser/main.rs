//! What a page sees in a real browser: Chromium, headless, on a page of another origin than the server's.
//!
//! `browser.mjs` serves the page and drives Chromium through playwright-core, which the `package-lock.json` beside it pins.
//! Chromium itself is `/usr/bin/chromium` (Debian's package) or what `CHROMIUM` names.

use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weir_testkit::{Client, Connection, Request, Server, Setup, metric, npm, wait_until};

const FILES: [(&str, &str); 5] = [
    ("package.json", include_str!("package.json")),
    ("package-lock.json", include_str!("package-lock.json")),
    ("browser.mjs", include_str!("browser.mjs")),
    ("page.html", include_str!("page.html")),
    ("page.js", include_str!("page.js")),
];

/// How long one response lasts where lateness is judged: the default, since that is what people run.
const CYCLE_MS: u32 = 60_000;
/// How often a response ends by its age while a page follows.
const CYCLES: usize = 2;
/// A reader waits 250 ms before it comes again; without being told so, a browser waits 3 s. It is a limit of time in a
/// test because being late is what went wrong, and only a browser shows it.
const LATE_MS: i64 = 500;

const APPEND_EVERY: Duration = Duration::from_millis(100);
/// Longer than it takes; they only bound a failure.
const APPENDED_WITHIN: Duration = Duration::from_secs(60);
const RETURNED_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn an_event_source_misses_nothing_and_is_never_late() {
    let _alone = alone();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).env("WEIR_HTTP_SSE_MAX_AGE_MS", CYCLE_MS).start();
    let followed = follow(server.address(), true, |page| page.wait_opened(CYCLES));
    let mut late: Vec<i64> = followed.messages.iter().map(|(_, late_ms)| *late_ms).collect();
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    let figures = format!("{} events, p50 {} ms, p99 {} ms, max {} ms", late.len(), at(0.5), at(0.99), at(1.0));
    println!("{figures}");
    assert!(at(1.0) <= LATE_MS, "{figures}");
}

#[test]
fn the_polyfill_resumes_by_its_query_parameter() {
    let _alone = alone();
    let mut setup =
        Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).env("WEIR_HTTP_SSE_MAX_AGE_MS", 2_000);
    let server = setup.start();
    let cycles = 3;
    let followed = follow(server.address(), false, |page| page.wait_opened(cycles));
    let resumed = followed.requests.iter().filter(|url| url.contains("&lastEventId=")).count();
    // The last one is told that the stream is closed.
    assert_eq!(resumed, cycles + 1, "{:#?}", followed.requests);
}

#[test]
fn an_event_source_outlives_the_server() {
    let _alone = alone();
    for is_native in [true, false] {
        let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).env("WEIR_HTTP_SSE_MAX_AGE_MS", 1_000);
        let mut server = Some(setup.start());
        follow(server.as_ref().expect("it is running").address(), is_native, |_| {
            for end in [Server::kill, |server: Server| assert_eq!(server.stop().code, Some(0))] {
                end(server.take().expect("it is running"));
                let back = server.insert(setup.start());
                // And once more when its response has ended by age.
                wait_until("the page's return", RETURNED_WITHIN, || metric(back, "weir_subscribers") > 0.0);
                wait_until("the response's end", RETURNED_WITHIN, || metric(back, "weir_subscribers") == 0.0);
                wait_until("the page's return", RETURNED_WITHIN, || metric(back, "weir_subscribers") > 0.0);
            }
        });
    }
}

#[test]
fn a_page_of_another_origin_follows_with_fetch_and_a_token() {
    let _alone = alone();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let target = "/demo/s";
    let mut client = server.client();
    let _ = client.send(Request::put(target).body("text/plain", "zero")).expect(201);
    let url = format!("{}{target}?offset=-1&live=sse", server.url());
    let mut page = Page::open("streams", &[json!(url)]);
    page.wait_said("zero");
    // Each is there before the next one is: the browser holds nothing back.
    for word in ["one", "two", "three"] {
        let _ = client.send(Request::post(target).body("text/plain", word)).expect(204);
        page.wait_said(word);
    }
    let closed = client.send(Request::post(target).header("Stream-Closed", "true")).expect(204);
    let (report, _) = page.finish();
    assert_eq!((&report["status"], &report["control"]["streamClosed"]), (&json!(200), &json!(true)), "{report}");
    assert_eq!(report["control"]["streamNextOffset"], closed.next_offset());
}

/// Fields of the protocol's responses, and of ours, that a page needs and may not read unless it is allowed to. Not among
/// them are those of summaries and `Retry-After`, which take more than a page to get: `tests/http` has them.
#[test]
fn a_page_of_another_origin_reads_every_field_of_the_protocol() {
    let _alone = alone();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let mut client = server.client();
    let _ = client.send(Request::put("/demo/trimmed").body("text/plain", "zero")).expect(201);
    let _ = client.send(Request::post("/demo/-/trim/trimmed?before=now")).expect(204);
    let urls = ["/demo/s", "/demo/trimmed"].map(|target| json!(format!("{}{target}", server.url())));
    let (report, _) = Page::open("headers", &urls).finish();
    let mut names: Vec<String> = serde_json::from_value(report).expect("names");
    // What any page may read of any response.
    let safe = ["cache-control", "content-length", "content-type"];
    names.retain(|name| !safe.contains(&name.as_str()));
    let expected = [
        "etag",
        "location",
        "producer-epoch",
        "producer-expected-seq",
        "producer-received-seq",
        "producer-seq",
        "stream-closed",
        "stream-cursor",
        "stream-earliest-offset",
        "stream-expires-at",
        "stream-next-offset",
        "stream-sse-data-encoding",
        "stream-ttl",
        "stream-up-to-date",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_page_of_another_origin_may_use_streams_with_fetch() {
    let _alone = alone();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let url = format!("{}/demo/s", server.url());
    let (report, _) = Page::open("fetches", &[json!(url)]).finish();
    let raw = server.client().send(Request::get("/demo/s?offset=-1")).expect(200);
    let expected = json!({
        "created": 201,
        "location": url,
        "appended": 204,
        "tail": raw.next_offset(),
        "read": 200,
        "next": raw.next_offset(),
        "etag": raw.header("etag").expect("a page has one"),
        "messages": [{"from": "page"}],
        // So the browser does ask, and is told no.
        "operators": "TypeError",
    });
    assert_eq!(report, expected);
}

/// What a page got that followed a stream.
struct Followed {
    /// Number and lateness of each message, in the order in which they came.
    messages: Vec<(u64, i64)>,
    requests: Vec<String>,
}

/// A page follows a stream that is written to all the time, until `meanwhile` is over and some more events have come;
/// then the stream is closed. It has got every message once, in order.
#[track_caller]
fn follow(address: SocketAddr, is_native: bool, meanwhile: impl FnOnce(&mut Page)) -> Followed {
    let target = "/demo/s";
    let _ = Client::new(address).send(Request::put(target).header("Content-Type", "application/json")).expect(201);
    let url = format!("http://{address}{target}?offset=-1&live=sse");
    let mut page = Page::open("follow", &[json!(url), json!(is_native)]);
    page.wait_opened(1);
    let is_over = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| write(address, target, &is_over));
        let over = Over(&is_over);
        meanwhile(&mut page);
        drop(over);
        writer.join().expect("the writer's appends are acknowledged")
    });
    let (messages, requests) = page.finish();
    let messages: Vec<(u64, i64)> = serde_json::from_value(messages).expect("numbers and milliseconds");
    let numbers = messages.iter().map(|(number, _)| *number);
    assert!(numbers.clone().eq(0..written), "of {written} came {:?}", numbers.collect::<Vec<_>>());
    Followed { messages, requests }
}

/// Ends the writer when dropped, so that a test that fails does not wait for it forever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Appends numbered messages with the time of sending until it `is_over`, and one second longer; then closes the
/// stream. Gives back how many.
fn write(address: SocketAddr, target: &str, is_over: &AtomicBool) -> u64 {
    let (mut number, mut left) = (0, 10);
    let mut connection = None;
    while left > 0 {
        if is_over.load(Ordering::Relaxed) {
            left -= 1;
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        let message = format!(r#"{{"number":{number},"at":{at}}}"#);
        let append = Request::post(target).body("application/json", message);
        let append = append.header("Producer-Id", "writer").header("Producer-Epoch", 0).header("Producer-Seq", number);
        send_until_answered(address, &mut connection, &append);
        number += 1;
        thread::sleep(APPEND_EVERY);
    }
    let _ = Client::new(address).send(Request::post(target).header("Stream-Closed", "true")).expect(204);
    number
}

/// Sends a producer's append until it is acknowledged: the server may be away, and stores it once.
fn send_until_answered(address: SocketAddr, connection: &mut Option<Connection>, append: &Request) {
    wait_until("an acknowledged append", APPENDED_WITHIN, || {
        let opened = connection.take().map_or_else(|| Connection::open(address), Ok);
        let answer = opened.and_then(|mut opened| Ok((opened.send(append)?, opened)));
        let Ok((response, opened)) = answer else { return false };
        assert!(matches!(response.status, 200 | 204 | 503), "{response:?}");
        *connection = Some(opened);
        response.status != 503
    });
}

/// Tests take turns, so that no browser that starts makes another late.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page in a browser, running one of the functions of `page.js`.
struct Page {
    node: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Page {
    /// Opens it and calls `function`.
    fn open(function: &str, arguments: &[Value]) -> Page {
        let folder = npm::install(Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser"), &FILES);
        let mut node = npm::node(&folder, "browser.mjs")
            .arg(function)
            .args(arguments.iter().map(Value::to_string))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("node is needed to drive a browser, but it does not start: {e}"));
        let lines = BufReader::new(node.stdout.take().expect("it is piped")).lines();
        Page { node, lines }
    }

    /// Waits until the page says so many times that a response has begun.
    #[track_caller]
    fn wait_opened(&mut self, times: usize) {
        for _ in 0..times {
            self.wait_said("open");
        }
    }

    /// Waits until the page says `fact`.
    #[track_caller]
    fn wait_said(&mut self, fact: &str) {
        let line = self.line();
        assert_eq!(line["said"], fact, "{line}");
    }

    /// What the function has returned, whatever it says before that, and the URLs of other origins that the page has asked for.
    #[track_caller]
    fn finish(mut self) -> (Value, Vec<String>) {
        let mut line = self.line();
        while !line["said"].is_null() {
            line = self.line();
        }
        let requests = serde_json::from_value(line["requests"].take());
        (line["returned"].take(), requests.unwrap_or_else(|e| panic!("the page has not ended ({e}): {line}")))
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        if let Some(line) = self.lines.next() {
            let line = line.expect("node writes text");
            return serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
        }
        let mut stderr = String::new();
        let _ = self.node.stderr.take().expect("it is piped").read_to_string(&mut stderr);
        panic!("the browser has ended too early: {stderr}");
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Chromium ends with whoever holds its pipe.
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}
