//! Guests in other languages, built by their own tools as their authors would build them: `examples/guests-in-other-languages`.
//!
//! The tools are installed below `target/`, once per pinned version: componentize-js from npm, componentize-py from PyPI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use weir_testkit::tools::{self, run};
use weir_testkit::{Client, Request, Setup, wait_until};

/// What each tool is asked for, and what says that it is installed.
const JS: &str = "@bytecodealliance/componentize-js@0.23.0";
const PY: &str = "componentize-py==0.25.1";

/// A debug build compiles such a module in minutes.
const COMPILED_WITHIN: Duration = Duration::from_secs(300);

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/guests-in-other-languages")
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Builds a world of `guest.js`.
fn javascript(world: &str) -> Vec<u8> {
    let folder = tools::install(folder("componentize-js"), JS, |folder| {
        run(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(folder).arg(JS));
    });
    let out = folder.join(format!("{world}.wasm"));
    let tool = folder.join("node_modules/.bin/componentize-js");
    run(Command::new(tool)
        .current_dir(example())
        .args(["guest.js", "--wit", "../../wit/0.1.0"])
        .args(["--world-name", &format!("{world}-module"), "--out"])
        .arg(&out));
    fs::read(out).expect("the tool has written it")
}

/// Builds `validator.py` or `summary.py`.
fn python(world: &str, options: &[&str]) -> Vec<u8> {
    let folder = tools::install_python(folder("componentize-py"), PY);
    let out = folder.join(format!("{world}{}.wasm", options.concat()));
    let tool = folder.join("bin/componentize-py");
    run(Command::new(tool)
        .current_dir(example())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["--wit-path", "../../wit/0.1.0", "--world", &format!("{world}-module"), "componentize", world])
        .args(options)
        .arg("--output")
        .arg(&out));
    fs::read(out).expect("the tool has written it")
}

/// Uploads a module into bucket `demo` and waits until it is compiled.
#[track_caller]
fn upload(client: &mut Client, name: &str, wasm: &[u8]) {
    let target = format!("/demo/-/modules/{name}");
    let answer = client.send(Request::put(&target).body("application/wasm", wasm));
    assert!(matches!(answer.status, 201 | 202), "{answer:?}");
    let mut status = answer.json();
    wait_until("the module is compiled", COMPILED_WITHIN, || {
        status = client.send(Request::get(&target)).expect(200).json();
        status["status"] != "compiling"
    });
    assert_eq!(status["status"], "ready", "{status}");
}

fn bind(client: &mut Client, name: &str, role: &str, config: &str) {
    let binding = format!(r#"{{"streams":"**","module":"{name}","role":"{role}","config":{config}}}"#);
    let bind = Request::put(&format!("/demo/-/bindings/{name}")).body("application/json", binding);
    let _ = client.send(bind).expect(201);
}

/// Both guests of one language do what the README says, and what they throw is in the log if they can write there.
fn check(validator: &[u8], summary: &[u8], exception: Option<&str>) {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--in-memory", "--shards", "1"])
        .env("WEIR_MODULES_COMPILE_TIMEOUT_MS", COMPILED_WITHIN.as_millis())
        .env("WEIR_LOG_LEVEL", "info,weir::guest=debug");
    let server = setup.start();
    let mut client = server.client();
    upload(&mut client, "orders", validator);
    upload(&mut client, "totals", summary);
    bind(&mut client, "orders", "validator", r#"{"most":100}"#);
    bind(&mut client, "totals", "summary", "null");
    let _ = client.send(Request::put("/demo/s").header("Content-Type", "application/json")).expect(201);
    let post = |body: &str| Request::post("/demo/s").body("application/json", body);
    let _ = client.send(post(r#"[{"item":"bolt","qty":3},{"item":"nut","qty":1}]"#)).expect(204);
    let _ = client.send(post(r#"{"item":"bolt","qty":4}"#)).expect(204);
    let rejected = client.send(post(r#"[{"item":"nut","qty":1},{"item":"nut","qty":101}]"#)).expect(422);
    let rejection = &rejected.json()["rejection"];
    assert_eq!((&rejection["index"], &rejection["code"]), (&1.into(), &"qty-invalid".into()), "{rejection}");
    let view = client.send(Request::get("/demo/s?summary=totals")).expect(200);
    assert_eq!(view.text(), r#"{"bolt":7,"nut":1}"#);
    // What is thrown besides answers ends the instance, and its text is in the log.
    assert_eq!(client.send(post("null")).expect(500).code(), "module_trapped");
    if let Some(exception) = exception {
        wait_until("the exception is in the log", Duration::from_secs(5), || setup.log().contains(exception));
    }
    let _ = client.send(post(r#"{"item":"nut","qty":1}"#)).expect(204);
}

#[test]
fn javascript_as_componentize_js_builds_it() {
    check(&javascript("validator"), &javascript("summary"), Some("can't access property \"qty\", order is null"));
}

#[test]
fn python_as_componentize_py_builds_it() {
    check(&python("validator", &[]), &python("summary", &[]), Some("TypeError"));
}

#[test]
fn python_without_wasi() {
    let stub = &["--stub-wasi"];
    check(&python("validator", stub), &python("summary", stub), None);
}
