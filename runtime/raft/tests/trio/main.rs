//! Three replicas of a group on one thread, with links in memory: what is acknowledged stays, in one order, whatever happens to
//! links and nodes.

mod branches;
mod faults;
mod history;
mod links;
mod node;
mod sent;
#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::time::{Instant, sleep, timeout};
use weir_raft::{ProposeError, Role};

use crate::faults::Dice;
use crate::history::History;
use crate::links::Links;
use crate::node::Node;

/// How long a group may be without a leader after it has lost one.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);
/// How long a proposal is waited for.
const PROPOSED_WITHIN: Duration = Duration::from_secs(5);

/// The nodes of a group, and the links between them.
struct Trio {
    links: Rc<Links>,
    history: History,
    nodes: Vec<Node>,
}

impl Trio {
    async fn form(seed: u64) -> Trio {
        let (links, history) = (Rc::new(Links::default()), History::default());
        let founders = BTreeSet::from([1, 2, 3]);
        let nodes: Vec<Node> = founders.iter().map(|&id| Node::new(id, seed, &founders, &links, &history)).collect();
        for node in &nodes {
            node.start().await;
        }
        Trio { links, history, nodes }
    }

    /// Starts a fourth node, which nobody has taken in.
    async fn add_stranger(&mut self, seed: u64) {
        self.nodes.push(Node::new(4, seed, &BTreeSet::new(), &self.links, &self.history));
        self.node(4).start().await;
    }

    /// A group of four, and who leads it.
    async fn of_four(seed: u64) -> (Trio, u64) {
        let mut trio = Trio::form(seed).await;
        trio.add_stranger(seed).await;
        trio.take_in(4).await;
        let leader = trio.elected(None).await;
        (trio, leader)
    }

