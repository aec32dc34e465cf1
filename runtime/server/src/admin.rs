//! The admin listener: `/livez`, `/readyz`, `/metrics`, and what an operator has the node do.
//!
//! - `/livez` is 200 as long as the process runs its main thread.
//! - `/readyz` is 200 only while every group of every shard serves; otherwise it is 503 and names what is missing, one
//!   line each.
//! - `/metrics` is always 200; see [`crate::metrics`].
//! - `POST /cold/check` verifies the cold tier and repairs it if asked to, and `POST /backup` copies everything elsewhere; see
//!   [`crate::check`] and [`crate::backup`]. `POST /cluster` does what `weir cluster` asks for. Such a request must say that it has JSON: a page of the web cannot send one here.
//!
//! There are few connections at a time, and none lasts but one check's or backup's (see [`weir_http::serve_router`]):
//! whoever floods this listener takes neither memory nor open files from the public one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use weir_cluster::Roster;
use weir_cold::Cold;
use weir_http::{HttpStats, Unhurried};
use weir_shard::{Address, ClusterOrder, ClusterReport, Role, ShardConfig, ShardStats, Topology};
use weir_types::GroupId;
use weir_wasm::Host;

use crate::backup::{self, BackupRequest};
use crate::check::{self, CheckRequest};
use crate::cluster_status::StatusReport;
use crate::config::Config;
use crate::connections::Connections;
use crate::metrics::{self, Machine, Snapshot};
use crate::node::DataDir;
use crate::process::Process;
use crate::turns::Turns;

/// How long a shard may take to say how it is. Longer than any batch, shorter than any probe's patience.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it waits for an operation that is at its end.
const TURN_WITHIN: Duration = Duration::from_secs(1);
/// How long bytes may wait for the cold tier beyond twice what is configured before that is told.
const FLUSH_GRACE: Duration = Duration::from_secs(60);

/// What became of a change of the cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// In a sentence.
    pub(crate) done: Box<str>,
}

/// How far the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// These shards are reading their WALs; when none is left, the node's tables are formed.
    Recovering(BTreeSet<u16>),
    /// Connections are accepted, since so long after the process began.
    Serving(Duration),
    /// Asked to end, and not accepting any more once the drain delay is over.
    Stopping,
}

/// What the admin listener looks at.
#[derive(Clone)]
pub(crate) struct Admin {
    /// When the process began.
    pub(crate) started: Instant,
    /// How far it is.
    pub(crate) phase: watch::Receiver<Phase>,
    /// Whose the node's data is.
    pub(crate) node_id: u64,
    /// The node's numbers.
    pub(crate) topology: Topology,
    /// Where each shard is asked.
    pub(crate) shards: Vec<Address>,
    /// The public listener's connections.
    pub(crate) connections: Arc<Connections>,
    /// The turns of each shard's thread.
    pub(crate) turns: Vec<Arc<Turns>>,
    /// What each shard's connections have done.
    pub(crate) http: Vec<Arc<HttpStats>>,
    /// What was asked for.
    pub(crate) config: Arc<Config>,
    /// Who belongs to the cluster; none for a node that is alone.
    pub(crate) roster: Option<Roster>,
    /// What each shard has of it.
    pub(crate) shard_config: ShardConfig,
    /// The node's modules.
    pub(crate) modules: Host,
    /// The cold tier, if there is one.
    pub(crate) cold: Option<Cold>,
    /// Where the node's data is, if it is on a disk.
    pub(crate) data_dir: Option<Arc<DataDir>>,
    /// For who has the node do something that lasts: one at a time.
    pub(crate) operation: Arc<Semaphore>,
    /// Where stores are asked.
    pub(crate) cold_runtime: Handle,
}

/// Answers while the node waits to be taken into a cluster, before it has anything else to say.
pub(crate) async fn serve_waiting(listener: TcpListener) {
    let waiting = || async { (StatusCode::SERVICE_UNAVAILABLE, "the node waits to be taken into its cluster\n") };
    let router = Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(waiting));
    weir_http::serve_router(listener, router).await
}

