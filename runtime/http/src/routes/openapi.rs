//! `GET /-/openapi.json`: the description of everything that the public listener serves, as it is in `docs/`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::headers::{APPLICATION_JSON, NO_CACHE};
use crate::render;

/// The document.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// Its entity tag: two builds of one version can have different documents.
static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    OPENAPI.hash(&mut hasher);
    HeaderValue::from_str(&format!("\"{:016x}\"", hasher.finish())).expect("hexadecimal digits")
});

/// Gives the document, or `304` to a client that has it.
pub(crate) async fn get(asked: HeaderMap) -> Response {
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_CACHE.clone());
    headers.insert(ETAG, TAG.clone());
    if asked.get(IF_NONE_MATCH).is_some_and(|tags| render::matches(tags, &TAG)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(CONTENT_TYPE, APPLICATION_JSON.clone());
    *response.body_mut() = OPENAPI.into();
    response
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::OPENAPI;
    use crate::error::ErrorCode;
    use crate::reference::between;

    /// The addresses of streams, which the router never sees.
    /// They are told by `__ds` alone, and are in no router.
    const SUBSCRIPTIONS: [&str; 8] = [
        "/{bucket}/__ds/jwks.json",
        "/{bucket}/__ds/subscriptions/{subscription}",
        "/{bucket}/__ds/subscriptions/{subscription}/streams",
        "/{bucket}/__ds/subscriptions/{subscription}/streams/{name}",
        "/{bucket}/__ds/subscriptions/{subscription}/callback",
        "/{bucket}/__ds/subscriptions/{subscription}/claim",
        "/{bucket}/__ds/subscriptions/{subscription}/ack",
        "/{bucket}/__ds/subscriptions/{subscription}/release",
    ];
    const STREAMS: [&str; 3] = ["/{bucket}/{name}", "/v1/stream/{name}", "/v1/streams/{name}"];
    const METHODS: [&str; 5] = ["get", "head", "put", "post", "delete"];

    fn document() -> Value {
        serde_json::from_str(OPENAPI).expect("JSON")
    }

    fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
        value.as_object().expect("an object").iter().map(|(key, value)| (&**key, value))
    }

    /// What a reference within the document leads to; anything else is itself.
    fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// Every operation: its method, its address and what is said of it.
    fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
        object(&document["paths"]).flat_map(move |(path, item)| {
            let item = resolved(document, item);
            METHODS.into_iter().filter_map(move |method| item.get(method).map(|operation| (method, path, operation)))
        })
    }

    /// What the schema of a refusal says: its status, and the codes that it can have.
    fn codes(response: &Value) -> Option<(u64, Vec<&str>)> {
        let members = &response["content"].get("application/problem+json")?["schema"]["properties"];
        let codes = members["code"]["enum"].as_array().expect("a refusal names its codes");
        let codes = codes.iter().map(|code| code.as_str().expect("a code is a text")).collect();
        Some((members["status"]["const"].as_u64().expect("a refusal has one status"), codes))
    }

    #[test]
    fn every_code_is_among_the_refusals_of_its_status_and_no_other() {
        let document = document();
        let mut described = BTreeSet::new();
        for (name, response) in object(&document["components"]["responses"]) {
            let (status, codes) = codes(response).expect("the shared responses are refusals");
            let row = |text: &&str| {
                let code = ErrorCode::ALL.iter().find(|code| code.as_str() == *text);
                let code = code.unwrap_or_else(|| panic!("{name} has the code {text}, which the server does not have"));
                assert_eq!(u64::from(code.status().as_u16()), status, "{text} in {name}");
                format!("`{text}`: {}", code.title())
            };
            let rows: Vec<String> = codes.iter().map(row).collect();
            let expected = if rows.len() > 1 { format!("- {}", rows.join("\n- ")) } else { rows.concat() };
            assert_eq!(response["description"], *expected, "{name} says what its codes mean, as error.rs does");
            described.extend(codes);
        }
        let all: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(described, all);
        for (method, path, operation) in operations(&document) {
            for (status, response) in object(&operation["responses"]) {
                if let Some((of, _)) = codes(resolved(&document, response)) {
                    assert_eq!(of.to_string(), status, "{method} {path}");
                }
            }
        }
    }

    #[test]
    fn every_address_is_described_and_no_other() {
        let document = document();
        let routes = between(include_str!("mod.rs"), ".route(\"", '"').map(|route| route.replace("{*", "{"));
        let served: BTreeSet<String> =
            routes.chain(STREAMS.map(str::to_string)).chain(SUBSCRIPTIONS.map(str::to_string)).collect();
        let described: BTreeSet<String> = object(&document["paths"]).map(|(path, _)| path.to_string()).collect();
        assert_eq!(described, served);
        let by_id: BTreeMap<_, _> = operations(&document)
            .filter_map(|(_, path, operation)| operation["operationId"].as_str().map(|id| (id, path)))
            .collect();
        let unnamed = operations(&document).filter(|(_, _, operation)| operation["operationId"].is_null()).count();
        assert_eq!(by_id.len() + unnamed, operations(&document).count(), "two operations have one name");
    }

    #[test]
    fn a_stream_is_the_same_at_each_of_its_addresses() {
        let mut document = document();
        let own = &document["paths"][STREAMS[0]];
        let mut own: BTreeMap<_, _> = METHODS.map(|method| (method, own[method].clone())).into();
        for operation in own.values_mut() {
            let _ = operation.as_object_mut().expect("an operation").remove("operationId").expect("it has a name");
        }
        let other = document["components"]["pathItems"]["DefaultStream"].take();
        assert_eq!(METHODS.map(|method| &own[method]), METHODS.map(|method| &other[method]));
    }

    #[test]
    fn every_field_and_parameter_is_named_and_no_other() {
        let document = document();
        let text = OPENAPI.to_ascii_lowercase();
        for field in between(include_str!("../headers.rs"), "HeaderName::from_static(\"", '"') {
            assert!(text.contains(field), "the field {field} is missing");
        }
        let parameters = object(&document["components"]["parameters"]).map(|(_, parameter)| parameter);
        let described: BTreeSet<&str> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().expect("a parameter has a name"))
            .collect();
        let (code, _) = include_str!("../query.rs").split_once("#[cfg(test)]").expect("code, then tests");
        let mut read: BTreeSet<&str> = between(code, "once(\"", '"').collect();
        // Its call is over several lines.
        read.insert("after");
        assert_eq!(described, read);
    }

    #[test]
    fn it_is_of_this_version() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
