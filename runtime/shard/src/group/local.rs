//! A group that a shard owns.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Deref;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use weir_cold::ChunkName;
use weir_raft::{Replica, Role, State};
use weir_storage::{Claim, FRAME_HEADER_BYTES, FullCause, Room, Ticket, Wal};
use weir_stream::{Chunk, ChunkId, Command, Limits, Reply};
use weir_types::{GroupId, Wakeup};

use crate::group::proposer::{Failures, Job, Proposer, Task, Waiter};
use crate::group::time::GroupTime;
use crate::message::{Limit, ShardError};
use crate::seams::SteadyClock;

/// A group's state where this replica leads. Not to be kept across a wait.
pub(crate) struct Leading<'a>(Ref<'a, weir_stream::Group>);

impl Deref for Leading<'_> {
    type Target = weir_stream::Group;

    fn deref(&self) -> &weir_stream::Group {
        &self.0
    }
}

/// What a round is given at least: who has less time left is not taken into one.
pub(crate) const ROUND_MIN: Duration = Duration::from_millis(100);
/// How long a node that a group's leader has said not to belong to it is taken for one: it is said about every second.
const OUTSIDE_FOR: Duration = Duration::from_secs(5);
/// Damaged chunks that are noted: others are met again.
const DAMAGED_MAX: usize = 1024;

/// A group that this shard owns. Its appends wait as `J`.
pub(crate) struct Group<J> {
    pub(crate) id: GroupId,
    pub(crate) replica: Replica,
    /// Reached by [`Group::applied`] and [`Group::leading`] alone.
    state: State,
    pub(crate) wal: Wal,
    /// The term that this shard has begun to lead in, and when: no stream was seen idle before.
    leading_term: Cell<Option<u64>>,
    leading_since_ms: Cell<u64>,
    time: GroupTime,
    /// How long a write may wait for its outcome.
    write_deadline: Duration,
    proposer: RefCell<Proposer<J>>,
    /// Rung when there is something new to propose.
    dirty: Wakeup,
    /// For tasks that found the open batch full.
    batch_taken: Notify,
    /// For when the alarm is set, if it is; and rung when somebody has come who is due earlier.
    alarm: Cell<Option<Instant>>,
    hurry: Wakeup,
    /// Since when the oldest bytes in the log are the next ones to go to the cold tier.
    pub(crate) oldest_since: Cell<Option<Instant>>,
    /// The last entry whose bytes are to leave the log now, because somebody waits for that.
    pub(crate) flush_upto: Cell<Option<u64>>,
    /// The entry that somebody waits for a snapshot of.
    pub(crate) snapshot_wanted: Cell<Option<u64>>,
    /// When its leader has said last that this node does not belong to it.
    outside_at: Cell<Option<Instant>>,
    /// Who needs chunks to stay that nothing names any more.
    pub(crate) holds: Cell<u32>,
    /// Rung when a stream has come to have more than some subscription has processed.
    pub(crate) pending: Wakeup,
    /// Chunks that somebody has met damaged, for who builds them again.
    pub(crate) damaged: RefCell<BTreeSet<ChunkName>>,
}

impl<J: Job> Group<J> {
    pub(crate) fn new(
        id: GroupId,
        replica: Replica,
        state: State,
        wal: Wal,
        clock: SteadyClock,
        write_deadline: Duration,
    ) -> Group<J> {
        let leading_term = match replica.role() {
            Role::Leading { term } => Some(term),
            Role::Following { .. } | Role::Stopped => None,
        };
        let (proposer, dirty, batch_taken) = (RefCell::default(), Wakeup::default(), Notify::new());
        let (alarm, hurry) = (Cell::new(None), Wakeup::default());
        Group {
            id,
            replica,
            state,
            wal,
            leading_term: Cell::new(leading_term),
            leading_since_ms: Cell::new(clock.now_ms()),
            time: GroupTime::new(clock),
            write_deadline,
            proposer,
            dirty,
            batch_taken,
            alarm,
            hurry,
            oldest_since: Cell::default(),
            flush_upto: Cell::default(),
            snapshot_wanted: Cell::default(),
            outside_at: Cell::default(),
            holds: Cell::default(),
            pending: Wakeup::default(),
            damaged: RefCell::default(),
        }
    }

    /// Its leader says that this node does not belong to it.
    pub(crate) fn note_outside(&self) {
        self.outside_at.set(Some(Instant::now()));
    }

    /// Whether this node does not belong to it, as its leader has said lately.
    pub(crate) fn is_outside(&self) -> bool {
        self.outside_at.get().is_some_and(|at| at.elapsed() < OUTSIDE_FOR)
    }

