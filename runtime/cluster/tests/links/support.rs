//! Two nodes and a network between them that does what a test says.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;
use weir_cluster::{
    Acceptor, ClusterId, Connecting, Connection, DiskId, Endpoint, Hello, Identity, Incoming, Lane, Link, LinkConfig,
    Listener, Message, Network, NodeId, Security, Stream,
};
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

pub(crate) const LANE: Lane = Lane::Data(GroupId(3));

/// Runs a test on a thread like a shard's, with time that passes only when nothing else is to be done.
pub(crate) fn run(test: impl AsyncFnOnce()) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(test());
}

/// Lets everything that is ready go on.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn node(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}

/// Bodies without anything in front of them.
pub(crate) fn plain(bytes: usize) -> BytesMut {
    BytesMut::with_capacity(bytes)
}

/// A message with a number in its head, and a body of so many bytes.
pub(crate) fn message(number: u32, body_bytes: usize) -> Message {
    let head = Bytes::copy_from_slice(&number.to_le_bytes());
    Message { kind: 1, head, bodies: vec![vec![7; body_bytes].into()] }
}

/// The number in a message's head.
pub(crate) fn number(message: &Message) -> u32 {
    u32::from_le_bytes(*message.head.first_chunk().expect("a number"))
}

/// What both nodes of a test are connected by.
#[derive(Clone, Default)]
pub(crate) struct Net(Arc<NetState>);

#[derive(Default)]
struct NetState {
    listeners: Mutex<HashMap<String, mpsc::UnboundedSender<Stream>>>,
    taps: Mutex<Vec<(Tap, Tap)>>,
    tries: Mutex<Vec<Instant>>,
    is_deaf: AtomicBool,
}

impl Net {
    /// What a listener at an address gets. A second one takes the first one's place.
    pub(crate) fn listen(&self, address: &str) -> Box<dyn Listener> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.listeners.lock().expect("no panic").insert(address.into(), sender);
        Box::new(Given(receiver))
    }

    /// Nobody listens at the address any more.
    pub(crate) fn close(&self, address: &str) {
        self.0.listeners.lock().expect("no panic").remove(address);
    }

    /// From now on, connecting takes forever; or no longer.
    pub(crate) fn set_deaf(&self, is_deaf: bool) {
        self.0.is_deaf.store(is_deaf, Relaxed);
    }

    /// The dialer's end of the newest connection.
    pub(crate) fn tap(&self) -> Tap {
        self.0.taps.lock().expect("no panic").last().expect("there was a connection").0.clone()
    }

    /// The acceptor's end of it.
    pub(crate) fn far_tap(&self) -> Tap {
        self.0.taps.lock().expect("no panic").last().expect("there was a connection").1.clone()
    }

    /// When connections were tried.
    pub(crate) fn tries(&self) -> Vec<Instant> {
        self.0.tries.lock().expect("no panic").clone()
    }
}

impl Network for Net {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            self.0.tries.lock().expect("no panic").push(Instant::now());
            if self.0.is_deaf.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            let listener = self.0.listeners.lock().expect("no panic").get(address).cloned();
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, far) = duplex(16 << 10);
            let (near, far) = (Tapped::new(near), Tapped::new(far));
            self.0.taps.lock().expect("no panic").push((near.tap.clone(), far.tap.clone()));
            listener.send(Box::new(far)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(near) as Stream)
        })
    }
}

struct Given(mpsc::UnboundedReceiver<Stream>);

impl Listener for Given {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, String)>> {
        // Without a sender nothing arrives any more.
        match ready!(self.0.poll_recv(context)) {
            Some(stream) => Poll::Ready(Ok((stream, "a test".into()))),
            None => Poll::Pending,
        }
    }
}

/// A hand on one end of a connection.
#[derive(Clone, Default)]
pub(crate) struct Tap(Arc<TapState>);

#[derive(Default)]
struct TapState {
    is_cut: AtomicBool,
    /// Bytes that may still be written; nothing said is no limit.
    allowance: Mutex<Option<usize>>,
    injected: Mutex<Vec<u8>>,
    wakers: Mutex<Vec<Waker>>,
    written: AtomicUsize,
}

impl Tap {
    /// As if the other end's power had gone: what is written gets nowhere, and nothing comes.
    pub(crate) fn cut(&self) {
        self.0.is_cut.store(true, Relaxed);
    }

