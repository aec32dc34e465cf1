//! Uploads: what is accepted, what is refused and why, and what is kept of either.

use std::fs;
use std::time::{Duration, Instant};

use weir_testkit::{Client, Request, Response, Setup, compile_bomb, guest};

use crate::{bind, in_memory, on_disk, upload};

const MODULE: &str = "/demo/-/modules/m";

/// Asks for a module's status until it is no longer being compiled.
fn settled(client: &mut Client) -> Response {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = client.send(Request::get(MODULE)).expect(200);
        if status.json()["status"] != "compiling" {
            return status;
        }
        assert!(Instant::now() < deadline, "still compiling: {status:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The files of the modules folder that are modules or their code.
fn kept(setup: &Setup) -> Vec<String> {
    let folder = setup.data_dir().join("modules");
    let names = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with("wasm"));
    names.sort();
    names
}

#[test]
fn an_upload_is_ready_listed_and_removed() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let uploaded = client.send(upload(MODULE, guest("rejects_bad"))).expect(201);
    assert_eq!(uploaded.header("location"), Some(MODULE));
    let status = uploaded.json();
    assert_eq!(
        (&status["name"], &status["status"], &status["revision"]),
        (&"m".into(), &"ready".into(), &1.into()),
        "{status}"
    );
    assert_eq!(status["roles"], serde_json::json!(["validator"]));
    assert_eq!(status["bytes"], guest("rejects_bad").len());
    let digest = status["digest"].as_str().expect("a digest").to_owned();

    assert_eq!(client.send(upload(MODULE, guest("rejects_bad"))).expect(200).json(), status, "the same bytes again");
    assert_eq!(client.send(Request::get(MODULE)).expect(200).json(), status);
    let list = client.send(Request::get("/demo/-/modules")).expect(200).json();
    assert_eq!(list["modules"], serde_json::json!([status]));

    let names = kept(&setup);
    assert_eq!(names.len(), 2, "the bytes and their code: {names:?}");
    assert!(names.iter().all(|name| name.starts_with(&digest)), "{names:?}");

    let _ = client.send(bind("v", "m", "validator", "**")).expect(201);
    assert_eq!(client.send(Request::delete(MODULE)).expect(409).code(), "module_in_use");
    let _ = client.send(Request::delete("/demo/-/bindings/v")).expect(204);
    let _ = client.send(Request::delete(MODULE)).expect(204);
    assert_eq!(client.send(Request::delete(MODULE)).expect(404).code(), "module_not_found");
    assert_eq!(client.send(Request::get(MODULE)).expect(404).code(), "module_not_found");
    assert_eq!(kept(&setup), Vec::<String>::new());
}

#[test]
fn what_is_no_module_is_refused_with_a_sentence_and_not_kept() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let mut refused = |wasm: Vec<u8>, words: &[&str]| {
        let refusal = client.send(upload(MODULE, wasm)).expect(422);
        assert_eq!(refusal.code(), "module_invalid");
        let detail = refusal.json()["detail"].as_str().expect("a sentence").to_owned();
        for word in words {
            assert!(detail.contains(word), "{word} is not in: {detail}");
        }
    };
    refused(Vec::new(), &["not WebAssembly"]);
    refused(b"#!/bin/sh\n".to_vec(), &["not WebAssembly"]);
    refused(b"\0asm\x01\0\0\0".to_vec(), &["exports nothing", "weir:module/validator@0.1", "weir:module/summary@0.1"]);
    refused(guest("imports_the_unknown"), &["rockets::launch", "weir:module/log"]);
    let whole = guest("rejects_bad");
    for bytes in [whole.len() / 2, whole.len() - 1] {
        refused(whole[..bytes].to_vec(), &["not valid WebAssembly"]);
    }
    assert_eq!(kept(&setup), Vec::<String>::new());
    assert_eq!(client.send(Request::get("/demo")).expect(404).code(), "bucket_not_found", "nor the bucket");
}

#[test]
fn a_module_over_the_limit_is_refused_before_it_is_read_whole() {
    let server = in_memory().env("WEIR_MODULES_MODULE_BYTES_MAX", 1 << 20).start();
    let mut client = server.client();
    let refusal = client.send(upload(MODULE, vec![0; (1 << 20) + 1])).expect(413);
    assert_eq!(refusal.code(), "module_too_large");
    assert_eq!(server.client().send(Request::get("/demo")).expect(404).code(), "bucket_not_found");
}

