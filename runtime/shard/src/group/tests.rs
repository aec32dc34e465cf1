//! The proposer against a model: whatever happens to rounds, roles and time, every waiter gets one answer, in time, and a
//! true one; and what is committed is committed in the order in which it came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;
use weir_raft::{Observer, Replica, ReplicaOptions, Role, State};
use weir_storage::{MemoryDisk, Wal, WalConfig, WriteMode};
use weir_stream::{Batch, Command, KeyRef, Limits, Outcome, Records, Reply, Split};
use weir_types::{GroupId, Incarnation, StreamKey};

use crate::group::local::Group;
use crate::group::proposer::{Failure, Job, Proposer, Task, Waiter};
use crate::message::ShardError;
use crate::seams::{SteadyClock, TestClock};

const DEADLINE: Duration = Duration::from_millis(100);

/// What can happen to a group.
#[derive(Clone, Debug)]
enum Event {
    /// A client's append of so many bytes.
    Job { bytes: usize },
    /// A command of the shard's own.
    Task,
    /// The log has room for the open batch.
    Propose,
    /// The round is committed and applied.
    Committed,
    /// The replica did not lead: nothing was proposed.
    NotLeader,
    /// The round's outcome will never be known.
    Discarded,
    /// Time passes, and the alarm looks.
    Time { ms: u64 },
    /// Bindings change, with the next commit.
    Bound,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop_oneof![1..64usize, 1..6000usize].prop_map(|bytes| Event::Job { bytes }),
        2 => Just(Event::Task),
        4 => Just(Event::Propose),
        4 => Just(Event::Committed),
        1 => Just(Event::NotLeader),
        1 => Just(Event::Discarded),
        3 => (1..60u64).prop_map(|ms| Event::Time { ms }),
        1 => Just(Event::Bound),
    ]
}

struct TestJob {
    id: u64,
    bytes: usize,
    epoch: u64,
    arrival: u64,
    deadline: Instant,
}

impl Job for TestJob {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn arrival(&self) -> u64 {
        self.arrival
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    Failed(Failure),
}

struct Model {
    proposer: Proposer<TestJob>,
    now: Instant,
    epoch: u64,
    /// The bindings' count as the next commit will make it.
    next_epoch: u64,
    next_id: u64,
    /// Who has come and was not answered, with the deadline.
    waiting: BTreeMap<u64, Instant>,
    told: BTreeMap<u64, Told>,
    /// Who was in a batch that may be committed.
    proposed: BTreeMap<u64, bool>,
    tasks: Vec<(u64, oneshot::Receiver<Result<Reply, ShardError>>)>,
    /// Jobs in the order in which they were committed.
    committed: Vec<u64>,
    /// The ids of the round under way, by its batch.
    round: Vec<u64>,
}

impl Model {
    fn new() -> Model {
        Model {
            proposer: Proposer::default(),
            now: Instant::now(),
            epoch: 1,
            next_epoch: 1,
            next_id: 0,
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
            proposed: BTreeMap::new(),
            tasks: Vec::new(),
            committed: Vec::new(),
            round: Vec::new(),
        }
    }

    fn come(&mut self) -> (u64, Instant) {
        self.next_id += 1;
        let deadline = self.now + DEADLINE;
        self.waiting.insert(self.next_id, deadline);
        (self.next_id, deadline)
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Job { bytes } => {
                let (id, deadline) = self.come();
                let arrival = self.proposer.arrive();
                self.admit(TestJob { id, bytes, epoch: self.epoch, arrival, deadline });
            }
            Event::Task => self.task(),
            Event::Propose if self.proposer.ready().is_some() => {
                let batch = self.proposer.begin_round(1, Limits { producers_max: 1 });
                self.round = ids_of(&batch[weir_storage::FRAME_HEADER_BYTES..]);
                self.proposed.extend(self.round.iter().map(|&id| (id, true)));
                self.admit_backlog();
            }
            Event::Committed | Event::NotLeader | Event::Discarded if !self.round.is_empty() => self.end_round(event),
            Event::Bound => self.next_epoch += 1,
            Event::Time { ms } => {
                self.now += Duration::from_millis(ms);
                for (waiter, failure) in self.proposer.expire(self.now) {
                    self.tell(waiter, Told::Failed(failure));
                }
                let late = self.waiting.iter().find(|(_, deadline)| **deadline <= self.now);
                assert!(late.is_none(), "{late:?} waits beyond its deadline");
                assert!(self.proposer.next_deadline().is_none_or(|deadline| deadline > self.now));
            }
            Event::Propose | Event::Committed | Event::NotLeader | Event::Discarded => {}
        }
    }