    /// Lets so many more bytes be written, and then none.
    pub(crate) fn allow(&self, bytes: usize) {
        let mut allowance = self.0.allowance.lock().expect("no panic");
        *allowance = Some(allowance.unwrap_or(0) + bytes);
        self.wake();
    }

    /// Bytes that were written.
    pub(crate) fn written(&self) -> usize {
        self.0.written.load(Relaxed)
    }

    /// Has the near end read these bytes next.
    pub(crate) fn inject(&self, bytes: &[u8]) {
        self.0.injected.lock().expect("no panic").extend(bytes);
        self.wake();
    }

    fn wake(&self) {
        self.0.wakers.lock().expect("no panic").drain(..).for_each(Waker::wake);
    }

    fn wait(&self, context: &Context<'_>) {
        self.0.wakers.lock().expect("no panic").push(context.waker().clone());
    }
}

struct Tapped {
    stream: DuplexStream,
    tap: Tap,
}

impl Tapped {
    fn new(stream: DuplexStream) -> Tapped {
        Tapped { stream, tap: Tap::default() }
    }
}

impl Connection for Tapped {
    fn moved_here(self: Box<Self>) -> io::Result<Stream> {
        Ok(self)
    }
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.tap.wait(context);
        if self.tap.0.is_cut.load(Relaxed) {
            return Poll::Pending;
        }
        let tap = self.tap.clone();
        let mut injected = tap.0.injected.lock().expect("no panic");
        if !injected.is_empty() {
            let taken = injected.len().min(buf.remaining());
            buf.put_slice(&injected.drain(..taken).collect::<Vec<_>>());
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.tap.0.is_cut.load(Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let tap = self.tap.clone();
        let mut allowance = tap.0.allowance.lock().expect("no panic");
        let allowed = allowance.unwrap_or(usize::MAX).min(bytes.len());
        if allowed == 0 {
            tap.wait(context);
            return Poll::Pending;
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[..allowed]))?;
        tap.0.written.fetch_add(written, Relaxed);
        if let Some(allowance) = &mut *allowance {
            *allowance -= written;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Node `number` on a network.
pub(crate) fn endpoint(number: u64, net: &Net, config: LinkConfig) -> Endpoint {
    Endpoint {
        level: FORMAT_LEVEL,
        identity: Identity { cluster: ClusterId(1), node: node(number), disk: DiskId(u128::from(number)) },
        security: Security::None,
        network: Arc::new(net.clone()),
        entropy: Arc::new(|| u64::MAX),
        admission: Arc::new(|_: &Hello| Ok(())),
        config,
    }
}

/// Node 1 with a link to node 2, and where node 2 listens.
pub(crate) struct Pair {
    pub(crate) net: Net,
    pub(crate) link: Link,
    pub(crate) acceptor: Acceptor,
    pub(crate) config: LinkConfig,
}

pub(crate) fn pair(config: LinkConfig) -> Pair {
    let net = Net::default();
    let acceptor = Acceptor::new(endpoint(2, &net, config), net.listen("two"));
    let link = Link::new(endpoint(1, &net, config), node(2), "two".into(), LANE, plain);
    Pair { net, link, acceptor, config }
}

impl Pair {
    /// Connects, with a call that is answered.
    pub(crate) async fn connect(&mut self) -> Incoming {
        let called = self.link.call(message(u32::MAX, 0));
        let taken = async {
            let mut incoming = self.acceptor.incoming(self.config).await;
            let (request, responder) = incoming.next().await.expect("a request");
            responder.send(request);
            incoming
        };
        let (answer, incoming) = tokio::join!(called, taken);
        assert_eq!(number(&answer.expect("is answered")), u32::MAX);
        incoming
    }
}

/// The next connection's requests.
pub(crate) trait NextIncoming {
    async fn incoming(&mut self, config: LinkConfig) -> Incoming;
}

impl NextIncoming for Acceptor {
    async fn incoming(&mut self, config: LinkConfig) -> Incoming {
        Incoming::new(self.next().await, plain, &config)
    }
}

/// Answers every request with itself, on every connection that comes.
pub(crate) async fn echo(mut acceptor: Acceptor, config: LinkConfig) {
    loop {
        let mut incoming = acceptor.incoming(config).await;
        tokio::task::spawn_local(async move {
            while let Some((request, responder)) = incoming.next().await {
                responder.send(request);
            }
        });
    }
}
