//! Verdicts, and what an instance is bound to.

use weir_types::Role;
use weir_wasm::digest_of;

use crate::support::{Kit, caller, context, key, run};

#[test]
fn validators_accept_reject_and_replace() {
    run(async {
        let kit = Kit::new();
        let accepts = kit.bind("accepts_all");
        assert_eq!(kit.validate(&accepts, &["a", "b"]).await, "accept");
        let rejects = kit.bind("rejects_bad");
        assert_eq!(kit.validate(&rejects, &[r#"{"qty":1}"#]).await, "accept");
        let verdict = kit.validate(&rejects, &[r#"{"qty":1}"#, r#"{"qty":0}"#]).await;
        assert_eq!(verdict, "reject 1 qty: the quantity must be positive, got 0");
        let replaces = kit.bind("replaces");
        assert_eq!(kit.validate(&replaces, &["A", "B"]).await, "accept");
        assert_eq!(kit.validate(&replaces, &["a", "bc"]).await, "replace 'A' 'BC'");
        assert_eq!(kit.lane.stats().instances, 3);
    });
}

#[test]
fn a_module_is_bound_in_its_role_and_when_it_is_ready() {
    run(async {
        let kit = Kit::new();
        let unknown = key("demo", digest_of(b"unknown"));
        assert_eq!(kit.validate(&unknown, &["a"]).await, "the module is not ready");
        let accepts = kit.bind("accepts_all");
        assert_eq!(kit.check_config(&accepts, Role::Validator).await, "configured");
        let sentence = kit.check_config(&accepts, Role::Summary).await;
        assert_eq!(sentence, "the module refuses its configuration: the module is no summary");
        let kept = kit.bind("replaces").digest;
        kit.host.retain(&[kept].into()).expect("the others can be removed");
        assert!(!kit.host.is_ready(accepts.digest) && kit.host.read(accepts.digest).is_err());
        assert!(kit.host.is_ready(kept) && kit.host.read(kept).is_ok());
        // What runs goes on; what is new finds nothing.
        assert_eq!(kit.validate(&accepts, &["a"]).await, "accept");
        assert_eq!(kit.validate(&key("other", accepts.digest), &["a"]).await, "the module is not ready");
    });
}

#[test]
fn a_lane_serves_callers_from_many_threads() {
    let kit = Kit::new();
    let accepts = kit.bind("accepts_all");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                run(async {
                    for _ in 0..200 {
                        let batch = crate::support::batch(&["a", "b"]);
                        let verdict = kit.lane.validate(accepts.clone(), caller(), context(), batch).await;
                        assert_eq!(verdict, Ok(weir_wasm::Verdict::Accept));
                    }
                });
            });
        }
    });
    let stats = kit.lane.stats();
    assert_eq!((stats.instances, stats.calls, stats.traps), (1, 800, 0));
}
