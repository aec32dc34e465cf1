//! Suites whose other half is JavaScript: their scripts in a folder below `target/`, beside what npm installs for them
//! by a `package-lock.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

const LOCK: &str = "package-lock.json";
static INSTALLING: Mutex<()> = Mutex::new(());

/// Writes `files` (names and contents: `package.json`, its lock, scripts) into `folder`, and has npm install what the
/// lock pins, once per lock. Gives `folder` back.
///
/// # Panics
/// When npm is missing or fails: a suite that cannot run has failed.
pub fn install(folder: PathBuf, files: &[(&str, &str)]) -> PathBuf {
    // The tests of a suite share a folder.
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, lock) = files.iter().find(|(name, _)| *name == LOCK).expect("the files have a lock");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    // npm's own copy of the lock leaves things out, so a copy of ours says what is installed.
    let stamp = folder.join("installed.lock");
    let is_installed = fs::read_to_string(&stamp).is_ok_and(|installed| installed == *lock);
    for (name, content) in files {
        let path = folder.join(name);
        // Another test may be running it.
        if !fs::read_to_string(&path).is_ok_and(|written| written == *content) {
            fs::write(path, content).expect("the target folder can be written");
        }
    }
    if !is_installed {
        let npm = run(
            Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder),
            "npm is needed to install a suite",
        );
        assert!(npm.status.success(), "npm ci failed: {}", text(&npm));
        fs::write(stamp, lock).expect("the target folder can be written");
    }
    folder
}

/// `node script` in `folder`.
pub fn node(folder: &Path, script: &str) -> Command {
    let mut node = Command::new("node");
    node.arg(script).current_dir(folder);
    node
}

/// Runs `command` to its end.
///
/// # Panics
/// With `need` when it does not start.
pub fn run(command: &mut Command, need: &str) -> Output {
    command.output().unwrap_or_else(|e| panic!("{need}, but it does not start: {e}"))
}

/// How a program ended and what it wrote.
pub fn text(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{stdout}\n{stderr}", output.status)
}