/// Serves the admin listener, for as long as the process runs.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/cold/check", post(cold_check))
        .route("/backup", post(back_up))
        .route("/cluster", post(cluster))
        .with_state(admin);
    weir_http::serve_router(listener, router).await
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let phase = admin.phase.borrow().clone();
    let missing = match phase {
        Phase::Recovering(shards) if shards.is_empty() => vec!["the node's tables are being formed".to_string()],
        Phase::Recovering(shards) => {
            shards.into_iter().map(|shard| format!("shard {shard} is reading its logs")).collect()
        }
        Phase::Serving(_) => {
            let stats = stats(&admin.shards).await;
            let mut missing = missing(&stats);
            let is_member = admin.config.cluster.is_member();
            if is_member {
                missing.extend(leaderless(&stats));
            }
            if let Some(roster) = admin.roster.as_ref().filter(|_| !missing.is_empty()) {
                missing
                    .extend(roster.refusals().into_iter().map(|why| format!("another node refuses this one: {why}")));
            }
            if admin.roster.as_ref().is_some_and(Roster::is_own_removed) {
                let node = admin.shard_config.node_id;
                missing =
                    vec![format!("node {node} was removed from the cluster for ever: stop it, nothing here is needed")];
            }
            if missing.is_empty() {
                let groups = if is_member { roles(&stats, admin.shard_config.node_id) } else { String::new() };
                let behind = behind(&stats, admin.shard_config.flush_age);
                return (StatusCode::OK, format!("ok\n{groups}{behind}"));
            }
            missing
        }
        Phase::Stopping => vec!["the server is stopping".to_string()],
    };
    match missing.as_slice() {
        [] => (StatusCode::OK, "ok\n".to_string()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let phase = admin.phase.borrow().clone();
    let recovering = matches!(phase, Phase::Recovering(_));
    let ready = if let Phase::Serving(ready) = phase { Some(ready) } else { None };
    // Who is reading its logs does not read its mail.
    let shards = if recovering { vec![None; admin.shards.len()] } else { stats(&admin.shards).await };
    let machine = machine(admin.data_dir, admin.modules).await;
    let Admin { started, topology, connections, turns, http, config, shard_config, cold, .. } = admin;
    let snapshot = Snapshot {
        uptime: started.elapsed(),
        ready,
        topology,
        connections,
        shards,
        turns,
        http,
        config,
        shard_config,
        cold: cold.map(|cold| cold.stats()),
        machine,
    };
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], snapshot.text())
}

async fn cold_check(State(admin): State<Admin>, Json(request): Json<CheckRequest>) -> Response {
    match admin.begin_operation().await {
        Ok(turn) => lasting(check::report(request, &admin.shards, turn)),
        Err(refused) => refused.into_response(),
    }
}

async fn back_up(State(admin): State<Admin>, Json(request): Json<BackupRequest>) -> Response {
    let turn = match admin.begin_operation().await {
        Ok(turn) => turn,
        Err(refused) => return refused.into_response(),
    };
    let cold = &admin.config.cold;
    let Some(tier) = &admin.cold else {
        return (StatusCode::CONFLICT, "there is no cold tier, so there is nothing to copy\n").into_response();
    };
    // A node that is alone is its cluster.
    let number = tier.owner().unwrap_or(admin.node_id);
    lasting(backup::lines(request, cold, number, &admin.shards, &admin.cold_runtime, turn))
}

async fn cluster(State(admin): State<Admin>, Json(order): Json<ClusterOrder>) -> Response {
    if !matches!(*admin.phase.borrow(), Phase::Serving(_)) {
        return (StatusCode::SERVICE_UNAVAILABLE, "the server is starting or stopping\n").into_response();
    }
    let shard = usize::from(admin.topology.owner_of(GroupId::META).0);
    match admin.shards[shard].order(order).await {
        Some(ClusterReport::Status(status)) => {
            let store = if admin.cold.is_some() { &admin.config.cold.url } else { "none: all bytes stay in the logs" };
            Json(StatusReport::new(admin.config.cluster.id.clone(), store.to_string(), *status)).into_response()
        }
        Some(ClusterReport::Done(done)) => Json(Done { done }).into_response(),
        Some(ClusterReport::Refused(reason)) => (StatusCode::CONFLICT, format!("{reason}\n")).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n").into_response(),
    }
}

/// An answer that takes as long as it needs.
fn lasting(lines: Body) -> Response {
    ([(CONTENT_TYPE, "application/x-ndjson")], Extension(Unhurried), lines).into_response()
}

impl Admin {
    /// A turn to have the node do something that lasts, or why not.
    async fn begin_operation(&self) -> Result<OwnedSemaphorePermit, (StatusCode, &'static str)> {
        if !matches!(*self.phase.borrow(), Phase::Serving(_)) {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "the server is starting or stopping\n"));
        }
        // The one before may have said that it is at its end, and be about to give its turn back.
        let turn = tokio::time::timeout(TURN_WITHIN, self.operation.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| (StatusCode::CONFLICT, "a check or a backup is under way\n"))?;
        Ok(turn.expect("nobody closes it"))
    }
}

/// Each shard's figures; `None` for one that does not answer. All are asked at once.
async fn stats(shards: &[Address]) -> Vec<Option<ShardStats>> {
    let asked: Vec<_> = shards
        .iter()
        .cloned()
        .map(|shard| {
            tokio::spawn(async move { tokio::time::timeout(STATS_TIMEOUT, shard.stats()).await.ok().flatten() })
        })
        .collect();
    let mut stats = Vec::with_capacity(asked.len());
    for answer in asked {
        stats.push(answer.await.ok().flatten());
    }
    stats
}

