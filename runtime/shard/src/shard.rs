//! The shard: how it opens and ends, and the dispatch from requests to verbs. The only file that knows all verbs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use send_wrapper::SendWrapper;
use tokio::sync::{Mutex, Notify, mpsc};
use weir_cluster::{Accepted, Lane};
use weir_raft::{Links, ReplicaOptions, answer_peer};
use weir_storage::Wal;
use weir_types::{GroupId, ShardId};

use crate::agenda::Agenda;
use crate::calls::Calls;
use crate::config::{ShardConfig, Topology};
use crate::core::{Core, Shard};
use crate::group::{self, ShardOpenError};
use crate::in_flight::InFlightTotal;
use crate::live::feeds::Feeds;
use crate::mailbox::{Mailbox, Post};
use crate::message::{Answer, CallId, Lead, Mail, Peer, Request};
use crate::meta::unsettled::Unsettled;
use crate::modules::copies;
use crate::modules::guests::Guests;
use crate::nodes::ask;
use crate::nodes::leaders::Leaders;
use crate::nodes::losses::Losses;
use crate::seams::{Seams, SteadyClock};
use crate::stats::Counters;
use crate::subscriptions::{report, wakes};
use crate::upkeep;
use crate::write::{expiry, role, rounds};

/// How long a log may take to note where it ends.
const WAL_STOP_MAX: Duration = Duration::from_secs(5);

impl Shard {
    /// Opens the shard's WALs, replays its groups and begins to serve them. Runs on the shard's own runtime, which must
    /// be a current-thread one.
    ///
    /// # Errors
    /// [`ShardOpenError`] names the WAL or group.
    pub async fn open(
        id: ShardId,
        topology: Topology,
        mailbox: Mailbox,
        seams: Seams,
        config: ShardConfig,
    ) -> Result<Shard, ShardOpenError> {
        assert!(id.0 < topology.shards, "shards are numbered from 0");
        assert!(seams.disks.len() == usize::from(topology.wals), "one disk per WAL");
        config.assert_sound();
        let wals = group::open_wals(id, topology, &seams, &config)?;
        let lane = format!("guests-{id}");
        let guests = Guests::start(seams.modules.clone(), seams.builtins.clone(), &lane, config.folds_max);
        let guests = guests.map_err(ShardOpenError::Lane)?;
        let clock = SteadyClock::new(seams.clock.clone());
        let losses = Rc::new(Losses::default());
        let post = Rc::new(Post::new(id, mailbox.peers));
        let agenda = Agenda::default();
        let left = {
            let (agenda, clock) = (agenda.clone(), clock.clone());
            move |incarnation| agenda.touch(incarnation, clock.now_ms())
        };
        let feeds = Feeds::new(post.clone(), config.live_bytes_max, config.live_bytes_per_stream_max, left);
        let peers =
            seams.nodes.as_ref().map(|nodes| Rc::new(Links::new(nodes.endpoint.clone(), nodes.roster.addresses())));
        let lead = if seams.nodes.is_none() { Lead::Here } else { Lead::Nowhere };
        let mut groups = Vec::new();
        for group in topology.groups() {
            groups.push(match wals.iter().find(|(wal, _)| *wal == topology.wal_of(group)) {
                Some((_, wal)) => {
                    let options = replica_options(group, &config, &seams, peers.as_ref());
                    Some(Rc::new(group::start(options, wal, &config, &clock, &feeds, &agenda).await?))
                }
                None => None,
            });
        }
        for group in groups.iter().flatten().filter(|_| seams.cold.is_none()) {
            let chunks = group.applied().chunks_totals().chunks;
            if chunks > 0 {
                return Err(ShardOpenError::ColdMissing { group: group.id, chunks });
            }
        }
        let stats = Rc::new(Counters::new());
        let core = Rc::new(Core {
            id,
            topology,
            clock,
            entropy: seams.entropy,
            wals: wals.into_iter().map(|(_, wal)| wal).collect(),
            groups,
            calls: Calls::new(post.clone()),
            feeds,
            agenda,
            in_flight: InFlightTotal::new(config.in_flight_bytes_max, stats.clone()),
            stats,
            guests: Rc::new(guests),
            post,
            leaders: Leaders::new(topology.groups, lead),
            losses,
            links: peers,
            incoming: RefCell::default(),
            contacts: RefCell::default(),
            nodes_changed: Notify::new(),
            found: RefCell::default(),
            nodes: seams.nodes,
            is_leaving: Cell::new(false),
            lanes: RefCell::default(),
            cold: seams.cold,
            upkeep: Mutex::default(),
            copying: Mutex::default(),
            unsettled: Unsettled::default(),
            desk: Rc::default(),
            hooks: seams.hooks,
            hot_index: Cell::new(0),
            tasks: RefCell::default(),
            turn: seams.turn,
            serve: Core::serve,
            config,
        });
        core.note_hot_index();
        for group in core.local_groups() {
            core.spawn(rounds::run(core.clone(), group.clone()));
            core.spawn(role::follow(core.clone(), group.clone()));
            upkeep::begin(&core, &group);
            core.spawn(report::run(core.clone(), group.clone()));
            if group.id == GroupId::META {
                core.spawn(wakes::run(core.clone()));
            }
        }
        core.spawn(read_mail(core.clone(), mailbox.receiver));
        core.spawn(core.post.clone().run());
        core.meet_nodes();
        core.spawn(ask::end_lost(core.clone()));
        core.spawn(expiry::sweep(core.clone()));
        core.spawn(core.guests.clone().send());
        if !core.is_alone() {
            core.spawn(copies::keep_ready(core.clone()));
        }
        Ok(Shard(SendWrapper::new(core)))
    }

