//! Official clients and what is built on them, as published on npm: what the conformance suite does not ask for and
//! they rely on all the same.

use std::path::Path;

use serde_json::Value;
use weir_testkit::{Setup, npm};

const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("package.json")),
    ("package-lock.json", include_str!("package-lock.json")),
    ("yjs.mjs", include_str!("yjs.mjs")),
];

/// As many as the script edits: a token that the Yjs server changes breaks some documents and not others.
const DOCUMENTS: usize = 10;

/// The Yjs server does arithmetic on offsets that look like a number behind a `_`; Weir's must not look so.
#[test]
fn documents_of_the_official_yjs_server_survive_compaction() {
    let folder = npm::install(Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients"), &FILES);
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
