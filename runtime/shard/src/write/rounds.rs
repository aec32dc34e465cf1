//! Rounds: what drives a group's proposer. Takes its open batch to the log, one round at a time, and brings the answers
//! back. It runs after everything that is ready in this turn, so that one poll of the network becomes one log entry.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use weir_raft::ProposeError;
use weir_storage::{Arena, Ticket};
use weir_stream::{Limits, Outcome};
use weir_types::limits::BATCH_COMMANDS_MAX;

use crate::core::Core;
use crate::group::{Failure, ROUND_MIN, Waiter};
use crate::message::ShardError;
use crate::stats::add;
use crate::write::job::{AppendJob, LocalGroup};

/// Looks at the network for a larger batch, at most: some tens of microseconds when nothing else is to be done.
const LOOKS_MAX: usize = 8;
/// A durable write that takes less than the looks is done twice sooner than looked for.
const WRITE_WORTH_LOOKS: Duration = Duration::from_micros(50);

/// Proposes batch after batch of one group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>) {
    let mut alarm = Alarm::new();
    loop {
        group.dirtied().await;
        let mut answered = 0;
        loop {
            core.admit_backlog(&group);
            gather(&group, answered).await;
            if group.ready().is_none() {
                break;
            }
            answered = match wait_for_room(&core, &group, &mut alarm).await {
                Ok(Some(ticket)) => run_round(&core, &group, ticket, &mut alarm).await,
                // Nobody waits for it any more.
                Ok(None) => 0,
                Err(error) => {
                    core.fail(group.discard(), &error);
                    0
                }
            };
        }
    }
}

/// Looks at the network before the next round, while those who were answered by the last one may be about to send again. Two small
/// rounds would become one: half the durable writes. A lone client is not waited for.
async fn gather(group: &LocalGroup, answered: usize) {
    if group.wal.write_latency() < WRITE_WORTH_LOOKS {
        return;
    }
    // A quarter of them may be slower than the others, or have nothing more to send.
    let enough = ((answered + group.open_commands()) * 3 / 4).min(BATCH_COMMANDS_MAX);
    for _ in 0..LOOKS_MAX {
        // With a backlog, the batch is full.
        if group.open_commands() >= enough || group.has_backlog() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

/// A batch may be proposed only when the log has promised to take it: afterwards a full disk would be an error to openraft.
/// Returns nothing when those who waited have been answered meanwhile.
async fn wait_for_room(
    core: &Rc<Core>,
    group: &Rc<LocalGroup>,
    alarm: &mut Alarm,
) -> Result<Option<Ticket>, ShardError> {
    while let Some((bytes, claim)) = group.ready() {
        if let Some(ticket) = group.reserve(bytes, claim)? {
            return Ok(Some(ticket));
        }
        tokio::select! {
            biased;
            () = group.wal.room_changed() => {}
            () = alarm.strikes(group) => core.answer_late(group),
        }
    }
    Ok(None)
}

/// Returns for how many commands there was an outcome.
async fn run_round(core: &Rc<Core>, group: &Rc<LocalGroup>, ticket: Ticket, alarm: &mut Alarm) -> usize {
    let limits = Limits { producers_max: core.config.producers_per_stream_max };
    let round = group.replica.propose(Arena::seal(group.begin_round(group.now_ms(), limits)), ticket);
    tokio::pin!(round);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut round => break result,
            // Nobody waits longer than the deadline, and still the next round begins only after this one.
            () = alarm.strikes(group) => core.answer_late(group),
        }
    };
    let waiters = group.end_round();
    match result {
        Ok(outcomes) => {
            let answered = outcomes.len();
            core.answer_round(group, waiters, outcomes);
            answered
        }
        Err(error) => {
            let error = match error {
                ProposeError::NotLeader => ShardError::Unavailable,
                ProposeError::Unknown => ShardError::Unknown,
                ProposeError::Stopped => ShardError::LogFailed,
            };
            core.fail(waiters.into_iter().flatten(), &error);
            core.fail(group.discard(), &Failure::Unavailable.into());
            0
        }
    }
}

impl Core {
    /// Admits the appends that wait for a batch again, in order: one that still finds no room keeps those behind it waiting,
    /// for they may be of the same producer.
    fn admit_backlog(self: &Rc<Self>, group: &Rc<LocalGroup>) {
        let backlog = group.take_backlog();
        assert!(backlog.iter().is_sorted_by_key(|job| job.arrival), "jobs wait in the order in which they came");
        for job in backlog {
            self.admit_again(group, job);
        }
    }

    /// Admits an append that has waited somewhere, behind those that wait still, if there is time left for a round.
    pub(crate) fn admit_again(self: &Rc<Self>, group: &Rc<LocalGroup>, job: AppendJob) {
        if job.deadline < Instant::now() + ROUND_MIN {
            // The whole open batch would be thrown away with it.
            return self.answer_append(job, Err(ShardError::Unavailable));
        }
        self.admit_in_turn(group, job);
    }

    fn answer_round(
        self: &Rc<Self>,
        group: &Rc<LocalGroup>,
        waiters: Vec<Option<Waiter<AppendJob>>>,
        outcomes: Vec<Outcome>,
    ) {
        assert!(waiters.len() == outcomes.len(), "one outcome per command");
        add(&self.stats.batches, 1);
        self.stats.batch_commands.count(waiters.len() as u64);
        self.note_hot_index();
        group.note_pending();
        // Once for all of them.
        let now = Instant::now();
        for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
            match waiter {
                Some(Waiter::Job(job)) => self.finish_append(group, job, outcome.reply, now),
                Some(Waiter::Task(task)) => drop(task.answer.send(Ok(outcome.reply))),
                None => {}
            }
        }
    }

    /// Answers those whose deadline has passed.
    fn answer_late(self: &Rc<Self>, group: &Rc<LocalGroup>) {
        for (waiter, failure) in group.expire(Instant::now()) {
            self.fail([waiter], &failure.into());
        }
    }

    pub(crate) fn fail(&self, waiters: impl IntoIterator<Item = Waiter<AppendJob>>, error: &ShardError) {
        for waiter in waiters {
            match waiter {
                Waiter::Job(job) => self.answer_append(job, Err(error.clone())),
                Waiter::Task(task) => drop(task.answer.send(Err(error.clone()))),
            }
        }
    }
}

impl From<Failure> for ShardError {
    fn from(failure: Failure) -> ShardError {
        match failure {
            Failure::Unavailable => ShardError::Unavailable,
            Failure::Unknown => ShardError::Unknown,
        }
    }
}

/// One timer for all deadlines of a group: it strikes at the latest when the first of those who wait is due, and is set anew
/// only then, or when somebody comes who is due earlier. So a round that ends in time costs no timer of its own.
struct Alarm {
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    fn new() -> Alarm {
        Alarm { timer: Box::pin(tokio::time::sleep_until(Instant::now())) }
    }

    async fn strikes(&mut self, group: &LocalGroup) {
        if !group.has_alarm() {
            self.timer.as_mut().reset(group.set_alarm());
        }
        loop {
            tokio::select! {
                biased;
                () = self.timer.as_mut() => break,
                () = group.hurried() => self.timer.as_mut().reset(group.set_alarm()),
            }
        }
        group.unset_alarm();
    }
}
