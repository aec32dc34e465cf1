//! HTTP: the only crate that knows it. Requests become calls of a [`weir_shard::Shard`], its answers become responses.
//!
//! One connection is one task of its shard's thread; nothing here crosses threads. From the wire inwards:
//!
//! - [`connection`]: HTTP/1.1 or h2c over one socket; [`io`] ends sockets that stall, [`activity`] is what it knows of the
//!   requests, [`context`] what the requests share.
//! - [`service`]: one request. A stream's address ([`path`]) goes straight to its verb in [`routes`]; all other
//!   addresses go through an axum `Router`, which an append or a read never pays for.
//! - [`hosts`]: by which names the server is called. [`fields`], [`query`], [`body`]: what a request says, checked strictly and once.
//! - [`render`], [`payload`], [`sse`] (and [`event_text`]), [`media`], [`cursor`], [`cors`], [`headers`]: what a response says. [`session`] is one that
//!   goes on: what is written into it, and when it ends.
//! - [`stats`], [`access`]: what is counted and logged of requests.
//! - [`error`]: every way to refuse, as one code each, rendered as `application/problem+json`. [`aside`] is for operators.

mod access;
mod activity;
mod alarm;
mod aside;
mod body;
mod config;
mod connection;
mod context;
mod cors;
mod cursor;
mod error;
mod event_text;
mod fields;
mod headers;
mod hosts;
mod io;
mod live;
mod media;
mod path;
mod payload;
mod query;
#[cfg(test)]
mod reference;
mod render;
mod routes;
mod service;
mod session;
mod sse;
mod stats;
mod stop;
mod wakes;

pub use aside::{Unhurried, serve_router};
pub use config::{CachePolicy, HttpConfig};
pub use connection::serve_connection;
pub use cors::Origins;
pub use error::ErrorCode;
pub use hosts::{Hosts, Proxies};
pub use service::Service;
pub use stats::{HttpStats, Route};
