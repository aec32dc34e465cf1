//! How two nodes meet: the hello of each, checked by the other. Afterwards both know whom they are connected to and what
//! for; before that, a connection takes no more than a record's memory. See [`crate::hello`] for the order and the form.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use crate::endpoint::{Endpoint, Security};
use crate::hello::{
    Greeting, HELLO_BYTES, MAGIC, RECORD_HEADER_BYTES, RecordHeader, RecordKind, VERSION, record, record_header, tame,
};
use crate::identity::{ClusterId, Hello, Lane, NodeId};
use crate::network::Stream;
use crate::secret::{Hellos, PROOF_BYTES, Side};

/// How long whoever was refused is given to read why.
const LINGER: Duration = Duration::from_millis(500);
/// What it may send meanwhile, in bytes.
const LINGER_BYTES_MAX: u64 = 64 << 10;

/// Why two nodes have not met. Those that are not about the connection are told to the other side; they say the same on
/// both sides.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeetingError {
    #[error("node {ours} was sent something that no node of weir says")]
    Malformed { ours: NodeId },
    #[error("the other end speaks TLS, and node {ours} was not told to")]
    Tls { ours: NodeId },
    #[error("node {ours} speaks version {VERSION} of what nodes say to each other, and the other end version {theirs}")]
    Version { ours: NodeId, theirs: u8 },
    #[error(
        "node {ours} belongs to cluster {our_cluster}, and node {theirs} to cluster {their_cluster}: the clusters have other names, or other cold tiers"
    )]
    Cluster { ours: NodeId, our_cluster: ClusterId, theirs: NodeId, their_cluster: ClusterId },
    #[error("node {ours} met a node that says it is node {ours}, too")]
    Twin { ours: NodeId },
    #[error("node {meant} was meant, and this is node {found}")]
    NotMeant { meant: NodeId, found: NodeId },
    #[error("node {with} was given a shared secret, and node {without} was not")]
    OneSecret { with: NodeId, without: NodeId },
    #[error("node {ours} and node {theirs} do not have the same secret")]
    Secret { ours: NodeId, theirs: NodeId },
    #[error("{0}")]
    NotAdmitted(String),
    #[error("a hello took longer than {} ms", .0.as_millis())]
    Late(Duration),
    #[error("there is no TLS with the other end: {0}")]
    Handshake(io::Error),
    #[error("refused by the other end: {0}")]
    Refused(String),
    #[error("the connection ended within the hello")]
    CutOff,
    #[error("the connection broke within the hello: {0}")]
    Io(io::Error),
}

impl MeetingError {
    /// Whether it is of use to the other side.
    fn is_told(&self) -> bool {
        match self {
            MeetingError::Malformed { .. }
            | MeetingError::Tls { .. }
            | MeetingError::Version { .. }
            | MeetingError::Cluster { .. }
            | MeetingError::Twin { .. }
            | MeetingError::NotMeant { .. }
            | MeetingError::OneSecret { .. }
            | MeetingError::Secret { .. }
            | MeetingError::NotAdmitted(_)
            | MeetingError::Late(_) => true,
            MeetingError::Handshake(_) | MeetingError::Refused(_) | MeetingError::CutOff | MeetingError::Io(_) => false,
        }
    }

    /// Whether somebody should do something about it.
    pub(crate) fn is_refusal(&self) -> bool {
        self.is_told() || matches!(self, MeetingError::Refused(_) | MeetingError::Handshake(_))
    }
}

impl From<io::Error> for MeetingError {
    fn from(error: io::Error) -> MeetingError {
        if error.kind() == io::ErrorKind::UnexpectedEof { MeetingError::CutOff } else { MeetingError::Io(error) }
    }
}

/// Says hello to a node that was connected to.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    mut stream: Stream,
    meant: impl Into<Option<NodeId>>,
    lane: Lane,
) -> Result<Stream, MeetingError> {
    let meant = meant.into();
    let deadline = Instant::now() + endpoint.config.hello_wait;
    if let Security::Tls(tls) = &endpoint.security {
        stream = secured(endpoint, timeout_at(deadline, tls.connect(stream)).await).await?;
    }
    let met = timeout_at(deadline, as_dialer(endpoint, &mut stream, meant, lane)).await;
    settled(endpoint, stream, met).await.map(|((), stream)| stream)
}

