//! The state of one shard, and what every verb needs of it. Knows no verb: requests to the own shard go through the
//! dispatch by a function that [`crate::shard`] sets when the shard opens.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use send_wrapper::SendWrapper;
use tokio::sync::{Mutex, Notify};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use weir_cluster::{Lane as LinkLane, NodeId};
use weir_cold::Cold;
use weir_hooks::Hooks;
use weir_raft::{Links, Role};
use weir_storage::Wal;
use weir_stream::Meta;
use weir_types::{GroupId, ShardId, StreamKey};

use crate::agenda::Agenda;
use crate::calls::{Asked, Call, Calls};
use crate::config::{ShardConfig, Topology};
use crate::in_flight::{InFlight, InFlightTotal};
use crate::live::feeds::Feeds;
use crate::mailbox::Post;
use crate::message::{Body, CallId, Lead, Limit, Mail, Peer, Request, Response, ShardError, ShardStats};
use crate::meta::unsettled::Unsettled;
use crate::modules::guests::Guests;
use crate::nodes::leaders::{HEARD_WITHIN, Leaders};
use crate::nodes::losses::Losses;
use crate::nodes::salute::Lane;
use crate::seams::{Entropy, Nodes, SteadyClock, in_turns};
use crate::stats::Counters;
use crate::subscriptions::desk::Desk;
use crate::write::job::LocalGroup;

/// What a write under way takes besides its body, in bytes: a bound for how many there are.
const REQUEST_BYTES: usize = 1 << 10;

/// What a log that is full for writes still takes: deletes, trims and expiries, which give it room.
const ENDS_BYTES: usize = 4 << 20;

/// What the driver of a cluster has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// What cannot be done now, and why, in sentences.
    pub(crate) waits: Vec<Box<str>>,
    /// Whether every group has the voters that it should have, and nobody else, and a new cluster's nodes lead as evenly as they can.
    pub(crate) is_settled: bool,
}

/// A shard, as its connections hold it. Cheap to clone. It may be sent to other threads but used only on its own.
#[derive(Clone)]
pub struct Shard(pub(crate) SendWrapper<Rc<Core>>);

/// Everything one shard owns.
pub(crate) struct Core {
    pub(crate) id: ShardId,
    pub(crate) topology: Topology,
    pub(crate) config: ShardConfig,
    pub(crate) clock: SteadyClock,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) wals: Vec<Wal>,
    /// By group id; none for groups of other shards.
    pub(crate) groups: Vec<Option<Rc<LocalGroup>>>,
    pub(crate) calls: Calls,
    pub(crate) feeds: Feeds,
    /// Streams that end by themselves.
    pub(crate) agenda: Agenda,
    pub(crate) in_flight: Rc<InFlightTotal>,
    pub(crate) stats: Rc<Counters>,
    pub(crate) post: Rc<Post>,
    /// Where each group is led.
    pub(crate) leaders: Leaders,
    /// What was lost on the way to other nodes.
    pub(crate) losses: Rc<Losses>,
    /// The other nodes; none for a node that is alone.
    pub(crate) nodes: Option<Nodes>,
    /// Whether mail of other nodes is refused, because this one ends.
    pub(crate) is_leaving: Cell<bool>,
    /// What other nodes' shards have said to this one.
    pub(crate) lanes: RefCell<HashMap<(NodeId, ShardId), Lane>>,
    /// Links to the replicas of other nodes.
    pub(crate) links: Option<Rc<Links>>,
    /// What answers the replicas of other nodes, on each of their lanes.
    pub(crate) incoming: RefCell<HashMap<(NodeId, LinkLane), AbortHandle>>,
    /// When each node has answered the leader of group 0 last, where that is here.
    pub(crate) contacts: RefCell<HashMap<NodeId, Instant>>,
    /// Told when nodes come, go, or are wanted otherwise.
    pub(crate) nodes_changed: Notify,
    /// Where group 0 is led: what its driver has found last, and of which change of its nodes.
    pub(crate) found: RefCell<Option<(u64, Found)>>,
    /// None where everything stays in the log.
    pub(crate) cold: Option<Cold>,
    /// For who writes a group's state down or moves bytes in it from the log to a chunk: each makes the other's steps longer,
    /// and a state that is written down takes memory.
    pub(crate) upkeep: Mutex<()>,
    /// For who puts a snapshot into the store: its pieces take memory.
    pub(crate) copying: Mutex<()>,
    pub(crate) guests: Rc<Guests>,
    /// On the shard of group 0: what is to be done for subscriptions.
    pub(crate) desk: Rc<Desk>,
    /// Calls webhooks; none where nobody does.
    pub(crate) hooks: Option<Hooks>,
    /// On the shard of group 0: how far changes of buckets have got.
    pub(crate) unsettled: Unsettled,
    /// Bytes of the index of hot bytes, as of the last round: every write asks.
    pub(crate) hot_index: Cell<usize>,
    pub(crate) tasks: RefCell<Vec<JoinHandle<()>>>,
    /// See [`crate::Seams::turn`].
    pub(crate) turn: fn(),
    /// Carries out a request of this shard's own: the dispatch, which knows the verbs.
    pub(crate) serve: fn(&Rc<Core>, Peer, CallId, Request),
}

