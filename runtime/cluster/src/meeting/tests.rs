//! Who is refused, with which sentence on both sides; and what is no hello at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::duplex;
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

use super::*;
use crate::config::LinkConfig;
use crate::endpoint::Security;
use crate::hello::RECORD_BYTES_MAX;
use crate::identity::{DiskId, Identity};
use crate::network::Tcp;
use crate::secret::Secret;

const LANE: Lane = Lane::Control(GroupId(7));

fn node(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}

fn endpoint(number: u64) -> Endpoint {
    let counter = AtomicU64::new(number << 32);
    Endpoint {
        identity: Identity { cluster: ClusterId(0xc1), node: node(number), disk: DiskId(u128::from(number)) },
        level: FORMAT_LEVEL,
        security: Security::None,
        network: Arc::new(Tcp),
        entropy: Arc::new(move || counter.fetch_add(1, Ordering::Relaxed)),
        admission: Arc::new(|_: &Hello| Ok(())),
        config: LinkConfig::default(),
    }
}

fn with_secret(mut endpoint: Endpoint, secret: &str) -> Endpoint {
    endpoint.security = Security::Secret(Secret::new(secret.as_bytes()).expect("long enough"));
    endpoint
}

/// What the dialer (node 1, which means node 2) and the acceptor say about their meeting.
async fn meet(dialer: &Endpoint, acceptor: &Endpoint) -> (String, String) {
    let (near, far) = duplex(64);
    let (dialed, answered) = tokio::join!(dial(dialer, Box::new(near), node(2), LANE), answer(acceptor, Box::new(far)));
    let dialed = dialed.map_or_else(|error| error.to_string(), |_| "met".into());
    let answered = answered.map_or_else(|error| error.to_string(), |(hello, _)| format!("met for {}", hello.lane));
    (dialed, answered)
}

