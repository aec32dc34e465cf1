//! The verbs, one file each, named as in the protocol.
//!
//! A stream's verbs are called by [`crate::service`] itself. What is not a stream goes through the [`router`], whose
//! handlers must be `Send` although they never leave their thread: they wrap what they await in a `SendWrapper`.

pub(crate) mod append;
pub(crate) mod buckets;
pub(crate) mod close;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod head;
pub(crate) mod list;
pub(crate) mod long_poll;
pub(crate) mod read;
pub(crate) mod sse;

use axum::Router;
use axum::routing::get;
use weir_shard::Shard;

use crate::error::{ErrorCode, Problem};

/// Buckets, and the answer for addresses that are nothing.
pub(crate) fn router(shard: Shard) -> Router {
    Router::new()
        .route("/{bucket}", get(buckets::get).put(buckets::put).delete(buckets::delete))
        .route("/{bucket}/-/streams", get(list::get))
        .fallback(async || Problem::new(ErrorCode::RouteNotFound, "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            Problem::new(ErrorCode::MethodNotAllowed, "this address has no such method; see Allow")
        })
        .with_state(shard)
}
