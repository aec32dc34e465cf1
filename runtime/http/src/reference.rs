//! `docs/http.md` names every code, field, parameter and address there is.

use crate::error::ErrorCode;

const REFERENCE: &str = include_str!("../../../docs/http.md");

/// What stands between `before` and `after`, at each place.
pub(crate) fn between<'a>(text: &'a str, before: &'a str, after: char) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).map(move |rest| rest.split(after).next().expect("a split has a part"))
}

#[test]
fn every_code_has_its_row_and_no_other() {
    let (_, refusals) = REFERENCE.split_once("| code | status | meaning |").expect("a table of codes");
    let rows: Vec<&str> = refusals.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<String> = ErrorCode::ALL
        .iter()
        .map(|code| format!("| `{}` | {} | {} |", code.as_str(), code.status().as_u16(), code.title()))
        .collect();
    assert_eq!(rows, expected, "docs/http.md lists the codes as error.rs does");
}

#[test]
fn every_field_parameter_and_address_is_named() {
    let names = REFERENCE.to_ascii_lowercase();
    for field in between(include_str!("headers.rs"), "HeaderName::from_static(\"", '"') {
        // What every response has is said without its name.
        let is_named = names.contains(field) || field == "cross-origin-resource-policy";
        assert!(is_named, "the field {field} is missing");
    }
    let (code, _) = include_str!("query.rs").split_once("#[cfg(test)]").expect("code, then tests");
    let parameters: Vec<&str> = between(code, "once(\"", '"').collect();
    assert!(parameters.len() > 8, "the parameters are found: {parameters:?}");
    for parameter in parameters {
        assert!(REFERENCE.contains(&format!("`{parameter}`")), "the parameter {parameter} is missing");
    }
    for route in between(include_str!("routes/mod.rs"), ".route(\"", '"') {
        // A name of several segments is written in another way there.
        let route = route.replace("{*", "{");
        assert!(REFERENCE.contains(&format!("| `{route}` |")), "the address {route} is missing");
    }
}
