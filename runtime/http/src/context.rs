//! What the requests of one connection share.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use hyper::body::Incoming;
use weir_shard::Shard;

use crate::activity::Activity;
use crate::body::{self, Bounds};
use crate::config::HttpConfig;
use crate::error::Problem;
use crate::fields;
use crate::hosts::{base_url, host_of};
use crate::stats::HttpStats;
use crate::stop::{Stop, Stopped};

/// A body may come at any pace up to so many bytes: what an agent writes while it thinks comes slowly.
const SLOW_BODY_BYTES_MAX: usize = 64 << 10;

/// What all connections of a shard share.
pub(crate) struct Shared {
    pub(crate) shard: Shard,
    pub(crate) config: HttpConfig,
    pub(crate) stop: Stop,
    pub(crate) stats: Arc<HttpStats>,
}

/// What the requests of one connection share.
pub(crate) struct Context {
    shared: Rc<Shared>,
    activity: Rc<Activity>,
    /// Whether the connection comes from a proxy whose word counts.
    is_proxied: bool,
    /// How the last request called the server: a client does not change that.
    host: RefCell<Vec<u8>>,
}

impl Context {
    /// Of a connection with `peer`.
    pub(crate) fn new(shared: Rc<Shared>, activity: Rc<Activity>, peer: impl FnOnce() -> Option<IpAddr>) -> Context {
        let is_proxied = shared.config.trusted_proxies.is_one(peer);
        Context { shared, activity, is_proxied, host: RefCell::default() }
    }

    /// Whether clients may call the server by another address than the one that reaches it: then a path alone would not do.
    pub(crate) fn is_called_otherwise(&self) -> bool {
        self.is_proxied || !self.config().public_url.is_empty()
    }

    /// What clients call the server by, before a path: as configured, or as the request says.
    pub(crate) fn base_url(&self, head: &Parts) -> String {
        match self.config().public_url.as_str() {
            "" => base_url(head, self.is_proxied),
            url => url.to_string(),
        }
    }

    /// Whether a request is clear about whom it calls, and how.
    ///
    /// # Errors
    /// [`fields::check_single`], [`Hosts::check`](crate::hosts::Hosts::check).
    pub(crate) fn check(&self, head: &Parts) -> Result<(), Problem> {
        fields::check_single(&head.headers)?;
        let host = host_of(head).unwrap_or_default();
        if host.is_empty() || *self.host.borrow() != host {
            self.config().hosts.check(head)?;
            *self.host.borrow_mut() = host.to_vec();
        }
        Ok(())
    }

    /// What the connection's socket knows of its requests.
    pub(crate) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// The shard that serves.
    pub(crate) fn shard(&self) -> &Shard {
        &self.shared.shard
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &HttpConfig {
        &self.shared.config
    }

    /// What the shard's connections have done.
    pub(crate) fn stats(&self) -> &HttpStats {
        &self.shared.stats
    }

    /// Waits until the server shuts down.
    pub(crate) fn stopped(&self) -> Stopped {
        self.shared.stop.stopped()
    }

    /// Reads a request's body within the configured limits.
    pub(crate) async fn body(&self, body: &mut Incoming) -> Result<weir_shard::Body, Problem> {
        let HttpConfig { body_bytes_max: bytes_max, body_read_timeout: timeout, .. } = *self.config();
        let bounds = Bounds { bytes_max, timeout, slow_bytes_max: SLOW_BODY_BYTES_MAX };
        body::take(body, self.shard(), &self.activity, bounds).await
    }
}
