//! The access log: a line per request, when its response is sent or given up. Without it, nothing is noted of a request.

use http::{Method, Request, StatusCode};
use tokio::time::Instant;

/// One line in the making; it is written when this is dropped.
pub(crate) struct Access {
    method: Method,
    /// Without the query.
    path: String,
    began: Instant,
    /// None if the client left before there was one.
    status: Option<u16>,
    /// Bytes of the response's body; of a live response those that the connection has taken.
    bytes: u64,
}

impl Access {
    /// Of a request whose head has come.
    pub(crate) fn begin<B>(request: &Request<B>) -> Access {
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        Access { method, path, began: Instant::now(), status: None, bytes: 0 }
    }

    /// Notes the answer.
    pub(crate) fn answered(&mut self, status: StatusCode, bytes: u64) {
        self.status = Some(status.as_u16());
        self.bytes = bytes;
    }

    /// Notes that more was sent than was known before.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let Access { method, path, began, status, bytes } = self;
        let milliseconds = began.elapsed().as_micros() as f64 / 1e3;
        tracing::info!(%method, path, status, bytes, milliseconds, "request");
    }
}
