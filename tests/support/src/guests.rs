//! Modules for tests: the guests of `tests/modules/guests`, built for wasm, and one that no compiler finishes in time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The core module of a guest in `tests/modules/guests`; all are built by the first call of a process.
///
/// # Panics
/// When they do not build, or there is none of this name.
pub fn guest(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(build);
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap_or_else(|e| panic!("there is no guest {name}: {e}"))
}

fn build() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = workspace.join("target/guests");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked", "--target", "wasm32-unknown-unknown", "--target-dir"])
        .arg(&target)
        // Where cargo runs decides which configuration it reads.
        .current_dir(workspace.join("tests/modules/guests"))
        // What clippy or coverage want of this build is not meant for guests.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "the guests do not build");
    target.join("wasm32-unknown-unknown/release")
}

/// A valid module of about `bytes` that takes seconds per megabyte to compile. It claims to be a validator.
pub fn compile_bomb(bytes: usize) -> Vec<u8> {
    const BODY_BYTES: usize = 64 << 10;
    // A block that is left if the local is zero, else the local counts down.
    const STEP: &[u8] = b"\x02\x40\x20\x00\x45\x0d\x00\x20\x00\x41\x01\x6b\x21\x00\x0b";
    let functions = bytes.div_ceil(BODY_BYTES);
    let mut body = b"\x01\x01\x7f".to_vec();
    body.extend(STEP.repeat(BODY_BYTES / STEP.len()));
    body.push(0x0b);
    let body = [leb(body.len()), body].concat();
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, b"\x01\x60\x00\x00"));
    module.extend(section(3, &[leb(functions), vec![0; functions]].concat()));
    module.extend(section(10, &[leb(functions), body.repeat(functions)].concat()));
    // An instance without items, exported under the name of the validator's interface.
    let name = b"weir:module/validator@0.1.0";
    let export = [&[1, 1][..], &leb(name.len()), name, &[5, 0, 0]].concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module), section(5, &[1, 1, 0]), section(11, &export)].concat()
}

/// A section of a module or component.
pub fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [vec![id], leb(body.len()), body.to_vec()].concat()
}

/// A number as LEB128.
pub fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
