//! `weir recover` and `weir restore`: a node that is lost, built again from its bucket.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use weir_testkit::{Request, S3, Server, Setup, metric, wait_until};

use crate::ledger::Read;
use crate::{MOVES_WITHIN, URL, append, history, setup};

/// Runs a command that builds a node.
fn build(s3: &S3, command: &str, data_dir: &Path, args: &[&str]) -> Output {
    let mut build = crate::command(s3);
    build.args([command, "--from", URL, "--data-dir"]).arg(data_dir).args(args).output().expect("it runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until the bucket knows of everything: all bytes are there, and snapshots that say so.
fn wait_stored(server: &Server) {
    wait_until("nothing is in the logs only", MOVES_WITHIN, || metric(server, "weir_hot_bytes") == 0.0);
    let stored = metric(server, "weir_cold_snapshots_total");
    // One that began before may have been on its way.
    wait_until("snapshots are stored", MOVES_WITHIN, || metric(server, "weir_cold_snapshots_total") >= stored.max(1.0));
    std::thread::sleep(Duration::from_secs(3));
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect()
}

#[test]
fn a_lost_node_is_recovered_in_its_bucket() {
    let s3 = S3::start();
    let mut lost = setup(&s3).args(&["--groups", "3"]);
    let server = lost.start();
    let mut ledgers = history(&server, "recovered", 6, 50, 4096);
    wait_stored(&server);
    let tail = server.client().send(Request::head(ledgers[0].target())).expect(200).next_offset().to_owned();
    // The bucket goes away, and what comes then is in the log only.
    s3.fail(weir_testkit::Fault::Away);
    append(&server, &mut ledgers[0], 5);
    let beyond = server.client().send(Request::head(ledgers[0].target())).expect(200).next_offset().to_owned();
    server.kill();
    std::fs::remove_dir_all(lost.data_dir()).expect("it was there");
    s3.heal();

    let new_dir = lost.home().join("new");
    let output = build(&s3, "recover", &new_dir, &[]);
    assert!(output.status.code() == Some(7) && stderr(&output).contains("--take-over"), "{}", stderr(&output));
    let output = build(&s3, "recover", &new_dir, &["--take-over", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(lines.len(), ledgers.len());
    assert!(lines.iter().all(|line| line["fate"] == "open" && line["bytes"] == 50 * 4096), "{lines:?}");
    let again = build(&s3, "recover", &new_dir, &["--take-over"]);
    assert!(again.status.code() == Some(5) && stderr(&again).contains("not empty"), "{}", stderr(&again));

    let mut found = setup(&s3).data_dir_at(&new_dir);
    let server = found.start();
    let mut client = server.client();
    for ledger in &ledgers {
        let read = Read::whole(&mut client, ledger.target());
        assert_eq!((read.refusal.as_deref(), read.bytes.len()), (None, 50 * 4096), "{}", ledger.target());
        ledger.check(&read, 50);
    }
    // Offsets of before are gone, those of lost bytes and all others, whatever is appended now.
    let more = Request::post(ledgers[0].target()).body("text/plain", "x".repeat(6 * 4096));
    assert!([200, 204].contains(&client.send(more).status));
    for old in [&tail, &beyond] {
        let _ = client.send(Request::get(&format!("{}?offset={old}", ledgers[0].target()))).expect(410);
    }
    wait_stored(&server);
    server.kill();
    // It is a node like any other, and its bucket is its own.
    let server = found.start();
    assert_eq!(Read::whole(&mut server.client(), ledgers[0].target()).bytes.len(), 56 * 4096);
    crate::starts::assert_refused(&lost, 7, &["another cluster's"]);
}

#[test]
fn a_node_is_restored_with_its_own_copy_also_in_two_goes() {
    let s3 = S3::start();
    let mut setup = setup(&s3).args(&["--groups", "2"]);
    let server = setup.start();
    let ledgers = history(&server, "restored", 4, 100, 4096);
    wait_stored(&server);
    server.kill();
    let before = s3.objects().clone();

    // A chunk that is damaged is not restored, and nothing serves what is half there.
    let chunk = s3.chunks().pop().expect("there is a chunk");
    s3.objects().get_mut(&chunk).expect("it is there")[2000] ^= 1;
    let new_dir = setup.home().join("restored");
    let output = build(&s3, "restore", &new_dir, &[]);
    assert!(output.status.code() == Some(8) && stderr(&output).contains("checksum"), "{}", stderr(&output));
    let local = Setup::new(env!("CARGO_BIN_EXE_weir")).data_dir_at(&new_dir);
    crate::starts::assert_refused(&local, 5, &["restore", "not come to its end"]);
    s3.objects().get_mut(&chunk).expect("it is there")[2000] ^= 1;

    let copied = std::fs::read_dir(new_dir.join("cold")).expect("a folder").count();
    assert!(copied > 0, "what was copied is there");
    let output = build(&s3, "restore", &new_dir, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("4 streams") && said.contains("0 cut"), "{said}");
    assert!(*s3.objects() == before, "what is restored from is not changed");
    drop(s3);

    let mut local = local.env("WEIR_COLD_FLUSH_AGE_MS", 200);
    let server = local.start();
    for ledger in &ledgers {
        crate::assert_whole(&server, ledger);
    }
    server.kill();
    let server = local.start();
    for ledger in &ledgers {
        crate::assert_whole(&server, ledger);
    }
}

#[test]
fn nothing_is_built_from_what_is_no_node() {
    let s3 = S3::start();
    let home = Setup::new(env!("CARGO_BIN_EXE_weir"));
    let output = build(&s3, "restore", &home.home().join("a"), &[]);
    assert!(output.status.code() == Some(7) && stderr(&output).contains("no snapshot"), "{}", stderr(&output));
    let full = home.home().join("b");
    std::fs::create_dir(&full).expect("it is made");
    std::fs::write(full.join("file"), "x").expect("it is written");
    let output = build(&s3, "restore", &full, &[]);
    assert!(output.status.code() == Some(5) && stderr(&output).contains("file"), "{}", stderr(&output));
}
