//! Whose certificates are taken, and what is said about those that are not.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weir_cluster::tls::Pem;
use weir_cluster::{Acceptor, Message, Secret, Security, Tls};

use crate::certificates::{Authority, NOW, tls};
use crate::{endpoint, linked, run, serve};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why two nodes do not meet, as the dialer says it.
fn refusal(one: Security, two: Security) -> String {
    let mut refusal = String::new();
    run(async || {
        let (link, acceptor) = linked(one, two).await;
        let serving = tokio::task::spawn_local(serve(acceptor, bytes::BytesMut::with_capacity));
        // The first call may give up before the attempt does.
        while let Err(error) = link.call(Message::default()).await {
            refusal = error.to_string();
            if !refusal.contains("did not take a connection") {
                break;
            }
        }
        serving.abort();
    });
    assert!(!refusal.is_empty(), "they have met");
    refusal
}

#[test]
fn nodes_of_another_authority_are_refused_by_either_side() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let stranger = || {
        let (certificate, key) = theirs.sign(&[ServerAuth, ClientAuth], 2030);
        // It takes everyone's certificate, so that only the other side can refuse.
        Security::Tls(tls(&(ours.pem() + &theirs.pem()), &certificate, &key).expect("good certificates"))
    };
    let node = || Security::Tls(ours.node());
    let refused = refusal(node(), stranger());
    assert!(
        refused.contains("there is no TLS with the other end: invalid peer certificate: UnknownIssuer"),
        "{refused}"
    );
    let refused = refusal(stranger(), node());
    assert!(refused.contains("received fatal alert: UnknownCA"), "{refused}");
}

#[test]
fn tls_on_one_side_only_is_refused() {
    let node = || Security::Tls(Authority::new("ours").node());
    let secret = || Security::Secret(Secret::new(b"a secret of all the nodes").expect("long enough"));
    for plain in [|| Security::None, secret] {
        let refused = refusal(plain(), node());
        assert!(refused.ends_with("the other end speaks TLS, and node 1 was not told to"), "{refused}");
        let refused = refusal(node(), plain());
        assert!(refused.contains("there is no TLS with the other end"), "{refused}");
    }
}

#[test]
fn a_certificate_that_has_run_out_meanwhile_is_refused() {
    let authority = Authority::new("ours");
    let (certificate, key) = authority.sign(&[ServerAuth, ClientAuth], 2027);
    let pem = authority.pem();
    let files = Pem { authorities: pem.as_bytes(), certificate: certificate.as_bytes(), key: key.as_bytes() };
    // When it was loaded it was good, and after that its clock does not matter: the other side looks at its own.
    let old = || Security::Tls(Tls::new(files, Arc::new(|| NOW)).expect("good certificates"));
    let fresh = || {
        let (certificate, key) = authority.sign(&[ServerAuth, ClientAuth], 2040);
        let files = Pem { authorities: pem.as_bytes(), certificate: certificate.as_bytes(), key: key.as_bytes() };
        Security::Tls(Tls::new(files, Arc::new(|| 4 * YEAR + NOW)).expect("good certificates"))
    };
    let refused = refusal(fresh(), old());
    assert!(
        refused.contains("there is no TLS with the other end: invalid peer certificate: certificate expired"),
        "{refused}"
    );
    let refused = refusal(old(), fresh());
    assert!(refused.contains("received fatal alert: CertificateExpired"), "{refused}");
}

#[test]
fn what_a_node_was_given_is_checked_before_it_is_used() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (certificate, key) = ours.sign(&[ServerAuth, ClientAuth], 2030);
    let (server_only, server_key) = ours.sign(&[ServerAuth], 2030);
    let (client_only, client_key) = ours.sign(&[ClientAuth], 2030);
    let (run_out, run_out_key) = ours.sign(&[ServerAuth, ClientAuth], 2025);
    let cases = [
        ("", &*certificate, &*key, "there is no certificate in the authority's certificate"),
        (&ours.pem(), "", &key, "there is no certificate in the node's certificate"),
        (&ours.pem(), &certificate, "", "the node's key cannot be read: no items found"),
        (&ours.pem(), &certificate, &server_key, "the node's key cannot be used with its certificate: "),
        (&theirs.pem(), &certificate, &key, "the node's certificate would be refused as a server's: "),
        (&ours.pem(), &server_only, &server_key, "the node's certificate would be refused as a client's: "),
        (&ours.pem(), &client_only, &client_key, "the node's certificate would be refused as a server's: "),
        (&ours.pem(), &run_out, &run_out_key, "the node's certificate would be refused as a server's: "),
    ];
    for (authorities, certificate, key, expected) in cases {
        let error = tls(authorities, certificate, key).expect_err("is refused");
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        let text = format!("{error}{source}");
        assert!(text.starts_with(expected), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    assert_eq!(format!("{:?}", ours.node()), "Tls(…)");
}

/// A node with TLS at some address, as somebody sees it who has none.
async fn stranger(hello_wait: Duration) -> (TcpStream, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut endpoint = endpoint(2, Security::Tls(Authority::new("ours").node()));
    endpoint.config.hello_wait = hello_wait;
    let mut acceptor = Acceptor::new(endpoint, Box::new(listener));
    let accepting = tokio::task::spawn_local(async move { acceptor.next().await.from });
    (TcpStream::connect(address).await.expect("it listens"), accepting)
}

#[test]
fn a_connection_that_does_not_begin_tls_is_closed() {
    run(async || {
        let (mut silent, accepting) = stranger(Duration::from_millis(50)).await;
        assert_eq!(silent.read(&mut [0]).await.expect("an end"), 0);
        accepting.abort();

        let (mut noisy, accepting) = stranger(Duration::from_secs(60)).await;
        noisy.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("is open");
        noisy.shutdown().await.expect("is open");
        let mut said = Vec::new();
        noisy.read_to_end(&mut said).await.expect("an end");
        assert_eq!(said.first(), Some(&21), "an alert of TLS");
        accepting.abort();
    });
}
