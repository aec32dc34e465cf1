//! `PUT`, `GET` and `DELETE /{bucket}/-/bindings/{name}`, `GET /{bucket}/-/bindings`: which module is for which streams.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use send_wrapper::SendWrapper;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use weir_shard::{BindingRequest, Shard};
use weir_stream::{Binding, Pattern};
use weir_types::{BucketName, ModuleName, Role};

use crate::error::{ErrorCode, Problem};
use crate::routes::buckets::{deleted, json, located};
use crate::routes::modules::names;
use crate::routes::state::{Connection, RouterState};

/// Longest body that asks for a binding. How long its configuration may be is the shard's to say.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A binding as it is asked for. The values are read one by one, so that a refusal can name the field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    #[serde(borrow)]
    streams: Option<&'a RawValue>,
    #[serde(borrow)]
    module: Option<&'a RawValue>,
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
}

/// A binding as it is.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    streams: &'a str,
    module: &'a str,
    digest: String,
    role: &'static str,
    config: &'a RawValue,
    epoch: u64,
}

#[derive(Serialize)]
struct List<'a> {
    bindings: Vec<Document<'a>>,
}

/// Makes a binding, 201, or changes it, 200. The body is JSON, whatever its content type says.
pub(crate) async fn put(
    State(state): State<RouterState>,
    Path((bucket, name)): Path<(String, String)>,
    connection: Connection,
    body: Body,
) -> Result<Response, Problem> {
    let mut body = state.body(body, connection, BODY_BYTES_MAX).await?;
    let (bucket, name) = names(&bucket, &name)?;
    let path = format!("/{bucket}/-/bindings/{name}");
    body.join();
    let request = request(name, body.first())?;
    let (binding, existed) = SendWrapper::new(state.shard.binding_put(bucket, request)).await?;
    let document = document(&binding);
    Ok(match existed {
        true => json(StatusCode::OK, &document),
        false => located(json(StatusCode::CREATED, &document), &path),
    })
}

/// Describes a binding.
pub(crate) async fn get(
    State(shard): State<Shard>,
    Path((bucket, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (bucket, name) = names(&bucket, &name)?;
    let binding = SendWrapper::new(shard.binding(bucket, name)).await?;
    Ok(json(StatusCode::OK, &document(&binding)))
}

/// Lists the bucket's bindings, by name.
pub(crate) async fn list(State(shard): State<Shard>, Path(bucket): Path<String>) -> Result<Response, Problem> {
    let bindings = SendWrapper::new(shard.bindings(BucketName::new(&bucket)?)).await?;
    let bindings = bindings.iter().map(|binding| document(binding)).collect();
    Ok(json(StatusCode::OK, &List { bindings }))
}

/// Removes a binding.
pub(crate) async fn delete(
    State(shard): State<Shard>,
    Path((bucket, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (bucket, name) = names(&bucket, &name)?;
    SendWrapper::new(shard.binding_delete(bucket, name)).await?;
    Ok(deleted())
}

/// Reads what is asked for.
fn request(name: ModuleName, body: &[u8]) -> Result<BindingRequest, Problem> {
    // An array of the values would be taken for the object, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(invalid("a binding is a JSON object with 'streams', 'module', 'role' and perhaps 'config'"));
    }
    let asked: Asked<'_> = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    let streams = text("streams", asked.streams)?;
    let streams = Pattern::new(&streams).map_err(|error| invalid(format!("'streams': {error}")))?;
    let module = text("module", asked.module)?.into();
    let word = text("role", asked.role)?;
    let role = Role::ALL.into_iter().find(|role| role.as_str() == word);
    let role = role.ok_or_else(|| invalid(format!("'role' is 'validator' or 'summary', not '{word}'")))?;
    let config = asked.config.map_or("null", RawValue::get).into();
    Ok(BindingRequest { name, streams, module, role, config })
}

/// The text in a field that must be there.
fn text(field: &str, value: Option<&RawValue>) -> Result<String, Problem> {
    let value = value.ok_or_else(|| invalid(format!("'{field}' is missing")))?;
    serde_json::from_str(value.get()).map_err(|_| invalid(format!("'{field}' is not a string")))
}

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::BindingInvalid, detail)
}

fn document(binding: &Binding) -> Document<'_> {
    Document {
        name: &binding.name,
        streams: binding.streams.as_str(),
        module: &binding.module,
        digest: binding.digest.to_string(),
        role: binding.role.as_str(),
        config: serde_json::from_str(&binding.config).expect("a configuration was read as JSON"),
        epoch: binding.epoch,
    }
}

