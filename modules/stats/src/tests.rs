//! `stats` through the harness: records in, the JSON of `/` out.

use weir_sdk::testing::SummaryHarness;

use super::*;

/// The view of these records, whose snapshots are sound as well.
fn check<R: AsRef<[u8]>>(records: impl IntoIterator<Item = R>, expected: &str) {
    let mut stream = SummaryHarness::<Stats>::new();
    stream.at(5).append(records).check_snapshots();
    assert_eq!(stream.query("/"), expected);
}

#[test]
fn nothing_is_known_of_an_empty_stream() {
    check([""; 0], r#"{"count":0,"bytes":0,"fields":{}}"#);
}

#[test]
fn the_first_and_the_last_time_are_kept() {
    let mut stream = SummaryHarness::<Stats>::new();
    stream.at(1).append(["a"]).at(2).append(["b"]).at(3).append(["c"]).check_snapshots();
    assert_eq!(stream.query("/"), r#"{"count":3,"bytes":3,"first_time_ms":1,"last_time_ms":3,"fields":{}}"#);
}

#[test]
fn each_numeric_field_has_its_own_numbers() {
    check(
        [r#"{"qty":1,"sku":"tea","price":-2.5}"#, r#"{"qty":4,"nested":{"qty":9},"list":[7],"ok":true,"none":null}"#],
        r#"{"count":2,"bytes":95,"first_time_ms":5,"last_time_ms":5,"fields":{"price":{"count":1,"min":-2.5,"max":-2.5,"mean":-2.5},"qty":{"count":2,"min":1.0,"max":4.0,"mean":2.5}}}"#,
    );
}

#[test]
fn what_is_no_object_only_counts() {
    for record in [&b"7"[..], b"[1]", b"null", b"\xff", b"", b"{\"a\":1,", b"{\"a\":1}x", b"{\"a\":1,\"b\":1e999}"] {
        let bytes = record.len();
        check([record], &format!(r#"{{"count":1,"bytes":{bytes},"first_time_ms":5,"last_time_ms":5,"fields":{{}}}}"#));
    }
}

#[test]
fn a_name_with_escapes_is_the_name_it_stands_for() {
    check(
        [r#"{"\u0071ty":1}"#, r#"{"qty":1}"#],
        r#"{"count":2,"bytes":23,"first_time_ms":5,"last_time_ms":5,"fields":{"qty":{"count":2,"min":1.0,"max":1.0,"mean":1.0}}}"#,
    );
}

#[test]
fn numbers_stay_finite_and_are_restored_to_the_bit() {
    let mut stream = SummaryHarness::<Stats>::new();
    stream.append([r#"{"a":1.7e308,"b":0.1}"#, r#"{"a":1.7e308,"b":0.2}"#, r#"{"a":-1.7e308,"b":5e-324}"#]);
    // Thirds and sevenths have no end in binary or decimal: what rounds shows.
    stream.append((1..60).map(|n| format!(r#"{{"a":{},"b":{}}}"#, f64::from(n) / 7.0, 1e300 / f64::from(n) / 3.0)));
    stream.check_snapshots();
    let field = stream.fold().fields["a"];
    assert!(field.mean.is_finite());
    assert_eq!((field.min, field.max), (-1.7e308, 1.7e308));
}

#[test]
fn made_up_fields_do_not_grow_the_state() {
    let mut stream = SummaryHarness::<Stats>::new();
    stream.append((0..FIELDS_MAX + 5).map(|n| format!(r#"{{"field{n}":1}}"#)));
    stream.append([format!(r#"{{"{}":1}}"#, "x".repeat(NAME_BYTES_MAX + 1))]);
    assert_eq!(stream.fold().fields.len(), FIELDS_MAX);
    assert_eq!(stream.fold().fields_omitted, 6);
    stream.append([r#"{"field7":3}"#]);
    assert_eq!(stream.fold().fields["field7"].count, 2);
}

#[test]
fn all_it_has_is_at_the_root() {
    assert_eq!(SummaryHarness::<Stats>::new().query("/fields"), "refused: stats has no /fields, all it has is at /");
}