    /// Takes a connection of another node, which is for one of this shard's groups, or mail.
    pub fn accept(&self, accepted: Accepted) {
        let Some(nodes) = &self.0.nodes else { return };
        let group = match accepted.hello.lane {
            Lane::Mail(_) => return self.take_mail(accepted),
            Lane::Join => return self.answer_join(accepted),
            Lane::Control(group) | Lane::Data(group) => group,
        };
        let Some(Some(group)) = self.0.groups.get(usize::from(group.0)) else {
            let (node, lane) = (accepted.hello.identity.node.get(), accepted.hello.lane);
            return tracing::warn!(node, %lane, "another node has groups that this one has not");
        };
        let from = (accepted.hello.identity.node, accepted.hello.lane);
        let answering = answer_peer(accepted, group.replica.clone(), nodes.endpoint.config);
        let task = self.0.spawn_request(answering);
        // The one before ends with its connection.
        self.0.incoming.borrow_mut().insert(from, task);
    }

    /// The shard of this node that takes a connection on a lane of another node.
    pub fn taker_of(topology: Topology, lane: Lane) -> Option<ShardId> {
        match lane {
            Lane::Control(group) | Lane::Data(group) => (group.0 < topology.groups).then(|| topology.owner_of(group)),
            Lane::Mail(shard) => Some(ShardId(shard.0 % topology.shards)),
            Lane::Join => Some(topology.owner_of(GroupId::META)),
        }
    }

    /// Stops the shard's groups and WALs, once other nodes have what it had to say to them. What was acknowledged is durable already.
    pub async fn shutdown(&self) {
        SendWrapper::new(self.0.leave()).await;
        let groups = self.0.local_groups();
        for group in groups {
            let replica = group.replica.clone();
            drop(group);
            replica.shutdown().await;
        }
        self.0.wals.iter().for_each(Wal::stop);
        for wal in &self.0.wals {
            if tokio::time::timeout(WAL_STOP_MAX, wal.stopped()).await.is_err() {
                tracing::warn!("a log's disk does not answer: its end is not noted");
            }
        }
        self.0.leave_nodes();
        self.0.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }
}

