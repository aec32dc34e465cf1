//! Builds the ready-made modules for wasm, so that `cargo run` is all it takes to have a server that carries them; and finds
//! out what the binary calls its version.
//!
//! A cargo within cargo: its target folder is its own, so that neither waits for the other's lock, and nothing is taken
//! from what this build was told about compilers and flags.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

/// The crates of `modules/`, as cargo calls their files.
const MODULES: [&str; 2] = ["json_schema", "stats"];

/// What the modules are made of, from the root of the repository. Folders are named so that no target folder is among
/// them: this must not run again because of what it has written.
const SOURCES: [&str; 10] = [
    ".cargo/config.toml",
    // `sdk` takes versions and lints from it.
    "Cargo.toml",
    "modules/Cargo.lock",
    "modules/Cargo.toml",
    "modules/json-schema",
    "modules/stats",
    "sdk/Cargo.toml",
    "sdk/macros",
    "sdk/src",
    "wit",
];

fn main() {
    let workspace = folder("CARGO_MANIFEST_DIR").join("../..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let (version, commit) = (variable("CARGO_PKG_VERSION"), commit(&workspace));
    let version = version.to_string_lossy();
    let known = commit.as_ref().map_or(version.to_string(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=WEIR_VERSION={known}");
    println!("cargo::rustc-env=WEIR_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    if let Err(sentence) = build(&workspace) {
        println!("cargo::error={sentence}");
    }
}

/// The commit that this is built from, where git can tell. Another commit then runs this again, and builds the server crate
/// again, but none of those below it.
fn commit(workspace: &Path) -> Option<String> {
    // Not of a repository that ours has been copied into.
    let root = git(workspace, &["rev-parse", "--show-toplevel"]).and_then(|root| fs::canonicalize(root).ok());
    if root.is_none() || root != fs::canonicalize(workspace).ok() {
        return None;
    }
    // What is checked out, and the list of what was: a commit to a branch changes only the second.
    for file in ["HEAD", "logs/HEAD"] {
        let Some(path) = git(workspace, &["rev-parse", "--git-path", file]) else { continue };
        let path = workspace.join(path);
        // Cargo takes a file that is not there for one that has changed.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(workspace, &["rev-parse", "--short=12", "HEAD"])
}

/// The line that git prints; `None` without git, or where it fails.
fn git(workspace: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(workspace).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_string())
}

/// Builds all modules and copies them to where `src/builtins.rs` embeds them from, or says in a sentence why it cannot.
fn build(workspace: &Path) -> Result<(), String> {
    let target_dir = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let guests = workspace.join(target_dir).join("guests");
    let status = Command::new(variable("CARGO"))
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&guests)
        // Where cargo runs decides which configuration it reads.
        .current_dir(workspace.join("modules"))
        // What clippy or coverage want of this build is not meant for modules.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .status()
        .map_err(|error| format!("cargo cannot be started to build the ready-made modules: {error}"))?;
    if !status.success() {
        return Err("the ready-made modules do not build; cargo's words are above".to_string());
    }
    for module in MODULES {
        let file = format!("{module}.wasm");
        let built = guests.join(TARGET).join("release").join(&file);
        fs::copy(&built, folder("OUT_DIR").join(&file))
            .map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    }
    Ok(())
}

fn folder(name: &str) -> PathBuf {
    variable(name).into()
}

fn variable(name: &str) -> std::ffi::OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
