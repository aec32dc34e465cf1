//! Sees to it that the ready-made modules can be built for wasm. They are built last, by the server's build script; that they
//! cannot be is said here, where a build begins.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if !has_target() && !add_target() {
        println!(
            "cargo::error=Weir's own modules are built for {TARGET}, which this Rust cannot do yet: run `rustup target add {TARGET}`"
        );
    }
}

/// Whether the standard library is there for the modules' target.
fn has_target() -> bool {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC for build scripts");
    let Ok(printed) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    sysroot.join("lib/rustlib").join(TARGET).is_dir()
}

/// Adds it to the toolchain that builds this, if rustup manages that.
fn add_target() -> bool {
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    added.is_ok_and(|status| status.success()) && has_target()
}
