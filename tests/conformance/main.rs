//! The official conformance suite of the Durable Streams Protocol, whole.
//!
//! It is a vitest suite from npm, pinned by the `package-lock.json` beside this file. Its packages are installed below
//! `target/`, once per lock file.

#[path = "../cluster/nodes.rs"]
#[expect(dead_code, reason = "the suite of clusters uses the rest")]
mod nodes;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use weir_testkit::{Setup, metric, npm};

use crate::nodes::Cluster;

/// Tests of suite 0.3.6.
const TESTS: u64 = 338;

/// Short, because the suite waits for many a long-poll to end.
const LONG_POLL_TIMEOUT_MS: u32 = 500;

/// How long all goes well until a node is killed, and how long that one is away.
const BETWEEN_KILLS: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(2);

/// Where the suite's webhooks are.
const RECEIVERS: &str = "127.0.0.1";

const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("package.json")),
    ("package-lock.json", include_str!("package-lock.json")),
    ("suite.test.mjs", include_str!("suite.test.mjs")),
];

#[test]
fn the_official_suite_passes() {
    let server = Setup::new(env!("CARGO_BIN_EXE_weir"))
        .env("WEIR_HTTP_LONG_POLL_TIMEOUT_MS", LONG_POLL_TIMEOUT_MS)
        .env("WEIR_HOOKS_ALLOW", RECEIVERS)
        .args(&["--in-memory"])
        .start();
    run("conformance", &server.url(), 0);
}

#[test]
fn the_official_suite_passes_through_a_node_that_leads_little() {
    let cluster = cluster();
    let led = |node: &usize| metric(cluster.server(*node), "weir_group_leading") as u64;
    let node = (0..3).min_by_key(led).expect("there are three");
    assert!(led(&node) < 2, "three nodes lead three groups");
    run("conformance-cluster", &cluster.server(node).url(), 0);
}

/// What was under way when a node died may have been done, and whoever does it again is told so: `200`, not `201`. The suite does
/// nothing again by itself, so each of its tests may be tried again, twice: one of them leaves readers behind when it fails, who ask
/// until the suite ends, others look for a smaller example for half a minute, and so the next kill comes before the next try is over.
#[test]
fn the_official_suite_passes_while_another_node_is_killed_and_comes_back() {
    let mut cluster = cluster();
    let url = cluster.server(0).url();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let killing = scope.spawn(|| {
            for (kills, node) in [1, 2].into_iter().cycle().enumerate() {
                thread::sleep(BETWEEN_KILLS);
                if is_over.load(Ordering::Relaxed) {
                    return kills;
                }
                cluster.kill(node);
                thread::sleep(AWAY);
                cluster.restart(node);
                cluster.wait_caught_up(node, 0);
            }
            unreachable!("there is always a next one")
        });
        let suite = scope.spawn(|| run("conformance-kills", &url, 2)).join();
        is_over.store(true, Ordering::Relaxed);
        let kills = killing.join().expect("nodes come back");
        suite.expect("the suite passes");
        assert!(kills > 1, "{kills} nodes were killed");
    });
}

/// Three nodes that the suite may ask.
fn cluster() -> Cluster {
    let long_poll_ms = LONG_POLL_TIMEOUT_MS.to_string();
    let variables = [("WEIR_HTTP_LONG_POLL_TIMEOUT_MS", &*long_poll_ms), ("WEIR_HOOKS_ALLOW", RECEIVERS)];
    Cluster::form([0, 1, 2], &variables)
}

/// Runs the suite against `url`, in a folder of this name. A test may fail `retries` times.
fn run(folder: &str, url: &str, retries: u32) {
    let folder = npm::install(Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder), &FILES);
    let report_path = folder.join("report.json");
    let run = npm::run(
        npm::node(&folder, "node_modules/vitest/vitest.mjs")
            .args(["run", "suite.test.mjs", "--reporter=json"])
            .arg(format!("--outputFile={}", report_path.display()))
            // The suite's own limits are left alone; vitest's default of 5 s only tells how busy this machine is.
            .arg("--testTimeout=60000")
            .arg(format!("--retry={retries}"))
            .env("WEIR_URL", url)
            .env("WEIR_SUITE_LONG_POLL_MS", LONG_POLL_TIMEOUT_MS.to_string()),
        "node is needed to run the official suite",
    );
    let report = fs::read(&report_path).unwrap_or_else(|e| panic!("vitest wrote no report ({e}): {}", npm::text(&run)));
    let report: Value = serde_json::from_slice(&report).expect("vitest reports JSON");
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("no {key} in vitest's report"));
    let (passed, failed) = (count("numPassedTests"), count("numFailedTests"));
    // What failed stays until it fails again: it may do so seldom.
    let kept = folder.join(if failed == 0 { "last-report.json" } else { "failed-report.json" });
    fs::rename(&report_path, kept).expect("the report was there");
    assert_eq!((passed, failed), (TESTS, 0), "passed and failed; failures:\n{}", failures(&report));
}

/// Name and first message of each test that failed.
fn failures(report: &Value) -> String {
    let files = report["testResults"].as_array().into_iter().flatten();
    let tests = files.flat_map(|file| file["assertionResults"].as_array().into_iter().flatten());
    let failed = tests.filter(|test| test["status"] == "failed");
    let lines = failed.map(|test| {
        let message = test["failureMessages"][0].as_str().unwrap_or_default();
        let first: Vec<&str> = message.lines().take(3).collect();
        format!("- {}\n    {}\n", test["fullName"].as_str().unwrap_or_default(), first.join("\n    "))
    });
    lines.collect()
}
