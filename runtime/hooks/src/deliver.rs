//! One call of a webhook.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::redirect;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::calls::{Call, Calls};
use crate::policy::{Policy, UrlRefusal};
use crate::signature::sign;

/// Bytes of an answer that are read: it says whether all is done, and nothing else is asked.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct HooksConfig {
    /// Which addresses.
    pub policy: Policy,
    /// How long a call may take, at most.
    pub timeout: Duration,
    /// Calls at a time. Those of one bucket, or at one host, are fewer.
    pub calls_max: usize,
}

/// A stream that has something new.
#[derive(Clone, Debug, Serialize)]
pub struct WakeStream {
    /// Its name.
    pub path: String,
    /// `explicit` or `glob`.
    pub link_type: &'static str,
    /// The offset up to which it was processed.
    pub acked_offset: String,
    /// The offset at its end.
    pub tail_offset: String,
    /// Whether these differ.
    pub has_pending: bool,
}

/// A wake, as the webhook hears of it.
#[derive(Clone, Serialize)]
pub struct WakeRequest {
    /// The address.
    #[serde(skip)]
    pub url: String,
    /// What the key is made of that signs it.
    #[serde(skip)]
    pub seed: [u8; 32],
    /// When it is sent, in seconds since 1970.
    #[serde(skip)]
    pub time_s: u64,
    /// How long the call may take; less if the server allows less.
    #[serde(skip)]
    pub timeout: Duration,
    /// The subscription's id.
    pub subscription_id: String,
    /// Names the wake.
    pub wake_id: String,
    /// Its generation.
    pub generation: u64,
    /// What has something new.
    pub streams: Vec<WakeStream>,
    /// Where its receiver says how far it is.
    pub callback_url: String,
    /// What it shows there.
    pub callback_token: String,
}

// The seed, the token and the address are in no log.
impl fmt::Debug for WakeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WakeRequest({}, generation {})", self.subscription_id, self.generation)
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was received, and all that it named is processed.
    Done,
    /// It was received.
    Accepted,
    /// It may not have been received.
    Failed(String),
}

/// Calls webhooks, on threads that are not a shard's. Cheap to clone.
#[derive(Clone)]
pub struct Hooks(Arc<Inner>);

struct Inner {
    runtime: Handle,
    client: reqwest::Client,
    config: HooksConfig,
    calls: Arc<Calls>,
}

/// What a webhook may answer with.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    done: bool,
}

impl Hooks {
    /// Calls on `runtime`.
    ///
    /// # Errors
    /// A sentence about why this machine's certificates cannot be used.
    pub fn new(runtime: Handle, config: HooksConfig) -> Result<Hooks, String> {
        let client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            // A connection is of one call, whose address was checked.
            .pool_max_idle_per_host(0)
            .referer(false)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Checked(config.policy.clone())))
            .build()
            .map_err(|error| text_of(&error))?;
        let calls = Calls::new(config.calls_max);
        Ok(Hooks(Arc::new(Inner { runtime, client, config, calls })))
    }

    /// Whether an address may be called, as far as it can be said without resolving a name.
    ///
    /// # Errors
    /// [`UrlRefusal`].
    pub fn check(&self, url: &str) -> Result<(), UrlRefusal> {
        self.0.config.policy.check(url).map(|_| ())
    }

    /// Waits until it is a webhook's turn to be called for a bucket; `None` when too many wait.
    pub async fn begin(&self, bucket: &str, url: &str) -> Option<Call> {
        // What is no address is at no host, and is refused when it is called.
        let url = Url::parse(url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        self.0.calls.begin(bucket, host).await
    }

    /// Calls a webhook whose turn it is. Dropping this lets the call go on.
    pub async fn deliver(&self, call: Call, wake: WakeRequest) -> Delivery {
        let inner = self.0.clone();
        let task = self.0.runtime.spawn(async move {
            let delivery = inner.deliver(wake).await;
            drop(call);
            delivery
        });
        task.await.unwrap_or_else(|_| Delivery::Failed("the server is ending".to_string()))
    }
}

impl Inner {
    async fn deliver(&self, wake: WakeRequest) -> Delivery {
        // What was allowed when the subscription was made may not be any more.
        let url = match self.config.policy.check(&wake.url) {
            Ok(url) => url,
            Err(refusal) => return Delivery::Failed(refusal.to_string()),
        };
        let timeout = wake.timeout.min(self.config.timeout);
        let until = Instant::now() + timeout;
        let called = timeout_at(until, self.call(url, &wake)).await;
        let response = match called {
            Ok(Ok(response)) => response,
            Ok(Err(reason)) => return Delivery::Failed(reason),
            Err(_) => return Delivery::Failed(format!("no answer within {} ms", timeout.as_millis())),
        };
        // It has said that it was received. What comes too late of the rest has said nothing more.
        match timeout_at(until, answer(response)).await {
            Ok(Some(body)) if serde_json::from_slice::<Answer>(&body).is_ok_and(|answer| answer.done) => Delivery::Done,
            _ => Delivery::Accepted,
        }
    }

    /// Calls, and returns the head of an answer that says that it was received; or a sentence.
    async fn call(&self, url: Url, wake: &WakeRequest) -> Result<reqwest::Response, String> {
        let body = serde_json::to_vec(wake).expect("texts and numbers are JSON");
        let signature = sign(&wake.seed, wake.time_s, &body);
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json").header(SIGNATURE, signature);
        let response = request.body(body).send().await.map_err(|error| text_of(&error))?;
        let status = response.status();
        if status.is_success() { Ok(response) } else { Err(format!("the webhook has answered {status}")) }
    }
}

