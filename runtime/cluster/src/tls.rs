//! TLS between nodes, in both directions: each shows a certificate that the cluster's own authority has signed.
//!
//! A certificate says that its holder belongs to the cluster, for as long as it is valid; it must be good for servers and
//! for clients. What it is called is not looked at: a node may have any address. Which node it is, its hello says, and any
//! node that has a certificate is believed. So the authority signs for this cluster's nodes and nothing else. There is no
//! revocation: who is not to be let in any more is refused by [`Admission`](crate::Admission), or the authority is replaced.
//!
//! Only TLS 1.3, and no session is resumed: connections last, and each one shows its certificate. What TLS draws at random,
//! its cryptography draws from the system.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::network::{Connection, Stream};

/// The time since 1970, by which certificates are valid or not.
pub type WallClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a node has for TLS, each as a PEM file's content.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// The certificates of those who sign for the cluster's nodes. There may be several, while one replaces another.
    pub authorities: &'a [u8],
    /// The node's certificate, and what is between it and the authority.
    pub certificate: &'a [u8],
    /// The key of the node's certificate.
    pub key: &'a [u8],
}

/// A node's certificate and key, and whose others it takes. The key is never shown.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

/// Why there can be no TLS with what a node was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not PEM, or not what it should be.
    #[error("the {file} cannot be read")]
    Pem {
        /// Which: `authority's certificate`, `node's certificate`, `node's key`.
        file: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("there is no certificate in the {file}")]
    Empty {
        /// Which file.
        file: &'static str,
    },
    /// An authority's certificate is none.
    #[error("an authority's certificate cannot be used")]
    Authority(#[source] RustlsError),
    /// An authority's certificate is none that could sign for a node.
    #[error("the authorities' certificates cannot be used")]
    Authorities(#[from] VerifierBuilderError),
    /// Other nodes would refuse the node's own certificate.
    #[error("the node's certificate would be refused as a {used_as}'s")]
    Refused {
        /// What it is shown as: `server` or `client`.
        used_as: &'static str,
        /// Why.
        source: RustlsError,
    },
    /// The key does not fit the certificate, or is of no known kind.
    #[error("the node's key cannot be used with its certificate")]
    Key(#[source] RustlsError),
}

impl Tls {
    /// TLS with these files. They are checked as other nodes will check them.
    ///
    /// # Errors
    /// When a file cannot be used, or other nodes would refuse the certificate.
    pub fn new(files: Pem<'_>, wall_clock: WallClock) -> Result<Tls, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clock = Arc::new(Clock(wall_clock));
        let mut roots = RootCertStore::empty();
        for certificate in certificates("authority's certificate", files.authorities)? {
            roots.add(certificate).map_err(TlsError::Authority)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("node's certificate", files.certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(files.key).map_err(|source| TlsError::Pem { file: "node's key", source })?;

        let servers = Arc::new(AnyNode { roots: roots.clone(), provider: provider.clone() });
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let now = clock.now();
        let (node, between) = chain.split_first().ok_or(TlsError::Empty { file: "node's certificate" })?;
        servers.check(node, between, now).map_err(|source| TlsError::Refused { used_as: "server", source })?;
        clients
            .verify_client_cert(node, between, now)
            .map_err(|source| TlsError::Refused { used_as: "client", source })?;

        let mut client = ClientConfig::builder_with_details(provider.clone(), clock.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has ciphers for it")
            .dangerous()
            .with_custom_certificate_verifier(servers)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(TlsError::Key)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let mut server = ServerConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has ciphers for it")
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(TlsError::Key)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Tls { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }

    /// Speaks TLS first. What has failed comes back with the connection, over which the other side is told why.
    pub(crate) async fn connect(&self, stream: Stream) -> Result<Stream, (io::Error, Stream)> {
        // Nobody looks at it.
        let name = ServerName::try_from("node").expect("a name");
        Ok(Box::new(self.connector.connect(name, stream).into_fallible().await?))
    }

    /// Answers it.
    pub(crate) async fn accept(&self, stream: Stream) -> Result<Stream, (io::Error, Stream)> {
        Ok(Box::new(self.acceptor.accept(stream).into_fallible().await?))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|source| TlsError::Pem { file, source })?;
    if certificates.is_empty() { Err(TlsError::Empty { file }) } else { Ok(certificates) }
}

struct Clock(WallClock);

impl Clock {
    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch((self.0)())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Connection for client::TlsStream<Stream> {
    fn moved_here(mut self: Box<Self>) -> io::Result<Stream> {
        move_here(self.get_mut().0)?;
        Ok(self)
    }
}

impl Connection for server::TlsStream<Stream> {
    fn moved_here(mut self: Box<Self>) -> io::Result<Stream> {
        move_here(self.get_mut().0)?;
        Ok(self)
    }
}

/// Moves what is under TLS.
fn move_here(stream: &mut Stream) -> io::Result<()> {
    *stream = std::mem::replace(stream, Box::new(tokio::io::empty())).moved_here()?;
    Ok(())
}

/// Takes every server whose certificate an authority has signed, whatever it is called.
#[derive(Debug)]
struct AnyNode {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl AnyNode {
    fn check(
        &self,
        node: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), RustlsError> {
        let node = ParsedCertificate::try_from(node)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&node, &self.roots, between, now, algorithms)
    }
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        node: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        self.check(node, between, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        node: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, node, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
