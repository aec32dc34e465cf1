//! The official conformance suite of the Durable Streams Protocol, whole but for forks and subscriptions, which Weir
//! does not have yet.
//!
//! It is a vitest suite from npm, pinned by the `package-lock.json` beside this file. Its packages are installed below
//! `target/`, once per lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use weir_testkit::Setup;

/// Tests of suite 0.3.6 without the group "Fork - ..." (82) and the reserved subscription APIs (6).
const TESTS: u64 = 250;

/// Short, because the suite waits for many a long-poll to end.
const LONG_POLL_TIMEOUT_MS: u32 = 500;

const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("package.json")),
    ("package-lock.json", include_str!("package-lock.json")),
    ("suite.test.mjs", include_str!("suite.test.mjs")),
];

#[test]
fn the_official_suite_passes() {
    let folder = install();
    let server = Setup::new(env!("CARGO_BIN_EXE_weir"))
        .env("WEIR_HTTP_LONG_POLL_TIMEOUT_MS", LONG_POLL_TIMEOUT_MS)
        .args(&["--in-memory"])
        .start();
    let report_path = folder.join("report.json");
    let run = run(
        Command::new("node")
            .args(["node_modules/vitest/vitest.mjs", "run", "suite.test.mjs", "--reporter=json"])
            .arg(format!("--outputFile={}", report_path.display()))
            .args(["-t", "^(?!.*Fork - )"])
            // The suite's own limits are left alone; vitest's default of 5 s only tells how busy this machine is.
            .arg("--testTimeout=60000")
            .env("WEIR_URL", server.url())
            .env("WEIR_SUITE_LONG_POLL_MS", LONG_POLL_TIMEOUT_MS.to_string())
            .current_dir(&folder),
        "node is needed to run the official suite",
    );
    let report = fs::read(&report_path).unwrap_or_else(|e| panic!("vitest wrote no report ({e}): {}", text(&run)));
    let report: Value = serde_json::from_slice(&report).expect("vitest reports JSON");
    let kept = folder.join("last-report.json");
    fs::rename(&report_path, kept).expect("the report was there");
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("no {key} in vitest's report"));
    let (passed, failed) = (count("numPassedTests"), count("numFailedTests"));
    assert_eq!((passed, failed), (TESTS, 0), "passed and failed; failures:\n{}", failures(&report));
}

/// The suite's folder with its packages in it.
fn install() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    // npm's own copy of the lock leaves things out, so a copy of ours says what is installed.
    let stamp = folder.join("installed.lock");
    let is_installed = fs::read_to_string(&stamp).is_ok_and(|lock| lock == FILES[1].1);
    for (name, content) in FILES {
        fs::write(folder.join(name), content).expect("the target folder can be written");
    }
    if !is_installed {
        let npm = run(
            Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder),
            "npm is needed to install the official suite",
        );
        assert!(npm.status.success(), "npm ci failed: {}", text(&npm));
        fs::write(stamp, FILES[1].1).expect("the target folder can be written");
    }
    folder
}

fn run(command: &mut Command, need: &str) -> Output {
    command.output().unwrap_or_else(|e| panic!("{need}, but it does not start: {e}"))
}

fn text(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{stdout}\n{stderr}", output.status)
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
