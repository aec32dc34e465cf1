//! `weir serve`: the order in which things begin and end.
//!
//! Begin: lock the data directory, open the listeners, form or read the node, start the shards, wait until every WAL is
//! recovered, set up the demo if there is to be one, accept. The public port is taken early so that a taken one is an early
//! error; who connects before the recovery has ended waits in the kernel's queue, while `/readyz` says what is missing.
//!
//! End: say at `/readyz` and to the service manager that it ends, and go on for `server.drain_delay_ms`, so that whoever sends
//! clients here can notice; then close the listener, tell the connections, wait for them a while, and flush every shard. All
//! connections end before any shard does, because a connection of one shard may wait for an answer of another.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use weir_cluster::{List, NodeId};
use weir_cold::Cold;
use weir_http::{CachePolicy, Hosts, Origins, Proxies};
use weir_shard::{Address, Entropy as _, PageBudget, Seams, ShardConfig, Topology, mesh};
use weir_storage::WriteMode;
use weir_types::{GroupId, ShardId};

use crate::accept;
use crate::address::ListenAddress;
use crate::admin::{self, Admin, Phase};
use crate::cluster::{self, ClusterError};
use crate::cluster_config::{ClusterConfig, ClusterConfigError};
use crate::cold::{self, ColdRuntime};
use crate::config::{CacheConfig, Config, Sizes, size};
use crate::connections::Connections;
use crate::demo;
use crate::exit::Exit;
use crate::hooks::{self, HooksRuntime};
use crate::node::{DataDir, Membership, Node};
use crate::seams::{SystemEntropy, seams};
use crate::shard_thread::{Opened, Request, ShardParts, ShardThread};
use crate::signals::Signals;

/// How long connections may take to end after they were told to.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How often a node of a cluster looks whether one of its groups has failed.
const FAILED_EVERY: Duration = Duration::from_secs(1);

/// How long a write may wait for its outcome before it is answered with "unknown".
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Serves until a signal, on this thread and one per shard; with `demo`, there is something to try from the start.
///
/// # Errors
/// [`Exit`] says why it ended before it was asked to, or at once because it was asked twice.
pub(crate) fn serve(config: &Config, demo: bool) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Exit::System { doing: "start the main thread's runtime", source })?;
    let ended = runtime.block_on(run(config, demo));
    // The admin listener's tasks hold nothing that must be waited for.
    runtime.shutdown_background();
    ended
}

