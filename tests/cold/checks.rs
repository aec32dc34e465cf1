//! `weir cold check`: what it finds in the cold tier of a running node, and what it says.

use std::path::PathBuf;
use std::process::{Command, Output};

use weir_testkit::{Client, Request, S3, Server, Setup, metric, wait_until};

use crate::ledger::Ledger;
use crate::{MOVES_WITHIN, append, assert_whole, history, setup, setup_at};

/// Runs `weir cold check` against a server.
pub(crate) fn check(server: &Server, args: &[&str]) -> Output {
    ask(&format!("http://{}", server.admin()), args)
}

fn ask(admin: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["cold", "check", "--admin", admin]).args(args).output().expect("it runs")
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_chunk_in_the_folder_that_is_damaged_or_missing_is_named() {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--shards", "2"]).env("WEIR_COLD_FLUSH_AGE_MS", 200);
    let server = setup.start();
    history(&server, "checked", 4, 100, 1024);

    let output = check(&server, &[]);
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("0 damaged, 0 not checked") && stderr.is_empty(), "{stdout}{stderr}");

    let file = chunks(&setup).pop().expect("there is a chunk");
    let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
    let whole = std::fs::read(&file).expect("it is there");
    let mut changed = whole.clone();
    changed[whole.len() / 3] ^= 1;
    let kept = whole.len() - 1;
    for (bad, reason) in [(Some(&changed[..]), "checksum"), (Some(&whole[..kept]), "were written"), (None, "missing")] {
        match bad {
            Some(bytes) => std::fs::write(&file, bytes).expect("it is written"),
            None => std::fs::remove_file(&file).expect("it is there"),
        }
        let before = metric(&server, "weir_cold_reads_damaged_total");
        let output = check(&server, &[]);
        let (stdout, stderr) = text(&output);
        assert_eq!(output.status.code(), Some(8), "{stdout}{stderr}");
        let line = stdout.lines().find(|line| line.starts_with("damaged: ")).unwrap_or_default();
        assert!(line.contains(&name) && line.contains(reason) && line.contains("streams"), "{stdout}");
        assert!(stderr.contains("damaged: 1 chunks"), "{stderr}");
        assert_eq!(metric(&server, "weir_cold_reads_damaged_total"), before + 1.0);
    }

    let output = check(&server, &["-o", "json"]);
    let lines: Vec<serde_json::Value> =
        text(&output).0.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect();
    let found = lines.iter().find(|line| line["type"] == "damaged").expect("it is found");
    assert_eq!((found["chunk"].as_str(), found["reason"].as_str()), (Some(&*name), Some("it is missing")));
    assert!(found["streams"].as_u64() > Some(0) && found["stream_bytes"].as_u64() > Some(0), "{found}");
    let end = lines.last().expect("there is an end");
    assert_eq!((&end["type"], &end["damaged"]), (&"end".into(), &1.into()));
    assert_eq!((&end["chunks"], &end["bytes"]), (&end["chunks_all"], &end["bytes_all"]));

    std::fs::write(&file, &whole).expect("it is written");
    assert_eq!(check(&server, &[]).status.code(), Some(0));
}

#[test]
fn a_bucket_is_checked_and_one_that_is_away_is_not_taken_for_damaged() {
    let s3 = S3::start();
    let server = setup(&s3).start();
    let mut ledgers = history(&server, "checked", 2, 300, 4096);
    assert_eq!(check(&server, &[]).status.code(), Some(0));
    // What is checked is what the bucket has, and not what is in memory.
    let chunk = s3.chunks().pop().expect("there is a chunk");
    s3.objects().get_mut(&chunk).expect("it is there")[1000] ^= 2;
    let output = check(&server, &[]);
    assert_eq!(output.status.code(), Some(8), "{:?}", text(&output));
    s3.objects().get_mut(&chunk).expect("it is there")[1000] ^= 2;
    s3.accept_only("another");
    let output = check(&server, &[]);
    assert_eq!(output.status.code(), Some(7), "{:?}", text(&output));
    assert!(text(&output).0.contains("not checked: "), "{:?}", text(&output));
    s3.accept_only("key");
    append(&server, &mut ledgers[0], 1);
    assert_eq!(check(&server, &[]).status.code(), Some(0));
}

/// A server whose bytes go to chunks as they come, while its log keeps them until somebody wants a snapshot; and what was
/// appended.
fn with_young_chunks(setup: &mut Setup) -> (Server, Vec<Ledger>) {
    let server = setup.start();
    let mut ledgers: Vec<_> = (0..3).map(|n| Ledger::new(&format!("/cold/young-{n}"), 4096)).collect();
    for ledger in &mut ledgers {
        ledger.create(&server);
        append(&server, ledger, 300);
    }
    wait_until("there is a chunk", MOVES_WITHIN, || metric(&server, "weir_cold_chunks") >= 1.0);
    (server, ledgers)
}

