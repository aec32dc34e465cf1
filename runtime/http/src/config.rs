//! What an operator may choose about HTTP.

use std::time::Duration;

use crate::cors::Origins;
use crate::hosts::{Hosts, Proxies};

/// Who may keep what a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Any cache.
    Public,
    /// The client's own.
    Private,
    /// None.
    NoStore,
}

/// Limits and timings of the public listener.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Longest request body, in bytes; at most [`weir_types::limits::BODY_BYTES_CEILING`].
    pub body_bytes_max: usize,
    /// Longest module that is read, in bytes; a shard reads two at a time. What the node accepts may be less.
    pub module_bytes_max: usize,
    /// Longest head of a request (beyond it `431`), and what is read of a body at once, in bytes; at least 8 KiB.
    pub head_bytes_max: usize,
    /// Requests under way on one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// How long a long-poll waits for data.
    pub long_poll_timeout: Duration,
    /// How often an SSE response carries a comment, so that proxies and clients see that it lives.
    pub sse_keep_alive: Duration,
    /// How long an SSE response lasts before the client has to come again.
    pub sse_max_age: Duration,
    /// How long a request's head may take; it may take up to half as long again.
    pub header_read_timeout: Duration,
    /// How long a request's body may pause; once it is large, it comes at 4 KiB per second over this time.
    pub body_read_timeout: Duration,
    /// How long a client may keep the server waiting without taking 4 KiB per second of a response that is ready for it.
    pub write_timeout: Duration,
    /// The origins whose pages may use the server.
    pub cors_origins: Origins,
    /// What shared caches may keep.
    pub cache: CachePolicy,
    /// What clients call the server by, such as `https://streams.example/base`, without a slash at the end; empty to take what
    /// requests say.
    pub public_url: String,
    /// Proxies whose `X-Forwarded-Proto`, `-Host` and `-Prefix` count.
    pub trusted_proxies: Proxies,
    /// The names by which the server may be called.
    pub hosts: Hosts,
    /// Whether a line is logged for each request.
    pub access_log: bool,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            body_bytes_max: 16 << 20,
            module_bytes_max: 32 << 20,
            head_bytes_max: 64 << 10,
            streams_per_connection_max: 256,
            long_poll_timeout: Duration::from_secs(20),
            sse_keep_alive: Duration::from_secs(15),
            sse_max_age: Duration::from_secs(60),
            header_read_timeout: Duration::from_secs(10),
            body_read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            cors_origins: Origins::Any,
            cache: CachePolicy::Public,
            public_url: String::new(),
            trusted_proxies: Proxies::default(),
            hosts: Hosts::any(),
            access_log: false,
        }
    }
}
