//! Whatever is uploaded, its inspection is answered: with roles, or with a sentence.

use proptest::prelude::*;
use proptest::sample::Index;
use weir_testkit::compile_bomb;
use weir_types::Role;
use weir_wasm::{ChildProcess, CompileError, CompileLimits, Compiler, Host, HostConfig, MemoryStore, Stop};

use crate::support::guest;

fn child() -> ChildProcess {
    ChildProcess { program: vec![env!("CARGO_BIN_EXE_weir-wasm-module-child").into()] }
}

fn limits() -> CompileLimits {
    let timeout = std::time::Duration::from_secs(20);
    CompileLimits { timeout, memory_bytes_max: 1 << 30, guest_bytes_max: 64 << 20 }
}

/// A way to spoil a module.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Repeat(Index, Index, usize),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<Index>(), 1..1_000_usize).prop_map(|(from, to, times)| Damage::Repeat(from, to, times)),
        (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn spoil(mut wasm: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if wasm.is_empty() {
            break;
        }
        match damage {
            Damage::Flip(at, bits) => {
                let at = at.index(wasm.len());
                wasm[at] ^= bits;
            }
            Damage::Cut(at) => wasm.truncate(at.index(wasm.len())),
            Damage::Repeat(from, to, times) => {
                let (from, to) = (from.index(wasm.len()), to.index(wasm.len()));
                let part = wasm[from.min(to)..from.max(to).min(from.min(to) + 256)].repeat(*times);
                let _ = wasm.splice(from.min(to)..from.min(to), part);
            }
            Damage::Insert(at, bytes) => {
                let at = at.index(wasm.len());
                let _ = wasm.splice(at..at, bytes.iter().copied());
            }
        }
    }
    wasm
}

/// What an inspection may answer to bytes of any kind.
fn check(wasm: &[u8]) -> Result<(), TestCaseError> {
    match child().inspect(wasm, &limits(), &Stop::default()) {
        Ok(roles) => prop_assert!(!roles.is_empty()),
        Err(error @ (CompileError::Refused(_) | CompileError::Died { .. } | CompileError::TimedOut { .. })) => {
            let sentence = error.to_string();
            prop_assert!(!sentence.is_empty() && !sentence.chars().any(char::is_control), "{sentence:?}");
        }
        Err(error) => return Err(TestCaseError::fail(format!("{error:?}"))),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_spoilt_module_is_answered(damages in proptest::collection::vec(damage(), 1..4)) {
        check(&spoil(guest("accepts_all"), &damages))?;
    }

    #[test]
    fn anything_is_answered(kind in 0..3_usize, bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let head: [&[u8]; 3] = [b"", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"];
        check(&[head[kind], &bytes].concat())?;
    }
}

#[test]
fn a_module_and_a_component_say_their_roles() {
    let roles = |wasm: &[u8]| child().inspect(wasm, &limits(), &Stop::default()).expect("it is a module");
    assert_eq!(roles(&guest("rejects_bad")), [Role::Validator]);
    assert_eq!(roles(&guest("traps_on_third_record")), Role::ALL);
    assert_eq!(roles(&compile_bomb(1 << 10)), [Role::Validator]);
}

#[test]
fn what_is_stopped_ends_and_so_does_what_begins_later() {
    let (store, compiler) = (std::sync::Arc::new(MemoryStore::default()), std::sync::Arc::new(child()));
    let host = Host::new(store, compiler, HostConfig::default()).expect("the engine runs");
    let digest = host.store(&compile_bomb(16 << 20)).expect("it can be stored");
    let (stoppable, guard) = host.stoppable();
    let compiling = std::thread::spawn(move || stoppable.compile(digest));
    drop(guard);
    assert!(matches!(compiling.join().expect("no panic"), Err(CompileError::Stopped)));
    host.stop();
    let (stoppable, _guard) = host.stoppable();
    assert!(matches!(stoppable.compile(digest), Err(CompileError::Stopped)));
}