/// What the system says, as far as it does so in time: a disk that hangs must not keep this thread, which accepts
/// connections.
async fn machine(data_dir: Option<Arc<DataDir>>, modules: Host) -> Machine {
    let look = tokio::task::spawn_blocking(move || Machine {
        process: Process::now(),
        disk_bytes: data_dir.and_then(|data_dir| data_dir.disk_bytes().ok()),
        module_store_bytes: modules.store_bytes().ok(),
    });
    match tokio::time::timeout(STATS_TIMEOUT, look).await {
        Ok(Ok(machine)) => machine,
        _ => Machine::default(),
    }
}

/// What keeps the node from serving everything.
fn missing(shards: &[Option<ShardStats>]) -> Vec<String> {
    let of_shard = |(shard, stats): (usize, &Option<ShardStats>)| match stats {
        None => Some(format!("shard {shard} does not answer")),
        Some(ShardStats { groups_failed: 0, .. }) => None,
        Some(ShardStats { groups_failed, groups_serving, .. }) => Some(format!(
            "shard {shard} serves {groups_serving} of its {} groups: the others have failed",
            groups_failed + groups_serving
        )),
    };
    shards.iter().enumerate().filter_map(of_shard).collect()
}

/// The groups whose leader this node does not know: it serves nothing of them.
fn leaderless(shards: &[Option<ShardStats>]) -> Vec<String> {
    let roles = shards.iter().flatten().flat_map(|stats| &stats.roles);
    let leaderless = roles.filter(|(_, role)| matches!(role, Role::Following { leader: None } | Role::Stopped));
    leaderless.map(|(group, _)| format!("group {group} has no leader that this node knows of")).collect()
}

/// Says who leads each group, in a line each.
fn roles(shards: &[Option<ShardStats>], own: u64) -> String {
    let stats = shards.iter().flatten();
    let groups: BTreeMap<_, _> = stats
        .flat_map(|stats| stats.roles.iter().zip(&stats.groups))
        .map(|((group, role), (_, standing))| {
            let leader = match role {
                Role::Leading { .. } => Some(own),
                Role::Following { leader } => *leader,
                Role::Stopped => None,
            };
            (*group, (leader, standing.term))
        })
        .collect();
    let line = |(group, (leader, term)): (&GroupId, &(Option<u64>, u64))| {
        let leader = leader.map_or_else(|| "nobody".to_string(), |leader| format!("node {leader}"));
        format!("group {group} is led by {leader} in term {term}\n")
    };
    groups.iter().map(line).collect()
}

/// Says so, in a line, when the cold tier does not keep up.
fn behind(shards: &[Option<ShardStats>], flush_age: Duration) -> String {
    let shards = shards.iter().flatten();
    let wait = shards.clone().map(|stats| stats.flush_wait).max().unwrap_or_default();
    if wait < 2 * flush_age + FLUSH_GRACE {
        return String::new();
    }
    let bytes: u64 = shards.map(|stats| stats.hot_bytes).sum();
    format!(
        "the cold tier is behind: {bytes} bytes are in the logs only, the oldest have waited for {} s; \
         weir_cold_errors_total at /metrics says what its store refuses\n",
        wait.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use weir_shard::Standing;

    use super::*;

    #[test]
    fn a_cold_tier_that_does_not_keep_up_is_told_of() {
        let of = |seconds| {
            Some(ShardStats { hot_bytes: 7, flush_wait: Duration::from_secs(seconds), ..ShardStats::default() })
        };
        let age = Duration::from_secs(600);
        assert_eq!(behind(&[of(0), None, of(1250)], age), "");
        let told = behind(&[of(0), None, of(1300)], age);
        assert!(told.contains("14 bytes") && told.contains("1300 s") && told.ends_with('\n'), "{told}");
    }

    #[test]
    fn who_leads_is_said_and_who_is_not_known_is_missing() {
        let following = Role::Following { leader: Some(3) };
        let standing = |term| Standing { term, ..Standing::default() };
        let stats = |leader| ShardStats {
            roles: vec![(GroupId(1), leader), (GroupId(0), Role::Leading { term: 4 })],
            groups: vec![(GroupId(1), standing(9)), (GroupId(0), standing(4))],
            ..ShardStats::default()
        };
        let told = roles(&[Some(stats(following)), None], 1);
        assert_eq!(told, "group 0 is led by node 1 in term 4\ngroup 1 is led by node 3 in term 9\n");
        assert!(leaderless(&[Some(stats(following))]).is_empty());
        let missing = leaderless(&[Some(stats(Role::Following { leader: None }))]);
        assert_eq!(missing, ["group 1 has no leader that this node knows of"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let serving = ShardStats { groups_serving: 2, ..ShardStats::default() };
        let failed = ShardStats { groups_serving: 1, groups_failed: 1, ..ShardStats::default() };
        assert!(missing(&[Some(serving.clone()), Some(serving.clone())]).is_empty());
        let missing = missing(&[Some(serving), None, Some(failed)]);
        assert_eq!(missing[0], "shard 1 does not answer");
        assert!(missing[1].starts_with("shard 2 serves 1 of its 2 groups"), "{missing:?}");
    }
}