    fn task(&mut self) {
        let key = key(self.next_id + 1);
        if self.proposer.encode(&Command::Expire { key: KeyRef::from(&key), incarnation: Incarnation(1) }) {
            let (id, deadline) = self.come();
            let (answer, reply) = oneshot::channel();
            self.proposer.wait(Waiter::Task(Task { answer, deadline }), None);
            self.tasks.push((id, reply));
        }
    }

    fn admit(&mut self, mut job: TestJob) {
        job.epoch = self.epoch;
        let (key, body) = (key(job.id), Bytes::from(vec![b'x'; job.bytes]));
        let command = Command::Append {
            key: KeyRef::from(&key),
            incarnation: Incarnation(1),
            close: false,
            producer: None,
            seq: None,
            if_match: None,
            bindings_epoch: job.epoch,
            records: Records::new(&body, &Split::Whole),
        };
        if !self.proposer.must_wait(job.epoch) && self.proposer.encode(&command) {
            self.proposer.wait(Waiter::Job(job), Some(self.epoch));
        } else {
            self.proposer.push_backlog(job);
        }
    }

    fn admit_backlog(&mut self) {
        for job in self.proposer.take_backlog() {
            if self.proposer.has_backlog() { self.proposer.push_backlog(job) } else { self.admit(job) }
        }
    }

    fn end_round(&mut self, how: &Event) {
        let waiters = self.proposer.end_round();
        let round = std::mem::take(&mut self.round);
        assert_eq!(waiters.len(), round.len(), "one waiter per command");
        let told = match how {
            Event::Committed => Told::Committed,
            Event::NotLeader => Told::Failed(Failure::Unavailable),
            _ => Told::Failed(Failure::Unknown),
        };
        if matches!(how, Event::NotLeader) {
            // It was not proposed after all.
            self.proposed.extend(round.iter().map(|&id| (id, false)));
        }
        for (waiter, id) in waiters.into_iter().zip(round) {
            match waiter {
                Some(Waiter::Job(job)) if told == Told::Committed && job.epoch != self.next_epoch => {
                    assert_eq!(job.id, id);
                    self.proposed.insert(id, false);
                    self.proposer.push_backlog(job);
                }
                Some(waiter) => {
                    if told == Told::Committed && matches!(waiter, Waiter::Job(_)) {
                        self.committed.push(id);
                    }
                    let of = self.tell(waiter, told);
                    assert_eq!(of, id, "waiters stand in the order of their commands");
                }
                None => assert_eq!(self.told[&id], Told::Failed(Failure::Unknown), "it was answered before"),
            }
        }
        if told == Told::Committed {
            self.epoch = self.next_epoch;
            self.admit_backlog();
        } else {
            for waiter in self.proposer.discard() {
                self.tell(waiter, Told::Failed(Failure::Unavailable));
            }
        }
    }

    /// Answers a waiter; returns who it is.
    fn tell(&mut self, waiter: Waiter<TestJob>, told: Told) -> u64 {
        let id = match waiter {
            Waiter::Job(job) => job.id,
            Waiter::Task(task) => {
                drop(task.answer);
                let at = self.tasks.iter_mut().position(|(_, reply)| reply.try_recv().is_err_and(is_closed));
                self.tasks.remove(at.expect("a task waits for it")).0
            }
        };
        assert!(self.waiting.remove(&id).is_some(), "{id} is answered once");
        let was_proposed = self.proposed.get(&id).copied().unwrap_or(false);
        match told {
            Told::Failed(Failure::Unavailable) => assert!(!was_proposed, "{id} may be committed yet"),
            Told::Failed(Failure::Unknown) | Told::Committed => assert!(was_proposed, "{id} was never proposed"),
        }
        self.told.insert(id, told);
        id
    }
}

fn is_closed(error: oneshot::error::TryRecvError) -> bool {
    error == oneshot::error::TryRecvError::Closed
}

