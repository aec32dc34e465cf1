//! What waits to be proposed in one group, and who waits for it. Pure: no clock, no task, no Raft; time arrives as an
//! argument, and what is to be done comes back as a value.
//!
//! ```text
//!            encode, wait             take                 committed, failed
//!  command -------------> open batch ------> round under way -----------------> answers
//!                 full |      ^
//!                      v      | readmitted in the order in which they came
//!                     backlog-+
//! ```
//!
//! - One round is under way at a time, while the next batch fills. Both have at most one answer per waiter.
//! - A waiter has a deadline. In the round it is answered [`Failure::Unknown`] then, and alone: the batch may be committed
//!   yet. In the open batch nothing has been proposed, and nothing may be afterwards: at the first deadline there the whole
//!   open batch is thrown away, and with the backlog answered [`Failure::Unavailable`].
//! - A command that moves bytes out of the log may take the log's reserve, so that a full log can be emptied. Such commands are
//!   in batches of their own: with others among them, the batch could be refused.
//! - Appends are checked under the group's count of binding changes, its *epoch*. While something is under way or open that
//!   was checked under another, appends wait in the backlog: what is stale is admitted again before them, so one
//!   producer's appends stay in order.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio::sync::oneshot;
use tokio::time::Instant;
use weir_storage::{Arena, BLOCK_BYTES, Claim, FRAME_HEADER_BYTES};
use weir_stream::batch::BATCH_HEAD_BYTES;
use weir_stream::{BatchBuilder, Command, Limits, Reply};
use weir_types::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};

use crate::message::ShardError;

/// The smallest arena, which takes one block of the disk with its header. It is kept whole for as long as the log keeps
/// the entry in memory, so it must not be larger than what most batches need.
const ARENA_BYTES_MIN: usize = BLOCK_BYTES - FRAME_HEADER_BYTES;

/// A client's append, kept whole while it waits: it is checked again if its stream changes meanwhile.
pub(crate) trait Job {
    /// When it is answered at the latest.
    fn deadline(&self) -> Instant;

    /// Its place in the order of all jobs of its group, given by [`Proposer::arrive`].
    fn arrival(&self) -> u64;
}

/// Who waits for a command's outcome.
pub(crate) enum Waiter<J> {
    /// A client's append.
    Job(J),
    /// A task of this shard.
    Task(Task),
}

/// A task that waits for a command of its own.
pub(crate) struct Task {
    pub(crate) answer: oneshot::Sender<Result<Reply, ShardError>>,
    pub(crate) deadline: Instant,
}

impl<J: Job> Waiter<J> {
    fn deadline(&self) -> Instant {
        match self {
            Waiter::Job(job) => job.deadline(),
            Waiter::Task(task) => task.deadline,
        }
    }
}

/// Waiters that get no reply, and why.
pub(crate) type Failures<J> = Vec<(Waiter<J>, Failure)>;

/// Why a waiter gets no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Its command was not proposed, and never will be.
    Unavailable,
    /// Its command was proposed and may be committed, or not.
    Unknown,
}

/// One group's open batch, backlog and round.
pub(crate) struct Proposer<J> {
    open: Option<OpenBatch<J>>,
    backlog: VecDeque<J>,
    round: Option<Round<J>>,
    /// What the last batches took: the next arena's size.
    arena_bytes: usize,
    arrivals: u64,
}

struct OpenBatch<J> {
    builder: BatchBuilder,
    waiters: Vec<Waiter<J>>,
    capacity: usize,
    epoch: Option<u64>,
    claim: Claim,
}

struct Round<J> {
    /// One per command, in order; `None` where one was answered already.
    waiters: Vec<Option<Waiter<J>>>,
    epoch: Option<u64>,
}

impl<J> Default for Proposer<J> {
    fn default() -> Proposer<J> {
        Proposer { open: None, backlog: VecDeque::new(), round: None, arena_bytes: 0, arrivals: 0 }
    }
}

impl<J: Job> Proposer<J> {
    /// The next job's place in the order.
    pub(crate) fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Whether an append that was checked under `epoch` must wait in the backlog, and not overtake what is there.
    pub(crate) fn must_wait(&self, epoch: u64) -> bool {
        let is_other = |of: Option<u64>| of.is_some_and(|of| of != epoch);
        self.has_backlog()
            || is_other(self.open.as_ref().and_then(|open| open.epoch))
            || is_other(self.round.as_ref().and_then(|round| round.epoch))
    }

    /// Whether jobs wait in the backlog: another one must wait behind them.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Encodes `command` into the open batch, if it has room. The caller then says who waits, with [`Proposer::wait`].
    #[must_use]
    pub(crate) fn encode(&mut self, command: &Command<'_>) -> bool {
        let bytes = BatchBuilder::frame_bytes(command);
        let claim = if matches!(command, Command::Flush { .. }) { Claim::Reserve } else { Claim::Spare };
        if self.open.as_ref().is_some_and(|open| open.claim != claim) {
            return false;
        }
        if let Some(open) = self.open.as_ref().filter(|open| !open.fits(bytes)) {
            // Most often the arena was too small rather than the batch too large: the next one is larger.
            self.arena_bytes = (open.capacity * 2).min(BATCH_BYTES_MAX);
            return false;
        }
        let arena_bytes = self.arena_bytes.max(ARENA_BYTES_MIN).max(BATCH_HEAD_BYTES + bytes);
        self.open.get_or_insert_with(|| OpenBatch::new(arena_bytes, claim)).builder.push(command);
        true
    }

