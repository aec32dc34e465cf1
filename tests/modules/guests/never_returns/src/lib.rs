//! Both roles: every call that is given a record spins forever, and so does a query for `/spin`.

use std::hint::black_box;

use serde::{Deserialize, Serialize};
use weir_sdk::{Query, Record, Summary, Verdict, View, summary, validator};

fn spin() -> ! {
    loop {
        black_box(0);
    }
}

#[validator]
fn check(_record: Record<'_>) -> Verdict {
    spin()
}

#[derive(Default, Serialize, Deserialize)]
struct Nothing {}

#[summary]
impl Summary for Nothing {
    fn apply(&mut self, _record: Record<'_>) {
        spin();
    }

    fn query(&self, query: Query<'_>) -> View {
        if query.path == "/spin" {
            spin();
        }
        View::json(self)
    }
}