impl Core {
    /// Carries out a request. If its stream's time is over, the stream is ended first: an answer that says so must hold
    /// after a crash too.
    fn serve(self: &Rc<Self>, origin: Peer, call: CallId, request: Request) {
        // What is said of them must be what was decided last.
        if request.is_of_meta()
            && let Err(error) = self.group(GroupId::META).leading()
        {
            return self.respond(origin, call, Err(error));
        }
        let expired = match &request {
            // An append looks for itself, whenever it is admitted.
            Request::Append(..) => None,
            request => request.key().and_then(|key| self.expired_group(key)),
        };
        match expired {
            None => self.carry_out(origin, call, request),
            Some(group) => {
                let shard = self.clone();
                self.spawn_request(async move {
                    let expired = match request.key() {
                        Some(key) => shard.expire(&group, key).await,
                        None => Ok(()),
                    };
                    match expired {
                        Ok(()) => shard.carry_out(origin, call, request),
                        Err(error) => shard.respond(origin, call, Err(error)),
                    }
                });
            }
        }
    }

    /// Carries out a request: at once where nothing has to be waited for, in a task of its own otherwise.
    fn carry_out(self: &Rc<Self>, origin: Peer, call: CallId, request: Request) {
        match request {
            Request::Append(key, request) => return self.begin_append(origin, call, key, request),
            Request::Read { key, from, bytes_max, is_live } => {
                return self.begin_read(origin, call, (key, from), bytes_max, is_live);
            }
            Request::ReadInherited(request, is_live) => return self.begin_held_read(origin, call, request, is_live),
            Request::Buckets { after, limit } => {
                return self.respond(origin, call, Ok(self.buckets(&after, limit)));
            }
            Request::Head(key) => return self.respond(origin, call, self.head(&key).map(Answer::Facts)),
            Request::Watch { key, number } => return self.respond(origin, call, self.watch(origin, &key, number)),
            _ => {}
        }
        let counted = match &request {
            // A create counts itself, with its body: it must be able to be alone.
            Request::Create(..) | Request::Fork(..) => Ok(None),
            request => self.count_in_flight(request.body_bytes()).map(Some),
        };
        let counted = match counted {
            Ok(counted) => counted,
            Err(error) => return self.respond(origin, call, Err(error)),
        };
        let (shard, ends_with_client) = (self.clone(), request.ends_with_client());
        let work = async move {
            let _counted = counted;
            match request {
                Request::List { group, query } => shard.list_group(group, &query).await,
                Request::Summary { key, query } => shard.summarize(&key, &query).await,
                Request::Create(key, request) => shard.create(key, request).await,
                Request::Fork(key, request) => shard.fork(key, *request).await,
                Request::Pin(key, request) => shard.pin(key, *request).await,
                Request::Unpin { key, incarnation, fork, keeps_pin } => {
                    shard.unpin(&key, incarnation, fork, keeps_pin).await
                }
                Request::ForkDecide { key, incarnation, until_ms } => {
                    shard.decide_fork(&key, incarnation, until_ms).await
                }
                Request::InheritedRecords(request, records_max) => shard.read_held_records(request, records_max).await,
                Request::FoldState(request) => shard.fold_state(*request).await,
                Request::Delete(key, if_match) => shard.delete(key, if_match).await,
                Request::Trim(key, request) => shard.trim(key, request).await,
                Request::BucketCreate(name, retention) => shard.bucket_create(&name, retention).await,
                Request::BucketDelete(name) => shard.bucket_delete(&name).await,
                Request::BucketDescribe { group, name } => shard.bucket_describe(group, &name),
                Request::BucketTell { group, news } => shard.bucket_tell(group, &news).await,
                Request::ModulePut { bucket, name, roles, wasm } => {
                    shard.module_put(bucket.as_str(), name.as_str(), &roles, wasm).await
                }
                Request::ModuleDelete { bucket, name } => shard.module_delete(bucket.as_str(), name.as_str()).await,
                Request::Modules(bucket) => shard.modules(bucket.as_str()),
                Request::ModuleKeep { digest, wasm } => shard.module_keep(digest, wasm).await,
                Request::ModuleBytes(digest) => shard.module_bytes(digest).await,
                Request::ModuleLoad { bucket, digest } => shard.module_load(&bucket, digest).await,
                Request::BindingPut(bucket, request) => shard.binding_put(bucket.as_str(), *request).await,
                Request::BindingDelete { bucket, name } => shard.binding_delete(bucket.as_str(), name.as_str()).await,
                Request::Bindings(bucket) => shard.bindings(bucket.as_str()),
                Request::Subscription(bucket, id, ask) => shard.serve_subscription(bucket, &id, *ask).await,
                Request::HookKeys => shard.hook_keys(),
                Request::PendingNews(places) => {
                    places.into_iter().for_each(|place| shard.desk.add(place));
                    Ok(Answer::Done)
                }
                Request::Links(group, request) => shard.links(group, *request).await,
                Request::Members(request) => shard.members(request).await,
                Request::Append(..)
                | Request::Read { .. }
                | Request::ReadInherited(..)
                | Request::Buckets { .. }
                | Request::Head(_)
                | Request::Watch { .. } => {
                    unreachable!("served above")
                }
            }
        };
        if ends_with_client {
            return self.work(origin, call, work);
        }
        let shard = self.clone();
        self.spawn_request(async move { shard.respond(origin, call, work.await) });
    }
}

