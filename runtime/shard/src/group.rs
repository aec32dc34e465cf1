//! One group on this shard: the open batch, the flusher, and the answers.
//!
//! Requests encode their command into the open batch and ring the flusher. The flusher runs after everything that is
//! ready in this turn, so that one poll of the network becomes one log entry; one round is in flight per group while the
//! next batch fills. What does not fit the open batch waits in the backlog, in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use weir_raft::{ProposeError, Replica, State};
use weir_storage::{Arena, BLOCK_BYTES, FRAME_HEADER_BYTES, FullCause, Room, Wal};
use weir_stream::batch::BATCH_HEAD_BYTES;
use weir_stream::{BatchBuilder, Command, Limits, Outcome, Reply};
use weir_types::GroupId;
use weir_types::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};

use crate::api::ShardError;
use crate::append::AppendJob;
use crate::limit::Limit;
use crate::shard::Inner;
use crate::wakeup::Wakeup;

/// The smallest arena, which takes one block of the disk with its header. It is kept whole for as long as the log keeps
/// the entry in memory, so it must not be larger than what most batches need.
const ARENA_BYTES_MIN: usize = BLOCK_BYTES - FRAME_HEADER_BYTES;

/// A group that this shard owns.
pub(crate) struct LocalGroup {
    pub(crate) id: GroupId,
    pub(crate) replica: Replica,
    pub(crate) state: State,
    pub(crate) wal: Wal,
    /// When this replica began to serve: no stream was seen idle before.
    pub(crate) serving_since_ms: u64,
    queue: RefCell<Queue>,
    dirty: Wakeup,
    /// For tasks that found the open batch full.
    batch_taken: Notify,
}

#[derive(Default)]
struct Queue {
    open: Option<OpenBatch>,
    backlog: VecDeque<AppendJob>,
    /// What the last batches took: the next arena's size.
    arena_bytes: usize,
}

struct OpenBatch {
    builder: BatchBuilder,
    waiters: Vec<Waiter>,
    capacity: usize,
}

/// Who waits for a command's outcome.
#[expect(
    clippy::large_enum_variant,
    reason = "almost every waiter is an append, and a box would be an allocation for each"
)]
pub(crate) enum Waiter {
    /// A client's append, kept whole: it is checked again if the stream changed meanwhile.
    Append(AppendJob),
    /// A task of this shard.
    Task(oneshot::Sender<Result<Reply, ShardError>>),
}

impl LocalGroup {
    pub(crate) fn new(id: GroupId, replica: Replica, state: State, wal: Wal, serving_since_ms: u64) -> LocalGroup {
        let queue = RefCell::default();
        let dirty = Wakeup::default();
        LocalGroup { id, replica, state, wal, serving_since_ms, queue, dirty, batch_taken: Notify::new() }
    }

    /// Encodes `command` into the open batch, if it has room. The caller then says who waits, with [`LocalGroup::wait`].
    #[must_use]
    pub(crate) fn encode(&self, command: &Command<'_>) -> bool {
        let bytes = BatchBuilder::frame_bytes(command);
        let mut queue = self.queue.borrow_mut();
        if let Some(open) = queue.open.as_ref().filter(|open| !open.fits(bytes)) {
            // Most often the arena was too small rather than the batch too large: the next one is larger.
            queue.arena_bytes = (open.capacity * 2).min(BATCH_BYTES_MAX);
            return false;
        }
        let arena_bytes = queue.arena_bytes.max(ARENA_BYTES_MIN).max(BATCH_HEAD_BYTES + bytes);
        queue.open.get_or_insert_with(|| OpenBatch::new(arena_bytes)).builder.push(command);
        true
    }

    /// Names who waits for the command that was encoded last.
    pub(crate) fn wait(&self, waiter: Waiter) {
        let mut queue = self.queue.borrow_mut();
        let open = queue.open.as_mut().expect("a command was encoded in this turn");
        open.waiters.push(waiter);
        assert!(open.waiters.len() == open.builder.commands(), "one waiter per command");
        drop(queue);
        self.dirty.ring();
    }

    /// Whether appends wait already: another one must wait behind them.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.queue.borrow().backlog.is_empty()
    }

    /// Proposes a command of this shard's own and waits for its reply.
    pub(crate) async fn command(&self, command: &Command<'_>) -> Result<Reply, ShardError> {
        let (sender, receiver) = oneshot::channel();
        while !self.encode(command) {
            self.batch_taken.notified().await;
        }
        self.wait(Waiter::Task(sender));
        receiver.await.unwrap_or(Err(ShardError::Unknown))
    }

    /// Lets an append wait for the next batch.
    pub(crate) fn push_backlog(&self, job: AppendJob) {
        self.queue.borrow_mut().backlog.push_back(job);
        self.dirty.ring();
    }

    /// Why the log takes no further `bytes`, if it does not.
    pub(crate) fn refusal(&self, bytes: usize) -> Option<ShardError> {
        if self.wal.failed() {
            return Some(ShardError::LogFailed);
        }
        match self.wal.room(bytes + FRAME_HEADER_BYTES) {
            Room::Free | Room::Preparing => None,
            Room::Full(FullCause::Disk) => Some(ShardError::Limit(Limit::Disk)),
            Room::Full(FullCause::Budget) => Some(ShardError::Limit(Limit::WalBudget)),
        }
    }

    fn take_batch(&self) -> Option<OpenBatch> {
        let mut queue = self.queue.borrow_mut();
        let open = queue.open.take()?;
        self.batch_taken.notify_waiters();
        let used = open.builder.bytes();
        // Follows growth at once and shrinks slowly: an arena that is too small costs a smaller batch.
        queue.arena_bytes = used.min(BATCH_BYTES_MAX).max(queue.arena_bytes - queue.arena_bytes / 64);
        Some(open)
    }

    fn take_backlog(&self) -> VecDeque<AppendJob> {
        std::mem::take(&mut self.queue.borrow_mut().backlog)
    }
}

