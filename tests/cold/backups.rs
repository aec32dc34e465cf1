//! `weir backup` of a running node, and what is restored from it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use weir_testkit::{Request, S3, Server, Setup};

use crate::ledger::Ledger;
use crate::{append, assert_whole, setup};

fn weir(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).args(args).output().expect("it runs")
}

/// Backs up a server to a place; what it says.
fn back_up(server: &Server, to: &str) -> Output {
    weir(&["backup", "--to", to, "--admin", &format!("http://{}", server.admin())])
}

#[track_caller]
fn assert_done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[track_caller]
fn assert_refused(output: &Output, word: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains(word), "{said}");
}

/// A server on what is restored from a place.
fn restored(from: &str, home: &Path, name: &str) -> Setup {
    let dir = home.join(name);
    assert_done(&weir(&["restore", "--from", from, "--data-dir", &dir.to_string_lossy()]));
    Setup::new(env!("CARGO_BIN_EXE_weir")).data_dir_at(&dir)
}

/// Streams of so many records each; with the default age nothing of them leaves the log by itself.
fn written(server: &Server, name: &str, records: usize) -> Vec<Ledger> {
    let mut ledgers: Vec<_> = (0..6).map(|number| Ledger::new(&format!("/backed/{name}-{number}"), 2048)).collect();
    for ledger in &mut ledgers {
        ledger.create(server);
        append(server, ledger, records);
    }
    ledgers
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten().map(|file| file.path());
    files.filter(|file| file.to_string_lossy().ends_with(ending)).collect()
}

#[test]
fn what_is_backed_up_is_restored_byte_for_byte_also_after_an_interruption() {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--shards", "2", "--groups", "4"]);
    let server = setup.start();
    let mut ledgers = written(&server, "kept", 40);
    let folder = setup.home().join("backup");
    let to = format!("file://{}", folder.display());
    assert_done(&back_up(&server, &to));
    assert_eq!(files(&folder, ".snapshot").len(), 4, "one snapshot of each group");
    let first = restored(&to, setup.home(), "first").start();
    ledgers.iter().for_each(|ledger| assert_whole(&first, ledger));
    first.kill();

    // One that was interrupted: a chunk is missing, one is cut, a snapshot has no manifest.
    for ledger in &mut ledgers {
        append(&server, ledger, 10);
    }
    let chunks = files(&folder, ".chunk");
    std::fs::remove_file(&chunks[0]).expect("it is there");
    std::fs::write(&chunks[1], "cut").expect("it is written");
    std::fs::remove_file(&files(&folder, ".snapshot")[0]).expect("it is there");
    let said = assert_done(&back_up(&server, &to));
    assert!(said.contains("chunks"), "{said}");
    assert_eq!(files(&folder, ".snapshot").len(), 4, "nothing is left of the backup before");
    let second = restored(&to, setup.home(), "second").start();
    ledgers.iter().for_each(|ledger| assert_whole(&second, ledger));
    // It is a node like any other.
    append(&second, &mut ledgers[0], 3);
    assert_whole(&second, &ledgers[0]);
}

#[test]
fn a_backup_is_whole_while_streams_come_and_go() {
    let s3 = S3::start();
    let mut setup = setup(&s3).env("WEIR_COLD_URL", "local");
    let server = setup.start();
    let ledgers = written(&server, "kept", 20);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let mut passing = Ledger::new(&format!("/backed/passing-{number}"), 8192);
                passing.create(&server);
                append(&server, &mut passing, 10);
                let _ = server.client().send(Request::delete(passing.target())).expect(204);
            }
        });
        for _ in 0..3 {
            assert_done(&back_up(&server, "s3://weir/backup"));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    server.kill();
    let dir = setup.home().join("restored");
    let mut restore = crate::command(&s3);
    restore.args(["restore", "--from", "s3://weir/backup", "--data-dir"]).arg(&dir);
    assert_done(&restore.output().expect("it runs"));
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).data_dir_at(&dir).start();
    ledgers.iter().for_each(|ledger| assert_whole(&server, ledger));
}

#[test]
fn nothing_that_is_in_use_is_taken_for_a_backup() {
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"));
    let server = setup.start();
    written(&server, "kept", 1);
    assert_refused(&back_up(&server, &format!("file://{}/cold", setup.data_dir().display())), "cold tier");
    assert_refused(&back_up(&server, "gs://bucket"), "s3://bucket/prefix");
    let to = format!("file://{}/backup", setup.home().display());
    assert_done(&back_up(&server, &to));
    let mut other = Setup::new(env!("CARGO_BIN_EXE_weir"));
    let other = other.start();
    assert_refused(&back_up(&other, &to), "another node");
    let mut without = Setup::new(env!("CARGO_BIN_EXE_weir")).env("WEIR_COLD_URL", "off");
    assert_refused(&back_up(&without.start(), &to), "no cold tier");
}
