//! Modules on the other nodes of a cluster.
//!
//! An upload is on most of group 0's nodes before it is announced, so it outlives each of them. Every node fetches the bytes that it
//! lacks of what group 0 names, and makes ready what its own groups have bound: whichever leads next can serve it. A bind waits for
//! the nodes that lead now.
//!
//! How long a copy stays, [`last_wanted`](crate::modules::last_wanted) says.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use weir_cluster::NodeId;
use weir_stream::NodeState;
use weir_types::{Digest, GroupId};
use weir_wasm::{CompileError, Host, digest_of};

use crate::core::Core;
use crate::message::{Answer, MembersAnswer, MembersRequest, Request, Response, ShardError};
use crate::modules::last_wanted::KEPT_FOR;

/// How often it is looked what is bound, and what is named.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked again where nothing has changed: another node may have come back that has what is missing.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a node that does not lead may lack an entry that the leader has applied, and how often it looks.
const APPLIED_WITHIN: Duration = Duration::from_secs(1);
const AGAIN_EVERY: Duration = Duration::from_millis(20);
/// How long another node may take to say whether it has all modules.
const KEPT_WITHIN: Duration = Duration::from_secs(2);
/// How long another node may take to hand a module's bytes over, or to keep them.
const BYTES_WITHIN: Duration = Duration::from_secs(30);

impl Core {
    /// Has other nodes keep a module that this one has, until most of group 0's nodes do.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] when too few can be reached, or what keeps those from it that were.
    pub(crate) async fn spread(self: &Rc<Self>, digest: Digest, wasm: &Bytes) -> Result<(), ShardError> {
        let voters = self.group(GroupId::META).replica.members().0;
        let others =
            voters.iter().filter_map(|&node| NodeId::new(node)).filter(|node| node.get() != self.config.node_id);
        let mut asked: FuturesUnordered<_> = others
            .map(|node| self.ask_node(node, Request::ModuleKeep { digest, wasm: wasm.clone() }, BYTES_WITHIN))
            .collect();
        let mut missing = voters.len() / 2;
        let mut error = ShardError::Unavailable;
        while missing > 0 {
            match asked.next().await {
                None => return Err(error),
                Some(Ok(_)) => missing -= 1,
                // Whether it was kept does not matter where it is not counted.
                Some(Err(ShardError::Unavailable | ShardError::Unknown)) => {}
                Some(Err(other)) => error = other,
            }
        }
        Ok(())
    }

    /// Keeps a module for the leader of group 0, which is about to announce it.
    pub(crate) async fn module_keep(&self, digest: Digest, wasm: Bytes) -> Response {
        if wasm.len() > self.guests.host.module_bytes_max() {
            return Err(ShardError::ModuleTooLarge { bytes_max: self.guests.host.module_bytes_max() });
        }
        self.guests.last_wanted.note_bytes([digest]);
        match self.guests.store(wasm).await? == digest {
            true => Ok(Answer::Done),
            false => Err(ShardError::ModuleInvalid("these are not the bytes that they are said to be".into())),
        }
    }

    /// A module's bytes, for a node that lacks them.
    pub(crate) async fn module_bytes(&self, digest: Digest) -> Response {
        match self.read_whole(digest).await? {
            Some(wasm) => Ok(Answer::ModuleBytes(wasm.into())),
            None => Err(ShardError::ModuleNotReady),
        }
    }

    /// A module's bytes, if this node has them as they were uploaded.
    async fn read_whole(&self, digest: Digest) -> Result<Option<Vec<u8>>, ShardError> {
        self.guests.blocking(move |host| host.read(digest).ok().filter(|wasm| digest_of(wasm) == digest)).await
    }

    /// Makes a module ready, for a bind or for this node's own groups. `bucket` is whose turn to compile it is.
    pub(crate) async fn module_load(self: &Rc<Self>, bucket: &str, digest: Digest) -> Response {
        self.guests.last_wanted.note_code(digest);
        self.guests.store_builtin(digest).await?;
        self.load(bucket, digest).await.map(|()| Answer::Done)
    }

