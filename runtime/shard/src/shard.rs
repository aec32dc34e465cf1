//! The shard: one thread's groups, calls and mail, and the handle that its connections hold.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use send_wrapper::SendWrapper;
use tokio::task::JoinHandle;
use weir_storage::{Wal, WalError};
use weir_types::{GroupId, Incarnation, ShardId, StreamKey, WalId};

use crate::api::ShardError;
use crate::calls::{Call, CallId, Calls};
use crate::config::{ShardConfig, Topology};
use crate::feed::Feeds;
use crate::group::LocalGroup;
use crate::guests::Guests;
use crate::limit::Limit;
use crate::live::Watches;
use crate::mailbox::{Answer, Mail, Mailbox, Post, Request, Response};
use crate::replicas;
use crate::seams::{Entropy, Seams, SteadyClock};
use crate::stats::{Counters, ShardStats};
use crate::{expiry, group, guests, validate};

/// What a write under way takes besides its body, in bytes: a bound for how many there are.
const REQUEST_BYTES: usize = 1 << 10;

/// Why a shard cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum ShardOpenError {
    /// A WAL cannot be opened.
    #[error("WAL {wal} cannot be opened")]
    Wal {
        /// Which.
        wal: WalId,
        /// Why.
        #[source]
        source: WalError,
    },
    /// A group cannot be started.
    #[error("a group cannot be started")]
    Group(#[from] weir_raft::StartError),
    /// There can be no thread for its guests.
    #[error("the lane of its modules cannot be started")]
    Lane(#[source] std::io::Error),
    /// The meta group does not fit this node's topology, or cannot be written.
    #[error("the node's slot table cannot be formed: {0}")]
    Form(String),
}

/// A shard, as its connections hold it. Cheap to clone. It may be sent to other threads but used only on its own.
#[derive(Clone)]
pub struct Shard(pub(crate) SendWrapper<Rc<Inner>>);

/// Everything one shard owns.
pub(crate) struct Inner {
    pub(crate) id: ShardId,
    pub(crate) topology: Topology,
    pub(crate) config: ShardConfig,
    pub(crate) clock: SteadyClock,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) wals: Vec<Wal>,
    /// By group id; none for groups of other shards.
    groups: Vec<Option<Rc<LocalGroup>>>,
    pub(crate) calls: Calls,
    pub(crate) feeds: Feeds,
    /// When streams with a sliding TTL were used last, in milliseconds since 1970.
    pub(crate) touches: RefCell<HashMap<Incarnation, u64>>,
    pub(crate) in_flight_bytes: Cell<usize>,
    pub(crate) stats: Counters,
    pub(crate) post: Rc<Post>,
    pub(crate) watches: Watches,
    pub(crate) guests: Guests,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

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
        let wals = replicas::open_wals(id, topology, &seams, &config)?;
        let lane = format!("guests-{id}");
        let guests = Guests::start(seams.modules, seams.builtins, &lane, config.folds_max);
        let guests = guests.map_err(ShardOpenError::Lane)?;
        let clock = SteadyClock::new(seams.clock);
        let feeds = Feeds::new(config.live_bytes_max, config.live_bytes_per_stream_max);
        let post = Rc::new(Post::new(id, mailbox.peers));
        let mut groups: Vec<Option<Rc<LocalGroup>>> = Vec::new();
        for group in topology.groups() {
            groups.push(match wals.iter().find(|(wal, _)| *wal == topology.wal_of(group)) {
                Some((_, wal)) => Some(Rc::new(replicas::start(group, wal, &config, &clock, &feeds, &post).await?)),
                None => None,
            });
        }
        let inner = Rc::new(Inner {
            id,
            topology,
            clock,
            entropy: seams.entropy,
            wals: wals.into_iter().map(|(_, wal)| wal).collect(),
            groups,
            calls: Calls::default(),
            feeds,
            touches: RefCell::default(),
            in_flight_bytes: Cell::new(0),
            stats: Counters::default(),
            watches: Watches::new(topology.shards),
            guests,
            post,
            tasks: RefCell::default(),
            config,
        });
        for group in inner.local_groups() {
            inner.spawn(group::flush_batches(inner.clone(), group));
        }
        inner.spawn(read_mail(inner.clone(), mailbox.receiver));
        inner.spawn(inner.post.clone().run());
        inner.spawn(expiry::sweep(inner.clone()));
        inner.spawn(guests::send(inner.clone()));
        inner.spawn(validate::run(inner.clone()));
        Ok(Shard(SendWrapper::new(inner)))
    }

    /// This shard's figures.
    pub fn stats(&self) -> ShardStats {
        self.0.figures()
    }

    /// Wall-clock time in milliseconds since 1970, advanced by the monotonic clock.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// Counts a request's memory while it comes in, with [`InFlight::grow`]. To be dropped when it is handed over, which
    /// counts it again.
    pub fn in_flight(&self) -> InFlight {
        InFlight { shard: self.clone(), bytes: 0 }
    }

    /// Stops the shard's groups and WALs. What was acknowledged is durable already.
    pub async fn shutdown(&self) {
        let groups = self.0.local_groups();
        for group in groups {
            let replica = group.replica.clone();
            drop(group);
            replica.shutdown().await;
        }
        self.0.wals.iter().for_each(Wal::stop);
        self.0.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }

    /// Asks the shard that owns `request`'s stream or group, and waits for the answer.
    pub(crate) async fn call(&self, owner: ShardId, request: Request) -> Response {
        // The call alone is kept while it waits: it may be, where what it asks may not leave this thread.
        let call = self.0.begin_call(owner, request);
        call.await
    }

    /// The shard that owns group 0.
    pub(crate) fn meta_owner(&self) -> ShardId {
        self.0.topology.owner_of(GroupId::META)
    }

    /// The shard that owns the stream.
    pub(crate) fn owner_of(&self, key: &StreamKey) -> ShardId {
        self.0.topology.owner_of(self.0.topology.group_of(key.slot()))
    }
}

