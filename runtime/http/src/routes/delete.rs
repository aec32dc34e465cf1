//! `DELETE`: remove a stream and all its data (protocol, section 5.4).

use http::{Response, StatusCode};
use weir_types::StreamKey;

use crate::error::Problem;
use crate::payload::Payload;
use crate::render;
use crate::service::Connection;

/// Deletes the stream.
pub(crate) async fn delete(connection: &Connection, key: StreamKey) -> Result<Response<Payload>, Problem> {
    connection.shard().delete(key).await?;
    Ok(render::empty(StatusCode::NO_CONTENT))
}
