//! One request: to which verb it goes, and what every response has.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use axum::Router;
use http::header::{LOCATION, ORIGIN};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use send_wrapper::SendWrapper;
use tokio::sync::watch;
use weir_shard::Shard;
use weir_types::StreamKey;

use crate::access::Access;
use crate::body::{self, Lent};
use crate::config::HttpConfig;
use crate::context::{Context, Shared};
use crate::error::{ErrorCode, Problem};
use crate::live::Handover;
use crate::path::{self, Target, url_at};
use crate::payload::Payload;
use crate::query::{GetQuery, ReadMode};
use crate::stats::{HttpStats, Route};
use crate::stop::Stop;
use crate::{cors, fields, routes};

/// What is not counted of an answer that is no page, in bytes: a connection's own buffers are larger.
const UNCOUNTED_BYTES_MAX: usize = 4 << 10;

/// The public listener's service on one shard. Cheap to clone; it stays on its shard's thread.
#[derive(Clone)]
pub struct Service(Rc<Inner>);

struct Inner {
    shared: Rc<Shared>,
    router: TowerToHyperService<Router>,
}

impl Service {
    /// The service of `shard`, until `shutdown` becomes true; it counts into `stats`. Runs on the shard's own runtime.
    pub fn new(shard: Shard, config: HttpConfig, shutdown: watch::Receiver<bool>, stats: Arc<HttpStats>) -> Service {
        let router = TowerToHyperService::new(routes::router(shard.clone(), config.clone()));
        let shared = Rc::new(Shared { shard, config, stop: Stop::new(shutdown), stats });
        Service(Rc::new(Inner { shared, router }))
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
        let mut active = context.activity().begin();
        if context.config().access_log {
            active.log(Access::begin(&request));
        }
        // Readable by pages of other origins: asked for by `Origin`, except that a cache may give what it got for one
        // client to another.
        let is_get = request.method() == Method::GET;
        let origin = request.headers().get(ORIGIN);
        let expose = is_get || origin.is_some();
        let allow_origin = context.config().cors_origins.allow(origin, request.uri().path());
        let is_head = request.method() == Method::HEAD;
        let mut route = Route::Other;
        let mut answered = self.dispatch(&context, request, &mut route).await;
        if answered.as_ref().is_ok_and(|response| exceeds_share(&context, response)) {
            let detail = "this connection has responses that were not read yet; read those first";
            answered = Err(Problem::new(ErrorCode::ReadLimit, detail));
        }
        let mut response = answered.unwrap_or_else(Problem::into_response);
        cors::add(response.headers_mut(), &context.config().cors_origins, allow_origin, expose);
        if is_get {
            cors::disarm(response.headers_mut());
        }
        if is_head {
            // A response to HEAD has no body, whatever it says; HTTP/2 would send it.
            *response.body_mut() = Payload::empty();
        }
        context.stats().count_request(route, response.status());
        if let Some(access) = active.access() {
            access.answered(response.status(), response.body().size_hint().lower());
        }
        response.body_mut().begin(handover.as_ref(), active);
        Ok(response)
    }

    /// Has the request carried out, and says what it is for.
    async fn dispatch(
        &self,
        context: &Rc<Context>,
        request: Request<Incoming>,
        route: &mut Route,
    ) -> Result<Response<Payload>, Problem> {
        let (head, mut body) = request.into_parts();
        let target = context.check(&head).and_then(|()| path::parse(head.uri.path()));
        let answered = match target {
            Err(problem) => Err(problem),
            Ok(_) if head.method == Method::OPTIONS => return Ok(cors::preflight(&head.headers)),
            Ok(Target::Other) => return self.route(context, Request::from_parts(head, body)).await,
            Ok(Target::Ds(root, rest)) => {
                Box::pin(routes::subscriptions::serve(context, root, &rest, &head, &mut body)).await
            }
            Ok(Target::Stream(key)) => match head.method {
                Method::POST => {
                    *route = Route::Append;
                    routes::append::post(context, key, &head, &mut body).await
                }
                Method::GET => read(context, key, &head, route).await,
                // Boxed, so that the future of an append does not carry the room for these.
                _ => Box::pin(stream_verb(context, key, &head, &mut body, route)).await,
            },
        };
        answered.inspect_err(|_| body::discard(body))
    }

