//! The compiler as a child process: what it makes, and how it is ended.

use std::sync::Arc;
use std::time::Duration;

use weir_testkit::compile_bomb;
use weir_wasm::{ChildProcess, CompileError, CompileLimits, Compiler, Host, HostConfig, Lane, MemoryStore, Stop};

use crate::support::{Kit, guest, key, run};

fn child() -> ChildProcess {
    ChildProcess { program: vec![env!("CARGO_BIN_EXE_weir-wasm-module-child").into()] }
}

/// Makes `wasm` ready on a host of its own whose compilations have these limits.
fn prepare(wasm: &[u8], config: HostConfig) -> Result<Host, CompileError> {
    let host = Host::new(Arc::new(MemoryStore::default()), Arc::new(child()), config).expect("the engine runs");
    let digest = host.store(wasm).expect("it can be stored");
    host.prepare(digest).map(|()| host)
}

#[test]
fn a_child_compiles_what_runs_here() {
    let wasm = guest("accepts_all");
    let host = prepare(&wasm, HostConfig::default()).expect("it can be made ready");
    let digest = host.store(&wasm).expect("it is stored");
    let lane = Lane::start(host.clone(), "lane").expect("there can be a thread");
    let kit = Kit { host, lane };
    run(async { assert_eq!(kit.validate(&key("demo", digest), &["a"]).await, "accept") });
}

#[test]
fn a_compile_bomb_is_killed_when_its_time_is_over() {
    let compile_timeout = Duration::from_millis(200);
    let error = prepare(&compile_bomb(8 << 20), HostConfig { compile_timeout, ..HostConfig::default() }).err();
    assert!(matches!(error, Some(CompileError::TimedOut { .. })), "{error:?}");
}

#[test]
fn a_compile_bomb_dies_of_its_memory() {
    let compile_memory_bytes_max = 64 << 20;
    let error =
        prepare(&compile_bomb(32 << 20), HostConfig { compile_memory_bytes_max, ..HostConfig::default() }).err();
    assert!(matches!(error, Some(CompileError::Died { .. })), "{error:?}");
}

#[test]
fn a_child_says_what_is_wrong_with_a_module() {
    let empty_component = b"\0asm\x0d\0\x01\0";
    let wasm = guest("accepts_all");
    for (wasm, words) in [(&wasm[..wasm.len() / 2], "not valid WebAssembly"), (b"text", "not WebAssembly")] {
        let error = prepare(wasm, HostConfig::default()).err().expect("it is no module");
        assert!(matches!(&error, CompileError::Refused(said) if said.contains(words)), "{error:?}");
    }
    // Compiled, but nothing that could be called.
    assert!(prepare(empty_component, HostConfig::default()).is_ok());
}

#[test]
fn a_child_that_is_not_there_or_no_compiler_is_an_error() {
    let limits =
        CompileLimits { timeout: Duration::from_secs(10), memory_bytes_max: 1 << 30, guest_bytes_max: 1 << 26 };
    let missing = ChildProcess { program: vec!["/nowhere/weir".into()] };
    assert!(matches!(missing.compile(b"", &limits, &Stop::default()), Err(CompileError::Io(_))));
    let other = ChildProcess { program: vec!["/bin/false".into()] };
    assert!(matches!(other.compile(&vec![0; 1 << 20], &limits, &Stop::default()), Err(CompileError::Died { .. })));
}
