//! Validator: records are JSON objects, and their `qty` is a positive integer. Rejects with the code `qty`.

use serde::Deserialize;
use weir_sdk::{Json, Verdict, ensure, validator};

#[derive(Deserialize)]
struct Order {
    qty: i64,
}

#[validator]
fn check(order: Json<Order>) -> Verdict {
    ensure!(order.qty > 0, "qty", "the quantity must be positive, got {}", order.qty);
    Verdict::Accept
}
