//! `PUT`, `GET` and `DELETE /{bucket}/-/modules/{name}`, `GET /{bucket}/-/modules`: what is uploaded, and what has become
//! of it.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use send_wrapper::SendWrapper;
use serde::Serialize;
use weir_shard::{ModuleState, ModuleSummary, Shard, ShardError};
use weir_stream::Revision;
use weir_types::{BucketName, ModuleName, Role};

use crate::error::{ErrorCode, Problem};
use crate::render;
use crate::routes::buckets::{deleted, json, located};
use crate::routes::state::{Connection, RouterState};

/// A module's status.
#[derive(Serialize)]
struct Status<'a> {
    name: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(flatten)]
    newest: Upload,
    /// What can be bound, the newest first.
    revisions: Vec<Upload>,
}

#[derive(Serialize)]
struct Upload {
    revision: u32,
    digest: String,
    bytes: u64,
    roles: Vec<&'static str>,
    created: String,
}

#[derive(Serialize)]
struct List<'a> {
    modules: Vec<Status<'a>>,
}

/// Uploads a module: 201 when it is ready, or 200 if it was the newest before; 202 while it is still being compiled; 422
/// when it cannot be.
pub(crate) async fn put(
    State(state): State<RouterState>,
    Path((bucket, name)): Path<(String, String)>,
    connection: Connection,
    body: Body,
) -> Result<Response, Problem> {
    let (bucket, name) = names(&bucket, &name)?;
    let wasm = read(&state, body, connection).await?;
    let path = format!("/{bucket}/-/modules/{name}");
    let (module, existed) = SendWrapper::new(state.shard.module_put(bucket, name, wasm)).await?;
    answer(&module, existed, &path)
}

/// Describes a module.
pub(crate) async fn get(
    State(shard): State<Shard>,
    Path((bucket, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (bucket, name) = names(&bucket, &name)?;
    let module = SendWrapper::new(shard.module(bucket, name)).await?;
    Ok(json(StatusCode::OK, &status(&module)))
}

/// Lists the bucket's modules, by name.
pub(crate) async fn list(State(shard): State<Shard>, Path(bucket): Path<String>) -> Result<Response, Problem> {
    let modules = SendWrapper::new(shard.modules(BucketName::new(&bucket)?)).await?;
    Ok(json(StatusCode::OK, &List { modules: modules.iter().map(status).collect() }))
}

/// Deletes a module that no binding uses.
pub(crate) async fn delete(
    State(shard): State<Shard>,
    Path((bucket, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (bucket, name) = names(&bucket, &name)?;
    SendWrapper::new(shard.module_delete(bucket, name)).await?;
    Ok(deleted())
}

/// The names of a bucket and of something in it.
pub(crate) fn names(bucket: &str, name: &str) -> Result<(BucketName, ModuleName), Problem> {
    Ok((BucketName::new(bucket)?, ModuleName::new(name)?))
}

/// Reads an upload whole. Its memory is counted among the requests under way: one that comes slowly holds up no other.
async fn read(state: &RouterState, body: Body, connection: Connection) -> Result<weir_shard::Body, Problem> {
    let bytes_max = state.config.module_bytes_max;
    state.body(body, connection, bytes_max).await.map_err(|problem| match problem.code() == ErrorCode::BodyTooLarge {
        true => ShardError::ModuleTooLarge { bytes_max }.into(),
        false => problem,
    })
}

fn answer(module: &ModuleSummary, existed: bool, path: &str) -> Result<Response, Problem> {
    let code = match &module.state {
        ModuleState::Ready if existed => return Ok(json(StatusCode::OK, &status(module))),
        ModuleState::Ready => StatusCode::CREATED,
        ModuleState::Compiling => StatusCode::ACCEPTED,
        ModuleState::Failed(reason) => return Err(ShardError::ModuleInvalid(reason.clone()).into()),
    };
    Ok(located(json(code, &status(module)), path))
}

fn status(module: &ModuleSummary) -> Status<'_> {
    let (status, error) = match &module.state {
        ModuleState::Compiling => ("compiling", None),
        ModuleState::Ready => ("ready", None),
        ModuleState::Failed(reason) => ("failed", Some(&**reason)),
    };
    let revisions = module.revisions.iter().map(upload).collect();
    Status { name: &module.name, status, error, newest: upload(&module.newest), revisions }
}

fn upload(revision: &Revision) -> Upload {
    Upload {
        revision: revision.number,
        digest: revision.digest.to_string(),
        bytes: revision.bytes,
        roles: revision.roles.iter().copied().map(Role::as_str).collect(),
        created: render::time(revision.created_ms),
    }
}

#[cfg(test)]
mod tests {
    use http::header::LOCATION;
    use weir_types::Digest;

    use super::*;

    fn module(state: ModuleState) -> ModuleSummary {
        let revision = |number, ready| Revision {
            number,
            digest: Digest([number as u8; 32]),
            bytes: 100,
            roles: Role::ALL.to_vec(),
            created_ms: 1000,
            ready,
        };
        ModuleSummary { name: "stats".into(), state, newest: revision(2, false), revisions: vec![revision(1, true)] }
    }

    #[test]
    fn the_status_is_the_newest_uploads_and_lists_what_can_be_bound() {
        let text = |state| serde_json::to_string(&status(&module(state))).expect("JSON");
        let upload = |number: u32| {
            let digest = format!("{number:02}").repeat(32);
            format!(
                r#""revision":{number},"digest":"{digest}","bytes":100,"roles":["validator","summary"],"created":"1970-01-01T00:00:01Z""#
            )
        };
        let rest = format!("{},\"revisions\":[{{{}}}]}}", upload(2), upload(1));
        assert_eq!(text(ModuleState::Compiling), format!(r#"{{"name":"stats","status":"compiling",{rest}"#));
        let failed = ModuleState::Failed("too \"large\"".into());
        let words = r#"{"name":"stats","status":"failed","error":"too \"large\"","#;
        assert_eq!(text(failed), format!("{words}{rest}"));
    }

    #[test]
    fn an_upload_is_answered_with_what_has_become_of_it() {
        let check = |state, existed| match answer(&module(state), existed, "/demo/-/modules/stats") {
            Ok(response) => {
                let location = response.headers().get(LOCATION).map(|path| path.to_str().expect("ASCII"));
                format!("{} {}", response.status().as_u16(), location.unwrap_or("-"))
            }
            Err(problem) => problem.code().as_str().to_string(),
        };
        assert_eq!(check(ModuleState::Ready, false), "201 /demo/-/modules/stats");
        assert_eq!(check(ModuleState::Ready, true), "200 -");
        for existed in [false, true] {
            assert_eq!(check(ModuleState::Compiling, existed), "202 /demo/-/modules/stats");
            assert_eq!(check(ModuleState::Failed("no".into()), existed), "module_invalid");
        }
    }
}