impl Shard {
    /// This shard's figures.
    pub fn stats(&self) -> ShardStats {
        self.0.figures()
    }

    /// Whether a group of this shard takes nothing any more.
    pub fn has_failed(&self) -> bool {
        self.0.groups.iter().flatten().any(|group| group.has_failed())
    }

    /// Wall-clock time in milliseconds since 1970, advanced by the monotonic clock.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// Counts a request's memory while it comes in, with [`InFlight::grow`]; [`Body::keep`] hands it over.
    pub fn in_flight(&self) -> InFlight {
        self.0.in_flight.begin()
    }

    /// What one connection may have of the memory of requests that come in, in bytes.
    pub fn in_flight_share(&self) -> usize {
        self.0.in_flight.share()
    }

    /// Whether this node leads the stream's group, as far as is known.
    pub(crate) fn is_led_here(&self, key: &StreamKey) -> bool {
        self.0.leaders.of(self.0.topology.group_of(key.slot())) == Lead::Here
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.0.id
    }

    /// The shard that owns the stream.
    pub fn owner_of(&self, key: &StreamKey) -> ShardId {
        self.0.topology.owner_of(self.0.topology.group_of(key.slot()))
    }
}

impl Core {
    /// Whether the node is its whole cluster.
    pub(crate) fn is_alone(&self) -> bool {
        self.nodes.is_none()
    }

