//! Links over real sockets: without and with TLS.

mod certificates;
mod tls;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::Instant;
use weir_cluster::{
    Acceptor, ClusterId, DiskId, Endpoint, Hello, Identity, Incoming, Lane, Link, LinkConfig, Message, NodeId,
    Security, Tcp,
};
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

use crate::certificates::Authority;

const LANE: Lane = Lane::Data(GroupId(1));

fn run(test: impl AsyncFnOnce()) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(test());
}

fn node(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}

fn endpoint(number: u64, security: Security) -> Endpoint {
    let counter = AtomicU64::new(number);
    Endpoint {
        level: FORMAT_LEVEL,
        identity: Identity { cluster: ClusterId(1), node: node(number), disk: DiskId(u128::from(number)) },
        security,
        network: Arc::new(Tcp),
        entropy: Arc::new(move || counter.fetch_add(1, Ordering::Relaxed)),
        admission: Arc::new(|_: &Hello| Ok(())),
        config: CONFIG,
    }
}

/// Patient: how long something takes says nothing here.
const CONFIG: LinkConfig = LinkConfig {
    window_bytes: 8 << 20,
    stall: Duration::from_secs(60),
    connect_wait: Duration::from_secs(60),
    hello_wait: Duration::from_secs(60),
    backoff_min: Duration::from_millis(1),
    backoff_max: Duration::from_millis(1),
    greetings_max: 64,
};

const PREFIX: &[u8] = b"space for a header";

/// Bodies behind space for something else, as those who write them to a disk want them.
fn prefixed(bytes: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(PREFIX.len() + bytes);
    buf.extend_from_slice(PREFIX);
    buf
}

/// A link of node 1 to node 2, and the requests that come out there.
async fn linked(one: Security, two: Security) -> (Link, Acceptor) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let acceptor = Acceptor::new(endpoint(2, two), Box::new(listener));
    (Link::new(endpoint(1, one), node(2), address, LANE, BytesMut::with_capacity), acceptor)
}

/// Answers each request with its head.
async fn serve(mut acceptor: Acceptor, buffers: fn(usize) -> BytesMut) {
    loop {
        let mut incoming = Incoming::new(acceptor.next().await, buffers, &CONFIG);
        tokio::task::spawn_local(async move {
            while let Some((request, responder)) = incoming.next().await {
                responder.send(Message { bodies: Vec::new(), ..request });
            }
        });
    }
}

fn both_ways() -> [(&'static str, Security, Security); 2] {
    let authority = Authority::new("ours");
    let [one, two] = [authority.node(), authority.node()].map(Security::Tls);
    [("tcp", Security::None, Security::None), ("tls", one, two)]
}

#[test]
fn a_body_arrives_in_the_receivers_buffer_and_stays_there() {
    for (_, one, two) in both_ways() {
        run(async || {
            let (link, mut acceptor) = linked(one, two).await;
            let body: Bytes = (0..3_000_000u32).map(|i| i as u8).collect::<Vec<u8>>().into();
            let message =
                Message { kind: 7, head: "head".into(), bodies: vec![body.clone(), Bytes::new(), body.clone()] };
            let (answer, accepted) = tokio::join!(link.begin(message), acceptor.next());
            let mut incoming = Incoming::new(accepted, prefixed, &CONFIG);
            let (request, responder) = incoming.next().await.expect("a request");
            assert_eq!((request.kind, &*request.head, request.bodies.len()), (7, &b"head"[..], 3));
            for (arrived, sent) in request.bodies.into_iter().zip([&body[..], &[], &body[..]]) {
                let arrived = arrived.try_into_mut().expect("it has no other owner");
                assert!(arrived.starts_with(PREFIX) && arrived[PREFIX.len()..] == *sent);
                assert_eq!(arrived.capacity(), PREFIX.len() + sent.len(), "it did not grow");
            }
            responder.send(Message::default());
            answer.expect("is taken").await.expect("is answered");
        });
    }
}

#[test]
fn a_connection_goes_to_the_thread_that_owns_its_lane_and_stays_there() {
    for (_, one, two) in both_ways() {
        let (sender, mut accepted) = tokio::sync::mpsc::channel(1);
        let (address_sender, address) = std::sync::mpsc::channel();
        let (connected_sender, connected) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            // It accepts one connection, and then there is nothing left of its runtime.
            scope.spawn(move || {
                run(async || {
                    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                    address_sender.send(listener.local_addr().expect("an address")).expect("it is awaited");
                    let mut acceptor = Acceptor::new(endpoint(2, two), Box::new(listener));
                    sender.send(acceptor.next().await).await.expect("it is awaited");
                });
                connected_sender.send(()).expect("it is awaited");
            });
            scope.spawn(move || {
                run(async || {
                    let accepted = accepted.recv().await.expect("there is one");
                    connected.recv().expect("the runtime that accepted it is gone");
                    let mut incoming = Incoming::new(accepted, prefixed, &CONFIG);
                    while let Some((request, responder)) = incoming.next().await {
                        responder.send(request);
                    }
                });
            });
            run(async || {
                let address = address.recv().expect("it listens").to_string();
                let link = Link::new(endpoint(1, one), node(2), address, LANE, BytesMut::with_capacity);
                for kind in 0..100 {
                    let answer = link.call(Message { kind, ..Message::default() }).await.expect("is answered");
                    assert_eq!(answer.kind, kind);
                }
            });
        });
    }
}

