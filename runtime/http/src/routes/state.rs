//! What the router's handlers share.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio::sync::Semaphore;
use weir_shard::Shard;

use crate::config::HttpConfig;

/// Modules that a shard reads at a time: each may take [`HttpConfig::module_bytes_max`] of memory, and twice that while its
/// pieces are put together.
const UPLOADS_MAX: usize = 2;

/// What the router's handlers share. Most need only the shard.
#[derive(Clone)]
pub(crate) struct RouterState {
    pub(crate) shard: Shard,
    pub(crate) config: Arc<HttpConfig>,
    /// Modules that may be read besides those that are.
    pub(crate) uploads: Arc<Semaphore>,
}

impl RouterState {
    pub(crate) fn new(shard: Shard, config: HttpConfig) -> RouterState {
        RouterState { shard, config: Arc::new(config), uploads: Arc::new(Semaphore::new(UPLOADS_MAX)) }
    }
}

impl FromRef<RouterState> for Shard {
    fn from_ref(state: &RouterState) -> Shard {
        state.shard.clone()
    }
}