/// What the replica of a group is started with.
fn replica_options(group: GroupId, config: &ShardConfig, seams: &Seams, peers: Option<&Rc<Links>>) -> ReplicaOptions {
    let (Some(peers), Some(nodes)) = (peers, &seams.nodes) else { return ReplicaOptions::alone(config.node_id, group) };
    ReplicaOptions {
        node_id: config.node_id,
        group,
        founders: nodes.founders.clone(),
        peers: Some(peers.clone()),
        seed: seams.entropy.u64(),
    }
}

async fn read_mail(shard: Rc<Core>, mut receiver: mpsc::UnboundedReceiver<Vec<Mail>>) {
    let mut messages = Vec::new();
    while receiver.recv_many(&mut messages, 64).await > 0 {
        for mail in messages.drain(..).flatten() {
            match mail {
                Mail::Request { origin: origin @ Peer::Here(_), call, request } => shard.serve(origin, call, request),
                Mail::Request { origin, call, request } => shard.serve_away(origin, call, request),
                Mail::Response { owner, call, response } => {
                    shard.join_mirror(owner, &response);
                    match owner.node() {
                        None => shard.calls.answer(call, response),
                        Some(node) => shard.calls.answer_from(node, call, response),
                    }
                }
                Mail::Advanced { owner, advance } => shard.feeds.mirror_advanced(owner, &advance),
                Mail::Ended { owner, incarnation } => shard.feeds.mirror_ended(owner, incarnation),
                Mail::Lost(node, peer) => shard.lose_peer(node, peer),
                Mail::Nodes => shard.meet_nodes(),
                Mail::Led { group, lead } => shard.leaders.set(group, lead),
                Mail::Unwatch { origin, incarnation, answered } => {
                    shard.feeds.forget_peer(incarnation, origin, answered);
                }
                Mail::Cancel { origin, call } => shard.calls.cancel(origin, call),
                Mail::Stats(sender) => drop(sender.send(shard.figures())),
                Mail::Order(order, sender) => {
                    let work = shard.clone().carry_out_order(order);
                    shard.spawn_request(async move { drop(sender.send(work.await)) });
                }
                Mail::ColdCheck { repairs, news, turn } => upkeep::begin_check(&shard, repairs, news, turn),
                Mail::Backup { to, there, news, turn } => upkeep::begin_backup(&shard, to, there, news, turn),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_types::{ReadFrom, StreamKey};

    /// A router's handlers must be `Send`, so what they wait for must be; nothing that belongs to a thread may be kept
    /// across a wait.
    #[expect(dead_code, reason = "that it compiles is the test")]
    fn what_connections_wait_for_is_send(shard: &'static Shard, key: StreamKey) {
        fn send<T: Send>(_: T) {}
        send(shard.read(key.clone(), ReadFrom::Start, 1));
        send(shard.long_poll(key.clone(), ReadFrom::Start, std::time::Duration::ZERO));
        send(shard.list("", "", None, 1));
        send(async move {
            if let Ok(mut subscription) = shard.subscribe(key, ReadFrom::Start).await {
                subscription.next().await;
            }
        });
    }
}