async fn run(config: &Config, demo: bool) -> Result<(), Exit> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    accept::raise_open_files_limit();
    let server = &config.server;
    let data_dir = if server.in_memory { None } else { Some(Arc::new(DataDir::open(&server.data_dir)?)) };
    let listener = listen("public", &server.listen)?;
    let (admin_listener, waiting_listener) = accept::twins(listen("admin", &server.admin_listen)?)
        .map_err(|source| Exit::System { doing: "take connections on the admin listener", source })?;
    let is_alone = !config.cluster.is_member();
    let cluster_listener = if is_alone { None } else { Some(listen("cluster", &config.cluster.listen)?) };
    let cold_runtime =
        ColdRuntime::start().map_err(|source| Exit::System { doing: "start the cold tier's thread", source })?;
    let node = tokio::select! {
        node = node(config, data_dir.as_deref(), cold_runtime.handle()) => node?,
        // There is nothing yet.
        () = signals.asked() => return Ok(()),
        () = admin::serve_waiting(waiting_listener) => unreachable!("it is served as long as it is waited"),
    };
    let sizes = config.sizes(node.wals())?;

    let (stop, shutdown) = watch::channel(false);
    let (phase, phases) = watch::channel(Phase::Recovering((0..config.shards()).collect()));
    let connections = Connections::new(config.shards().into());
    let topology = Topology { shards: config.shards(), wals: node.wals(), groups: node.groups };
    let cold = tokio::select! {
        opened = cold::open(data_dir.as_deref(), &node, &config.cold, cold_runtime.handle(), SystemEntropy.u64()) => opened?,
        () = signals.asked() => return Ok(()),
    };
    let nodes = match &data_dir {
        Some(data_dir) if !is_alone => {
            let (known, noted) = (data_dir.peers()?, note_peers(data_dir.clone()));
            let store = cold.as_ref().and_then(Cold::owner);
            Some(cluster::nodes(&config.cluster, store, &node, SystemEntropy, known, noted)?)
        }
        _ => None,
    };
    let endpoint = nodes.as_ref().map(|nodes| nodes.endpoint.clone());
    let roster = nodes.as_ref().map(|nodes| nodes.roster.clone());
    let hooks_runtime =
        HooksRuntime::start().map_err(|source| Exit::System { doing: "start the thread of webhooks", source })?;
    let mut seams = seams(data_dir.as_deref(), &node, sizes, cold.clone(), &config.modules, topology.shards, nodes)?;
    seams.hooks = Some(hooks::open(&config.hooks, &hooks_runtime)?);
    let modules = seams.modules.clone();
    let parts = shard_parts(config, node.number, topology, sizes, seams, &shutdown);
    let addresses: Vec<Address> = parts.iter().map(|(_, address)| address.clone()).collect();
    let admin = Admin {
        started,
        phase: phases,
        node_id: node.id,
        topology,
        shards: addresses.clone(),
        connections: Arc::clone(&connections),
        turns: parts.iter().map(|(parts, _)| Arc::clone(&parts.turns)).collect(),
        http: parts.iter().map(|(parts, _)| Arc::clone(&parts.stats)).collect(),
        config: Arc::new(config.clone()),
        roster,
        shard_config: parts[0].0.config.clone(),
        modules: modules.clone(),
        cold,
        data_dir,
        operation: Arc::new(Semaphore::new(1)),
        cold_runtime: cold_runtime.handle().clone(),
    };
    tokio::spawn(admin::serve(admin_listener, admin));

    let (opened, mut openings) = mpsc::unbounded_channel();
    let mut shards = Vec::new();
    for (parts, _) in parts {
        let shard = ShardThread::start(parts, opened.clone());
        shards.push(shard.map_err(|source| Exit::System { doing: "start a shard's thread", source })?);
    }
    let requests: Vec<_> = shards.iter().map(|shard| shard.requests.clone()).collect();
    if let (Some(listener), Some(endpoint)) = (cluster_listener, endpoint) {
        // Its connections wait for the shards that they are for.
        tokio::spawn(cluster::accept(endpoint, listener, topology, requests.clone()));
    }
    tokio::select! {
        ready = ready(&mut openings, &shards, is_alone.then(|| topology.owner_of(GroupId::META)), &phase, demo) => ready?,
        // Nothing is acknowledged to anyone before that, so there is nothing to flush.
        () = signals.asked() => return Ok(()),
    }
    phase.send_replace(Phase::Serving(started.elapsed()));
    announce(&listener, demo);
    tell_manager(NotifyState::Ready);

    let connections_max = size(config.http.connections_max);
    let accepting = accept::accept(listener, connections_max, Arc::clone(&connections), requests.clone(), shutdown);
    let accepting = tokio::spawn(accepting);
    tokio::select! {
        () = signals.asked() => {}
        // A node that is alone still has what can be read.
        () = failed(&addresses), if !is_alone => return Err(Exit::GroupFailed),
    }
    phase.send_replace(Phase::Stopping);
    tell_manager(NotifyState::Stopping);
    tracing::info!(server.drain_delay_ms, "asked to stop");
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(server.drain_delay_ms)) => {}
        () = signals.asked_again() => return Err(Exit::SecondSignal),
    }
    if !is_alone {
        tokio::select! {
            () = hand_over(&requests) => {}
            () = signals.asked_again() => return Err(Exit::SecondSignal),
        }
    }
    stop.send_replace(true);
    // The listener is closed then. A panic there has ended the process.
    let _ = accepting.await;
    // Uploads that are being looked at are not waited for. What was announced is compiled after the next start.
    modules.stop();
    tracing::info!("stopping");
    tokio::select! {
        () = end(&connections, &requests, shards) => Ok(()),
        () = signals.asked_again() => Err(Exit::SecondSignal),
    }
}