    /// Names who waits for the command that was encoded last, and the epoch it was checked under if that matters.
    pub(crate) fn wait(&mut self, waiter: Waiter<J>, epoch: Option<u64>) {
        let open = self.open.as_mut().expect("a command was encoded in this turn");
        open.waiters.push(waiter);
        assert!(open.waiters.len() == open.builder.commands(), "one waiter per command");
        assert!(open.epoch.is_none() || epoch.is_none() || open.epoch == epoch, "others wait in the backlog");
        open.epoch = open.epoch.or(epoch);
    }

    /// Lets a job wait for the next batch, in the order in which the jobs came.
    pub(crate) fn push_backlog(&mut self, job: J) {
        let behind = self.backlog.iter().rev().take_while(|other| other.arrival() > job.arrival()).count();
        let before = self.backlog.iter().rev().nth(behind);
        assert!(before.is_none_or(|before| before.arrival() < job.arrival()), "a job waits in one place");
        self.backlog.insert(self.backlog.len() - behind, job);
    }

    /// The jobs that wait for a batch. They are to be admitted again, in order, whenever a batch was taken or answered; one
    /// that still finds no room keeps those behind it waiting.
    pub(crate) fn take_backlog(&mut self) -> VecDeque<J> {
        std::mem::take(&mut self.backlog)
    }

    /// Bytes of the open batch, if it could be proposed now, and which room it may take.
    pub(crate) fn ready(&self) -> Option<(usize, Claim)> {
        let open = self.open.as_ref().filter(|_| self.round.is_none())?;
        Some((FRAME_HEADER_BYTES + open.builder.bytes(), open.claim))
    }

    /// Commands in the open batch.
    pub(crate) fn open_commands(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.waiters.len())
    }

    /// Begins a round with the open batch, and returns the batch with the leader's time in it.
    ///
    /// # Panics
    /// When nothing is [ready](Proposer::ready).
    pub(crate) fn begin_round(&mut self, now_ms: u64, limits: Limits) -> BytesMut {
        assert!(self.round.is_none(), "one round is under way at a time");
        let OpenBatch { builder, waiters, epoch, .. } = self.open.take().expect("there is an open batch");
        assert!(!waiters.is_empty() && waiters.len() == builder.commands(), "one waiter per command");
        // Follows growth at once and shrinks slowly: an arena that is too small costs a smaller batch.
        let used = builder.bytes().min(BATCH_BYTES_MAX);
        self.arena_bytes = used.max(self.arena_bytes - self.arena_bytes / 64);
        self.round = Some(Round { waiters: waiters.into_iter().map(Some).collect(), epoch });
        builder.finish(now_ms, limits)
    }

    /// Ends the round: who still waits for it, in the order of its commands.
    pub(crate) fn end_round(&mut self) -> Vec<Option<Waiter<J>>> {
        self.round.take().expect("a round is under way").waiters
    }

    /// Throws away what has not been proposed: the open batch and the backlog.
    pub(crate) fn discard(&mut self) -> Vec<Waiter<J>> {
        let open = self.open.take().into_iter().flat_map(|open| open.waiters);
        open.chain(self.backlog.drain(..).map(Waiter::Job)).collect()
    }

    /// Ends the waiting of those whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Failures<J> {
        let mut failures = Vec::new();
        let late = |waiter: &mut Option<Waiter<J>>| waiter.take_if(|waiter| waiter.deadline() <= now);
        if let Some(round) = &mut self.round {
            failures.extend(round.waiters.iter_mut().filter_map(late).map(|waiter| (waiter, Failure::Unknown)));
        }
        if self.next_unproposed().is_some_and(|deadline| deadline <= now) {
            failures.extend(self.discard().into_iter().map(|waiter| (waiter, Failure::Unavailable)));
        }
        assert!(self.next_deadline().is_none_or(|deadline| deadline > now), "nobody waits beyond the deadline");
        failures
    }

    /// The earliest deadline of all who wait.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let round = self.round.iter().flat_map(|round| &round.waiters).flatten().map(Waiter::deadline).min();
        [round, self.next_unproposed()].into_iter().flatten().min()
    }

    fn next_unproposed(&self) -> Option<Instant> {
        let open = self.open.iter().flat_map(|open| &open.waiters).map(Waiter::deadline);
        open.chain(self.backlog.iter().map(Job::deadline)).min()
    }
}

impl<J> OpenBatch<J> {
    fn new(arena_bytes: usize, claim: Claim) -> OpenBatch<J> {
        let buf = Arena::new(arena_bytes).into_buf();
        // It has at least what was asked for, in whole blocks.
        let capacity = buf.capacity() / BLOCK_BYTES * BLOCK_BYTES - buf.len();
        assert!(capacity >= arena_bytes, "an arena has what was asked for");
        OpenBatch { builder: BatchBuilder::new(buf), waiters: Vec::new(), capacity, epoch: None, claim }
    }

    fn fits(&self, bytes: usize) -> bool {
        let after = self.builder.bytes() + bytes;
        self.builder.commands() < BATCH_COMMANDS_MAX && after <= self.capacity && after <= BATCH_BYTES_MAX
    }
}
