//! What the router's handlers share.

use std::rc::Rc;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::FromRef;
use send_wrapper::SendWrapper;
use weir_shard::Shard;

use crate::activity::Activity;
use crate::body::{self, Bounds};
use crate::config::HttpConfig;
use crate::error::Problem;

/// What the connection of a request knows of its requests, as a handler gets it.
pub(crate) type Connection = Extension<SendWrapper<Rc<Activity>>>;

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

    /// Reads a body of at most so many bytes, all of which come at some pace: nobody thinks while they are sent.
    pub(crate) async fn body(
        &self,
        mut body: Body,
        Extension(activity): Connection,
        bytes_max: usize,
    ) -> Result<weir_shard::Body, Problem> {
        let bounds = Bounds { bytes_max, timeout: self.config.body_read_timeout, slow_bytes_max: 0 };
        SendWrapper::new(body::take(&mut body, &self.shard, &activity, bounds)).await
    }
}

impl FromRef<RouterState> for Shard {
    fn from_ref(state: &RouterState) -> Shard {
        state.shard.clone()
    }
}
