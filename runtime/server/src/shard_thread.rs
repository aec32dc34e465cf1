//! One shard's thread: its runtime, its recovery, its connections, its end.
//!
//! Nothing of a shard is touched from another thread. The main thread asks by [`Request`], or by the shard's address;
//! the other shards ask through the mailboxes that `weir-shard` made for them.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use weir_cluster::Accepted;
use weir_http::{HttpConfig, HttpStats, Service, serve_connection};
use weir_shard::{Mailbox, Seams, Shard, ShardConfig, ShardError, ShardOpenError, Topology};
use weir_types::ShardId;

use crate::connections::Open;
use crate::demo;
use crate::turns::{self, Turns};

/// Threads beside a shard for what blocks: reads from the disk, modules that are compiled. What is more waits for one.
const BLOCKING_THREADS_MAX: usize = 16;

/// What the main thread asks of a shard.
pub(crate) enum Request {
    /// Serve this connection.
    Serve {
        /// An accepted socket, non-blocking.
        stream: TcpStream,
        /// Its place in the count, given back when the connection has ended.
        open: Open,
    },
    /// Form or check the node's tables, which only the meta group's shard can, once all shards have opened.
    Form(oneshot::Sender<Result<(), ShardOpenError>>),
    /// Set up the demo, once the node's tables are formed. Any shard can.
    Demo(oneshot::Sender<Result<(), ShardError>>),
    /// Take a connection of another node of the cluster.
    Node(Box<Accepted>),
    /// Hand over what it leads to other nodes, and say when that is done or was given up.
    HandOver(oneshot::Sender<()>),
    /// Flush what is acknowledged and end. No request follows.
    Stop,
}

/// All that a shard is made of.
pub(crate) struct ShardParts {
    /// Which shard.
    pub(crate) id: ShardId,
    /// The node's numbers.
    pub(crate) topology: Topology,
    /// What is asked of it.
    pub(crate) inbox: mpsc::UnboundedReceiver<Request>,
    /// Where all shards are asked, by shard number.
    pub(crate) requests: Arc<[mpsc::UnboundedSender<Request>]>,
    /// Its own mailbox, which knows the others.
    pub(crate) mailbox: Mailbox,
    /// Clock, randomness, disks, modules.
    pub(crate) seams: Seams,
    /// Its limits.
    pub(crate) config: ShardConfig,
    /// Of its connections.
    pub(crate) http: HttpConfig,
    /// Tells its connections to end.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// Where its thread's turns are counted.
    pub(crate) turns: Arc<Turns>,
    /// Where its connections' requests are counted.
    pub(crate) stats: Arc<HttpStats>,
}

/// How a shard's recovery went.
pub(crate) type Opened = (ShardId, Result<(), ShardOpenError>);

/// A running shard, as the main thread sees it.
pub(crate) struct ShardThread {
    /// Where to ask.
    pub(crate) requests: mpsc::UnboundedSender<Request>,
    thread: JoinHandle<()>,
}

impl ShardThread {
    /// Starts the thread `shard-<id>`. It reports to `opened` once its WALs are recovered, or cannot be.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start(parts: ShardParts, opened: mpsc::UnboundedSender<Opened>) -> io::Result<ShardThread> {
        let requests = parts.requests[parts.id.0 as usize].clone();
        let name = format!("shard-{}", parts.id);
        let thread = thread::Builder::new().name(name).spawn(move || {
            let mut runtime = Builder::new_current_thread();
            runtime.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX);
            runtime.on_thread_unpark(turns::begin).on_thread_park(turns::end);
            let runtime = runtime.build_local(LocalOptions::default());
            let runtime = runtime.expect("a runtime needs a few descriptors, and the process has just begun");
            runtime.block_on(run(parts, opened));
        })?;
        Ok(ShardThread { requests, thread })
    }

    /// Waits for the shard's thread, which has been asked to stop. The thread that calls this blocks.
    pub(crate) fn join(self) {
        // An error would be a panic there, and that has ended the process already.
        let _ = self.thread.join();
    }
}

async fn run(parts: ShardParts, opened: mpsc::UnboundedSender<Opened>) {
    let ShardParts { id, topology, mut inbox, requests, mailbox, seams, config, http, shutdown, stats, turns } = parts;
    let shard = match Shard::open(id, topology, mailbox, seams, config).await {
        Ok(shard) => shard,
        Err(error) => {
            let _ = opened.send((id, Err(error)));
            return;
        }
    };
    // Before that, nobody waits for this thread.
    turns::count_into(turns);
    let _ = opened.send((id, Ok(())));
    let service = Service::new(shard.clone(), http, shutdown, stats);
    while let Some(request) = inbox.recv().await {
        match request {
            Request::Serve { stream, open } => serve(service.clone(), requests.clone(), stream, open),
            Request::Form(formed) => {
                // Nobody is served before the answer, so nothing waits behind this.
                let _ = formed.send(shard.form().await);
            }
            Request::Demo(ready) => {
                // As above.
                let _ = ready.send(demo::set_up(&shard).await);
            }
            Request::Node(accepted) => shard.accept(*accepted),
            Request::HandOver(done) => {
                let shard = shard.clone();
                tokio::task::spawn_local(async move {
                    shard.hand_over().await;
                    let _ = done.send(());
                });
            }
            Request::Stop => break,
        }
    }
    shard.shutdown().await;
}

fn serve(service: Service, requests: Arc<[mpsc::UnboundedSender<Request>]>, stream: TcpStream, mut open: Open) {
    match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => {
            tokio::task::spawn_local(weir_shard::in_turns(turns::begin, async move {
                let given_back = serve_connection(service, stream, |to| open.move_to(to.0 as usize)).await;
                // Leaves this thread's poller, so that the other's can have it.
                if let Some(Ok(stream)) = given_back.map(tokio::net::TcpStream::into_std) {
                    let shard = open.shard;
                    let _ = requests[shard].send(Request::Serve { stream, open });
                }
            }));
        }
        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
    }
}