    /// Does something that needs a module's bytes and may block. Where they are not here, or damaged, another node has them.
    pub(crate) async fn with_bytes(
        self: &Rc<Self>,
        digest: Digest,
        work: impl Fn(&Host) -> Result<(), CompileError> + Clone + Send + 'static,
    ) -> Result<Result<(), CompileError>, ShardError> {
        let done = self.guests.blocking(work.clone()).await?;
        let lacks = matches!(done, Err(CompileError::NotStored(_) | CompileError::Damaged(_)));
        if !lacks || self.is_alone() || !self.fetch(digest).await? {
            return Ok(done);
        }
        self.guests.blocking(work).await
    }

    /// Gets a module's bytes from whichever node has them; whether one had.
    async fn fetch(self: &Rc<Self>, digest: Digest) -> Result<bool, ShardError> {
        for node in self.post.node_ids() {
            let answer = self.ask_node(node, Request::ModuleBytes(digest), BYTES_WITHIN).await;
            let Ok(Answer::ModuleBytes(wasm)) = answer else { continue };
            let is_it = wasm.len() <= self.guests.host.module_bytes_max() && {
                let wasm = wasm.clone();
                self.guests.blocking(move |_| digest_of(&wasm) == digest).await?
            };
            if is_it {
                self.guests.last_wanted.note_bytes([digest]);
                self.guests.store(wasm).await?;
                return Ok(true);
            }
            tracing::warn!(node = node.get(), %digest, "another node has sent what is not the module that was asked for");
        }
        Ok(false)
    }

    /// Modules that group 0 names and whose bytes are not known to be here, without those that the server brings along.
    fn lacks_named(&self) -> BTreeSet<Digest> {
        let kept = self.guests.kept.here.borrow();
        let is_there = |digest: &Digest| {
            kept.contains(digest) || self.guests.builtins.iter().any(|(_, builtin)| builtin == digest)
        };
        self.meta().digests().filter(|digest| !is_there(digest)).collect()
    }

    /// Whether this node keeps all that group 0 names as of an entry, or why not; then it looks again soon.
    pub(crate) async fn keeps_named(&self, index: u64) -> MembersAnswer {
        let (node, meta) = (self.config.node_id, self.group(GroupId::META));
        let deadline = Instant::now() + APPLIED_WITHIN;
        // Whoever follows hears a moment later what is committed.
        while meta.replica.standing().applied_index < index {
            if Instant::now() >= deadline {
                return MembersAnswer::Refused(format!("node {node} does not know yet which modules there are").into());
            }
            tokio::time::sleep(AGAIN_EVERY).await;
        }
        let lacks = self.lacks_named();
        let Some(first) = lacks.first() else { return MembersAnswer::Done };
        self.guests.kept.is_awaited.set(true);
        let lacks = lacks.len();
        let reason = format!(
            "node {node} lacks {lacks} of the modules that were uploaded, {first} for one: where no node has it, upload it again or \
             delete it"
        );
        MembersAnswer::Refused(reason.into())
    }

    /// Why not everything that group 0 names is where it is safe, without the nodes that leave: with the leader of group 0 and most of
    /// the nodes that have it and stay.
    pub(crate) async fn lacks_copies(&self) -> Option<Box<str>> {
        let meta = self.group(GroupId::META);
        let (voters, index) = (meta.replica.members().0, meta.replica.standing().applied_index);
        let stays = |node: &u64| {
            let entry = self.meta().nodes().nodes.get(node).map(|entry| entry.state);
            matches!(entry, Some(NodeState::Active | NodeState::Draining))
        };
        let own = self.keeps_named(index).await;
        let of_this_node = &own;
        let asked = voters.iter().filter(|node| stays(node)).map(|&node| async move {
            if node == self.config.node_id {
                return of_this_node.clone();
            }
            let asked = Request::Members(MembersRequest::Keeps { index });
            let unanswered = || MembersAnswer::Refused(format!("node {node} does not say which modules it has").into());
            let Some(id) = NodeId::new(node) else { return unanswered() };
            match self.ask_node(id, asked, KEPT_WITHIN).await {
                Ok(Answer::Members(answer)) => answer,
                _ => unanswered(),
            }
        });
        let answers = join_all(asked).await;
        let keeping = answers.iter().filter(|answer| **answer == MembersAnswer::Done).count();
        if own == MembersAnswer::Done && keeping > answers.len() / 2 {
            return None;
        }
        [own].into_iter().chain(answers).find_map(|answer| match answer {
            MembersAnswer::Refused(reason) => Some(reason),
            _ => None,
        })
    }