#[test]
fn a_compile_bomb_is_answered_with_202_and_ends_as_failed() {
    let mut setup = on_disk().env("WEIR_MODULES_UPLOAD_WAIT_MS", 50).env("WEIR_MODULES_COMPILE_TIMEOUT_MS", 3_000);
    let server = setup.start();
    let mut client = server.client();
    let accepted = client.send(upload(MODULE, compile_bomb(6 << 20))).expect(202);
    assert_eq!((accepted.json()["status"].as_str(), accepted.header("location")), (Some("compiling"), Some(MODULE)));
    assert_eq!(client.send(bind("v", "m", "validator", "**")).expect(409).code(), "module_compiling");
    let failed = settled(&mut client).json();
    assert_eq!(failed["status"], "failed");
    assert!(failed["error"].as_str().expect("a reason").contains("3 s"), "{failed}");
    // The bytes go once group 0 has noted it.
    weir_testkit::wait_until("nothing is kept", Duration::from_secs(10), || kept(&setup).is_empty());
    let refused = client.send(bind("v", "m", "validator", "**")).expect(409);
    assert_eq!(refused.code(), "module_failed");
    assert!(refused.text().contains("`m`") && refused.text().contains("3 s"), "{refused:?}");

    // Better bytes under the same name become ready, however long that takes.
    let status = client.send(upload(MODULE, guest("accepts_all"))).status;
    assert!(matches!(status, 201 | 202), "{status}");
    assert_eq!(settled(&mut client).json()["status"], "ready");
    let _ = client.send(bind("v", "m", "validator", "**")).expect(201);
}

#[test]
fn a_new_upload_is_a_new_revision_and_an_old_one_can_be_pinned() {
    let server = in_memory().start();
    let mut client = server.client();
    let first = client.send(upload(MODULE, guest("accepts_all"))).expect(201).json();
    let second = client.send(upload(MODULE, guest("rejects_bad"))).expect(201).json();
    assert_eq!((&first["revision"], &second["revision"]), (&1.into(), &2.into()));
    assert_eq!(second["revisions"].as_array().map(Vec::len), Some(2));
    let digest = |status: &serde_json::Value| status["digest"].as_str().expect("a digest").to_owned();
    let binding = client.send(bind("v", "m", "validator", "**")).expect(201).json();
    assert_eq!(binding["digest"], digest(&second), "a name means the newest");
    let pinned = format!("m@sha256:{}", digest(&first));
    let binding = client.send(bind("v", &pinned, "validator", "**")).expect(200).json();
    assert_eq!((&binding["digest"], &binding["module"]), (&digest(&first).into(), &pinned.into()));
    let unknown = format!("m@sha256:{}", "0".repeat(64));
    assert_eq!(client.send(bind("v", &unknown, "validator", "**")).expect(404).code(), "module_not_found");
    assert_eq!(client.send(bind("v", "m@sha256:0", "validator", "**")).expect(422).code(), "binding_invalid");
}

#[test]
fn names_and_buckets_are_checked() {
    let server = in_memory().start();
    let mut client = server.client();
    let wasm = guest("accepts_all");
    assert_eq!(client.send(upload("/demo/-/modules/M", wasm.clone())).expect(400).code(), "module_name_invalid");
    assert_eq!(client.send(upload("/Demo/-/modules/m", wasm.clone())).expect(400).code(), "bucket_name_invalid");
    assert_eq!(client.send(Request::get("/demo/-/modules")).expect(404).code(), "bucket_not_found");
    assert_eq!(client.send(Request::post(MODULE)).expect(405).code(), "method_not_allowed");
    let server = in_memory().env("WEIR_BUCKETS_AUTO_CREATE", "false").start();
    let mut client = server.client();
    assert_eq!(client.send(upload(MODULE, wasm.clone())).expect(404).code(), "bucket_not_found");
    let _ = client.send(Request::put("/demo")).expect(201);
    let _ = client.send(upload(MODULE, wasm)).expect(201);
    // Modules and bindings are part of their bucket, not something that keeps it.
    let _ = client.send(bind("v", "m", "validator", "**")).expect(201);
    let _ = client.send(Request::delete("/demo")).expect(204);
    let _ = client.send(Request::put("/demo")).expect(201);
    let list = client.send(Request::get("/demo/-/modules")).expect(200).json();
    assert_eq!(list["modules"], serde_json::json!([]));
}

#[test]
fn what_became_of_bytes_is_not_told_of_other_bytes_of_the_same_name() {
    let mut setup = on_disk().env("WEIR_MODULES_UPLOAD_WAIT_MS", 1).env("WEIR_MODULES_COMPILE_TIMEOUT_MS", 4_000);
    let server = setup.start();
    let mut client = server.client();
    let _ = client.send(upload(MODULE, compile_bomb(6 << 20))).expect(202);
    let _ = client.send(Request::delete(MODULE)).expect(204);
    let good = client.send(upload(MODULE, guest("accepts_all"))).expect(202).json();
    let settled = settled(&mut client).json();
    assert_eq!((&settled["status"], &settled["digest"]), (&"ready".into(), &good["digest"]), "{settled}");
    let _ = client.send(bind("v", "m", "validator", "**")).expect(201);
    // Nothing is left of what was deleted while it was compiled.
    let digest = good["digest"].as_str().expect("a digest");
    assert!(kept(&setup).iter().all(|name| name.starts_with(digest)), "{:?}", kept(&setup));
}