impl Inner {
    /// Runs `task` until the shard shuts down.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().push(tokio::task::spawn_local(task));
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

    /// The group of a stream that lives on this shard.
    pub(crate) fn local_group(&self, key: &StreamKey) -> Rc<LocalGroup> {
        self.group(self.topology.group_of(key.slot()))
    }

    /// Why no further write of `bytes` can be stored, if it cannot.
    pub(crate) fn storage_refusal(&self, group: &LocalGroup, bytes: usize) -> Option<ShardError> {
        if self.hot_index_bytes() > self.config.hot_index_bytes_max {
            return Some(ShardError::Limit(Limit::HotIndex));
        }
        group.refusal(bytes)
    }

    fn hot_index_bytes(&self) -> usize {
        let streams: usize = self.groups.iter().flatten().map(|group| group.state.borrow().index_bytes()).sum();
        streams + self.wals.iter().map(Wal::index_bytes).sum::<usize>()
    }

    /// As [`Shard::call`], for this shard's own tasks.
    pub(crate) async fn call(self: &Rc<Self>, owner: ShardId, request: Request) -> Response {
        self.begin_call(owner, request).await
    }

    fn begin_call(self: &Rc<Self>, owner: ShardId, request: Request) -> Call {
        let call = self.calls.begin();
        if owner == self.id {
            self.serve(self.id, call.id(), request);
        } else {
            self.post.mail(owner, Mail::Request { origin: self.id, call: call.id(), request });
        }
        call
    }

    /// Answers a call of this shard or of a peer.
    pub(crate) fn respond(&self, origin: ShardId, call: CallId, response: Response) {
        if let Err(error) = &response {
            self.stats.limits_met.count_error(error);
        }
        if origin == self.id {
            self.calls.answer(call, response);
        } else {
            self.post.mail(origin, Mail::Response { owner: self.id, call, response });
        }
    }

    /// Carries out a request. If its stream's time is over, the stream is ended first: an answer that says so must hold
    /// after a crash too.
    fn serve(self: &Rc<Self>, origin: ShardId, call: CallId, request: Request) {
        match request.key().and_then(|key| self.expired_group(key)) {
            None => self.carry_out(origin, call, request),
            Some(group) => {
                let shard = self.clone();
                tokio::task::spawn_local(async move {
                    if let Some(key) = request.key() {
                        shard.expire(&group, key).await;
                    }
                    shard.carry_out(origin, call, request);
                });
            }
        }
    }

