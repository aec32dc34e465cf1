//! One request: to which verb it goes, and what every response has.

use std::convert::Infallible;
use std::rc::Rc;

use axum::Router;
use bytes::Bytes;
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use weir_shard::Shard;
use weir_types::StreamKey;

use crate::config::HttpConfig;
use crate::error::Problem;
use crate::io::Activity;
use crate::path::{self, Target};
use crate::payload::Payload;
use crate::query::{GetQuery, Live};
use crate::stop::{Stop, Stopped};
use crate::{body, cors, routes};

/// The public listener's service on one shard. Cheap to clone; it stays on its shard's thread.
#[derive(Clone)]
pub struct Service(Rc<Inner>);

struct Inner {
    shard: Shard,
    config: HttpConfig,
    allow_origin: Option<HeaderValue>,
    router: TowerToHyperService<Router>,
    stop: Stop,
}

impl Service {
    /// The service of `shard`, until `shutdown` becomes true. Runs on the shard's own runtime.
    ///
    /// # Panics
    /// When `config.cors_origin` is no header value; whoever reads the configuration checks that.
    pub fn new(shard: Shard, config: HttpConfig, shutdown: watch::Receiver<bool>) -> Service {
        let allow_origin = match config.cors_origin.as_str() {
            "" => None,
            origin => Some(HeaderValue::from_str(origin).expect("the configured CORS origin is a header value")),
        };
        let router = TowerToHyperService::new(routes::router(shard.clone(), config.clone()));
        let stop = Stop::new(shutdown);
        Service(Rc::new(Inner { shard, config, allow_origin, router, stop }))
    }

    pub(crate) fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.0.stop
    }
}

/// What the requests of one connection share.
pub(crate) struct Connection {
    service: Service,
    activity: Rc<Activity>,
}

impl Connection {
    pub(crate) fn new(service: Service, activity: Rc<Activity>) -> Connection {
        Connection { service, activity }
    }

    /// What the connection's socket knows of its requests.
    pub(crate) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// The shard that serves.
    pub(crate) fn shard(&self) -> &Shard {
        &self.service.0.shard
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &HttpConfig {
        self.service.config()
    }

    /// Waits until the server shuts down.
    pub(crate) fn stopped(&self) -> Stopped {
        self.service.stop().stopped()
    }

    /// Answers one request.
    pub(crate) async fn respond(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Payload>, Infallible> {
        let active = self.activity.begin();
        // Readable by pages of other origins: asked for by `Origin`, except that a cache may give what it got for one
        // client to another.
        let expose = request.method() == Method::GET || request.headers().contains_key(ORIGIN);
        let is_head = request.method() == Method::HEAD;
        let mut response = self.dispatch(request).await.unwrap_or_else(Problem::into_response);
        cors::add(response.headers_mut(), self.service.0.allow_origin.as_ref(), expose);
        // A response to HEAD has no body, whatever it says; HTTP/2 would send it.
        Ok(response.map(|payload| if is_head { Payload::empty() } else { payload.holding(active) }))
    }

    async fn dispatch(self: &Rc<Self>, request: Request<Incoming>) -> Result<Response<Payload>, Problem> {
        if request.method() == Method::OPTIONS {
            return Ok(cors::preflight());
        }
        let key = match path::parse(request.uri().path())? {
            Target::Stream(key) => key,
            Target::Other => return self.route(request).await,
        };
        let (head, body) = request.into_parts();
        match head.method {
            Method::POST => routes::append::post(self, key, &head, body).await,
            Method::GET => match GetQuery::parse(head.uri.query())? {
                GetQuery::Read(query) => match query.live {
                    Live::No => routes::read::get(self, key, &head, query).await,
                    // Boxed, so that the future of an append does not carry the room for these.
                    Live::LongPoll => Box::pin(routes::long_poll::get(self, key, &head, query)).await,
                    Live::Sse => Box::pin(routes::sse::get(self, key, &head, query)).await,
                },
                GetQuery::Summary(query) => Box::pin(routes::summary::get(self, key, &head, *query)).await,
            },
            _ => Box::pin(self.stream_verb(key, head, body)).await,
        }
    }

    async fn stream_verb(&self, key: StreamKey, head: Parts, body: Incoming) -> Result<Response<Payload>, Problem> {
        match head.method {
            Method::PUT => routes::create::put(self, key, &head, body).await,
            Method::HEAD => routes::head::head(self, key).await,
            Method::DELETE => routes::delete::delete(self, key).await,
            _ => Err(Problem::method_of_stream()),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Payload>, Problem> {
        let request = request.map(axum::body::Body::new);
        let Ok(response) = self.service.0.router.call(request).await;
        Ok(response.map(Payload::router))
    }

    /// Reads a request's body within the configured limits.
    pub(crate) async fn body(&self, body: Incoming) -> Result<weir_shard::Body, Problem> {
        let config = self.config();
        body::take(body, self.shard(), config.body_bytes_max, config.body_read_timeout).await
    }
}

/// A request's own address, absolute where the client said how it calls the server.
pub(crate) fn own_url(head: &Parts) -> Option<HeaderValue> {
    let path = head.uri.path();
    // HTTP/2 has the host in the target, HTTP/1 in a header.
    let host = match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(HOST).and_then(|host| host.to_str().ok()),
    };
    let url = match host {
        Some(host) => format!("http://{host}{path}"),
        None => path.to_string(),
    };
    HeaderValue::from_maybe_shared(Bytes::from(url)).ok()
}