impl OpenBatch {
    fn new(arena_bytes: usize) -> OpenBatch {
        let buf = Arena::new(arena_bytes).into_buf();
        // It has at least what was asked for, in whole blocks.
        let capacity = buf.capacity() / BLOCK_BYTES * BLOCK_BYTES - buf.len();
        OpenBatch { builder: BatchBuilder::new(buf), waiters: Vec::new(), capacity }
    }

    fn fits(&self, bytes: usize) -> bool {
        let after = self.builder.bytes() + bytes;
        self.builder.commands() < BATCH_COMMANDS_MAX && after <= self.capacity && after <= BATCH_BYTES_MAX
    }
}

/// Proposes batch after batch of one group, one round at a time. Runs for the shard's life.
pub(crate) async fn flush_batches(shard: Rc<Inner>, group: Rc<LocalGroup>) {
    loop {
        group.dirty.rung().await;
        while let Some(open) = group.take_batch() {
            let OpenBatch { builder, waiters, .. } = open;
            let now_ms = shard.clock.now_ms().max(group.state.borrow().time_ms());
            let limits = Limits { producers_max: shard.config.producers_per_stream_max };
            let frame = Arena::seal(builder.finish(now_ms, limits));
            match wait_for_room(&group, frame.len(), shard.config.write_deadline).await {
                Ok(()) => propose(&shard, &group, frame, waiters).await,
                Err(error) => fail(&shard, waiters, &error),
            }
            admit_backlog(&shard, &group);
        }
        admit_backlog(&shard, &group);
    }
}

/// Admits the appends that wait, in order: one that still finds no room keeps those behind it waiting, for they may be
/// of the same producer.
fn admit_backlog(shard: &Rc<Inner>, group: &Rc<LocalGroup>) {
    for job in group.take_backlog() {
        if group.has_backlog() { group.push_backlog(job) } else { shard.admit_append(group, job) }
    }
}

/// A batch may be proposed only when the log can take it: afterwards a full disk would be an error to openraft.
async fn wait_for_room(group: &LocalGroup, bytes: usize, deadline: Duration) -> Result<(), ShardError> {
    let waiting = async {
        loop {
            if let Some(refusal) = group.refusal(bytes) {
                return Err(refusal);
            }
            match group.wal.room(bytes) {
                Room::Preparing => group.wal.room_changed().await,
                Room::Free | Room::Full(_) => return Ok(()),
            }
        }
    };
    match group.wal.room(bytes) {
        Room::Free if !group.wal.failed() => Ok(()),
        _ => tokio::time::timeout(deadline, waiting).await.unwrap_or(Err(ShardError::Unavailable)),
    }
}

async fn propose(shard: &Rc<Inner>, group: &Rc<LocalGroup>, frame: Bytes, waiters: Vec<Waiter>) {
    let mut waiters = Some(waiters);
    let round = group.replica.propose(frame);
    tokio::pin!(round);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut round => break result,
            () = tokio::time::sleep(shard.config.write_deadline), if waiters.is_some() => {
                // Nobody waits longer than the deadline, and still the next round begins only after this one.
                fail(shard, waiters.take().unwrap_or_default(), &ShardError::Unknown);
            }
        }
    };
    let waiters = waiters.unwrap_or_default();
    match result {
        Ok(outcomes) => answer(shard, group, outcomes, waiters),
        Err(ProposeError::NotLeader) => fail(shard, waiters, &ShardError::Unavailable),
        Err(ProposeError::Unknown) => fail(shard, waiters, &ShardError::Unknown),
    }
}

fn answer(shard: &Rc<Inner>, group: &Rc<LocalGroup>, outcomes: Vec<Outcome>, waiters: Vec<Waiter>) {
    assert!(waiters.is_empty() || waiters.len() == outcomes.len(), "one outcome per command");
    shard.stats.batches.set(shard.stats.batches.get() + 1);
    for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
        match waiter {
            Waiter::Append(job) => shard.finish_append(group, job, outcome.reply),
            Waiter::Task(sender) => drop(sender.send(Ok(outcome.reply))),
        }
    }
}

fn fail(shard: &Rc<Inner>, waiters: Vec<Waiter>, error: &ShardError) {
    for waiter in waiters {
        match waiter {
            Waiter::Append(job) => shard.answer_append(job, Err(error.clone())),
            Waiter::Task(sender) => drop(sender.send(Err(error.clone()))),
        }
    }
}