#[tokio::test(start_paused = true)]
async fn nodes_of_a_cluster_meet() {
    let secret = "a secret of all the nodes";
    let pairs = [(endpoint(1), endpoint(2)), (with_secret(endpoint(1), secret), with_secret(endpoint(2), secret))];
    for (dialer, acceptor) in pairs {
        let (dialed, answered) = meet(&dialer, &acceptor).await;
        assert_eq!((&*dialed, &*answered), ("met", "met for control of group 7"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_hears_why() {
    let secret = "a secret of all the nodes";
    let mut foreign = endpoint(2);
    foreign.identity.cluster = ClusterId(0xc2);
    let mut wiped = endpoint(1);
    wiped.identity.disk = DiskId(9);
    let mut strict = endpoint(2);
    strict.admission = Arc::new(|hello: &Hello| match hello.identity.disk {
        DiskId(1) => Ok(()),
        _ => Err(format!("node {} had another disk before\n\x1b[31m", hello.identity.node)),
    });
    let mut choosy = endpoint(1);
    choosy.admission = Arc::new(|hello: &Hello| Err(format!("node {} is new", hello.identity.node)));
    // Who says it, on the dialer's side and on the acceptor's: `<` is heard from the other end.
    let cases = [
        (
            endpoint(1),
            foreign,
            "<node 2 belongs to cluster 000000000000000000000000000000c2, and node 1 to cluster 000000000000000000000000000000c1: \
             the clusters have other names, or other cold tiers",
        ),
        (endpoint(1), endpoint(3), "<node 2 was meant, and this is node 3"),
        (endpoint(2), endpoint(2), "<node 2 met a node that says it is node 2, too"),
        (wiped, strict, "<node 1 had another disk before??[31m"),
        (choosy, endpoint(2), ">node 2 is new"),
        (with_secret(endpoint(1), secret), endpoint(2), "<node 1 was given a shared secret, and node 2 was not"),
        (endpoint(1), with_secret(endpoint(2), secret), "<node 2 was given a shared secret, and node 1 was not"),
        (
            with_secret(endpoint(1), "another secret, as long"),
            with_secret(endpoint(2), secret),
            "<node 2 and node 1 do not have the same secret",
        ),
    ];
    for (dialer, acceptor, expected) in cases {
        let (dialed, answered) = meet(&dialer, &acceptor).await;
        let heard = format!("refused by the other end: {}", &expected[1..]);
        let (refusing, refused) = if expected.starts_with('<') { (answered, dialed) } else { (dialed, answered) };
        assert_eq!(tame(&refusing), expected[1..]);
        assert_eq!(refused, heard);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_met_in_the_place_of_another_is_refused_by_the_dialer() {
    // An acceptor that answers whatever it is asked for.
    let (near, mut far) = duplex(1024);
    let liar = async {
        let mut hello = [0; RECORD_HEADER_BYTES + HELLO_BYTES];
        far.read_exact(&mut hello).await.expect("a hello");
        let greeting = endpoint(3).greeting(node(1), LANE);
        far.write_all(&record(RecordKind::Hello, &greeting.encode())).await.expect("is read");
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.expect("ends");
        String::from_utf8_lossy(&heard[RECORD_HEADER_BYTES..]).into_owned()
    };
    let (dialed, heard) = tokio::join!(
        async { dial(&endpoint(1), Box::new(near), node(2), LANE).await.err().map(|error| error.to_string()) },
        async { tokio::time::timeout(LINGER / 2, liar).await.unwrap_or_default() },
    );
    assert_eq!(dialed.as_deref(), Some("node 2 was meant, and this is node 3"));
    assert_eq!(heard, "node 2 was meant, and this is node 3");
}

/// What an acceptor makes of some bytes, and what it says to whoever sent them.
async fn told(acceptor: &Endpoint, bytes: &[u8]) -> (String, String) {
    let (mut near, far) = duplex(4096);
    let sender = async {
        near.write_all(bytes).await.expect("fits");
        near.shutdown().await.expect("is open");
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.expect("ends");
        said
    };
    let (answered, said) = tokio::join!(answer(acceptor, Box::new(far)), sender);
    let error = answered.err().map_or_else(|| "met".into(), |error| error.to_string());
    (error, String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(start_paused = true)]
async fn what_is_no_hello_is_refused() {
    let mut future = record(RecordKind::Hello, &endpoint(1).greeting(node(2), LANE).encode());
    future[3] = VERSION + 1;
    let short = record(RecordKind::Hello, b"short");
    let early = record(RecordKind::Ready, b"");
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "node 2 was sent something that no node of weir says"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "the other end speaks TLS, and node 2 was not told to"),
        (&future, "node 2 speaks version 2 of what nodes say to each other, and the other end version 3"),
        (&short, "node 2 was sent something that no node of weir says"),
        (&early, "node 2 was sent something that no node of weir says"),
    ];
    for (bytes, expected) in cases {
        let (error, said) = told(&endpoint(2), bytes).await;
        assert_eq!(error, expected);
        assert!(said.starts_with("WLK") && said.ends_with(expected), "{said}");
    }
    let (error, said) = told(&endpoint(2), b"WLK").await;
    assert_eq!((&*error, &*said), ("the connection ended within the hello", ""));
}

#[tokio::test(start_paused = true)]
async fn a_hello_has_its_time() {
    let acceptor = endpoint(2);
    let (mut near, far) = duplex(4096);
    // One byte at a time: each in time, all of them not.
    let slow = async {
        let hello = record(RecordKind::Hello, &endpoint(1).greeting(node(2), LANE).encode());
        let mut pace = tokio::time::interval(Duration::from_millis(500));
        for byte in hello {
            pace.tick().await;
            if near.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let begun = tokio::time::Instant::now();
    let answered = async {
        let answered = answer(&acceptor, Box::new(far)).await;
        (answered.err().map(|error| error.to_string()), begun.elapsed())
    };
    let ((error, took), ()) = tokio::join!(answered, slow);
    assert_eq!(error.as_deref(), Some("a hello took longer than 3000 ms"));
    assert!(took <= acceptor.config.hello_wait + LINGER);
}

#[tokio::test(start_paused = true)]
async fn what_was_overheard_is_of_no_use() {
    let secret = "a secret of all the nodes";
    let (dialer, acceptor) = (with_secret(endpoint(1), secret), with_secret(endpoint(2), secret));
    // Somebody between the two, who passes everything on and keeps what the dialer says.
    let (near, mut middle_near) = duplex(4096);
    let (mut middle_far, far) = duplex(4096);
    let overheard = async {
        let mut overheard = Vec::new();
        let steps = [(HELLO_BYTES, HELLO_BYTES), (PROOF_BYTES, PROOF_BYTES), (0, 0)];
        for (from_dialer, from_acceptor) in steps {
            let mut said = vec![0; RECORD_HEADER_BYTES + from_dialer];
            middle_near.read_exact(&mut said).await.expect("the dialer says something");
            middle_far.write_all(&said).await.expect("the acceptor hears it");
            overheard.extend(said);
            if from_acceptor > 0 {
                let mut said = vec![0; RECORD_HEADER_BYTES + from_acceptor];
                middle_far.read_exact(&mut said).await.expect("the acceptor says something");
                middle_near.write_all(&said).await.expect("the dialer hears it");
            }
        }
        overheard
    };
    let (dialed, answered, overheard) =
        tokio::join!(dial(&dialer, Box::new(near), node(2), LANE), answer(&acceptor, Box::new(far)), overheard);
    assert!(dialed.is_ok() && answered.is_ok());
    assert!(!overheard.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()));

    let (error, said) = told(&acceptor, &overheard).await;
    assert_eq!(error, "node 2 and node 1 do not have the same secret");
    assert!(said.contains(&error));
}

#[test]
fn nothing_that_arrives_as_a_hello_is_worse_than_a_refusal() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let hello = record(RecordKind::Hello, &endpoint(1).greeting(node(2), LANE).encode());
    let cases = (vec(any::<u8>(), 0..200), 0..=hello.len());
    proptest!(ProptestConfig::with_cases(300), |((garbage, good) in cases)| {
        let bytes = [&hello[..good], &garbage[..]].concat();
        let (error, said) = runtime.block_on(told(&endpoint(2), &bytes));
        prop_assert!(error != "met");
        prop_assert!(said.len() <= 2 * (RECORD_HEADER_BYTES + RECORD_BYTES_MAX));
    });
}