    /// Carries out a request: at once where nothing has to be waited for, in a task of its own otherwise.
    fn carry_out(self: &Rc<Self>, origin: ShardId, call: CallId, request: Request) {
        match request {
            Request::Append(key, request) => return self.begin_append(origin, call, key, request),
            Request::Read { key, from, bytes_max } => return self.begin_read(origin, call, key, from, bytes_max),
            Request::Head(key) => return self.respond(origin, call, self.head(&key).map(Answer::Summary)),
            Request::Watch { key, number } => return self.respond(origin, call, self.watch(origin, &key, number)),
            _ => {}
        }
        let shard = self.clone();
        tokio::task::spawn_local(async move {
            let response = match request {
                Request::Create(key, request) => shard.create(key, request).await,
                Request::Delete(key) => shard.delete(key).await,
                Request::List { group, query } => shard.list_group(group, &query).await,
                Request::BucketCreate(name) => shard.bucket_create(&name).await,
                Request::BucketDelete(name) => shard.bucket_delete(&name).await,
                Request::BucketDescribe { group, name } => shard.bucket_describe(group, &name),
                Request::BucketChange { group, change, name, created_ms } => {
                    shard.bucket_change(group, change, &name, created_ms).await
                }
                Request::BucketBindings { group, name, epoch, bindings } => {
                    shard.bucket_bindings(group, &name, epoch, &bindings).await
                }
                Request::ModulePut { bucket, name, wasm } => {
                    shard.module_put(bucket.as_str(), name.as_str(), wasm).await
                }
                Request::ModuleDelete { bucket, name } => shard.module_delete(bucket.as_str(), name.as_str()).await,
                Request::Modules(bucket) => shard.modules(bucket.as_str()),
                Request::BindingPut(bucket, request) => shard.binding_put(bucket.as_str(), *request).await,
                Request::BindingDelete { bucket, name } => shard.binding_delete(bucket.as_str(), name.as_str()).await,
                Request::Bindings(bucket) => shard.bindings(bucket.as_str()),
                Request::Summary { key, query } => shard.summarize(&key, &query).await,
                Request::Append(..) | Request::Read { .. } | Request::Head(_) | Request::Watch { .. } => {
                    unreachable!("served above")
                }
            };
            shard.respond(origin, call, response);
        });
    }

    /// Counts a write with this body against the limit until what is returned is dropped.
    pub(crate) fn count_in_flight(self: &Rc<Self>, body_bytes: usize) -> Result<InFlight, ShardError> {
        let mut counted = InFlight { shard: Shard(SendWrapper::new(self.clone())), bytes: 0 };
        counted.add(REQUEST_BYTES + body_bytes)?;
        Ok(counted)
    }

    fn figures(&self) -> ShardStats {
        let counters = &self.stats;
        let failed = self.groups.iter().flatten().filter(|group| group.wal.failed()).count();
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
            in_flight_bytes: self.in_flight_bytes.get() as u64,
            streams: self.groups.iter().flatten().map(|group| group.state.borrow().streams() as u64).sum(),
            hot_index_bytes: self.hot_index_bytes() as u64,
            records_validated: counters.records_validated.get(),
            records_rejected: counters.records_rejected.get(),
            module_traps: guests.traps,
            guest_instances: guests.instances,
            guest_folds: guests.folds,
            guest_calls: guests.calls,
            guest_busy: Duration::from_nanos(guests.busy_ns),
            groups_serving: (local - failed) as u16,
            groups_failed: failed as u16,
            wals: self.wals.iter().map(Wal::stats).collect(),
        }
    }
}

/// Memory of one request under way, counted until this is dropped.
pub struct InFlight {
    shard: Shard,
    bytes: usize,
}

impl InFlight {
    /// Counts `bytes` more. Whoever is alone may have more than there is, or the longest body could never be taken.
    ///
    /// # Errors
    /// [`Limit::InFlight`] when that is more than the shard has; then nothing is counted.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ShardError> {
        self.add(bytes).inspect_err(|error| self.shard.0.stats.limits_met.count_error(error))
    }

    fn add(&mut self, bytes: usize) -> Result<(), ShardError> {
        let shard = &*self.shard.0;
        let counted = shard.in_flight_bytes.get() + bytes;
        let is_alone = shard.in_flight_bytes.get() == self.bytes;
        if counted > shard.config.in_flight_bytes_max && !is_alone {
            return Err(ShardError::Limit(Limit::InFlight));
        }
        shard.in_flight_bytes.set(counted);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let counted = &self.shard.0.in_flight_bytes;
        counted.set(counted.get() - self.bytes);
    }
}

async fn read_mail(shard: Rc<Inner>, mut receiver: tokio::sync::mpsc::UnboundedReceiver<Vec<Mail>>) {
    let mut messages = Vec::new();
    while receiver.recv_many(&mut messages, 64).await > 0 {
        for mail in messages.drain(..).flatten() {
            match mail {
                Mail::Request { origin, call, request } => shard.serve(origin, call, request),
                Mail::Response { owner, call, response } => {
                    shard.open_mirror(owner, &response);
                    shard.calls.answer(call, response);
                }
                Mail::Advanced { owner, advance } => shard.mirror_advanced(owner, &advance),
                Mail::Unwatch { origin, incarnation, answered } => {
                    shard.feeds.forget_peer(incarnation, origin, answered);
                }
                Mail::Stats(sender) => drop(sender.send(shard.figures())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_types::ReadFrom;

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
