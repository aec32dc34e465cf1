//! How connections come to be: a seam, so that a simulator can hand in its own. And TCP, which is the real one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Empty};
use tokio::net::{TcpListener, TcpStream};

/// What bytes go over, both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {
    /// The same connection, woken by the runtime that this is called in. It may have been accepted in another, which would
    /// otherwise have to wake this one for everything that arrives.
    ///
    /// # Errors
    /// When the runtime cannot take it. The connection is closed then.
    fn moved_here(self: Box<Self>) -> io::Result<Stream>;
}

/// A connection of any kind. Every thread may have it.
pub type Stream = Box<dyn Connection>;

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;

/// Makes connections to other nodes.
pub trait Network: Send + Sync {
    /// Connects to an address, which means what the network takes it for.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// Takes connections of other nodes.
pub trait Listener: Send {
    /// The next connection, and where it is from. Loses none if it is not polled again.
    ///
    /// # Errors
    /// When there is none to be had for now.
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, String)>>;
}

/// Without a word for so long, the system asks whether the other end is still there. Links notice sooner, but only when they
/// have something to say.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects by TCP, to an address like `10.0.0.1:4439` or `node-1:4439`.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Network for Tcp {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move { prepared(TcpStream::connect(address).await?) })
    }
}

impl Listener for TcpListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, String)>> {
        loop {
            match ready!(TcpListener::poll_accept(self, context)) {
                // One that has gone already is no reason to wait for the next.
                Ok((stream, from)) => {
                    if let Ok(stream) = prepared(stream) {
                        return Poll::Ready(Ok((stream, from.to_string())));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Connection for TcpStream {
    fn moved_here(self: Box<Self>) -> io::Result<Stream> {
        Ok(Box::new(TcpStream::from_std(self.into_std()?)?))
    }
}

/// In memory: no runtime has to know.
impl Connection for DuplexStream {
    fn moved_here(self: Box<Self>) -> io::Result<Stream> {
        Ok(self)
    }
}

/// Nothing: what is left while a connection moves.
impl Connection for Empty {
    fn moved_here(self: Box<Self>) -> io::Result<Stream> {
        Ok(self)
    }
}

fn prepared(stream: TcpStream) -> io::Result<Stream> {
    // Messages are written whole, and each is waited for.
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 6))?;
    Ok(Box::new(stream))
}