/// What each shard may have of what the node may.
pub(crate) fn shard_config(config: &Config, node_id: u64, topology: Topology, sizes: Sizes) -> ShardConfig {
    let share = |of_node: u64| size(of_node / u64::from(topology.shards));
    ShardConfig {
        node_id,
        wal: weir_storage::WalConfig {
            segment_bytes: sizes.segment_bytes,
            budget_bytes: sizes.budget_bytes_per_wal,
            cache_bytes: size(sizes.cache_bytes_per_wal),
            write: WriteMode::Auto,
        },
        hot_index_bytes_max: share(config.limits.hot_index_bytes_max),
        in_flight_bytes_max: share(config.limits.in_flight_bytes_max),
        live_bytes_max: share(config.limits.live_bytes_max).max(sizes.body_bytes_max as usize),
        live_bytes_per_stream_max: size(config.limits.live_bytes_per_stream_max),
        // Connections are spread evenly, so live readers are, nearly.
        subscribers_max: share(config.limits.subscribers_max).max(1),
        pages: PageBudget::new(size(config.limits.read_bytes_max)),
        fork_judged_bytes_max: config.limits.fork_judged_bytes_max as usize,
        bindings_per_bucket_max: config.limits.bindings_per_bucket_max as usize,
        producers_per_stream_max: config.limits.producers_per_stream_max,
        buckets_auto_create: config.buckets.auto_create,
        body_bytes_max: sizes.body_bytes_max as usize,
        folds_max: share(config.modules.folds_max).max(1),
        compile_wait: Duration::from_millis(config.modules.upload_wait_ms),
        write_deadline: WRITE_DEADLINE,
        hook_key_age: config.hooks.key_age(),
        flush_bytes: config.cold.flush_bytes,
        flush_age: Duration::from_millis(config.cold.flush_age_ms),
    }
}

/// What each shard is made of, and its address, in the order of the shards.
fn shard_parts(
    config: &Config,
    node_id: u64,
    topology: Topology,
    sizes: Sizes,
    seams: Seams,
    shutdown: &watch::Receiver<bool>,
) -> Vec<(ShardParts, Address)> {
    let shard_config = shard_config(config, node_id, topology, sizes);
    let http = http_config(config, sizes);
    let (mailboxes, addresses) = mesh(topology.shards);
    let (requests, inboxes): (Vec<_>, Vec<_>) = mailboxes.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let requests: Arc<[_]> = requests.into();
    let parts = (0..topology.shards).zip(mailboxes).zip(inboxes).map(|((id, mailbox), inbox)| ShardParts {
        id: ShardId(id),
        topology,
        inbox,
        requests: requests.clone(),
        mailbox,
        seams: seams.clone(),
        config: shard_config.clone(),
        http: http.clone(),
        shutdown: shutdown.clone(),
        turns: Arc::default(),
        stats: Arc::default(),
    });
    parts.zip(addresses).collect()
}

fn http_config(config: &Config, sizes: Sizes) -> weir_http::HttpConfig {
    let http = &config.http;
    weir_http::HttpConfig {
        body_bytes_max: sizes.body_bytes_max as usize,
        module_bytes_max: size(config.modules.module_bytes_max),
        head_bytes_max: http.head_bytes_max as usize,
        streams_per_connection_max: http.streams_per_connection_max,
        long_poll_timeout: Duration::from_millis(http.long_poll_timeout_ms),
        sse_keep_alive: Duration::from_millis(http.sse_keep_alive_ms),
        sse_max_age: Duration::from_millis(http.sse_max_age_ms),
        header_read_timeout: Duration::from_millis(http.header_read_timeout_ms),
        body_read_timeout: Duration::from_millis(http.body_read_timeout_ms),
        write_timeout: Duration::from_millis(http.write_timeout_ms),
        cors_origins: Origins::parse(&http.cors_origins).expect("the configuration has been checked"),
        cache: match http.cache {
            CacheConfig::Public => CachePolicy::Public,
            CacheConfig::Private => CachePolicy::Private,
            CacheConfig::NoStore => CachePolicy::NoStore,
        },
        public_url: http.public_url.clone(),
        trusted_proxies: Proxies::parse(&http.trusted_proxies).expect("the configuration has been checked"),
        hosts: hosts(config),
        access_log: config.log.access,
    }
}

