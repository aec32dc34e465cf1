//! Folds: many in one instance, made, asked, stored, restored, ended.

use weir_wasm::GuestError;

use crate::support::{Kit, batch, caller, run};

#[test]
fn folds_of_one_instance_do_not_share_their_state() {
    run(async {
        let kit = Kit::new();
        let counts = kit.bind("traps_on_third_record");
        let (one, two) = (kit.open(&counts).await, kit.open(&counts).await);
        assert_eq!(kit.apply(one, &["a", "b"]).await, "applied");
        assert_eq!(kit.apply(two, &["a"]).await, "applied");
        assert_eq!(kit.query(one, "/").await, r#"application/json {"count":2}"#);
        assert_eq!(kit.query(two, "/").await, r#"application/json {"count":1}"#);
        let stats = kit.lane.stats();
        assert_eq!((stats.instances, stats.folds), (1, 2));
    });
}

#[test]
fn a_fold_goes_on_from_its_snapshot() {
    run(async {
        let kit = Kit::new();
        let counts = kit.bind("traps_on_third_record");
        let fold = kit.open(&counts).await;
        assert_eq!(kit.apply(fold, &["a"]).await, "applied");
        let snapshot = kit.snapshot(fold).await;
        let restored = kit
            .lane
            .fold_open(counts.clone(), caller(), Some(snapshot.clone()), false)
            .await
            .expect("it can be restored");
        assert_eq!(kit.snapshot(restored).await, snapshot);
        assert_eq!(kit.apply(restored, &["b"]).await, "applied");
        assert_eq!(kit.query(restored, "/").await, r#"application/json {"count":2}"#);
        assert_eq!(kit.query(fold, "/").await, r#"application/json {"count":1}"#);
        let garbage = kit.lane.fold_open(counts, caller(), Some("no snapshot".into()), false).await;
        assert!(matches!(garbage, Err(GuestError::Refused(_))), "{garbage:?}");
        assert_eq!(kit.lane.stats().traps, 0);
    });
}

#[test]
fn a_dropped_fold_is_gone_and_the_others_stay() {
    run(async {
        let kit = Kit::new();
        let counts = kit.bind("traps_on_third_record");
        let (dropped, kept) = (kit.open(&counts).await, kit.open(&counts).await);
        kit.lane.fold_drop(dropped);
        assert_eq!(kit.lane.fold_apply(dropped, batch(&["a"])).await, Err(GuestError::FoldLost));
        assert_eq!(kit.apply(kept, &["a"]).await, "applied");
        assert_eq!(kit.lane.stats().folds, 1);
    });
}

#[test]
fn many_folds_fit_into_one_instance() {
    run(async {
        let kit = Kit::new();
        let counts = kit.bind("traps_on_third_record");
        for _ in 0..2_000 {
            kit.open(&counts).await;
        }
        let stats = kit.lane.stats();
        assert_eq!((stats.instances, stats.folds, stats.traps), (1, 2_000, 0));
    });
}
