//! Validator: puts each record into upper case, those that are already are accepted as they are.

use weir_sdk::{Record, Verdict, validator};

#[validator]
fn check(record: Record<'_>) -> Verdict {
    let upper = record.data.to_ascii_uppercase();
    if upper == record.data { Verdict::Accept } else { Verdict::Replace(upper) }
}
