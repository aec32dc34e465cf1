//! Programs that a suite needs and no machine has: installed below `target/`, once per pinned version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Has `install` put a tool into `folder`, unless it has done so for this `version`. Gives `folder` back.
pub fn install(folder: PathBuf, version: &str, install: impl FnOnce(&Path)) -> PathBuf {
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let stamp = folder.join("installed");
    if !fs::read_to_string(&stamp).is_ok_and(|installed| installed == version) {
        install(&folder);
        fs::write(stamp, version).expect("the target folder can be written");
    }
    folder
}

/// As [`install`], for a package from PyPI: an environment of its own, with its programs in `bin/`.
pub fn install_python(folder: PathBuf, package: &str) -> PathBuf {
    install(folder, package, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder));
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", package]));
    })
}

/// Runs `command` to its end.
///
/// # Panics
/// With what it has written, when it fails or does not start: a suite that cannot run has failed.
#[track_caller]
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}
