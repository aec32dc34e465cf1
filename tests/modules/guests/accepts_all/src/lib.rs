//! Validator: accepts everything without looking at it. What is left is the cost of asking.

use weir_sdk::{Batch, BatchVerdict, validator};

#[validator]
fn check(_batch: Batch<'_>) -> BatchVerdict {
    BatchVerdict::Accept
}
