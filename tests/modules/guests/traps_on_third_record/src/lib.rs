//! Both roles: panics on the third record. The validator counts those that its instance has seen, which begins anew after
//! the trap; the summary those of the stream, so that it fails there again and again.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use weir_sdk::{Query, Record, Summary, Verdict, View, summary, validator};

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

#[validator]
fn check(_record: Record<'_>) -> Verdict {
    SEEN.set(SEEN.get() + 1);
    assert!(SEEN.get() != 3, "this is the third record");
    Verdict::Accept
}

#[derive(Default, Serialize, Deserialize)]
struct Count {
    count: u64,
}

#[summary]
impl Summary for Count {
    fn apply(&mut self, _record: Record<'_>) {
        assert!(self.count != 2, "this is the third record");
        self.count += 1;
    }

    fn query(&self, _query: Query<'_>) -> View {
        View::json(self)
    }
}
