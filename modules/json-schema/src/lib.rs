//! `json-schema`: refuses an append with a record that a JSON Schema does not allow.
//!
//! The binding's config is the schema, of any draft; it says which by `$schema`, else it is the newest. A record at fault
//! is rejected with the code `schema` and a message that begins with the place of the fault, as a JSON Pointer.
//!
//! - The schema has to be whole: a `$ref` leads into the schema itself or to one of the drafts' own. Modules have no
//!   network, and a binding whose schema needs one is refused.
//! - An object with two equal keys is rejected with the code `json`: a schema judges one of them, and the stream keeps both.
//! - `format` is a remark, as the drafts have it, not a rule.

mod distinct;
#[cfg(target_family = "wasm")]
mod entropy;

use jsonschema::ValidationError;
use serde::Deserialize;
use serde_json::Value;
use weir_sdk::{Json, Verdict, validator};

use crate::distinct::Distinct;

/// The longest message in bytes: it names the value at fault, which may be as large as the record.
const MESSAGE_BYTES_MAX: usize = 500;

/// The config: a schema, compiled when the binding is made.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub struct Schema(jsonschema::Validator);

impl TryFrom<Value> for Schema {
    type Error = String;

    fn try_from(schema: Value) -> Result<Schema, String> {
        // An empty schema allows everything, and it is also what a forgotten config looks like.
        if schema.as_object().is_none_or(|fields| fields.is_empty()) {
            return Err(
                "it must be the JSON Schema that records have to satisfy, an object with at least a rule".into()
            );
        }
        let compiled = jsonschema::validator_for(&schema);
        compiled.map(Schema).map_err(|error| format!("it is no valid JSON Schema: {}", describe(&error)))
    }
}

/// Rejects the first record that the schema does not allow.
#[validator]
pub fn check(record: Json<Distinct>, schema: &Schema) -> Verdict {
    match schema.0.validate(&record.0.0) {
        Ok(()) => Verdict::Accept,
        Err(error) => Verdict::reject("schema", describe(&error)),
    }
}

/// The place of the fault and what is wrong there.
fn describe(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().as_str();
    let mut message = format!("{}: {error}", if place.is_empty() { "the whole record" } else { place });
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weir_sdk::testing::ValidatorHarness;

    use super::*;

    fn orders() -> ValidatorHarness<check> {
        ValidatorHarness::with_config(json!({
            "type": "object",
            "required": ["sku", "qty"],
            "properties": {
                "sku": { "type": "string", "pattern": "^[a-z]+-[0-9]+$" },
                "qty": { "type": "integer", "minimum": 1 },
                "lines": { "type": "array", "items": { "$ref": "#/$defs/line" } }
            },
            "$defs": { "line": { "type": "object", "required": ["price"] } }
        }))
    }

    #[test]
    fn records_that_the_schema_allows_are_accepted() {
        let records = [r#"{"sku":"tea-1","qty":1}"#, r#"{"sku":"tea-2","qty":2,"lines":[{"price":1}],"more":true}"#];
        assert_eq!(orders().append(records), "accept");
    }

    #[test]
    fn the_first_fault_is_named_with_its_place() {
        let good = r#"{"sku":"tea-1","qty":1}"#;
        let check = |bad: &str, expected: &str| assert_eq!(orders().append([good, bad]), expected, "{bad}");
        check(r#"{"sku":"tea-1","qty":0}"#, "reject 1 schema: /qty: 0 is less than the minimum of 1");
        check(r#"{"sku":"Tea","qty":1}"#, r#"reject 1 schema: /sku: "Tea" does not match "^[a-z]+-[0-9]+$""#);
        check(
            r#"{"sku":"tea-1","qty":1,"lines":[{"price":1},{}]}"#,
            r#"reject 1 schema: /lines/1: "price" is a required property"#,
        );
        check("7", r#"reject 1 schema: the whole record: 7 is not of type "object""#);
    }

    #[test]
    fn what_is_no_json_is_rejected() {
        assert_eq!(orders().append(["{"]), "reject 0 json: EOF while parsing an object at line 1 column 1");
    }

    #[test]
    fn two_equal_keys_are_rejected_wherever_they_are() {
        let check = |record: &str, expected: &str| assert_eq!(orders().append([record]), expected, "{record}");
        check(
            r#"{"sku":"tea-1","qty":-1,"qty":1}"#,
            r#"reject 0 json: an object has the key "qty" twice at line 1 column 29"#,
        );
        check(
            r#"{"sku":"tea-1","qty":1,"lines":[{"price":1,"a\u0062":1,"ab":2}]}"#,
            r#"reject 0 json: an object has the key "ab" twice at line 1 column 59"#,
        );
        check(r#"{"sku":"tea-1","qty":1,"a":{"qty":1},"b":[{"qty":2},{"qty":2}]}"#, "accept");
    }

    #[test]
    fn every_kind_of_value_is_judged() {
        let check = |kind: &str, record: &str, expected: &str| {
            let harness = ValidatorHarness::<check>::with_config(json!({ "type": kind }));
            assert_eq!(harness.append([record]), expected, "{record}");
        };
        for whole in ["-9223372036854775808", "18446744073709551615", "1.0", "1e2"] {
            check("integer", whole, "accept");
        }
        check("integer", "1.5", r#"reject 0 schema: the whole record: 1.5 is not of type "integer""#);
        check("null", "null", "accept");
        check("boolean", "true", "accept");
        check("string", r#""\u00e4\n""#, "accept");
        check("array", "[[],{}]", "accept");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let verdict = orders().append([json!("ä".repeat(1000)).to_string()]);
        assert!(verdict.len() < MESSAGE_BYTES_MAX + 30, "{} bytes", verdict.len());
        assert!(verdict.ends_with("ää…"), "{verdict}");
    }

    #[test]
    fn a_config_that_is_no_schema_is_refused() {
        let check = |config: &str, expected: &str| {
            let refusal = ValidatorHarness::<check>::configure(config).err().expect("this is no schema");
            assert!(refusal.contains(expected), "{config}: {refusal}");
        };
        check("null", "it must be the JSON Schema that records have to satisfy");
        check("[]", "it must be the JSON Schema that records have to satisfy");
        check(r#"{"type":"objekt"}"#, "it is no valid JSON Schema: /type: ");
        check(r#"{"type":"string","pattern":"("}"#, "it is no valid JSON Schema: ");
        check(r#"{"$ref":"https://example.com/order.json"}"#, "it is no valid JSON Schema: ");
    }
}
