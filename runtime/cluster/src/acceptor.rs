//! Where other nodes arrive: a listener whose connections have said hello before anyone else sees them.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::endpoint::Endpoint;
use crate::identity::{Hello, Lane, NodeId};
use crate::meeting::{MeetingError, answer};
use crate::network::{Listener, Stream};
use crate::sparing::Sparing;

/// How long no connection is taken after one could not be.
const PAUSE: Duration = Duration::from_millis(100);
/// At most one line in so long says who was refused.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Takes the connections of other nodes. Dropped, it closes those that have not said hello; what it has handed out lives on.
pub struct Acceptor {
    endpoint: Endpoint,
    listener: Box<dyn Listener>,
    greetings: JoinSet<Greeted>,
    /// The same ones, the oldest first, and some that have ended.
    oldest: VecDeque<AbortHandle>,
    /// What ends a connection when there is a new one in its place.
    current: HashMap<(NodeId, Lane), oneshot::Sender<()>>,
    pause_until: Option<Instant>,
    log: Sparing,
}

/// Where a connection is from, and what came of its hello.
type Greeted = (String, Result<(Hello, Stream), MeetingError>);

/// A connection whose hello is done. It goes to the thread that owns its lane, which makes an
/// [`Incoming`](crate::Incoming) of it.
pub struct Accepted {
    /// Whose it is, and what for.
    pub hello: Hello,
    /// Where it came from, for logs.
    pub from: String,
    pub(crate) stream: Stream,
    /// Told when there is a new connection of the same lane and node.
    pub(crate) replaced: oneshot::Receiver<()>,
}

impl Acceptor {
    /// Takes what arrives at a listener.
    pub fn new(endpoint: Endpoint, listener: Box<dyn Listener>) -> Acceptor {
        assert!(endpoint.config.greetings_max > 0, "somebody can say hello");
        Acceptor {
            endpoint,
            listener,
            greetings: JoinSet::new(),
            oldest: VecDeque::new(),
            current: HashMap::new(),
            pause_until: None,
            log: Sparing::new(LOG_INTERVAL),
        }
    }

    /// The next connection whose hello is done. Ends an older one of the same lane and node. Loses none if it is dropped
    /// before it is ready.
    pub async fn next(&mut self) -> Accepted {
        loop {
            let arrived = async {
                if let Some(until) = self.pause_until {
                    sleep_until(until).await;
                }
                poll_fn(|context| self.listener.poll_accept(context)).await
            };
            tokio::select! {
                arrived = arrived => self.arrived(arrived),
                Some(met) = self.greetings.join_next() => match met {
                    Ok((from, Ok((hello, stream)))) => return self.met(from, hello, stream),
                    Ok((from, Err(error))) => self.refused(&from, &error),
                    Err(_) => self.crowded(),
                },
            }
        }
    }

    fn arrived(&mut self, arrived: io::Result<(Stream, String)>) {
        let (stream, from) = match arrived {
            Ok(arrived) => arrived,
            Err(error) => {
                self.pause_until = Some(Instant::now() + PAUSE);
                if let Some(withheld) = self.log.due() {
                    tracing::warn!(%error, withheld, "no connection of another node can be taken for now");
                }
                return;
            }
        };
        self.pause_until = None;
        self.oldest.retain(|greeting| !greeting.is_finished());
        if self.oldest.len() >= self.endpoint.config.greetings_max
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        let endpoint = self.endpoint.clone();
        self.oldest.push_back(self.greetings.spawn(async move { (from, answer(&endpoint, stream).await) }));
    }

    fn met(&mut self, from: String, hello: Hello, stream: Stream) -> Accepted {
        // Those that have ended are forgotten, so that there are never more than there are connections.
        self.current.retain(|_, ends| !ends.is_closed());
        let (ends, replaced) = oneshot::channel();
        if let Some(older) = self.current.insert((hello.identity.node, hello.lane), ends) {
            // It may end by itself at the same time.
            let _ = older.send(());
        }
        Accepted { hello, from, stream, replaced }
    }

    /// One that had not said hello was closed to make room for another.
    fn crowded(&mut self) {
        if let Some(withheld) = self.log.due() {
            let greetings_max = self.endpoint.config.greetings_max;
            tracing::warn!(greetings_max, withheld, "too many connections have not said hello: the oldest was closed");
        }
    }

    fn refused(&mut self, from: &str, error: &MeetingError) {
        let logged = error.is_refusal().then(|| self.log.due()).flatten();
        if let Some(withheld) = logged {
            tracing::warn!(from, %error, withheld, "a connection of another node was refused");
        }
    }
}

#[cfg(test)]
mod tests;