fn key(id: u64) -> StreamKey {
    StreamKey::new("b", &id.to_string()).expect("a number is a name")
}

/// The streams that a batch's commands are for.
fn ids_of(batch: &[u8]) -> Vec<u64> {
    let batch = Batch::read(batch).expect("it was just encoded");
    let commands = batch.commands().map(|command| command.expect("it was just encoded").1);
    commands
        .map(|command| match command {
            Command::Append { key, .. } | Command::Expire { key, .. } => key.as_str()[2..].parse().expect("a number"),
            other => unreachable!("{other:?} is not encoded here"),
        })
        .collect()
}

proptest! {
    #[test]
    fn every_waiter_gets_one_true_answer_in_time(events in proptest::collection::vec(event(), 1..200)) {
        let mut model = Model::new();
        for event in &events {
            model.happen(event);
        }
        // Time goes on for those who are left.
        model.happen(&Event::Time { ms: 1000 });
        prop_assert!(model.waiting.is_empty(), "{:?} still wait", model.waiting);
        prop_assert!(model.committed.is_sorted(), "{:?} were committed out of order", model.committed);
    }
}

#[test]
fn what_was_thrown_away_is_never_proposed() {
    let mut model = Model::new();
    model.happen(&Event::Job { bytes: 1 });
    model.happen(&Event::Propose);
    model.happen(&Event::Job { bytes: 2 });
    model.happen(&Event::Time { ms: 200 });
    assert_eq!(model.told[&1], Told::Failed(Failure::Unknown));
    assert_eq!(model.told[&2], Told::Failed(Failure::Unavailable));
    model.happen(&Event::Committed);
    assert_eq!(model.proposer.ready(), None);
}

#[test]
fn what_came_later_does_not_overtake_what_is_stale() {
    let mut model = Model::new();
    model.happen(&Event::Job { bytes: 1 });
    model.happen(&Event::Propose);
    model.happen(&Event::Bound);
    // Applied, and not answered yet.
    model.epoch = model.next_epoch;
    model.happen(&Event::Job { bytes: 1 });
    model.happen(&Event::Committed);
    model.happen(&Event::Propose);
    model.happen(&Event::Committed);
    assert_eq!(model.committed, [1, 2]);
}

struct Nobody;

impl Observer for Nobody {
    fn restored(&mut self, _group: &weir_stream::Group) {}

    fn applied(&mut self, _index: u64, _batch: &Bytes, _outcomes: &[Outcome]) {}
}

#[test]
fn who_begins_to_lead_says_nothing_of_streams_before_it_has_noted_since_when() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build_local(Default::default());
    runtime.expect("a runtime").block_on(async {
        let config =
            WalConfig { segment_bytes: 1 << 20, budget_bytes: 4 << 20, cache_bytes: 0, write: WriteMode::Inline };
        let disk = MemoryDisk::new(16 << 20);
        Wal::form(&disk, 1).expect("an empty disk");
        let wal = Wal::open(Arc::new(disk), config, Box::new(|| 7)).expect("a log");
        tokio::task::spawn_local(wal.clone().run());
        let state = State::new(weir_stream::Group::new());
        let options = ReplicaOptions::alone(1, GroupId::META);
        let replica = Replica::start(options, wal.clone(), state.clone(), Box::new(Nobody)).await.expect("it starts");
        replica.serving(Duration::from_secs(10)).await.expect("it leads");
        let Role::Leading { term } = replica.role() else { panic!("it serves") };
        let group = Group::<TestJob>::new(
            GroupId::META,
            replica,
            state,
            wal,
            SteadyClock::new(Arc::new(TestClock::default())),
            DEADLINE,
        );
        assert!(group.leading().is_ok());
        // It has led before, and nobody has told the shard yet that it leads again: who was used meanwhile is not known, and
        // by what was noted then a stream could be taken for idle.
        group.begin_to_lead(term - 1, 1000);
        assert!(group.replica.is_leading(), "the replica knows");
        assert!(matches!(group.leading(), Err(ShardError::Unavailable)));
        group.begin_to_lead(term, 5000);
        assert!(group.leading().is_ok());
        assert_eq!(group.leading_since_ms(), 5000);
    });
}