    /// What was committed, and applied here. There may be more that this replica does not know of.
    pub(crate) fn applied(&self) -> Ref<'_, weir_stream::Group> {
        self.state.borrow()
    }

    /// The state as the leader has it: with everything that was acknowledged. Who says that a stream is not there, or where it
    /// ends, needs this.
    ///
    /// # Errors
    /// [`ShardError::Unavailable`] when this replica does not lead, or another may.
    pub(crate) fn leading(&self) -> Result<Leading<'_>, ShardError> {
        let has_begun = match self.replica.role() {
            Role::Leading { term } => self.leading_term.get() == Some(term),
            Role::Following { .. } => false,
            Role::Stopped => true,
        };
        let leads = has_begun && self.replica.is_leading();
        if leads { Ok(Leading(self.state.borrow())) } else { Err(ShardError::Unavailable) }
    }

    /// The term that this replica leads in, or did and does not know better. Others may lead in a later one by now, but none in
    /// this one: so what it has done in it, and what was committed before, stays as it is.
    pub(crate) fn reign(&self) -> Option<u64> {
        match self.replica.role() {
            Role::Leading { term } => self.leading_term.get().filter(|begun| *begun == term),
            Role::Following { .. } | Role::Stopped => None,
        }
    }

    /// What this replica is to its group. A leader that has lost the others follows nobody.
    pub(crate) fn role(&self) -> Role {
        match self.replica.role() {
            Role::Leading { .. } if !self.replica.is_leading() => Role::Following { leader: None },
            role => role,
        }
    }

    /// The group's time where this replica leads, in milliseconds since 1970: what is written now has it, or a later one.
    pub(crate) fn now_ms(&self) -> u64 {
        self.time.now_ms(self.applied().time_ms()).0
    }

    /// How far the group's time is ahead of the clock, in milliseconds.
    pub(crate) fn ahead_ms(&self) -> u64 {
        self.time.now_ms(self.applied().time_ms()).1
    }

    /// When this replica began to lead, by the clock.
    pub(crate) fn leading_since_ms(&self) -> u64 {
        self.leading_since_ms.get()
    }

    /// This replica leads from now on, in this term.
    pub(crate) fn begin_to_lead(&self, term: u64, now_ms: u64) {
        self.leading_term.set(Some(term));
        self.leading_since_ms.set(now_ms);
    }

    /// Chunks that nothing names any more since this was asked last.
    pub(crate) fn take_gone_chunks(&self) -> Vec<(ChunkId, u64)> {
        self.state.borrow_mut().take_gone_chunks()
    }

    /// Subscriptions that have something new since this was asked last.
    pub(crate) fn take_pending_news(&self) -> Vec<(Box<str>, u64)> {
        self.state.borrow_mut().take_pending_news()
    }

    /// Something was applied: rings if that is news for a subscription.
    pub(crate) fn note_pending(&self) {
        if self.state.borrow().has_pending_news() {
            self.pending.ring();
        }
    }

    /// When a write that comes now is answered at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.write_deadline
    }

    /// A new job's place in the order of all.
    pub(crate) fn arrive(&self) -> u64 {
        self.proposer.borrow_mut().arrive()
    }

    /// Whether jobs wait already: another one must wait behind them.
    pub(crate) fn has_backlog(&self) -> bool {
        self.proposer.borrow().has_backlog()
    }

    /// Encodes a job's command, which was checked under `epoch`, into the open batch. The caller then lets it wait there,
    /// with [`Group::wait`], or in the backlog if this says no.
    #[must_use]
    pub(crate) fn encode(&self, command: &Command<'_>, epoch: u64) -> bool {
        let mut proposer = self.proposer.borrow_mut();
        !proposer.must_wait(epoch) && proposer.encode(command)
    }

    /// Lets the job wait whose command was encoded last.
    pub(crate) fn wait(&self, job: J, epoch: u64) {
        self.note_deadline(job.deadline());
        self.proposer.borrow_mut().wait(Waiter::Job(job), Some(epoch));
        self.dirty.ring();
    }

    /// Proposes a command of this shard's own and waits for its reply.
    pub(crate) async fn command(&self, command: &Command<'_>) -> Result<Reply, ShardError> {
        self.command_until(command, self.deadline()).await
    }

    /// As [`Group::command`], for a task that is answered by `deadline`.
    pub(crate) async fn command_until(&self, command: &Command<'_>, deadline: Instant) -> Result<Reply, ShardError> {
        // In the open batch it would end the waiting of all others there.
        if deadline < Instant::now() + ROUND_MIN {
            return Err(ShardError::Unavailable);
        }
        while !self.proposer.borrow_mut().encode(command) {
            let taken = tokio::time::timeout_at(deadline, self.batch_taken.notified()).await;
            taken.map_err(|_| ShardError::Unavailable)?;
        }
        self.note_deadline(deadline);
        let (answer, reply) = oneshot::channel();
        self.proposer.borrow_mut().wait(Waiter::Task(Task { answer, deadline }), None);
        self.dirty.ring();
        reply.await.unwrap_or(Err(ShardError::Unknown))
    }

    /// Lets a job wait for the next batch.
    pub(crate) fn push_backlog(&self, job: J) {
        self.note_deadline(job.deadline());
        self.proposer.borrow_mut().push_backlog(job);
        self.dirty.ring();
    }

    /// The jobs that waited for a batch, to be admitted again in order.
    pub(crate) fn take_backlog(&self) -> VecDeque<J> {
        self.proposer.borrow_mut().take_backlog()
    }

    /// Resolves when something new may be proposed.
    pub(crate) async fn dirtied(&self) {
        self.dirty.rung().await;
    }

    /// Bytes that the log has to take for the open batch, when no round is under way, and which room they may take.
    pub(crate) fn ready(&self) -> Option<(usize, Claim)> {
        self.proposer.borrow().ready()
    }

    /// Commands in the open batch.
    pub(crate) fn open_commands(&self) -> usize {
        self.proposer.borrow().open_commands()
    }

    /// Begins a round with the open batch.
    pub(crate) fn begin_round(&self, now_ms: u64, limits: Limits) -> BytesMut {
        let batch = self.proposer.borrow_mut().begin_round(now_ms, limits);
        self.batch_taken.notify_waiters();
        batch
    }

    /// Ends the round: who still waits for it, in the order of its commands.
    pub(crate) fn end_round(&self) -> Vec<Option<Waiter<J>>> {
        self.proposer.borrow_mut().end_round()
    }

    /// Throws away what has not been proposed.
    pub(crate) fn discard(&self) -> Vec<Waiter<J>> {
        let waiters = self.proposer.borrow_mut().discard();
        self.batch_taken.notify_waiters();
        waiters
    }

    /// Ends the waiting of those whose deadline has passed.
    pub(crate) fn expire(&self, now: Instant) -> Failures<J> {
        let failures = self.proposer.borrow_mut().expire(now);
        self.batch_taken.notify_waiters();
        failures
    }

    /// Sets the alarm for the first of those who wait, or of those who may come; says when that is.
    pub(crate) fn set_alarm(&self) -> Instant {
        let next = self.next_deadline().unwrap_or_else(|| self.deadline());
        self.alarm.set(Some(next));
        next
    }

    /// The earliest deadline of all who wait.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.proposer.borrow().next_deadline()
    }

    /// The alarm has struck.
    pub(crate) fn unset_alarm(&self) {
        self.alarm.set(None);
    }

    /// Whether the alarm is set.
    pub(crate) fn has_alarm(&self) -> bool {
        self.alarm.get().is_some()
    }

    /// Resolves when somebody has come who is due before the alarm strikes.
    pub(crate) async fn hurried(&self) {
        self.hurry.rung().await;
    }

    /// Somebody comes who is due then: most later than all others, but not who has waited elsewhere before.
    fn note_deadline(&self, deadline: Instant) {
        if self.alarm.get().is_some_and(|alarm| deadline < alarm) {
            self.alarm.set(Some(deadline));
            self.hurry.ring();
        }
    }

    /// What a chunk of the group is called in the cold tier.
    pub(crate) fn chunk_name(&self, ChunkId { term, number, nonce }: ChunkId) -> ChunkName {
        ChunkName { group: self.id, term, number, nonce }
    }

    /// The chunk, if a stream still names it.
    pub(crate) fn chunk(&self, chunk: ChunkName) -> Option<Chunk> {
        self.applied().chunk(chunk.number).filter(|known| self.chunk_name(known.id) == chunk).copied()
    }

    /// Whether a stream still names the chunk.
    pub(crate) fn has_chunk(&self, chunk: ChunkName) -> bool {
        self.chunk(chunk).is_some()
    }

    /// Notes that the chunk was met damaged or missing.
    pub(crate) fn note_damaged(&self, chunk: ChunkName) {
        let mut damaged = self.damaged.borrow_mut();
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(chunk);
        }
    }

    /// Whether it takes nothing any more until the process is started again.
    pub(crate) fn has_failed(&self) -> bool {
        self.wal.failed() || self.replica.is_stopped()
    }

    /// Why the log takes no further `bytes`, if it does not.
    pub(crate) fn refusal(&self, bytes: usize) -> Option<ShardError> {
        if self.has_failed() {
            return Some(ShardError::LogFailed);
        }
        refusal_of(self.wal.room(bytes + FRAME_HEADER_BYTES))
    }

    /// Has the log promise room for a frame of `bytes`, header and body; nothing when it is to be asked again.
    pub(crate) fn reserve(&self, bytes: usize, claim: Claim) -> Result<Option<Ticket>, ShardError> {
        if self.has_failed() {
            return Err(ShardError::LogFailed);
        }
        match self.wal.reserve(bytes, claim) {
            Ok(ticket) => Ok(Some(ticket)),
            Err(room) => refusal_of(room).map_or(Ok(None), Err),
        }
    }
}

fn refusal_of(room: Room) -> Option<ShardError> {
    match room {
        Room::Free | Room::Preparing => None,
        Room::Full(FullCause::Disk) => Some(ShardError::Limit(Limit::Disk)),
        Room::Full(FullCause::Budget) => Some(ShardError::Limit(Limit::WalBudget)),
    }
}