/// Prints what it measures, for whoever asks: `cargo test --release -p weir-cluster --test tcp passes -- --nocapture`.
#[test]
fn much_passes() {
    // How many requests, how long, how many of them at once.
    let runs = [(20_000u32, 100, 64), (20_000, 100, 1000), (5_000, 100, 1), (200, 1 << 20, 8)];
    for (way, one, two) in both_ways() {
        run(async || {
            let (link, acceptor) = linked(one, two).await;
            let serving = tokio::task::spawn_local(serve(acceptor, prefixed));
            for (calls, body_bytes, depth) in runs {
                let body = Bytes::from(vec![7; body_bytes]);
                let begun = Instant::now();
                let mut answers = VecDeque::new();
                for i in 0..calls {
                    let head = Bytes::copy_from_slice(&i.to_le_bytes());
                    let message = Message { kind: 1, head, bodies: vec![body.clone()] };
                    answers.push_back(link.begin(message).await.expect("is taken"));
                    if answers.len() >= depth {
                        answers.pop_front().expect("there is one").await.expect("is answered");
                    }
                }
                for answer in answers {
                    answer.await.expect("is answered");
                }
                let seconds = begun.elapsed().as_secs_f64();
                let megabytes = calls as f64 * body_bytes as f64 / 1e6;
                println!(
                    "{way}: {calls} calls of {body_bytes} B, {depth} at once: {:.0} calls/s, {:.0} MB/s",
                    f64::from(calls) / seconds,
                    megabytes / seconds
                );
            }
            assert_eq!(link.unanswered_bytes(), 0);
            serving.abort();
        });
    }
}

#[test]
fn a_node_that_does_not_listen_cannot_be_reached() {
    run(async || {
        let (link, acceptor) = linked(Security::None, Security::None).await;
        drop(acceptor);
        let error = link.call(Message::default()).await.expect_err("nobody listens");
        assert!(!error.may_have_arrived() && error.to_string().contains("cannot be reached"), "{error}");
    });
}

#[test]
fn a_node_that_ends_breaks_what_it_was_asked() {
    run(async || {
        let (link, mut acceptor) = linked(Security::None, Security::None).await;
        let (answer, accepted) = tokio::join!(link.begin(Message::default()), acceptor.next());
        let mut incoming = Incoming::new(accepted, prefixed, &CONFIG);
        let (_, _responder) = incoming.next().await.expect("a request");
        drop(incoming);
        let error = answer.expect("is taken").await.expect_err("is not answered");
        assert!(error.may_have_arrived(), "{error}");
        // It is back at the same address.
        let serving = tokio::task::spawn_local(serve(acceptor, prefixed));
        while link.call(Message::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
        serving.abort();
    });
}