/// Answers the hello of a node that connected.
pub(crate) async fn answer(endpoint: &Endpoint, mut stream: Stream) -> Result<(Hello, Stream), MeetingError> {
    let deadline = Instant::now() + endpoint.config.hello_wait;
    if let Security::Tls(tls) = &endpoint.security {
        stream = secured(endpoint, timeout_at(deadline, tls.accept(stream)).await).await?;
    }
    let met = timeout_at(deadline, as_acceptor(endpoint, &mut stream)).await;
    settled(endpoint, stream, met).await
}

/// What came of a TLS handshake. If nothing did, the other side has been sent the reason, in a word of TLS.
async fn secured(
    endpoint: &Endpoint,
    secured: Result<Result<Stream, (io::Error, Stream)>, Elapsed>,
) -> Result<Stream, MeetingError> {
    match secured {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, stream))) => {
            // It is logged here in any case.
            let _ = timeout(LINGER, leave(stream)).await;
            Err(MeetingError::Handshake(error))
        }
        Err(_) => Err(MeetingError::Late(endpoint.config.hello_wait)),
    }
}

async fn as_dialer(
    endpoint: &Endpoint,
    stream: &mut Stream,
    meant: Option<NodeId>,
    lane: Lane,
) -> Result<(), MeetingError> {
    let dialer = endpoint.greeting(meant, lane).encode();
    send(stream, RecordKind::Hello, &dialer).await?;
    let (theirs, acceptor) = receive_hello(endpoint, stream).await?;
    check(endpoint, &theirs)?;
    let found = theirs.hello.identity.node;
    if let Some(meant) = meant
        && found != meant
    {
        return Err(MeetingError::NotMeant { meant, found });
    }
    if theirs.hello.lane != lane {
        return Err(MeetingError::Malformed { ours: endpoint.identity.node });
    }
    let hellos = Hellos { dialer: &dialer, acceptor: &acceptor };
    send_proof(endpoint, stream, Side::Dialer, &hellos).await?;
    receive_proof(endpoint, stream, Side::Acceptor, &hellos, found).await?;
    endpoint.admission.admit(&theirs.hello).map_err(MeetingError::NotAdmitted)?;
    send(stream, RecordKind::Ready, &[]).await
}

async fn as_acceptor(endpoint: &Endpoint, stream: &mut Stream) -> Result<Hello, MeetingError> {
    let (theirs, dialer) = receive_hello(endpoint, stream).await?;
    check(endpoint, &theirs)?;
    let node = theirs.hello.identity.node;
    let acceptor = endpoint.greeting(node, theirs.hello.lane).encode();
    send(stream, RecordKind::Hello, &acceptor).await?;
    let hellos = Hellos { dialer: &dialer, acceptor: &acceptor };
    receive_proof(endpoint, stream, Side::Dialer, &hellos, node).await?;
    endpoint.admission.admit(&theirs.hello).map_err(MeetingError::NotAdmitted)?;
    send_proof(endpoint, stream, Side::Acceptor, &hellos).await?;
    receive(endpoint, stream, RecordKind::Ready, &mut []).await?;
    Ok(theirs.hello)
}

/// What came of a meeting. If nothing did, the other side is told why.
async fn settled<T>(
    endpoint: &Endpoint,
    stream: Stream,
    met: Result<Result<T, MeetingError>, Elapsed>,
) -> Result<(T, Stream), MeetingError> {
    match met.unwrap_or(Err(MeetingError::Late(endpoint.config.hello_wait))) {
        Ok(met) => Ok((met, stream)),
        Err(error) => {
            if error.is_told() {
                // If it cannot be told, it is still logged here.
                let _ = timeout(LINGER, refuse(stream, &tame(&error.to_string()))).await;
            }
            Err(error)
        }
    }
}

/// Sends a refusal as the last word.
async fn refuse(mut stream: Stream, sentence: &str) -> io::Result<()> {
    stream.write_all(&record(RecordKind::Refusal, sentence.as_bytes())).await?;
    leave(stream).await
}

