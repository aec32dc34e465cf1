//! What the router's handlers share.

use std::sync::Arc;

use axum::extract::FromRef;
use weir_shard::Shard;

use crate::config::HttpConfig;

/// What the router's handlers share. Most need only the shard.
#[derive(Clone)]
pub(crate) struct RouterState {
    pub(crate) shard: Shard,
    pub(crate) config: Arc<HttpConfig>,
}

impl RouterState {
    pub(crate) fn new(shard: Shard, config: HttpConfig) -> RouterState {
        RouterState { shard, config: Arc::new(config) }
    }
}

impl FromRef<RouterState> for Shard {
    fn from_ref(state: &RouterState) -> Shard {
        state.shard.clone()
    }
}