/// Waits until all shards are open, the node's tables are formed (a cluster's are formed by whoever leads group 0), and the demo is set up if there is to be one.
async fn ready(
    openings: &mut mpsc::UnboundedReceiver<Opened>,
    shards: &[ShardThread],
    meta: Option<ShardId>,
    phase: &watch::Sender<Phase>,
    demo: bool,
) -> Result<(), Exit> {
    all_opened(openings, phase).await?;
    if let Some(meta) = meta {
        let (formed, forming) = oneshot::channel();
        let failed = |source| Exit::ShardOpen { shard: meta.0, source };
        // A shard that is gone has panicked, and that has ended the process.
        let _ = shards[usize::from(meta.0)].requests.send(Request::Form(formed));
        if let Ok(result) = forming.await {
            result.map_err(failed)?;
        }
    }
    if demo {
        let (ready, setting_up) = oneshot::channel();
        let _ = shards[0].requests.send(Request::Demo(ready));
        if let Ok(result) = setting_up.await {
            result.map_err(Exit::Demo)?;
        }
    }
    Ok(())
}

/// The node that was formed here, or is formed now; one that is to join a cluster is formed when that has taken it in.
async fn node(config: &Config, data_dir: Option<&DataDir>, runtime: &Handle) -> Result<Node, Exit> {
    let formed = data_dir.map(DataDir::formed).transpose()?.flatten();
    let cluster = membership(&config.cluster, formed.as_ref()).map_err(ClusterError::from)?;
    let mut fresh = Node::new(|| SystemEntropy.u64(), config.shards(), config.server.groups, cluster);
    let Some(data_dir) = data_dir else { return Ok(fresh) };
    if fresh.cluster.is_some() && formed.as_ref().is_some_and(|formed| formed.cluster.is_none()) {
        cold::check_folder(data_dir).await?;
    }
    if formed.is_none() && !config.cluster.join.is_empty() {
        let joined = cluster::join(&config.cluster, &config.cold, runtime, &fresh, SystemEntropy).await?;
        tracing::info!(groups = joined.groups, "this node is taken into the cluster");
        fresh.groups = joined.groups;
        data_dir.set_peers(&joined.list)?;
    }
    Ok(data_dir.node(fresh, config.server.groups)?)
}

/// The cluster that is configured, and the node's number in it; none where the node is alone.
fn membership(
    config: &ClusterConfig,
    formed: Option<&Node>,
) -> Result<Option<(NodeId, Membership)>, ClusterConfigError> {
    if !config.is_member() {
        return Ok(None);
    }
    let number = config.node().or_else(|| formed.and_then(|node| NodeId::new(node.number)));
    let number = number.ok_or(ClusterConfigError::NoNumber)?;
    let peers = config.peers()?;
    let founders = match formed {
        None if !config.join.is_empty() => BTreeSet::new(),
        // It has what another node's logs would have to take the place of.
        Some(node) if node.cluster.is_none() && !config.join.is_empty() => BTreeSet::new(),
        None if peers.is_empty() => return Err(ClusterConfigError::NewAlone),
        _ => peers.keys().copied().chain([number]).map(NodeId::get).collect(),
    };
    Ok(Some((number, Membership { id: config.id.clone(), founders })))
}

/// Resolves when a group of some shard has failed.
async fn failed(shards: &[Address]) {
    loop {
        for shard in shards {
            if shard.stats().await.is_some_and(|stats| stats.groups_failed > 0) {
                return;
            }
        }
        tokio::time::sleep(FAILED_EVERY).await;
    }
}