#[test]
fn a_module_that_is_deleted_while_it_is_compiled_leaves_nothing() {
    let mut setup = on_disk().env("WEIR_MODULES_UPLOAD_WAIT_MS", 1);
    let server = setup.start();
    let mut client = server.client();
    let _ = client.send(upload(MODULE, guest("rejects_bad"))).expect(202);
    let _ = client.send(Request::delete(MODULE)).expect(204);
    // The next of the bucket is compiled after it.
    let _ = client.send(upload(MODULE, guest("accepts_all"))).expect(202);
    let digest = settled(&mut client).json()["digest"].as_str().expect("a digest").to_owned();
    assert!(kept(&setup).iter().all(|name| name.starts_with(&digest)), "{:?}", kept(&setup));
}

#[test]
fn modules_and_their_code_have_a_limit_on_disk() {
    let mut setup =
        on_disk().env("WEIR_MODULES_STORE_BYTES_MAX", 1 << 20).env("WEIR_MODULES_MODULE_BYTES_MAX", 8 << 20);
    let server = setup.start();
    let mut client = server.client();
    // Larger than the limit; it is seen before it is announced.
    let mut large = guest("accepts_all");
    let padding = 2 << 20;
    large.extend([&[0][..], &leb(padding + 2), &[1, b'a'], &vec![0; padding]].concat());
    let refused = client.send(upload(MODULE, large)).expect(507);
    assert_eq!(refused.code(), "module_store_full");
    assert!(refused.text().contains("modules.store_bytes_max"), "{refused:?}");
    assert_eq!(client.send(Request::get(MODULE)).expect(404).code(), "module_not_found");
    let met = weir_testkit::metric(&server, "weir_limits_met_total");
    assert!(met >= 1.0, "{met}");
}

fn leb(number: usize) -> [u8; 4] {
    [0, 7, 14, 21].map(|shift| (number >> shift) as u8 & 0x7f | if shift < 21 { 0x80 } else { 0 })
}

#[test]
fn what_is_missing_or_of_another_role_is_named() {
    let server = in_memory().start();
    let mut client = server.client();
    let _ = client.send(upload(MODULE, guest("rejects_bad"))).expect(201);
    let mut told = |request, status, word: &str| {
        let refusal = client.send(request).expect(status);
        assert!(refusal.text().contains(word), "{refusal:?}");
    };
    told(Request::get("/demo/-/modules/other"), 404, "no such module: `other`");
    told(Request::delete("/demo/-/modules/other"), 404, "no such module: `other`");
    told(Request::get("/demo/-/bindings/other"), 404, "no such binding: `other`");
    told(Request::delete("/demo/-/bindings/other"), 404, "no such binding: `other`");
    told(bind("v", "other", "validator", "**"), 404, "no such module: `other`");
    told(bind("v", "builtin:other", "validator", "**"), 404, "no such module: `builtin:other`");
    told(bind("v", "m", "summary", "**"), 422, "the module `m` is no summary; it is a validator");
    told(bind("v", "builtin:stats", "validator", "**"), 422, "the module `builtin:stats` is no validator");
}

#[test]
fn slow_uploads_hold_up_no_other() {
    let server = in_memory().start();
    let slow: Vec<_> = (0..16)
        .map(|_| {
            let mut connection = server.connect();
            let head = format!("PUT {MODULE} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n", server.address());
            connection.write(head.as_bytes()).expect("the server reads it");
            connection
        })
        .collect();
    let _ = server.client().send(upload(MODULE, guest("accepts_all"))).expect(201);
    drop(slow);
}

#[test]
fn what_was_bound_is_loaded_after_a_restart_and_what_was_not_when_it_is_bound() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let _ = client.send(upload("/demo/-/modules/bound", guest("rejects_bad"))).expect(201);
    let _ = client.send(upload("/demo/-/modules/other", guest("accepts_all"))).expect(201);
    let _ = client.send(bind("v", "bound", "validator", "s/**")).expect(201);
    let _ = server.stop();
    let server = setup.start();
    let mut client = server.client();
    for name in ["bound", "other"] {
        let status = client.send(Request::get(&format!("/demo/-/modules/{name}"))).expect(200).json();
        assert_eq!(status["status"], "ready", "{status}");
    }
    let _ = client.send(Request::put("/demo/s/1").header("Content-Type", "application/json")).expect(201);
    let bad = Request::post("/demo/s/1").body("application/json", r#"{"qty":0}"#);
    assert_eq!(client.send(bad).expect(422).code(), "record_rejected");
    let _ = client.send(bind("w", "other", "validator", "t/**")).expect(201);
}
