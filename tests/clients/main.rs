//! Official clients and what is built on them, as published on npm and PyPI: what the conformance suite does not ask for
//! and they rely on all the same. Each writes, resumes, follows and closes, with the server killed in the middle.

mod killed;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use weir_testkit::{Request, Setup, npm, tools};

const FILES: [(&str, &str); 12] = [
    ("package.json", include_str!("package.json")),
    ("package-lock.json", include_str!("package-lock.json")),
    ("aisdk.mjs", include_str!("aisdk.mjs")),
    ("answers.mjs", include_str!("answers.mjs")),
    ("client.mjs", include_str!("client.mjs")),
    ("editors.mjs", include_str!("editors.mjs")),
    ("state.mjs", include_str!("state.mjs")),
    ("tanstack.mjs", include_str!("tanstack.mjs")),
    ("wait.mjs", include_str!("wait.mjs")),
    ("weir.mjs", include_str!("weir.mjs")),
    ("yjs.mjs", include_str!("yjs.mjs")),
    ("yjs_killed.mjs", include_str!("yjs_killed.mjs")),
];

/// What pip is asked for, and what says that it is installed.
const PYTHON: &str = "durable-streams==0.1.0";

/// As many as the script edits: a token that the Yjs server changes breaks some documents and not others.
const DOCUMENTS: usize = 10;

fn installed() -> PathBuf {
    npm::install(Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients"), &FILES)
}

#[test]
fn the_client_writes_and_reads_on_across_a_kill() {
    killed::check(&mut npm::node(&installed(), "client.mjs"));
}

#[test]
fn the_state_of_a_stream_goes_on_across_a_kill() {
    killed::check(&mut npm::node(&installed(), "state.mjs"));
}

#[test]
fn an_answer_by_the_ai_sdk_outlives_the_server() {
    killed::check(&mut npm::node(&installed(), "aisdk.mjs"));
}

#[test]
fn a_chat_by_tanstack_goes_on_across_a_kill() {
    killed::check(&mut npm::node(&installed(), "tanstack.mjs"));
}

#[test]
fn the_client_for_python_writes_and_reads_on_across_a_kill() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("durable-streams");
    let folder = tools::install_python(folder, PYTHON);
    killed::check(Command::new(folder.join("bin/python")).args(["-c", include_str!("client.py")]));
}

#[test]
fn documents_of_the_official_yjs_server_outlive_weir() {
    let (_server, report) = killed::run(&mut npm::node(&installed(), "yjs_killed.mjs"));
    let documents = report["documents"].as_array().expect("the documents");
    assert_eq!(documents.len(), 3, "two who wrote, and one who came late");
    for document in documents {
        assert_eq!(document, &report["expected"]);
    }
    assert_eq!(report["complaints"], json!([]));
}

/// The Yjs server does arithmetic on offsets that look like a number behind a `_`; Weir's must not look so.
#[test]
fn documents_of_the_official_yjs_server_survive_compaction() {
    let folder = installed();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let run = npm::run(npm::node(&folder, "yjs.mjs").env("WEIR_URL", server.url()), "node is needed to run clients");
    let report: Value =
        serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("no report ({e}): {}", npm::text(&run)));
    let documents = report["documents"].as_array().expect("the documents");
    assert_eq!(documents.len(), DOCUMENTS);
    let broken: Vec<&Value> = documents.iter().filter(|document| !document["broken"].is_null()).collect();
    let complaints = report["complaints"].as_array().expect("the complaints");
    assert!(
        broken.is_empty() && complaints.is_empty(),
        "{} of {DOCUMENTS} documents are broken: {broken:#?}\n{} complaints, the first: {:#?}",
        broken.len(),
        complaints.len(),
        complaints.first(),
    );
}

/// The example of a stream per document, as it stands.
#[test]
fn editors_of_a_document_that_is_a_stream_come_to_the_same() {
    let files = [
        ("package.json", include_str!("../../examples/documents/package.json")),
        ("package-lock.json", include_str!("../../examples/documents/package-lock.json")),
        ("documents.mjs", include_str!("../../examples/documents/documents.mjs")),
    ];
    let folder = npm::install(Path::new(env!("CARGO_TARGET_TMPDIR")).join("documents"), &files);
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let run = npm::run(npm::node(&folder, "documents.mjs").arg(server.url()), "node is needed to run the example");
    let said = npm::text(&run);
    assert_eq!(said.matches("three editors have the same 130 characters").count(), 2, "{said}");
}

/// What the README shows of the official client, run as it stands but for the server's address.
#[test]
fn the_readme_shows_a_client_that_follows_a_stream() {
    let folder = installed();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let hello = Request::put("/v1/stream/hello").body("text/plain", "one\n");
    let _ = server.client().send(hello).expect(201);
    let shown = include_str!("../../README.md").split("```js\n").find(|block| block.starts_with("import"));
    let (shown, _) = shown.and_then(|block| block.split_once("```")).expect("the README has a client");
    let script = folder.join("readme.mjs");
    fs::write(script, shown.replace("http://127.0.0.1:4437", &server.url())).expect("the target folder can be written");
    let mut node = npm::node(&folder, "readme.mjs").stdout(Stdio::piped()).spawn().expect("node is needed");
    let mut lines = BufReader::new(node.stdout.take().expect("it is piped")).lines().map(|line| line.expect("text"));
    assert_eq!(lines.next().as_deref(), Some("one"));
    let _ = server.client().send(Request::post("/v1/stream/hello").body("text/plain", "two\n")).expect(204);
    // The chunk's own line break, and the one that the console adds.
    assert_eq!(lines.find(|line| !line.is_empty()).as_deref(), Some("two"));
    node.kill().expect("it follows still");
    node.wait().expect("it was killed");
}