#[cfg(test)]
mod tests {
    use weir_types::Digest;

    use super::*;

    /// `streams module role config`, or the refusal's sentence.
    fn check(body: &str) -> String {
        match request(ModuleName::new("totals").expect("a name"), body.as_bytes()) {
            Ok(BindingRequest { streams, module, role, config, .. }) => format!("{streams} {module} {role} {config}"),
            Err(problem) => {
                assert_eq!(problem.code(), ErrorCode::BindingInvalid, "{body}");
                problem.detail().to_string()
            }
        }
    }

    #[test]
    fn a_configuration_is_kept_as_it_is_written() {
        let with = |config: &str| {
            check(&format!(r#" {{"role":"summary","module":"stats","streams":"orders/\u002a*"{config}}}"#))
        };
        assert_eq!(with(""), "orders/** stats summary null");
        assert_eq!(with(r#","config":null"#), "orders/** stats summary null");
        assert_eq!(with(r#","config": {"a":  1.0, "a":2e400} "#), r#"orders/** stats summary {"a":  1.0, "a":2e400}"#);
        assert_eq!(with(r#","config":"""#), r#"orders/** stats summary """#);
    }

    #[test]
    fn a_refusal_names_the_field() {
        let object = "a binding is a JSON object with 'streams', 'module', 'role' and perhaps 'config'";
        for body in ["", "null", "[]", r#"["**","stats","summary",null]"#] {
            assert_eq!(check(body), object, "{body}");
        }
        assert_eq!(check("{}"), "'streams' is missing");
        assert_eq!(check(r#"{"streams":"**","module":null,"role":"summary"}"#), "'module' is missing");
        assert_eq!(check(r#"{"streams":"**","module":"stats"}"#), "'role' is missing");
        assert_eq!(check(r#"{"streams":["**"]}"#), "'streams' is not a string");
        assert_eq!(check(r#"{"streams":"**","module":7}"#), "'module' is not a string");
        assert!(check(r#"{"streams":"a//b","module":"stats","role":"summary"}"#).starts_with("'streams': a pattern"));
        let unknown_role = check(r#"{"streams":"**","module":"stats","role":"judge"}"#);
        assert_eq!(unknown_role, "'role' is 'validator' or 'summary', not 'judge'");
        assert!(check(r#"{"streams":"**","on_error":"skip"}"#).starts_with("unknown field `on_error`"));
        assert!(check(r#"{"streams":"a","streams":"b"}"#).starts_with("duplicate field `streams`"));
        assert!(check(r#"{"streams":"**""#).starts_with("EOF while parsing"));
    }

    #[test]
    fn a_binding_is_described_with_the_configuration_it_was_given() {
        let binding = Binding {
            name: "totals".into(),
            streams: Pattern::new("orders/**").expect("a pattern"),
            module: "stats".into(),
            digest: Digest([0xab; 32]),
            role: Role::Summary,
            config: r#"{"a":  1.0}"#.into(),
            epoch: 3,
        };
        let text = serde_json::to_string(&document(&binding)).expect("JSON");
        let digest = "ab".repeat(32);
        let expected = format!(
            r#"{{"name":"totals","streams":"orders/**","module":"stats","digest":"{digest}","role":"summary","config":{{"a":  1.0}},"epoch":3}}"#
        );
        assert_eq!(text, expected);
    }
}