    /// Waits until a node belongs to the group, when all is well.
    async fn take_in(&self, node: u64) {
        self.heal().await;
        let begun = Instant::now();
        loop {
            let leader = self.node(self.elected(None).await).replica();
            let (voters, learners) = leader.members();
            if voters.contains(&node) || learners.contains(&node) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{node} is not taken in");
            // It may lead no longer.
            if let Some(seen) = leader.view() {
                let _ = timeout(PROPOSED_WITHIN, leader.add_learner(&seen, node)).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// All is well, and all are up.
    async fn heal(&self) {
        self.links.heal();
        for node in self.nodes.iter().filter(|node| !node.is_up()) {
            node.start().await;
        }
    }

    /// Cuts a node off from all others.
    fn isolate(&self, node: u64) {
        for other in self.nodes.iter().map(|other| other.id).filter(|other| *other != node) {
            self.links.cut(node, other);
            self.links.cut(other, node);
        }
    }

    /// Some node.
    fn any(&self, dice: &Dice) -> u64 {
        1 + dice.below(self.nodes.len() as u64)
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// The node that leads, in the highest term that somebody leads in.
    fn leader(&self) -> Option<u64> {
        let leading = |node: &Node| match node.role() {
            Some(Role::Leading { term }) => Some((term, node.id)),
            _ => None,
        };
        self.nodes.iter().filter_map(leading).max().map(|(_, id)| id)
    }

    /// Waits until a node other than `not` leads.
    async fn elected(&self, not: Option<u64>) -> u64 {
        let begun = Instant::now();
        loop {
            match self.leader() {
                Some(leader) if Some(leader) != not => return leader,
                _ => assert!(begun.elapsed() < ELECTED_WITHIN, "nobody leads"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Proposes to `node` something that nobody has proposed before.
    async fn propose(&self, node: u64) -> Result<u64, ProposeError> {
        self.propose_within(PROPOSED_WITHIN, node).await
    }

    async fn propose_within(&self, within: Duration, node: u64) -> Result<u64, ProposeError> {
        let node = self.node(node);
        let (number, frame) = self.history.begin(node.bindings_epoch(), 100);
        let result = timeout(within, node.propose(frame)).await.unwrap_or(Err(ProposeError::Unknown));
        self.history.end(number, result);
        result.map(|()| number)
    }

    /// Waits until all that are up have applied the same, and checks what they and the clients have seen.
    async fn settle(&self) {
        self.heal().await;
        let begun = Instant::now();
        loop {
            let leader = self.elected(None).await;
            let is_done = self.propose(leader).await.is_ok();
            if self.node(leader).replica().wants_snapshot() {
                self.node(leader).keep().await.expect("there is space");
            }
            sleep(Duration::from_secs(1)).await;
            let applied: BTreeSet<u64> = self.nodes.iter().map(Node::applied_index).collect();
            if is_done && applied.len() == 1 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "they have applied {applied:?}");
        }
        self.history.check();
        let mut states: Vec<Vec<u8>> = self.nodes.iter().map(Node::state_bytes).collect();
        // Streams of one slot are in no particular order.
        states.iter_mut().for_each(|state| state.sort_unstable());
        assert!(states.iter().all(|state| *state == states[0]), "the states of all replicas are the same bytes");
        let streams = self.nodes[0].streams();
        assert!(self.nodes.iter().all(|node| node.streams() == streams), "and so are those of all streams");
        for (stream, (_, bytes)) in streams.iter().filter(|(stream, _)| stream.starts_with("b/")) {
            self.check_stream(stream, bytes);
        }
    }

    /// Whether forks and subscriptions fit together, when nothing is owed.
    fn check_branches(&self) {
        for node in &self.nodes {
            branches::check(&node.state().expect("all are up").borrow(), &node.streams(), &self.history.lives());
        }
    }

    /// Whether a stream holds what was appended to it: bodies begin with their number and their length.
    fn check_stream(&self, stream: &str, bytes: &[u8]) {
        let numbers = self.history.numbers(stream);
        let mut rest = bytes;
        for number in &numbers {
            assert!(rest.starts_with(&number.to_le_bytes()), "{stream} holds {numbers:?}");
            let length = u64::from_le_bytes(rest[8..16].try_into().expect("8 bytes"));
            rest = &rest[length as usize..];
        }
        assert!(rest.is_empty(), "{stream} holds no more than {numbers:?}");
    }
}

/// Links know replicas, and replicas know links.
impl Drop for Trio {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| self.links.down(node.id));
    }
}

/// Time passes when there is nothing else to do.
fn runtime() -> LocalRuntime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build_local(LocalOptions::default());
    runtime.expect("a runtime")
}

fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

#[test]
fn one_of_three_leads_and_all_apply_the_same() {
    run(async {
        let trio = Trio::form(1).await;
        let leader = trio.elected(None).await;
        for _ in 0..50 {
            trio.propose(leader).await.expect("it leads");
        }
        for node in 1..=3 {
            if node != leader {
                assert_eq!(trio.node(node).role(), Some(Role::Following { leader: Some(leader) }));
                assert_eq!(trio.propose(node).await, Err(ProposeError::NotLeader));
            }
        }
        trio.settle().await;
        assert_eq!(trio.history.totals().acknowledged, 51);
    });
}

#[test]
fn nodes_that_are_started_one_after_the_other_form_one_group() {
    run(async {
        let trio = Trio::form(1).await;
        trio.elected(None).await;
        for id in 1..=3 {
            trio.node(id).crash().await;
        }
        // Two of three are enough; the third finds them.
        trio.node(3).start().await;
        sleep(Duration::from_secs(10)).await;
        assert_eq!(trio.leader(), None, "one of three cannot lead");
        trio.node(2).start().await;
        let leader = trio.elected(None).await;
        trio.propose(leader).await.expect("two of three are enough");
        trio.settle().await;
    });
}

#[test]
fn another_leads_when_the_leader_dies_and_nothing_acknowledged_is_lost() {
    run(async {
        let trio = Trio::form(1).await;
        for _ in 0..10 {
            let leader = trio.elected(None).await;
            for _ in 0..5 {
                trio.propose(leader).await.expect("it leads");
            }
            trio.node(leader).crash().await;
            let next = trio.elected(Some(leader)).await;
            trio.propose(next).await.expect("two of three are enough");
            trio.node(leader).start().await;
        }
        trio.settle().await;
        assert_eq!(trio.history.totals().acknowledged, 61);
    });
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_reads_nothing_stale() {
    run(async {
        let trio = Trio::form(1).await;
        let old = trio.elected(None).await;
        trio.propose(old).await.expect("it leads");
        assert!(trio.node(old).replica().catch_up().await.is_ok());
        trio.isolate(old);
        let late = trio.propose(old).await;
        assert_eq!(late, Err(ProposeError::Unknown), "it was proposed, and nobody has heard of it");
        let new = trio.elected(Some(old)).await;
        trio.propose(new).await.expect("two of three are enough");
        // It may believe that it leads, but not without asking.
        let read = timeout(PROPOSED_WITHIN, trio.node(old).replica().catch_up()).await;
        assert!(!matches!(read, Ok(Ok(()))), "it cannot know what the others do");
        assert_eq!(trio.propose(old).await, Err(ProposeError::NotLeader), "its lease is over");
        trio.links.heal();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(trio.node(old).role(), Some(Role::Following { leader: Some(new) }));
        trio.settle().await;
        assert_eq!(trio.history.totals().acknowledged, 3);
    });
}

#[test]
fn who_begins_again_within_a_lease_elects_nobody_else() {
    let mut takeovers = 0;
    for seed in 0..12 {
        run(async {
            let trio = Trio::form(seed).await;
            let leader = trio.elected(None).await;
            let (voter, candidate) = (leader % 3 + 1, (leader + 1) % 3 + 1);
            trio.propose(leader).await.expect("it leads");
            // It wants to lead, and whoever hears the leader does not want that.
            trio.links.cut(leader, candidate);
            trio.links.cut(candidate, leader);
            sleep(Duration::from_secs(3)).await;
            assert_eq!(trio.leader(), Some(leader), "the third one hears the leader");
            // The leader has just heard it, and it has forgotten what it granted.
            trio.links.cut(leader, voter);
            trio.links.cut(voter, leader);
            trio.node(voter).crash().await;
            trio.node(voter).start().await;
            let begun = Instant::now();
            while begun.elapsed() < ELECTED_WITHIN {
                let leading: Vec<u64> = (1..=3).filter(|&id| trio.node(id).replica().is_leading()).collect();
                assert!(leading.len() <= 1, "{leading:?} lead at the same time, seed {seed}");
                takeovers += u32::from(leading.iter().any(|&id| id != leader));
                sleep(Duration::from_millis(5)).await;
            }
            trio.settle().await;
        });
    }
    assert!(takeovers > 0, "somebody was elected");
}

/// It leads on for a moment, and has another elected although its lease lasts.
#[test]
fn a_leader_that_is_removed_reads_nothing_stale() {
    for seed in 0..6 {
        run(async {
            let (trio, old) = Trio::of_four(seed).await;
            trio.propose(old).await.expect("it leads");
            // It hears late of who leads then.
            trio.links.delay(Duration::from_millis(60));
            let (replica, others) = (trio.node(old).replica(), (1..=4).filter(|node| *node != old).collect());
            let seen = replica.view().expect("it leads");
            replica.change_voters(&seen, others).await.expect("the others are there");
            let begun = Instant::now();
            let mut next = None;
            while begun.elapsed() < ELECTED_WITHIN {
                let leading: Vec<u64> = (1..=4).filter(|&id| trio.node(id).replica().is_leading()).collect();
                assert!(leading.len() <= 1, "{leading:?} lead at the same time, seed {seed}");
                next = next.or(leading.into_iter().find(|node| *node != old));
                sleep(Duration::from_millis(1)).await;
            }
            let next = next.expect("another one is elected");
            trio.propose(next).await.expect("it leads");
            let late = timeout(PROPOSED_WITHIN, replica.catch_up()).await;
            assert!(
                !matches!(late, Ok(Ok(()))) || trio.history.acknowledged() <= replica.standing().applied_index,
                "what it reads is stale, seed {seed}"
            );
        });
    }
}

#[test]
fn a_follower_that_catches_up_sees_what_was_acknowledged_before() {
    run(async {
        let trio = Trio::form(1).await;
        let leader = trio.elected(None).await;
        trio.links.delay(Duration::from_millis(20));
        for _ in 0..10 {
            let number = trio.propose(leader).await.expect("it leads");
            for id in 1..=3 {
                trio.node(id).replica().catch_up().await.expect("all are connected");
                assert!(trio.history.has_applied(id, number), "node {id} has applied what was acknowledged");
            }
        }
        trio.settle().await;
    });
}

#[test]
fn leadership_goes_to_who_is_asked_to_lead() {
    run(async {
        let trio = Trio::form(1).await;
        let leader = trio.elected(None).await;
        let next = leader % 3 + 1;
        trio.propose(leader).await.expect("it leads");
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        trio.node(leader).replica().transfer(next).await.expect("it is connected and has everything");
        assert!(!trio.node(leader).replica().is_leading(), "the next one may have been elected already");
        assert_eq!(trio.elected(Some(leader)).await, next);
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}: no timeout is waited for", begun.elapsed());
        trio.propose(next).await.expect("it leads");
        trio.settle().await;
    });
}

#[test]
fn leadership_goes_also_while_clients_propose() {
    run(async {
        let trio = Rc::new(Trio::form(1).await);
        trio.links.delay(Duration::from_millis(3));
        let is_over = Rc::new(Cell::new(false));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (trio, is_over) = (trio.clone(), is_over.clone());
                tokio::task::spawn_local(async move {
                    while !is_over.get() {
                        if let Some(leader) = trio.leader() {
                            // What becomes of it is in the history.
                            let _ = trio.propose(leader).await;
                        }
                        sleep(Duration::from_millis(1)).await;
                    }
                })
            })
            .collect();
        for _ in 0..6 {
            let leader = trio.elected(None).await;
            sleep(Duration::from_secs(1)).await;
            let next = leader % 3 + 1;
            let begun = Instant::now();
            trio.node(leader).replica().transfer(next).await.expect("it is connected and has almost everything");
            assert_eq!(trio.elected(Some(leader)).await, next);
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?}: no timeout is waited for", begun.elapsed());
        }
        is_over.set(true);
        for client in clients {
            client.await.expect("a client ends");
        }
        trio.settle().await;
    });
}

#[test]
fn a_large_batch_does_not_delay_a_heartbeat() {
    run(async {
        let trio = Trio::form(1).await;
        let leader = trio.elected(None).await;
        // 4 MiB in 8 s: several election timeouts.
        trio.links.throttle(512 << 10);
        let (number, frame) = trio.history.begin(trio.node(leader).bindings_epoch(), 4 << 20);
        let term = trio.node(leader).role();
        let written = trio.node(leader).propose(frame).await;
        trio.history.end(number, written);
        assert_eq!(written, Ok(()));
        assert_eq!(trio.node(leader).role(), term, "nobody has called an election");
        trio.settle().await;
    });
}

#[test]
fn a_follower_whose_log_is_full_takes_nothing_until_it_has_room_again() {
    run(async {
        let trio = Trio::form(1).await;
        let leader = trio.elected(None).await;
        let (full, near) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        let propose = async |megabytes: u32| {
            for _ in 0..megabytes {
                let (number, frame) = trio.history.begin_refused(1 << 20);
                let proposed = trio.node(leader).propose(frame).await;
                trio.history.end(number, proposed);
                assert_eq!(proposed, Ok(()));
            }
        };
        propose(40).await;
        for node in [leader, near] {
            trio.node(node).keep().await.expect("there is space");
        }
        // More than the third one's log takes, of which nothing was given up.
        propose(30).await;
        sleep(Duration::from_secs(3)).await;
        let lacks = || trio.node(leader).applied_index() - trio.node(full).applied_index();
        assert!(lacks() > 5, "it lacks {} entries", lacks());
        assert_eq!(trio.leader(), Some(leader), "nobody has called an election");
        trio.node(full).keep().await.expect("there is space");
        sleep(Duration::from_secs(3)).await;
        assert_eq!(lacks(), 0, "it has given up what it had, and taken the rest");
        trio.settle().await;
    });
}

#[test]
fn a_follower_that_is_gone_or_slow_does_not_hold_the_log() {
    for is_gone in [true, false] {
        run(async {
            let trio = Trio::form(1).await;
            let leader = trio.elected(None).await;
            let (slow, near) = (leader % 3 + 1, (leader + 1) % 3 + 1);
            if is_gone {
                trio.node(slow).crash().await;
            } else {
                trio.links.throttle_to(slow, 64 << 10);
            }
            // Three times what the log takes.
            for round in 0..24 {
                for _ in 0..8 {
                    let (number, frame) = trio.history.begin_refused(1 << 20);
                    let proposed = trio.node(leader).propose(frame).await;
                    trio.history.end(number, proposed);
                    assert_eq!(proposed, Ok(()), "round {round}");
                }
                trio.node(leader).keep().await.expect("there is space");
                trio.node(near).keep().await.expect("there is space");
                sleep(Duration::from_secs(3)).await;
                trio.node(leader).keep().await.expect("there is space");
                assert!(trio.node(leader).log_bytes() < 56 << 20, "round {round}: {}", trio.node(leader).log_bytes());
            }
            assert_eq!(trio.leader(), Some(leader), "nobody has called an election");
            // It needs what the log has no more, and is sent a snapshot.
            if is_gone {
                trio.node(slow).start().await;
            }
            trio.settle().await;
        });
    }
}
