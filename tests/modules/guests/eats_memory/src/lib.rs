//! Both roles: every call that is given a record allocates until it is stopped, and so does a query for `/eat`.

use std::hint::black_box;

use serde::{Deserialize, Serialize};
use weir_sdk::{Query, Record, Summary, Verdict, View, summary, validator};

fn eat() -> ! {
    loop {
        black_box(vec![1u8; 1 << 20].leak());
    }
}

#[validator]
fn check(_record: Record<'_>) -> Verdict {
    eat()
}

#[derive(Default, Serialize, Deserialize)]
struct Nothing {}

#[summary]
impl Summary for Nothing {
    fn apply(&mut self, _record: Record<'_>) {
        eat();
    }

    fn query(&self, query: Query<'_>) -> View {
        if query.path == "/eat" {
            eat();
        }
        View::json(self)
    }
}
