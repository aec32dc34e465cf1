//! The one listener: it accepts, and hands each connection to the shard that has the fewest. That shard may hand it on, once, to
//! where its first write belongs.
//!
//! One listener for all shards (and not one socket per shard with `SO_REUSEPORT`) so that a taken port is an error, and
//! so that a few long-lived connections spread over the shards by count instead of by hash.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::connections::Connections;
use crate::shard_thread::Request;

/// Connections that the kernel holds until they are accepted: enough for all clients to come back at once.
const BACKLOG: u32 = 4096;

/// Pause after an error that the next `accept` would meet again, such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What a connection beyond the limit is told before it is closed: the same document as weir-http's for that code.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Connection: close\r\n\
    Retry-After: 1\r\n\
    Content-Type: application/problem+json\r\n\
    Content-Length: 183\r\n\
    \r\n\
    {\"type\":\"urn:weir:error:unavailable\",\"title\":\"The stream cannot take requests now.\",\"status\":503,\
    \"detail\":\"the server has reached its limit http.connections_max\",\"code\":\"unavailable\"}";

/// Opens a listener at `address`.
///
/// # Errors
/// Whatever the operating system says: above all that the port is taken.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Lets a restarted server have its port back at once; a port that is listened on is still refused.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A listener and another one on the same port: either takes what arrives.
///
/// # Errors
/// When there is no further descriptor.
pub(crate) fn twins(listener: TcpListener) -> io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let other = TcpListener::from_std(listener.try_clone()?)?;
    Ok((TcpListener::from_std(listener)?, other))
}

/// Accepts until `shutdown`, then closes the listener. `shards` are the shards' requests, by shard number.
pub(crate) async fn accept(
    listener: TcpListener,
    connections_max: usize,
    connections: Arc<Connections>,
    shards: Vec<mpsc::UnboundedSender<Request>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                if connections.total() >= connections_max {
                    connections.turned_away.fetch_add(1, Ordering::Relaxed);
                    turn_away(stream);
                } else {
                    hand_over(stream, &connections, &shards);
                }
            }
            Err(error) => {
                connections.accept_errors.fetch_add(1, Ordering::Relaxed);
                if is_of_one_connection(&error) {
                    continue;
                }
                if !failing {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    failing = true;
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn hand_over(stream: TcpStream, connections: &Arc<Connections>, shards: &[mpsc::UnboundedSender<Request>]) {
    // Leaves this thread's poller, so that the shard's can have it.
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "cannot hand a connection to its shard"),
    };
    let open = connections.enter();
    let shard = open.shard;
    // The queue needs no bound of its own: whatever is in it counts as open. A shard that is gone drops it.
    let _ = shards[shard].send(Request::Serve { stream, open });
}

/// Tells a connection that there are too many, as far as that can be done without waiting for it, and closes it.
fn turn_away(stream: TcpStream) {
    let Ok(mut stream) = stream.into_std() else { return };
    // A fresh socket's buffer takes this at once; a client that is gone already needs no answer.
    let _ = stream.write(TURNED_AWAY);
    let _ = stream.shutdown(Shutdown::Write);
    // Bytes left unread would make the close a reset, which may overtake the answer.
    let _ = stream.read(&mut [0; 4096]);
}

/// Whether an error of `accept` concerns only the connection that was to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Raises the process's limit of open files as far as it may; the usual soft limit of 1,024 is fewer than our clients.
pub(crate) fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Open;

    fn here() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn connections_go_to_the_shard_with_the_fewest() {
        let connections = Connections::new(3);
        let mut open: Vec<Open> = (0..6).map(|_| connections.enter()).collect();
        assert_eq!(connections.open_by_shard(), [2, 2, 2]);
        open.retain(|open| open.shard != 1);
        assert_eq!(connections.open_by_shard(), [2, 0, 2]);
        assert_eq!((connections.enter().shard, connections.counts().accepted), (1, 7));
    }

    #[test]
    fn a_connection_moves_once_and_not_to_where_many_more_are() {
        let connections = Connections::new(2);
        let mut open: Vec<Open> = (0..20).map(|_| connections.enter()).collect();
        let moved = open.iter_mut().filter(|open| open.shard == 0).map(|open| open.move_to(1)).filter(|moved| *moved);
        assert_eq!((moved.count(), connections.open_by_shard()), (5, vec![5, 15]));
        let mut last = open.pop().expect("there are twenty");
        assert!(last.shard == 1 && last.move_to(0) && !last.move_to(1));
        assert_eq!(connections.open_by_shard(), [6, 14]);
        drop(last);
        assert_eq!(connections.open_by_shard(), [5, 14]);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let held = listen(here()).expect("a free port");
        let refused = listen(held.local_addr().expect("an address")).expect_err("a taken port");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn beyond_the_limit_clients_are_told_and_the_end_of_others_is_waited_for() {
        use tokio::io::AsyncReadExt as _;
        let listener = listen(here()).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let connections = Connections::new(1);
        let (shard, mut requests) = mpsc::unbounded_channel();
        let (stop, shutdown) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, 1, Arc::clone(&connections), vec![shard], shutdown));

        let _first = TcpStream::connect(address).await.expect("the first is served");
        let served = requests.recv().await.expect("it is handed over");
        let mut second = TcpStream::connect(address).await.expect("the second is accepted too");
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.expect("it is answered and closed");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole response");
        assert!(
            head.starts_with("HTTP/1.1 503 ") && head.contains(&format!("Content-Length: {}", body.len())),
            "{answer}"
        );
        assert_eq!((connections.counts().accepted, connections.counts().turned_away), (1, 1));

        stop.send_replace(true);
        accepting.await.expect("accepting ends");
        assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
        let ended = connections.all_ended();
        drop(served);
        ended.await;
    }
}
