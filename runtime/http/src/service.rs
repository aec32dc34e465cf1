//! One request: to which verb it goes, and what every response has.

use std::convert::Infallible;
use std::rc::Rc;

use axum::Router;
use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use weir_shard::Shard;
use weir_types::StreamKey;

use crate::config::HttpConfig;
use crate::context::{Context, Shared};
use crate::error::Problem;
use crate::live::Handover;
use crate::path::{self, Target};
use crate::payload::Payload;
use crate::query::{GetQuery, Live};
use crate::stop::Stop;
use crate::{cors, routes};

/// The public listener's service on one shard. Cheap to clone; it stays on its shard's thread.
#[derive(Clone)]
pub struct Service(Rc<Inner>);

struct Inner {
    shared: Rc<Shared>,
    allow_origin: Option<HeaderValue>,
    router: TowerToHyperService<Router>,
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
        let shared = Rc::new(Shared { shard, config, stop: Stop::new(shutdown) });
        Service(Rc::new(Inner { shared, allow_origin, router }))
    }

    /// What its connections share.
    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.0.shared
    }

    /// Answers one request. A live response's events go by `handover`, if there is one.
    pub(crate) async fn respond(
        self,
        context: Rc<Context>,
        request: Request<Incoming>,
        handover: Option<Handover>,
    ) -> Result<Response<Payload>, Infallible> {
        let active = context.activity().begin();
        // Readable by pages of other origins: asked for by `Origin`, except that a cache may give what it got for one
        // client to another.
        let is_get = request.method() == Method::GET;
        let expose = is_get || request.headers().contains_key(ORIGIN);
        let allow_origin = self.allow_origin(request.uri().path());
        let is_head = request.method() == Method::HEAD;
        let mut response = self.dispatch(&context, request).await.unwrap_or_else(Problem::into_response);
        cors::add(response.headers_mut(), allow_origin.as_ref(), expose);
        if is_get {
            cors::disarm(response.headers_mut());
        }
        // A response to HEAD has no body, whatever it says; HTTP/2 would send it.
        Ok(response.map(|payload| match is_head {
            true => Payload::empty(),
            false => payload.handed_over(handover.as_ref()).holding(active),
        }))
    }

    /// The origins whose pages may use what is at `path`. What operators do is not for pages of just any origin.
    fn allow_origin(&self, path: &str) -> Option<HeaderValue> {
        let origin = self.0.allow_origin.as_ref()?;
        if origin == "*" && path::is_operators(path) { None } else { Some(origin.clone()) }
    }

    async fn dispatch(&self, context: &Rc<Context>, request: Request<Incoming>) -> Result<Response<Payload>, Problem> {
        let (head, body) = request.into_parts();
        context.config().hosts.check(&head)?;
        if head.method == Method::OPTIONS {
            return Ok(cors::preflight());
        }
        let key = match path::parse(head.uri.path())? {
            Target::Stream(key) => key,
            Target::Other => return self.route(Request::from_parts(head, body)).await,
        };
        match head.method {
            Method::POST => routes::append::post(context, key, &head, body).await,
            Method::GET => match GetQuery::parse(head.uri.query())? {
                GetQuery::Read(query) => match query.live {
                    Live::No => routes::read::get(context, key, &head, query).await,
                    // Boxed, so that the future of an append does not carry the room for these.
                    Live::LongPoll => Box::pin(routes::long_poll::get(context, key, &head, query)).await,
                    Live::Sse => Box::pin(routes::sse::get(context, key, &head, query)).await,
                },
                GetQuery::Summary(query) => Box::pin(routes::summary::get(context, key, &head, *query)).await,
            },
            _ => Box::pin(stream_verb(context, key, head, body)).await,
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Payload>, Problem> {
        let request = request.map(axum::body::Body::new);
        let Ok(response) = self.0.router.call(request).await;
        Ok(response.map(Payload::router))
    }
}

async fn stream_verb(
    context: &Context,
    key: StreamKey,
    head: Parts,
    body: Incoming,
) -> Result<Response<Payload>, Problem> {
    match head.method {
        Method::PUT => routes::create::put(context, key, &head, body).await,
        Method::HEAD => routes::head::head(context, key).await,
        Method::DELETE => routes::delete::delete(context, key).await,
        _ => Err(Problem::method_of_stream()),
    }
}
