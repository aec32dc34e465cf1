//! What bindings share, the node's memory and a lane's time, and that none of them has it at the others' cost.

use weir_wasm::HostConfig;

use crate::support::{Kit, key, run};

const MIB: usize = 1 << 20;

#[test]
fn a_lane_over_its_share_gives_up_what_it_has_used_least_recently() {
    run(async {
        let kit =
            Kit::with(HostConfig { memory_bytes_max: 4 * MIB, guest_bytes_max: 32 * MIB, ..HostConfig::default() });
        let counts = kit.bind("traps_on_third_record");
        let mut folds = Vec::new();
        for bucket in 0..40 {
            let fold = kit.open(&key(&format!("bucket-{bucket}"), counts.digest)).await;
            assert_eq!(kit.apply(fold, &["a"]).await, "applied");
            assert!(kit.lane.stats().bytes <= 32 * MIB as u64);
            folds.push(fold);
        }
        assert_eq!(kit.query(folds[0], "/").await, "the fold is gone");
        assert_eq!(kit.query(folds[39], "/").await, r#"application/json {"count":1}"#);
        let stats = kit.lane.stats();
        assert!(stats.instances < 40 && stats.folds == stats.instances, "{stats:?}");
    });
}

#[test]
fn memory_that_the_node_has_not_is_refused() {
    run(async {
        let kit = Kit::with(HostConfig { guest_bytes_max: 8 * MIB, ..HostConfig::default() });
        let eats = kit.bind("eats_memory");
        let fold = kit.open(&eats).await;
        let refused = "all modules together use all the memory they may: modules.guest_bytes_max";
        assert_eq!(kit.query(fold, "/eat").await, refused);
        // It is given back with the instance that had it.
        let fold = kit.open(&eats).await;
        assert_eq!(kit.query(fold, "/eat").await, refused);
        assert!(kit.lane.stats().bytes <= 8 * MIB as u64);
    });
}

#[test]
fn a_binding_that_fails_again_and_again_is_suspended_and_no_other() {
    run(async {
        let kit = Kit::new();
        let traps = kit.bind("traps_on_third_record");
        let mut failures = 0;
        // Each suspension is longer than the one before, so that a slow machine meets one of them too.
        let sentence = loop {
            let sentence = kit.validate(&traps, &["a", "b", "c"]).await;
            if sentence.starts_with("the module is suspended for ") {
                break sentence;
            }
            assert!(sentence.starts_with("the module trapped (panic): "), "{sentence}");
            failures += 1;
            assert!(failures < 16, "{sentence}");
        };
        let why = format!("because it has failed {failures} times in a row: the module trapped (panic): ");
        assert!(sentence.contains(&why), "{sentence}");
        let stats = kit.lane.stats();
        assert!(failures >= 2 && stats.traps == failures && stats.suspensions >= 1, "{stats:?}");
        assert_eq!(kit.validate(&key("other", traps.digest), &["a", "b"]).await, "accept");
    });
}