/// Closes a connection when the other side has read what it was sent: one that is closed with something unread is reset, and
/// the other side may never see the last word.
async fn leave(mut stream: Stream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

/// What must be right about a hello, whichever side it is from.
fn check(endpoint: &Endpoint, greeting: &Greeting) -> Result<(), MeetingError> {
    let Hello { identity: theirs, meant, .. } = greeting.hello;
    let ours = endpoint.identity;
    if theirs.cluster != ours.cluster {
        let (our_cluster, their_cluster) = (ours.cluster, theirs.cluster);
        return Err(MeetingError::Cluster { ours: ours.node, our_cluster, theirs: theirs.node, their_cluster });
    }
    if theirs.node == ours.node {
        return Err(MeetingError::Twin { ours: ours.node });
    }
    if let Some(meant) = meant
        && meant != ours.node
    {
        return Err(MeetingError::NotMeant { meant, found: ours.node });
    }
    match (endpoint.secret().is_some(), greeting.wants_secret) {
        (true, false) => Err(MeetingError::OneSecret { with: ours.node, without: theirs.node }),
        (false, true) => Err(MeetingError::OneSecret { with: theirs.node, without: ours.node }),
        _ => Ok(()),
    }
}

async fn send_proof(
    endpoint: &Endpoint,
    stream: &mut Stream,
    side: Side,
    hellos: &Hellos<'_>,
) -> Result<(), MeetingError> {
    match endpoint.secret() {
        Some(secret) => send(stream, RecordKind::Proof, &secret.proof(side, hellos)).await,
        None => send(stream, RecordKind::Proof, &[]).await,
    }
}

async fn receive_proof(
    endpoint: &Endpoint,
    stream: &mut Stream,
    side: Side,
    hellos: &Hellos<'_>,
    theirs: NodeId,
) -> Result<(), MeetingError> {
    let Some(secret) = endpoint.secret() else { return receive(endpoint, stream, RecordKind::Proof, &mut []).await };
    let mut proof = [0; PROOF_BYTES];
    receive(endpoint, stream, RecordKind::Proof, &mut proof).await?;
    if secret.is_proved(side, hellos, &proof) {
        Ok(())
    } else {
        Err(MeetingError::Secret { ours: endpoint.identity.node, theirs })
    }
}

async fn receive_hello(
    endpoint: &Endpoint,
    stream: &mut Stream,
) -> Result<(Greeting, [u8; HELLO_BYTES]), MeetingError> {
    let mut bytes = [0; HELLO_BYTES];
    receive(endpoint, stream, RecordKind::Hello, &mut bytes).await?;
    let greeting = Greeting::decode(&bytes).ok_or(MeetingError::Malformed { ours: endpoint.identity.node })?;
    Ok((greeting, bytes))
}

async fn send(stream: &mut Stream, kind: RecordKind, bytes: &[u8]) -> Result<(), MeetingError> {
    stream.write_all(&record(kind, bytes)).await?;
    Ok(stream.flush().await?)
}

/// Receives a record of the kind that is next, into `bytes`, which is as long as it must be.
async fn receive(
    endpoint: &Endpoint,
    stream: &mut Stream,
    next: RecordKind,
    bytes: &mut [u8],
) -> Result<(), MeetingError> {
    let ours = endpoint.identity.node;
    let mut header = [0; RECORD_HEADER_BYTES];
    // What is not a record may be shorter than the header of one: an alert of TLS is.
    let (magic, rest) = header.split_at_mut(MAGIC.len());
    stream.read_exact(magic).await?;
    if magic == MAGIC {
        stream.read_exact(rest).await?;
    }
    match record_header(&header) {
        RecordHeader::Known { kind, bytes: expected } if kind == next && expected == bytes.len() => {
            stream.read_exact(bytes).await?;
            Ok(())
        }
        RecordHeader::Known { kind: RecordKind::Refusal, bytes } => {
            let mut sentence = vec![0; bytes];
            stream.read_exact(&mut sentence).await?;
            Err(MeetingError::Refused(tame(&String::from_utf8_lossy(&sentence))))
        }
        RecordHeader::OtherVersion(theirs) => Err(MeetingError::Version { ours, theirs }),
        RecordHeader::Tls => Err(MeetingError::Tls { ours }),
        RecordHeader::Known { .. } | RecordHeader::Malformed => Err(MeetingError::Malformed { ours }),
    }
}

#[cfg(test)]
mod tests;
