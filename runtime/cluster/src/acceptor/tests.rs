//! Many connections at once, of which some never say hello; and a second one for the same lane.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

use super::*;
use crate::config::LinkConfig;
use crate::endpoint::Security;
use crate::identity::{ClusterId, DiskId, Identity};
use crate::meeting::dial;
use crate::network::Tcp;

/// Connections as they are given.
struct Given(mpsc::Receiver<io::Result<DuplexStream>>);

impl Listener for Given {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, String)>> {
        self.0.poll_recv(context).map(|given| {
            let stream = given.expect("the test goes on")?;
            Ok((Box::new(stream) as Stream, "a test".into()))
        })
    }
}

fn node(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}

fn endpoint(number: u64) -> Endpoint {
    Endpoint {
        level: FORMAT_LEVEL,
        identity: Identity { cluster: ClusterId(1), node: node(number), disk: DiskId(u128::from(number)) },
        security: Security::None,
        network: Arc::new(Tcp),
        entropy: Arc::new(|| 4),
        admission: Arc::new(|_: &Hello| Ok(())),
        config: LinkConfig { greetings_max: 4, ..LinkConfig::default() },
    }
}

fn acceptor() -> (Acceptor, mpsc::Sender<io::Result<DuplexStream>>) {
    let (sender, receiver) = mpsc::channel(100);
    (Acceptor::new(endpoint(2), Box::new(Given(receiver))), sender)
}

async fn connect(listener: &mpsc::Sender<io::Result<DuplexStream>>) -> DuplexStream {
    let (near, far) = duplex(1024);
    listener.send(Ok(far)).await.expect("it listens");
    near
}

const LANE: Lane = Lane::Data(GroupId(1));

#[tokio::test(start_paused = true)]
async fn the_silent_do_not_keep_others_out() {
    let (mut acceptor, listener) = acceptor();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(connect(&listener).await);
    }
    let near = connect(&listener).await;
    let dialer = endpoint(1);
    let (accepted, dialed) = tokio::join!(acceptor.next(), dial(&dialer, Box::new(near), node(2), LANE));
    assert!(dialed.is_ok());
    assert_eq!((accepted.hello.identity.node, accepted.hello.lane), (node(1), LANE));
    // Without any waiting, all but the last few of them were closed.
    for silent in &mut silent[..16] {
        assert_eq!(silent.read(&mut [0]).await.expect("an end"), 0);
    }
    assert!(acceptor.greetings.len() <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_fails_is_asked_again() {
    let (mut acceptor, listener) = acceptor();
    listener.send(Err(io::ErrorKind::OutOfMemory.into())).await.expect("it listens");
    let near = connect(&listener).await;
    let dialer = endpoint(1);
    let (_, dialed) = tokio::join!(acceptor.next(), dial(&dialer, Box::new(near), node(2), LANE));
    assert!(dialed.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_takes_the_place_of_an_older_one() {
    let (mut acceptor, listener) = acceptor();
    let dialer = endpoint(1);
    let mut accepted = Vec::new();
    for lane in [LANE, Lane::Control(GroupId(1)), LANE] {
        let near = connect(&listener).await;
        let (next, dialed) = tokio::join!(acceptor.next(), dial(&dialer, Box::new(near), node(2), lane));
        assert!(dialed.is_ok());
        accepted.push(next);
    }
    let is_replaced: Vec<bool> = accepted.iter_mut().map(|accepted| accepted.replaced.try_recv().is_ok()).collect();
    assert_eq!(is_replaced, [true, false, false]);
    drop(accepted);
    let near = connect(&listener).await;
    let (_, dialed) = tokio::join!(acceptor.next(), dial(&dialer, Box::new(near), node(2), Lane::Control(GroupId(9))));
    assert!(dialed.is_ok());
    assert_eq!(acceptor.current.len(), 1, "what has ended is forgotten");
}
