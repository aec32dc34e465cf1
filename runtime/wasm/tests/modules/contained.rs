//! Guests that misbehave, each in its own way: what they do is an error of their own calls, and of no others.

use std::time::Duration;

use weir_wasm::{CompileError, GuestError, HostConfig};

use crate::support::{Kit, batch, caller, context, guest, key, run};

#[test]
fn a_panic_is_answered_with_its_message_and_the_next_call_gets_a_fresh_instance() {
    run(async {
        let kit = Kit::new();
        let traps = kit.bind("traps_on_third_record");
        assert_eq!(kit.validate(&traps, &["a", "b"]).await, "accept");
        let sentence = kit.validate(&traps, &["c"]).await;
        assert!(sentence.starts_with("the module trapped (panic): "), "{sentence}");
        assert!(sentence.contains("this is the third record"), "{sentence}");
        assert_eq!(kit.validate(&traps, &["a", "b"]).await, "accept");
        assert_eq!(kit.lane.stats().traps, 1);
    });
}

#[test]
fn a_trap_takes_the_folds_of_its_instance_and_no_others() {
    run(async {
        let kit = Kit::new();
        let traps = kit.bind("traps_on_third_record");
        let (bad, neighbour) = (kit.open(&traps).await, kit.open(&traps).await);
        let elsewhere = kit.open(&key("elsewhere", traps.digest)).await;
        let sentence = kit.apply(bad, &["a", "b", "c"]).await;
        assert!(sentence.starts_with("the module trapped (panic): "), "{sentence}");
        assert_eq!(kit.apply(bad, &["a"]).await, "the fold is gone");
        assert_eq!(kit.query(neighbour, "/").await, "the fold is gone");
        assert_eq!(kit.apply(elsewhere, &["a"]).await, "applied");
        let again = kit.open(&traps).await;
        assert_eq!(kit.apply(again, &["a", "b"]).await, "applied");
        // Dropping what is gone already is nothing.
        kit.lane.fold_drop(bad);
        assert_eq!(kit.query(again, "/").await, r#"application/json {"count":2}"#);
        assert_eq!(kit.lane.stats().folds, 2);
    });
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    run(async {
        let kit = Kit::new();
        let spins = kit.bind("never_returns");
        let sentence = kit.validate(&spins, &["a"]).await;
        assert!(sentence.starts_with("the module trapped (out of fuel): "), "{sentence}");
        let fold = kit.open(&spins).await;
        let sentence = kit.query(fold, "/spin").await;
        assert!(sentence.starts_with("the module trapped (out of fuel): "), "{sentence}");
    });
}

#[test]
fn the_epoch_ends_what_fuel_does_not() {
    run(async {
        let call_timeout = Duration::from_millis(50);
        let kit = Kit::with(HostConfig { fuel_base: u64::MAX / 64, call_timeout, ..HostConfig::default() });
        let spins = kit.bind("never_returns");
        let sentence = kit.validate(&spins, &["a"]).await;
        assert!(sentence.starts_with("the module trapped (timed out): "), "{sentence}");
    });
}

#[test]
fn memory_ends_at_its_limit() {
    run(async {
        let kit = Kit::with(HostConfig { memory_bytes_max: 8 << 20, ..HostConfig::default() });
        let eats = kit.bind("eats_memory");
        let sentence = kit.validate(&eats, &["a"]).await;
        let expected = "the module trapped (out of memory): an instance may have 8388608 bytes of memory";
        assert_eq!(sentence, expected);
        let fold = kit.open(&eats).await;
        assert_eq!(kit.query(fold, "/eat").await, expected);
    });
}

#[test]
fn verdicts_that_do_not_fit_are_garbage() {
    run(async {
        let kit = Kit::new();
        let garbage = kit.bind("returns_garbage");
        for record in ["falling", "short", "empty", "beyond", "index", "text"] {
            let verdict = kit.lane.validate(garbage.clone(), caller(), context(), batch(&[record])).await;
            assert!(matches!(verdict, Err(GuestError::Garbage(_))), "{record}: {verdict:?}");
        }
        assert_eq!(kit.validate(&garbage, &["code"]).await, "reject 0 rejected: a code with a line in it");
    });
}

#[test]
fn views_that_do_not_fit_are_garbage() {
    run(async {
        let kit = Kit::new();
        let garbage = kit.bind("returns_garbage");
        let fold = kit.open(&garbage).await;
        // What a body means is between the module and its readers.
        assert!(kit.query(fold, "/body").await.starts_with("application/json "));
        for path in ["/header", "/"] {
            let view = kit.lane.fold_query(fold, path.to_string(), Vec::new()).await;
            assert!(matches!(view, Err(GuestError::Garbage(_))), "{path}: {view:?}");
        }
        // The last one could not even be read, and that has ended the instance.
        assert_eq!(kit.query(fold, "/body").await, "the fold is gone");
    });
}

#[test]
fn an_unknown_import_is_named_at_upload_and_never_linked() {
    let kit = Kit::new();
    let wasm = guest("imports_the_unknown");
    let refusal = kit.host.inspect(&wasm).expect_err("nobody has rockets");
    assert!(matches!(refusal, CompileError::Refused(_)), "{refusal:?}");
    assert!(refusal.to_string().contains("rockets::launch"), "{refusal}");
    let digest = kit.host.store(&wasm).expect("it can be stored");
    let error = kit.host.prepare(digest).expect_err("nobody has rockets");
    assert!(error.to_string().contains("rockets"), "{error}");
    assert!(!kit.host.is_ready(digest));
}

#[test]
fn no_part_of_a_module_is_a_module() {
    let kit = Kit::new();
    let wasm = guest("rejects_bad");
    for bytes in (0..wasm.len()).step_by(997).chain([wasm.len() - 1]) {
        let part = &wasm[..bytes];
        let refusal = kit.host.inspect(part).err();
        assert!(matches!(refusal, Some(CompileError::Refused(_))), "{bytes} of {} bytes: {refusal:?}", wasm.len());
    }
}