/// An answer's body; none if it is too long, or breaks off.
async fn answer(mut response: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.ok()? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&piece);
    }
    Some(body)
}

/// An error and what it comes from, without the address: that may have a secret in it.
fn text_of(error: &reqwest::Error) -> String {
    let mut text = match error {
        error if error.is_connect() => "the webhook cannot be reached".to_string(),
        error if error.is_timeout() => "the webhook has not answered in time".to_string(),
        _ => "the webhook was not called".to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Resolves names to what may be called.
struct Checked(Policy);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        async move {
            let addresses = permitted(&policy, name.as_str()).await?;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        }
        .boxed()
    }
}

/// The addresses of a name that may be called; at least one.
fn permitted<'a>(
    policy: &'a Policy,
    name: &'a str,
) -> Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, UrlRefusal>> + Send + 'a>> {
    async move {
        let found = tokio::net::lookup_host((name, 0)).await.map_err(|_| UrlRefusal::Malformed)?;
        let addresses: Vec<SocketAddr> = found.filter(|address| policy.permits(name, address.ip())).collect();
        if addresses.is_empty() { Err(UrlRefusal::Private(name.to_string())) } else { Ok(addresses) }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn hooks(allowed: &[&str]) -> Hooks {
        let policy = Policy::new(allowed.iter().copied()).expect("a policy");
        let config = HooksConfig { policy, timeout: Duration::from_secs(5), calls_max: 4 };
        Hooks::new(Handle::current(), config).expect("a client")
    }

    fn wake(url: String) -> WakeRequest {
        WakeRequest {
            url,
            seed: [7; 32],
            time_s: 5,
            timeout: Duration::from_millis(1500),
            subscription_id: "s".to_string(),
            wake_id: "w_1".to_string(),
            generation: 1,
            streams: Vec::new(),
            callback_url: "http://localhost/callback".to_string(),
            callback_token: "token".to_string(),
        }
    }

    /// A server that answers the first request with `answer`, and what it was asked.
    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let served = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a client");
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut piece = [0; 4096];
                let read = socket.read(&mut piece).await.expect("a request");
                assert!(read > 0, "a whole request");
                asked.extend_from_slice(&piece[..read]);
            }
            socket.write_all(answer.as_bytes()).await.expect("the client listens");
            if answer.ends_with("{") {
                // The rest never comes.
                let _ = socket.read(&mut [0; 1]).await;
            }
            String::from_utf8(asked).expect("a request is text")
        });
        (port, served)
    }

    async fn called(allowed: &[&str], wake: WakeRequest) -> Delivery {
        let hooks = hooks(allowed);
        let call = hooks.begin("b", &wake.url).await.expect("nobody waits");
        hooks.deliver(call, wake).await
    }

    async fn delivered(answer: &'static str) -> (Delivery, String) {
        let (port, served) = server(answer).await;
        let delivery = called(&["127.0.0.1"], wake(format!("http://127.0.0.1:{port}/hook"))).await;
        (delivery, served.await.expect("it was served"))
    }

    #[tokio::test]
    async fn a_wake_is_signed_and_its_answer_is_read() {
        let (delivery, asked) = delivered("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"done\":true}").await;
        assert_eq!(delivery, Delivery::Done);
        let (head, body) = asked.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
        let signature = format!("webhook-signature: {}", sign(&[7; 32], 5, body.as_bytes()));
        assert!(head.contains(&signature), "{head}");
        assert!(!body.contains("url\":\"http://127") && body.contains(r#""generation":1"#), "{body}");
        for answer in
            ["HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]
        {
            assert_eq!(delivered(answer).await.0, Delivery::Accepted, "{answer}");
        }
        let failed = delivered("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await.0;
        assert!(matches!(failed, Delivery::Failed(_)), "{failed:?}");
    }

    #[tokio::test]
    async fn a_success_whose_body_does_not_come_was_received() {
        let (delivery, _) = delivered("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{").await;
        assert_eq!(delivery, Delivery::Accepted);
    }

    #[tokio::test]
    async fn a_secret_is_in_no_log() {
        let wake =
            WakeRequest { callback_token: "secret".to_string(), seed: [77; 32], ..wake("https://a/secret".into()) };
        let text = format!("{wake:?}");
        assert!(text.contains("generation 1") && !text.contains("secret") && !text.contains("77"), "{text}");
    }

    #[tokio::test]
    async fn a_redirect_is_a_failure() {
        let (inner, called) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let answer = format!("HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:{inner}/\r\nContent-Length: 0\r\n\r\n");
        let (delivery, _) = delivered(answer.leak()).await;
        assert!(matches!(&delivery, Delivery::Failed(reason) if reason.contains("307")), "{delivery:?}");
        assert!(!called.is_finished(), "nobody has come");
        called.abort();
    }

    #[tokio::test]
    async fn a_name_that_leads_here_is_not_called() {
        let policy = Policy::default();
        let refused = permitted(&policy, "localhost").await.expect_err("it is loopback");
        assert_eq!(refused, UrlRefusal::Private("localhost".to_string()));
        let policy = Policy::new(["localhost"]).expect("a policy");
        let addresses = permitted(&policy, "localhost").await.expect("it is allowed by name");
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        let delivery = called(&[], wake("http://127.0.0.1:1/".to_string())).await;
        assert!(
            matches!(&delivery, Delivery::Failed(reason) if reason.contains("not a public address")),
            "{delivery:?}"
        );
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_has_failed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let call = WakeRequest { timeout: Duration::from_millis(50), ..wake(format!("http://127.0.0.1:{port}/")) };
        let delivery = called(&["127.0.0.1"], call).await;
        assert_eq!(delivery, Delivery::Failed("no answer within 50 ms".to_string()));
    }
}
