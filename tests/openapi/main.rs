//! The API's description, `docs/openapi.json`: served as it is, and true of the server.
//!
//! Programs that others have written decide the latter: openapi-spec-validator whether it is an OpenAPI document at all, and
//! schemathesis, by thousands of requests that it makes of the document, whether the server's answers are as it says. Both are
//! installed below `target/`, once per pinned version.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use weir_testkit::tools::{self, run};
use weir_testkit::{Client, Request, Server, Setup};

/// What pip is asked for, and what says that it is installed.
const VALIDATOR: &str = "openapi-spec-validator==0.9.0";
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// What is looked at in every answer. Whether a request is accepted is not: the server ignores, on purpose, what it does not
/// know, and fields exclude each other in ways that a document cannot say.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,allow_header_conformance";
/// Requests that are made up for each operation, in each phase; about a minute for all.
const EXAMPLES_MAX: &str = "100";

const PATH: &str = "/-/openapi.json";
const OPENAPI: &str = include_str!("../../docs/openapi.json");

fn in_memory() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory", "--shards", "2"])
}

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

fn installed(package: &str) -> PathBuf {
    let (name, _) = package.split_once("==").expect("a pinned version");
    tools::install_python(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), package)
}

#[test]
fn the_server_has_the_document_that_the_repository_has() {
    let server = in_memory().start();
    let mut client = server.client();
    let answer = client.send(Request::get(PATH)).expect(200);
    assert!(answer.text() == OPENAPI, "the server's document is not docs/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    let tag = answer.header("etag").expect("a tag");
    let known = client.send(Request::get(PATH).header("If-None-Match", tag)).expect(304);
    assert_eq!((known.header("etag"), known.body.len()), (Some(tag), 0));
    let _ = client.send(Request::get(PATH).header("If-None-Match", "\"another\"")).expect(200);
    let head = client.send(Request::head(PATH)).expect(200);
    assert_eq!((head.header("etag"), head.body.len()), (Some(tag), 0));
    // As everything below `/-/`, it is not for pages of any origin.
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert!(client.send(Request::get("/")).expect(200).text().contains(PATH), "the first page leads there");
}

#[test]
fn an_address_has_the_methods_that_are_described_and_no_other() {
    let server = in_memory().start();
    let mut client = server.client();
    let document = document();
    for (path, item) in document["paths"].as_object().expect("an object") {
        let item = match item["$ref"].as_str() {
            Some(reference) => document.pointer(&reference[1..]).expect("a reference within the document"),
            None => item,
        };
        let methods =
            item.as_object().expect("an object").iter().filter(|(_, operation)| operation["responses"].is_object());
        let mut described: BTreeSet<String> = methods.map(|(method, _)| method.to_ascii_uppercase()).collect();
        if described.contains("GET") {
            described.insert("HEAD".to_owned());
        }
        let target = path.replace("{bucket}", "demo").replace("{name}", "orders").replace("{subscription}", "worker");
        let refused = client.send(Request::new("PATCH", &target)).expect(405);
        let allowed =
            refused.header("allow").expect("a field of methods").split(',').map(|method| method.trim().to_owned());
        // Every address answers preflights; a stream's says so.
        let allowed: BTreeSet<String> = allowed.filter(|method| method != "OPTIONS").collect();
        assert_eq!(described, allowed, "{path}");
    }
}

#[test]
fn it_is_an_openapi_document() {
    let validator = installed(VALIDATOR).join("bin/openapi-spec-validator");
    run(Command::new(validator).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")));
}

#[test]
fn what_the_server_answers_is_described() {
    let tool = installed(SCHEMATHESIS).join("bin/schemathesis");
    // Whoever waits does so for a moment.
    let setup = in_memory().env("WEIR_HTTP_LONG_POLL_TIMEOUT_MS", 50).env("WEIR_HTTP_SSE_MAX_AGE_MS", 100);
    let mut setup = setup.env("WEIR_LOG_LEVEL", "warn");
    let server = setup.start();
    let tails = fill(&mut server.client());
    let copy = setup.home().join("openapi.json");
    fs::write(&copy, at_what_is_there(document(), &tails).to_string()).expect("the folder can be written");
    // First what only reads: what is there stays. Then everything, which soon deletes it and makes it anew.
    for methods in [&["GET", "HEAD"][..], &[]] {
        let mut command = Command::new(&tool);
        command.current_dir(setup.home()).arg("run").arg(&copy).args(["--url", &server.url(), "--checks", CHECKS]);
        command.args(["--seed", "1", "--max-examples", EXAMPLES_MAX, "--request-timeout", "60"]);
        command.args(["--continue-on-failure", "--generation-database", "none", "--warnings", "off", "--no-color"]);
        command.args(methods.iter().flat_map(|method| ["--include-method", method]));
        run(&mut command);
    }
    // It has not only been refused.
    for route in ["append", "create", "read", "long_poll", "sse", "summary", "head", "delete", "other"] {
        assert!(successes(&server, route) > 0.0, "no request for '{route}' succeeded");
    }
}

/// How many requests for `route` succeeded.
fn successes(server: &Server, route: &str) -> f64 {
    let metrics = Client::new(server.admin()).send(Request::get("/metrics")).expect(200).text();
    let route = format!("route=\"{route}\"");
    let lines = metrics.lines().filter(|line| line.starts_with("weir_requests_total{"));
    let lines = lines.filter(|line| line.contains(&route) && line.contains("status=\"2"));
    lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
}

/// Puts something there to be found, and gives the tails of some streams.
fn fill(client: &mut Client) -> Vec<String> {
    let streams = [
        ("checked", "application/json", r#"{"id":1}"#),
        ("text", "text/plain", "hello"),
        ("orders", "application/json", r#"[{"id":1},{"id":2}]"#),
    ];
    let bindings = [
        ("totals", r#"{"streams":"**","module":"builtin:stats","role":"summary"}"#),
        (
            "schema",
            r#"{"streams":"checked","module":"builtin:json-schema","role":"validator","config":{"required":["id"]}}"#,
        ),
    ];
    let mut tails = Vec::new();
    for bucket in ["demo", "default"] {
        let created = streams.map(|(name, content_type, body)| {
            let create = Request::put(&format!("/{bucket}/{name}")).body(content_type, body);
            client.send(create).expect(201).next_offset().to_owned()
        });
        tails.extend(created.into_iter().last());
        for (name, binding) in bindings {
            let target = format!("/{bucket}/-/bindings/{name}");
            let _ = client.send(Request::put(&target).body("application/json", binding)).expect(201);
        }
        let subscription = r#"{"type":"pull-wake","pattern":"**","wake_stream":"wakes"}"#;
        let target = format!("/{bucket}/__ds/subscriptions/worker");
        let _ = client.send(Request::put(&target).body("application/json", subscription)).expect(201);
    }
    tails
}

/// The document with parameters that are those of what is there: chance would find nothing. Others are tried all the same, as
/// requests that the document does not allow.
fn at_what_is_there(mut document: Value, tails: &[String]) -> Value {
    let starts = tails.iter().map(|tail| format!("{}{}", "0".repeat(20), &tail[20..]));
    let offsets: Vec<String> = tails.iter().cloned().chain(starts).collect();
    let tags: Vec<String> = offsets.iter().map(|offset| format!("\"{offset}\"")).chain(["*".to_owned()]).collect();
    let places: Vec<String> = ["-1", "now"].map(str::to_owned).into_iter().chain(offsets.iter().cloned()).collect();
    for (parameter, values) in [
        ("bucket", json!(["demo"])),
        ("name", json!(["orders", "checked", "text", "none"])),
        ("binding", json!(["totals", "schema", "none"])),
        ("subscription", json!(["worker", "none"])),
        ("summary", json!(["totals"])),
        ("offset", json!(places)),
        ("before", json!(places)),
        ("lastEventId", json!(offsets)),
        ("Last-Event-ID", json!(offsets)),
        ("If-Match", json!(tags)),
        ("Stream-Forked-From", json!(["/demo/orders", "/demo/text", "/default/checked", "/demo/none"])),
        ("Stream-Fork-Offset", json!(places)),
    ] {
        let schema = &mut document["components"]["parameters"][parameter]["schema"];
        assert!(schema.is_object(), "{parameter} is described");
        *schema = json!({ "enum": values });
    }
    // Chance gives a request many parameters at once, and few of those go together. One address of a stream has them all, and is
    // asked for summaries; at the others, most requests can be carried out.
    document["components"]["parameters"]["summary"]["required"] = json!(true);
    let other = &mut document["components"]["pathItems"]["DefaultStream"];
    for (method, rare) in [
        ("get", &["summary", "lastEventId", "Last-Event-ID"][..]),
        ("head", &["summary"]),
        ("put", &["Stream-Forked-From", "Stream-Fork-Offset", "Stream-Fork-Sub-Offset"]),
        ("post", &["Stream-Closed", "Stream-Seq", "Producer-Id", "Producer-Epoch", "Producer-Seq", "If-Match"]),
    ] {
        let rare: Vec<Value> = rare.iter().map(|name| json!(format!("#/components/parameters/{name}"))).collect();
        let parameters = other[method]["parameters"].as_array_mut().expect("a list");
        parameters.retain(|parameter| !rare.contains(&parameter["$ref"]));
    }
    // The tool cannot make up WebAssembly, and the server does not look at the type.
    let upload = &mut document["paths"]["/{bucket}/-/modules/{name}"]["put"]["requestBody"]["content"];
    let wasm = upload["application/wasm"].take();
    *upload = json!({ "application/octet-stream": wasm });
    document
}