/// What `weir cold check --repair` says of one chunk that is damaged.
fn repair(server: &Server, chunk: &str) {
    let output = check(server, &[]);
    assert_eq!(output.status.code(), Some(8), "{:?}", text(&output));
    let before = metric(server, "weir_cold_chunks_rebuilt_total");
    let output = check(server, &["--repair"]);
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    let line = stdout.lines().find(|line| line.starts_with("repaired: ")).unwrap_or_default();
    assert!(line.contains(chunk) && stdout.contains("0 damaged, 0 not checked, 1 repaired"), "{stdout}{stderr}");
    assert_eq!(metric(server, "weir_cold_chunks_rebuilt_total"), before + 1.0);
}

#[test]
fn a_chunk_in_the_folder_is_repaired_while_the_log_has_its_bytes() {
    let mut setup =
        Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--shards", "1"]).env("WEIR_COLD_FLUSH_BYTES", 1 << 20);
    let (server, ledgers) = with_young_chunks(&mut setup);
    let file = chunks(&setup).pop().expect("there is a chunk");
    let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
    let whole = std::fs::read(&file).expect("it is there");
    let mut changed = whole.clone();
    changed[whole.len() / 3] ^= 1;
    for bad in [Some(&changed[..]), Some(&whole[..whole.len() / 2]), None] {
        match bad {
            Some(bytes) => std::fs::write(&file, bytes).expect("it is written"),
            None => std::fs::remove_file(&file).expect("it is there"),
        }
        repair(&server, &name);
        assert!(std::fs::read(&file).expect("it is there") == whole, "it is another chunk");
    }
    // Killed, with the chunk gone: the next start sees that.
    server.kill();
    std::fs::remove_file(&file).expect("it is there");
    let server = setup.start();
    wait_until("it is built again", MOVES_WITHIN, || file.exists());
    assert!(std::fs::read(&file).expect("it is there") == whole, "it is another chunk");
    ledgers.iter().for_each(|ledger| assert_whole(&server, ledger));

    // A backup wants a snapshot, and then the log gives up what is before it.
    let mut backup = Command::new(env!("CARGO_BIN_EXE_weir"));
    let to = format!("file://{}", setup.home().join("backup").display());
    let admin = format!("http://{}", server.admin());
    let output = backup.args(["backup", "--to", &to, "--admin", &admin]).output().expect("it runs");
    assert!(output.status.success(), "{:?}", text(&output));
    std::fs::write(&file, &changed).expect("it is written");
    let output = check(&server, &["--repair"]);
    let (stdout, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(8), "{stdout}{stderr}");
    assert!(stdout.contains("not repaired, no other copy exists"), "{stdout}");
}

#[test]
fn a_chunk_in_a_bucket_is_repaired_while_the_log_has_its_bytes() {
    let s3 = S3::start();
    let mut setup = setup_at(&s3.endpoint()).env("WEIR_COLD_FLUSH_BYTES", 1 << 20);
    let (server, ledgers) = with_young_chunks(&mut setup);
    let chunk = s3.chunks().pop().expect("there is a chunk");
    let whole = s3.objects().get(&chunk).expect("it is there").clone();
    let name = chunk.rsplit('/').next().expect("it has a name");
    s3.objects().get_mut(&chunk).expect("it is there")[1000] ^= 2;
    repair(&server, name);
    assert!(s3.objects()[&chunk] == whole, "it is another chunk");
    s3.objects().remove(&chunk);
    repair(&server, name);
    assert!(s3.objects()[&chunk] == whole, "it is another chunk");
    ledgers.iter().for_each(|ledger| assert_whole(&server, ledger));
}

#[test]
fn a_check_is_asked_for_as_json_of_a_node_that_runs() {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"));
    let server = setup.start();
    let answer = Client::new(server.admin()).send(Request::post("/cold/check").body("text/plain", "{}".to_string()));
    assert_eq!(answer.status, 415, "a page of the web can send this");
    assert_eq!(check(&server, &[]).status.code(), Some(0), "an empty tier is whole");
    let admin = format!("http://{}", server.admin());
    server.kill();
    let output = ask(&admin, &[]);
    let (_, stderr) = text(&output);
    assert!(output.status.code() == Some(1) && stderr.contains("is the node running?"), "{stderr}");
    assert_eq!(ask("127.0.0.1", &[]).status.code(), Some(2));
}

/// The files of all chunks.
fn chunks(setup: &Setup) -> Vec<PathBuf> {
    let files = std::fs::read_dir(setup.data_dir().join("cold")).expect("a folder").flatten().map(|file| file.path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "chunk")).collect()
}
