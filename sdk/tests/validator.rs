//! `#[validator]`: what each kind of parameter brings, through the harness.

use serde::Deserialize;
use weir_sdk::testing::{ValidatorHarness, json};
use weir_sdk::{Batch, BatchVerdict, Context, Json, Record, Rejection, Text, Verdict, ensure, reject, validator};

#[derive(Deserialize)]
struct Order<'a> {
    sku: &'a str,
    qty: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default = "ten")]
    qty_max: i64,
}

fn ten() -> i64 {
    10
}

#[validator]
fn orders(order: Json<Order<'_>>, limits: &Limits) -> Verdict {
    ensure!(order.qty > 0, "qty", "the quantity of {} must be positive, got {}", order.sku, order.qty);
    if order.qty > limits.qty_max {
        reject!("qty", "at most {} of {}", limits.qty_max, order.sku);
    }
    Verdict::Accept
}

#[validator]
fn shout(Text(text): Text<'_>) -> Verdict {
    if text.chars().any(char::is_lowercase) { Verdict::Replace(text.to_uppercase().into()) } else { Verdict::Accept }
}

/// Takes everything that there is, in an unusual order.
#[validator]
fn everything(context: &Context, record: Record<'_>, _text: Text<'_>) -> Verdict {
    reject!("seen", "{context:?} {record:?}")
}

#[validator]
fn at_most_two(batch: Batch<'_>) -> BatchVerdict {
    match batch.len() {
        0..=2 => BatchVerdict::Accept,
        _ => BatchVerdict::Reject { index: 2, rejection: Rejection::new("too-many", "two at a time") },
    }
}

#[test]
fn typed_records_and_config() {
    let stream = ValidatorHarness::<orders>::new();
    assert_eq!(stream.append([r#"{"sku":"tea","qty":1}"#, r#"{"sku":"tea","qty":10}"#]), "accept");
    assert_eq!(
        stream.append([r#"{"sku":"tea","qty":1}"#, r#"{"sku":"tea","qty":0}"#]),
        "reject 1 qty: the quantity of tea must be positive, got 0"
    );
    let stream = ValidatorHarness::<orders>::with_config(std::collections::BTreeMap::from([("qty_max", 2)]));
    assert_eq!(stream.append([r#"{"sku":"tea","qty":3}"#]), "reject 0 qty: at most 2 of tea");
}

#[test]
fn a_record_that_cannot_be_read_is_rejected() {
    let stream = ValidatorHarness::<orders>::new();
    assert_eq!(
        stream.append(json([1])),
        "reject 0 json: invalid type: integer `1`, expected struct Order at line 1 column 1"
    );
    let stream = ValidatorHarness::<shout>::new();
    assert_eq!(stream.append([b"\xff"]), "reject 0 utf-8: invalid utf-8 sequence of 1 bytes from index 0");
}

#[test]
fn a_config_that_does_not_fit_is_refused() {
    let refusal = ValidatorHarness::<orders>::configure(r#"{"qty":1}"#).err().expect("there is no such field");
    assert!(refusal.starts_with("the config does not fit the module: unknown field `qty`"), "{refusal}");
    let refusal = ValidatorHarness::<shout>::configure(r#"{"qty":1}"#).err().expect("it takes no config");
    assert!(refusal.contains("this module takes none"), "{refusal}");
}

#[test]
fn replacements_keep_their_places() {
    let stream = ValidatorHarness::<shout>::new();
    assert_eq!(stream.append(["A", "b", "C"]), "replace 'A' 'B' 'C'");
    assert_eq!(stream.append(["A", "B"]), "accept");
}

#[test]
fn parameters_are_told_apart_by_their_types() {
    let stream = ValidatorHarness::<everything>::new().bucket("shop").stream("a/b", "text/plain").at(7, 9);
    assert_eq!(
        stream.append(["x"]),
        r#"reject 0 seen: Context { bucket: "shop", stream: "a/b", content_type: "text/plain", next_offset: 7, timestamp_ms: 9 } 'x' at 9 ms"#
    );
}

#[test]
fn a_batch_is_judged_as_a_whole() {
    let stream = ValidatorHarness::<at_most_two>::new();
    assert_eq!(stream.append(["a", "b"]), "accept");
    assert_eq!(stream.append(["a", "b", "c"]), "reject 2 too-many: two at a time");
}

#[test]
fn the_function_is_still_a_function() {
    assert_eq!(shout(Text("A")), Verdict::Accept);
}