    async fn route(&self, context: &Context, request: Request<Incoming>) -> Result<Response<Payload>, Problem> {
        let (head, body) = request.into_parts();
        fields::check_coding(&head.headers)?;
        let base = context.is_called_otherwise().then(|| context.base_url(&head));
        let (lent, body) = Lent::new(body);
        let mut request = Request::from_parts(head, axum::body::Body::new(lent));
        request.extensions_mut().insert(SendWrapper::new(context.activity().clone()));
        let is_read = request.method() == Method::GET;
        let Ok(response) = self.0.router.call(request).await;
        let (mut head, whole) = response.into_parts();
        if let (Some(base), Some(location)) = (base, head.headers.get_mut(LOCATION))
            && let Some(url) = url_at(&base, location.to_str().expect("names are ASCII"))
        {
            *location = url;
        }
        if !head.status.is_success()
            && let Some(body) = body.take()
        {
            body::discard(body);
        }
        let mut bytes = whole.collect().await.expect("the router's bodies are whole").to_bytes();
        // What was changed has been: that is said whatever there is memory for.
        if is_read && bytes.len() > UNCOUNTED_BYTES_MAX {
            let claim = context.shard().claim_read(bytes.len())?;
            bytes = weir_shard::keep(bytes, claim);
        }
        Ok(Response::from_parts(head, Payload::from(bytes)))
    }
}

/// Whether the connection has taken so little of other responses that there is no room for this one in its share.
fn exceeds_share(context: &Context, response: &Response<Payload>) -> bool {
    let owed = context.activity().owed.get();
    owed > 0 && owed + response.body().size_hint().lower() as usize > context.shard().read_share()
}

/// `GET`: what is asked for is in the query.
async fn read(
    context: &Rc<Context>,
    key: StreamKey,
    head: &Parts,
    route: &mut Route,
) -> Result<Response<Payload>, Problem> {
    *route = Route::Read;
    match GetQuery::parse(head.uri.query())? {
        GetQuery::Read(query) => match query.live {
            ReadMode::No => routes::read::get(context, key, head, query).await,
            ReadMode::LongPoll => {
                *route = Route::LongPoll;
                Box::pin(routes::long_poll::get(context, key, head, query)).await
            }
            ReadMode::Sse => {
                *route = Route::Sse;
                Box::pin(routes::follow::get(context, key, head, query)).await
            }
        },
        GetQuery::Summary(query) => {
            *route = Route::Summary;
            Box::pin(routes::summary::get(context, key, head, *query)).await
        }
    }
}

/// `HEAD`: of a summary what a `GET` would say, and of a stream how it is.
async fn head_of(context: &Rc<Context>, key: StreamKey, head: &Parts) -> Result<Response<Payload>, Problem> {
    match GetQuery::parse(head.uri.query())? {
        GetQuery::Summary(query) if !query.is_followed => routes::summary::get(context, key, head, *query).await,
        _ => routes::head::head(context, key).await,
    }
}

async fn stream_verb(
    context: &Rc<Context>,
    key: StreamKey,
    head: &Parts,
    body: &mut Incoming,
    route: &mut Route,
) -> Result<Response<Payload>, Problem> {
    match head.method {
        Method::PUT => {
            *route = Route::Create;
            routes::create::put(context, key, head, body).await
        }
        Method::HEAD => {
            *route = Route::Head;
            head_of(context, key, head).await
        }
        Method::DELETE => {
            *route = Route::Delete;
            routes::delete::delete(context, key, head).await
        }
        _ => Err(Problem::method_of_stream()),
    }
}
