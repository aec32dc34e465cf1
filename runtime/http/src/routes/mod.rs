//! The verbs, one file each, named as in the protocol.
//!
//! A stream's verbs are called by [`crate::service`] itself: [`create`], [`append`], [`close`], [`delete`], [`head`];
//! [`read`], [`long_poll`] and [`follow`] for its records, [`summary`] for what a fold says of them.
//!
//! What is below `__ds` is [`subscriptions`].
//!
//! What is not a stream goes through the [`router`]: [`root`], [`openapi`], [`buckets`], [`list`], [`trim`], [`modules`],
//! [`bindings`]. Its handlers must be `Send` although they never leave their thread: they wrap what they await in a `SendWrapper`.

pub(crate) mod append;
pub(crate) mod bindings;
pub(crate) mod buckets;
pub(crate) mod close;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod follow;
pub(crate) mod head;
pub(crate) mod list;
pub(crate) mod long_poll;
pub(crate) mod modules;
pub(crate) mod openapi;
pub(crate) mod read;
mod root;
mod state;
pub(crate) mod subscriptions;
pub(crate) mod summary;
pub(crate) mod trim;

use axum::Router;
use axum::routing::{any, get, post};
use weir_shard::Shard;

use crate::config::HttpConfig;
use crate::error::{ErrorCode, Problem};
use crate::routes::state::RouterState;

/// Addresses that no bucket has.
const WELL_KNOWN: [&str; 6] =
    ["/favicon.ico", "/apple-touch-icon.png", "/robots.txt", "/sitemap.xml", "/llms.txt", "/openapi.json"];

/// What is in a bucket besides the bytes of its streams, and the answer for addresses that are nothing.
pub(crate) fn router(shard: Shard, config: HttpConfig) -> Router {
    let state = RouterState::new(shard, config);
    let module = get(modules::get).put(modules::put).delete(modules::delete);
    let binding = get(bindings::get).put(bindings::put).delete(bindings::delete);
    let no_route = async || Problem::new(ErrorCode::RouteNotFound, "there is nothing at this address");
    // What browsers, crawlers and scanners ask every server for would otherwise be a bucket of an odd name.
    let well_known = WELL_KNOWN.iter().fold(Router::new(), |router, path| router.route(path, any(no_route)));
    well_known
        .route("/", get(root::get))
        .route("/-/health", get(root::health))
        .route("/-/openapi.json", get(openapi::get))
        .route("/-/buckets", get(buckets::list))
        .route("/{bucket}", get(buckets::get).put(buckets::put).delete(buckets::delete))
        .route("/{bucket}/-/streams", get(list::get))
        .route("/{bucket}/-/trim/{*name}", post(trim::post))
        .route("/{bucket}/-/modules", get(modules::list))
        .route("/{bucket}/-/modules/{name}", module)
        .route("/{bucket}/-/bindings", get(bindings::list))
        .route("/{bucket}/-/bindings/{name}", binding)
        .fallback(no_route)
        .method_not_allowed_fallback(async || {
            Problem::new(ErrorCode::MethodNotAllowed, "this address has no such method; see Allow")
        })
        .with_state(state)
}