    /// Runs `task` until the shard shuts down.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().push(tokio::task::spawn_local(in_turns(self.turn, task)));
    }

    /// Runs a task for one request, to its end.
    pub(crate) fn spawn_request(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        tokio::task::spawn_local(in_turns(self.turn, task)).abort_handle()
    }

    /// Works for a call in a task of its own and answers with the result; the task ends with the call's client.
    pub(crate) fn work(self: &Rc<Self>, origin: Peer, call: CallId, work: impl Future<Output = Response> + 'static) {
        let core = self.clone();
        let task = self.spawn_request(async move {
            let response = work.await;
            core.calls.end_work(origin, call);
            core.respond(origin, call, response);
        });
        self.calls.begin_work(origin, call, task);
    }

    /// The groups of this shard.
    pub(crate) fn local_groups(&self) -> Vec<Rc<LocalGroup>> {
        self.groups.iter().flatten().cloned().collect()
    }

    /// A group of this shard.
    ///
    /// # Panics
    /// When the group lives on another shard.
    pub(crate) fn group(&self, id: GroupId) -> Rc<LocalGroup> {
        self.groups[usize::from(id.0)].clone().expect("requests go to the group's owner")
    }

    /// Group 0's tables as they were applied, on its own shard. Not to be kept across a command.
    ///
    /// # Panics
    /// When group 0 lives on another shard.
    pub(crate) fn meta(&self) -> Ref<'_, Meta> {
        let group = self.groups[usize::from(GroupId::META.0)].as_ref();
        Ref::map(group.expect("requests go to the group's owner").applied(), weir_stream::Group::meta)
    }

    /// Group 0's time, on its own shard, in milliseconds since 1970.
    pub(crate) fn meta_now_ms(&self) -> u64 {
        self.group(GroupId::META).now_ms()
    }

    /// The group of a stream that lives on this shard.
    pub(crate) fn local_group(&self, key: &StreamKey) -> Rc<LocalGroup> {
        self.group(self.topology.group_of(key.slot()))
    }

    /// Why no further write of `bytes` can be stored, if it cannot.
    pub(crate) fn storage_refusal(&self, group: &LocalGroup, bytes: usize) -> Option<ShardError> {
        if self.hot_index.get() > self.config.hot_index_bytes_max {
            return Some(ShardError::Limit(Limit::HotIndex));
        }
        group.refusal(bytes + ENDS_BYTES.min(self.config.wal.segment_bytes as usize / 4))
    }

    /// Looks how large the index of hot bytes is: it grows by what is applied.
    pub(crate) fn note_hot_index(&self) {
        self.hot_index.set(self.hot_index_bytes());
    }

    fn hot_index_bytes(&self) -> usize {
        let streams: usize = self.groups.iter().flatten().map(|group| group.applied().index_bytes()).sum();
        streams + self.desk.memory_bytes() + self.agenda.bytes() + self.wals.iter().map(Wal::index_bytes).sum::<usize>()
    }

    /// Asks a shard of this node.
    pub(crate) fn call(self: &Rc<Self>, owner: ShardId, request: Request) -> Call {
        assert!(owner.0 < self.topology.shards, "the owner is a shard of this node");
        let call = self.calls.begin(request.ends_with_client().then_some(Asked::Here(owner)));
        if owner == self.id {
            (self.serve)(self, self.id.into(), call.id(), request);
        } else {
            self.post.mail(owner, Mail::Request { origin: self.id.into(), call: call.id(), request });
        }
        call
    }

    /// Answers a call of this shard or of a peer.
    pub(crate) fn respond(&self, origin: Peer, call: CallId, response: Response) {
        if let Err(error) = &response {
            self.stats.limits_met.count_error(error);
        }
        if origin == Peer::Here(self.id) {
            self.calls.answer(call, response);
        } else {
            self.post.mail(origin, Mail::Response { owner: self.id.into(), call, response });
        }
    }

    /// Counts a request that has so many bytes against the limit until what is returned is dropped.
    pub(crate) fn count_in_flight(&self, body_bytes: usize) -> Result<InFlight, ShardError> {
        let mut counted = self.in_flight.begin();
        counted.add(REQUEST_BYTES + body_bytes)?;
        Ok(counted)
    }

    /// As [`Core::count_in_flight`]; what was counted of the body while it came in to this shard is not counted again.
    pub(crate) fn count_body(&self, body: &mut Body) -> Result<InFlight, ShardError> {
        let mut counted = body.take_counted().unwrap_or_else(|| self.in_flight.begin());
        counted.add((REQUEST_BYTES + body.memory_bytes()).saturating_sub(counted.bytes()))?;
        Ok(counted)
    }

    fn sum_groups(&self, figure: impl Fn(&weir_stream::Group) -> u64) -> u64 {
        self.groups.iter().flatten().map(|group| figure(&group.applied())).sum()
    }

    /// For how long the oldest bytes in a log of this shard have been the next ones to go to the cold tier.
    fn flush_wait(&self) -> Duration {
        let since = self.groups.iter().flatten().filter_map(|group| group.oldest_since.get());
        since.map(|since| since.elapsed()).max().unwrap_or_default()
    }

    /// What this node is to a group; who leads one that it does not belong to, it has heard elsewhere. One that was not heard lately
    /// may lead, for all that is known, and nobody comes to it from here.
    fn role_of(&self, group: &LocalGroup) -> Role {
        let heard_at = group.replica.heard().max(self.leaders.heard_at(group.id));
        let is_heard = heard_at.is_some_and(|at| at.elapsed() < HEARD_WITHIN);
        match (group.role(), self.leaders.of(group.id)) {
            (Role::Following { .. }, Lead::Away(node)) if is_heard => Role::Following { leader: Some(node.get()) },
            (Role::Following { .. }, _) => Role::Following { leader: None },
            (role, _) => role,
        }
    }

    pub(crate) fn figures(&self) -> ShardStats {
        let counters = &self.stats;
        let failed = self.groups.iter().flatten().filter(|group| group.has_failed()).count();
        let local = self.groups.iter().flatten().count();
        let guests = self.guests.stats();
        ShardStats {
            appends: counters.appends.get(),
            append_bytes: counters.append_bytes.get(),
            appends_refused: counters.appends_refused.get(),
            batches: counters.batches.get(),
            reads: counters.reads.get(),
            read_bytes: counters.read_bytes.get(),
            limits_met: counters.limits_met.figures(),
            subscribers: self.feeds.subscribers() as u64,
            live_bytes: self.feeds.bytes() as u64,
            in_flight_bytes: self.in_flight.bytes() as u64,
            streams: self.sum_groups(|group| group.streams() as u64),
            hot_index_bytes: self.hot_index_bytes() as u64,
            snapshots: counters.snapshots.get(),
            snapshots_failed: counters.snapshots_failed.get(),
            snapshots_stored: counters.snapshots_stored.get(),
            snapshots_unstored: counters.snapshots_unstored.get(),
            flushes: counters.flushes.get(),
            flushes_failed: counters.flushes_failed.get(),
            flushed_bytes: counters.flushed_bytes.get(),
            merges: counters.merges.get(),
            merged_bytes: counters.merged_bytes.get(),
            flush_wait: self.flush_wait(),
            cold_damaged: counters.cold_damaged.get(),
            chunks_rebuilt: counters.chunks_rebuilt.get(),
            cold_unavailable: counters.cold_unavailable.get(),
            chunks: self.sum_groups(|group| group.chunks_totals().chunks),
            chunk_bytes: self.sum_groups(|group| group.chunks_totals().bytes),
            cold_bytes: self.sum_groups(|group| group.chunks_totals().live_bytes),
            hot_bytes: self.sum_groups(weir_stream::Group::hot_bytes),
            records_validated: counters.records_validated.get(),
            records_rejected: counters.records_rejected.get(),
            module_traps: guests.traps,
            guest_instances: guests.instances,
            guest_folds: guests.folds,
            guest_bytes: guests.bytes,
            guest_demotions: guests.demotions,
            guest_suspensions: guests.suspensions,
            guest_calls: guests.calls,
            guest_busy: Duration::from_nanos(guests.busy_ns),
            append_times: counters.append_times.distribution(),
            read_times: counters.read_times.distribution(),
            summary_times: counters.summary_times.distribution(),
            batch_commands: counters.batch_commands.distribution(),
            delivery_times: self.feeds.delivery_times(),
            guest_front_times: guests.front_times,
            guest_back_times: guests.back_times,
            groups_serving: (local - failed) as u16,
            groups_failed: failed as u16,
            roles: self.groups.iter().flatten().map(|group| (group.id, self.role_of(group))).collect(),
            groups: self.groups.iter().flatten().map(|group| (group.id, group.replica.standing())).collect(),
            wals: self.wals.iter().map(Wal::stats).collect(),
        }
    }
}
