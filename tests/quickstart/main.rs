//! What the README shows and what `--demo` prints, run as they stand.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::Setup;

/// How long the demo's last line may take after the server is ready.
const PRINTED_WITHIN: Duration = Duration::from_secs(10);

/// A following command, by what its line has and no other's.
const LIVE: &str = "live=sse";

#[test]
fn the_tour_runs_as_written() {
    let tour = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart/tour.sh");
    let server = in_memory().start();
    let run = Command::new("bash").arg(&tour).arg(server.url()).output();
    let run = run.unwrap_or_else(|e| panic!("bash is needed to run {}: {e}", tour.display()));
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}\n{stdout}\n{stderr}", run.status);
}

#[test]
fn a_workflow_is_replayed_from_old_and_new_bytes() {
    runs("workflow-replay/replay.mjs", "2000 steps");
}

#[test]
fn an_agents_run_is_watched_and_forked() {
    runs("agent-run/run.mjs", "the run has 5 steps, and whoever watched has seen each once");
}

/// Runs an example that needs nothing but node. What it prints ends with a line that has these words.
#[track_caller]
fn runs(example: &str, words: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(example);
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).env("WEIR_COLD_FLUSH_AGE_MS", 200).start();
    let run = Command::new("node").arg(&script).arg(server.url()).output().expect("node can be run");
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let is_done = stdout.lines().last().is_some_and(|line| line.contains(words));
    assert!(run.status.success() && is_done, "{}\n{stdout}\n{stderr}", run.status);
}

#[test]
fn the_demo_prints_commands_that_work() {
    let mut setup = in_memory().args(&["--demo"]);
    let server = setup.start();
    let [create, append, refused, summary, live] = printed(&setup).try_into().expect("five commands");
    assert!(create.contains(&server.url()), "{create}");
    check(&create, "HTTP/1.1 201 ", "");
    check(&append, "HTTP/1.1 204 ", "");
    check(&refused, "HTTP/1.1 422 ", r#""code":"record_rejected""#);
    check(&summary, "HTTP/1.1 200 ", r#""qty":{"count":1,"min":2.0,"max":2.0,"mean":2.0}"#);
    check_live(&live, &append);
}

#[test]
fn a_demo_that_is_set_up_again_leaves_bindings_as_they_are() {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--demo", "--shards", "2"])
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 20)
        .env("WEIR_WAL_SEGMENT_BYTES", 4 << 20);
    let binding = "/demo/-/bindings/totals";
    let mut server = setup.start();
    let mine = r#"{"streams":"mine/**","module":"builtin:stats","role":"summary"}"#;
    let put = weir_testkit::Request::put(binding).body("application/json", mine);
    let changed = server.client().send(put).expect(200).json();
    assert_eq!(server.stop().code, Some(0));
    server = setup.start();
    assert_eq!(server.client().send(weir_testkit::Request::get(binding)).expect(200).json(), changed);
}

fn in_memory() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"])
}

/// The commands that the server has printed; the following one is the last of them.
#[track_caller]
fn printed(setup: &Setup) -> Vec<String> {
    let deadline = Instant::now() + PRINTED_WITHIN;
    loop {
        let log = setup.log();
        let commands: Vec<String> = log.lines().filter(|line| line.starts_with("curl ")).map(str::to_owned).collect();
        if log.ends_with('\n') && commands.last().is_some_and(|last| last.contains(LIVE)) {
            return commands;
        }
        assert!(Instant::now() < deadline, "the demo has not printed what to follow:\n{log}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command; its answer must begin and go on like this.
#[track_caller]
fn check(command: &str, status: &str, has: &str) {
    let run = Command::new("bash").args(["-c", command]).output().expect("bash can be run");
    let answer = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && answer.starts_with(status) && answer.contains(has), "{command}\n{run:?}");
}

/// Runs a following command. It must show one record, and after an `append` two.
#[track_caller]
fn check_live(command: &str, append: &str) {
    let mut following = Command::new("bash")
        .args(["-c", &format!("exec {command}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash can be run");
    let mut lines = BufReader::new(following.stdout.take().expect("it is piped")).lines();
    // The server ends the response after a minute, so this ends, too.
    let mut shows = |has: &str| lines.by_ref().map_while(Result::ok).any(|line| line.contains(has));
    assert!(shows("event: summary"), "{command}");
    assert!(shows(r#"{"count":1,"#), "{command}");
    check(append, "HTTP/1.1 204 ", "");
    assert!(shows(r#"{"count":2,"#), "{command}");
    following.kill().and_then(|()| following.wait()).expect("it is our child");
}