    /// Waits until the nodes that lead groups have a module ready, as far as they can be reached: those that cannot lead nothing soon.
    ///
    /// # Errors
    /// Why one of them cannot have it.
    pub(crate) async fn ready_where_led(self: &Rc<Self>, bucket: &str, digest: Digest) -> Result<(), ShardError> {
        let leaders: HashSet<NodeId> =
            self.topology.groups().filter_map(|group| self.leaders.of(group).away()).collect();
        let load = |node| {
            let request = Request::ModuleLoad { bucket: bucket.into(), digest };
            self.ask_node(node, request, self.config.compile_wait)
        };
        for loaded in join_all(leaders.into_iter().map(load)).await {
            match loaded {
                Ok(_) | Err(ShardError::Unavailable | ShardError::Unknown | ShardError::ModulesWaiting) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Keeps ready what this shard's groups have bound and, on the shard of group 0, the bytes of all that is named. Runs for the
/// shard's life.
pub(crate) async fn keep_ready(core: Rc<Core>) {
    let mut looked: Option<(Vec<u64>, Instant)> = None;
    let begun = Instant::now();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let epochs: Vec<u64> = core.local_groups().iter().map(|group| group.applied().bindings_epoch()).collect();
        let is_due = looked.as_ref().is_none_or(|(before, at)| *before != epochs || at.elapsed() >= REPEAT_INTERVAL);
        let is_awaited = core.guests.kept.is_awaited.take();
        if !is_due && !is_awaited {
            continue;
        }
        if is_due {
            looked = Some((epochs, Instant::now()));
            load_bound(&core).await;
        }
        if core.topology.owner_of(GroupId::META) == core.id {
            keep_named(&core, is_due).await;
            // Before, nothing is known of when it was wanted last, and what is applied may be as old as the last snapshot.
            if begun.elapsed() >= KEPT_FOR {
                core.sweep_copies().await;
            }
        }
    }
}

/// Has the shard of group 0 make ready what this shard's groups have bound.
async fn load_bound(core: &Rc<Core>) {
    let mut bound: HashMap<Digest, Box<str>> = HashMap::new();
    for group in core.local_groups() {
        bound.extend(group.applied().bound().map(|(bucket, binding)| (binding.digest, bucket.into())));
    }
    for (digest, bucket) in bound {
        let load = core.call(core.topology.owner_of(GroupId::META), Request::ModuleLoad { bucket, digest });
        if let Err(error) = load.await {
            tracing::warn!(%digest, %error, "a module that is bound is not ready on this node yet");
        }
    }
}

/// Fetches the bytes of what group 0 names. What nobody has `is_said`, or not.
async fn keep_named(core: &Rc<Core>, is_said: bool) {
    let named: HashSet<Digest> = core.meta().digests().collect();
    core.guests.last_wanted.note_bytes(named.iter().copied());
    core.guests.kept.here.borrow_mut().retain(|digest| named.contains(digest));
    for digest in core.lacks_named() {
        let is_kept = match core.read_whole(digest).await {
            Ok(Some(_)) => Ok(true),
            Ok(None) => core.fetch(digest).await,
            Err(error) => Err(error),
        };
        match is_kept {
            Ok(true) => drop(core.guests.kept.here.borrow_mut().insert(digest)),
            Ok(false) if !is_said => {}
            Ok(false) => tracing::warn!(%digest, "no node that can be reached has a module that was uploaded"),
            Err(error) => tracing::warn!(%digest, %error, "a module that was uploaded cannot be kept"),
        }
    }
}
