//! A summary that does not read the snapshots that it writes. The record `burn` takes some microseconds, so that the server
//! keeps a snapshot after some thousands; `trap` ends the instance, and all folds in it.

use std::hint::black_box;

use weir_sdk::{Query, Record, Summary, View, summary};

const BURN_STEPS: u64 = 20_000;

#[derive(Default)]
struct Forgets {
    count: u64,
}

#[summary]
impl Summary for Forgets {
    fn apply(&mut self, record: Record<'_>) {
        assert!(record.data != b"\"trap\"", "told to");
        (0..BURN_STEPS).for_each(|step| {
            black_box(step);
        });
        self.count += 1;
    }

    fn query(&self, _query: Query<'_>) -> View {
        View::text(self.count.to_string())
    }

    fn snapshot(&self) -> Vec<u8> {
        b"forgotten".to_vec()
    }

    fn restore(_state_version: u32, _snapshot: &[u8], _config: &Self::Config) -> Result<Self, String> {
        Err("it is forgotten".to_string())
    }
}