/// Writes down whom this node has met, whenever it meets another one.
fn note_peers(data_dir: Arc<DataDir>) -> impl Fn(&List) + Send + Sync + 'static {
    let (sender, mut news) = mpsc::unbounded_channel::<List>();
    tokio::spawn(async move {
        while let Some(peers) = news.recv().await {
            let data_dir = data_dir.clone();
            // A panic there has ended the process.
            let noted = tokio::task::spawn_blocking(move || data_dir.set_peers(&peers)).await;
            if let Ok(Err(error)) = noted {
                tracing::error!(%error, "who belongs to the cluster cannot be noted");
            }
        }
    });
    // Whoever ends has nothing to note any more.
    move |peers: &List| drop(sender.send(peers.clone()))
}

/// Has the shards hand over what this node leads, so that nobody has to find out that it is gone.
async fn hand_over(requests: &[mpsc::UnboundedSender<Request>]) {
    let mut handing_over = Vec::new();
    for request in requests {
        let (done, handed_over) = oneshot::channel();
        let _ = request.send(Request::HandOver(done));
        handing_over.push(handed_over);
    }
    for handed_over in handing_over {
        // A shard that is gone leads nothing.
        let _ = handed_over.await;
    }
}

/// Says where to come, and what to try there.
fn announce(listener: &TcpListener, demo: bool) {
    let Ok(address) = listener.local_addr() else { return };
    tracing::info!("listening on http://{address}");
    if demo {
        // Who has closed standard output does not want to read this.
        let _ = std::io::stdout().write_all(demo::commands(address).as_bytes());
    }
}

/// Tells the service manager, if one has started this and wants to know.
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Waits until all shards are open, or the first cannot be: the others may then wait for it forever.
async fn all_opened(openings: &mut mpsc::UnboundedReceiver<Opened>, phase: &watch::Sender<Phase>) -> Result<(), Exit> {
    loop {
        let (ShardId(shard), opened) = openings.recv().await.expect("the caller holds a sender");
        opened.map_err(|source| Exit::ShardOpen { shard, source })?;
        tracing::debug!(shard, "shard recovered");
        let mut all = false;
        phase.send_modify(|phase| {
            if let Phase::Recovering(waiting) = phase {
                waiting.remove(&shard);
                all = waiting.is_empty();
            }
        });
        if all {
            return Ok(());
        }
    }
}

/// Ends the connections, as far as they let themselves be ended in time, and then the shards.
async fn end(connections: &Connections, requests: &[mpsc::UnboundedSender<Request>], shards: Vec<ShardThread>) {
    if tokio::time::timeout(DRAIN_MAX, connections.all_ended()).await.is_err() {
        let open: usize = connections.open_by_shard().iter().sum();
        tracing::warn!(open, "connections did not end in time");
    }
    for request in requests {
        // A shard that is gone already needs no telling.
        let _ = request.send(Request::Stop);
    }
    let joined = tokio::task::spawn_blocking(|| shards.into_iter().for_each(ShardThread::join));
    // A panic there has ended the process.
    let _ = joined.await;
}

fn listen(listener: &'static str, address: &ListenAddress) -> Result<TcpListener, Exit> {
    accept::listen(address.socket()).map_err(|source| Exit::Listen { listener, address: address.clone(), source })
}

/// The names by which clients may call the server.
fn hosts(config: &Config) -> Hosts {
    let (listen, names) = (config.server.listen.socket().ip(), config.http.hosts.trim());
    // Who has it listen to others without naming it has said that this is meant.
    if names == "*" || (names.is_empty() && !listen.is_loopback()) {
        return Hosts::any();
    }
    let own = match listen {
        IpAddr::V4(listen) => listen.to_string(),
        IpAddr::V6(listen) => format!("[{listen}]"),
    };
    let (_, public) = config.http.public_url.split_once("://").unwrap_or_default();
    let public = public.split(['/', ':']).next().unwrap_or_default();
    let known = names.split(',').map(str::trim).chain([own.as_str(), config.server.listen.host(), public]);
    Hosts::only(known.filter(|name| !name.is_empty()).map(str::to_string).collect())
}
