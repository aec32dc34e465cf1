//! Snapshots that go from one node to another.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use weir_raft::Standing;
use weir_storage::Disk;

use crate::node::Node;
use crate::{Trio, run};

/// How long it may take until a node has what the others have.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(20);

/// How soon a snapshot is sent that was awaited, and how long that takes if 32 MiB go with it.
const PROMPT: Duration = Duration::from_millis(200);
const PACED: Duration = Duration::from_secs(1);

/// A trio of which one was away for so long that it needs a snapshot, which is as of entry `snapshot`.
struct Away {
    trio: Trio,
    leader: u64,
    away: u64,
    /// Where it had come to.
    before: u64,
    snapshot: u64,
}

impl Away {
    async fn begin(seed: u64) -> Away {
        let trio = Trio::form(seed).await;
        let leader = trio.elected(None).await;
        let away = leader % 3 + 1;
        for _ in 0..10 {
            trio.propose(leader).await.expect("it leads");
        }
        sleep(Duration::from_secs(1)).await;
        trio.node(away).keep().await.expect("there is space");
        let before = trio.node(away).applied_index();
        trio.node(away).crash().await;
        for _ in 0..50 {
            trio.propose(leader).await.expect("two of three are enough");
        }
        sleep(Duration::from_secs(1)).await;
        trio.node(leader).keep().await.expect("there is space");
        log_goes(trio.node(leader), before).await;
        let snapshot = trio.node(leader).replica().snapshot_index().expect("it was taken");
        for _ in 0..5 {
            trio.propose(leader).await.expect("two of three are enough");
        }
        Away { trio, leader, away, before, snapshot }
    }

    /// It is back, and the leader's snapshot is of no use to it: what was needed when that was taken is needed no longer, and is gone.
    async fn begin_outdated() -> Away {
        let away = Away::begin(1).await;
        let leader = away.trio.node(away.leader);
        for _ in 0..30 {
            away.trio.propose(away.leader).await.expect("two of three are enough");
        }
        let (first, _) = leader.log_range();
        leader.purge().await;
        log_goes(leader, first).await;
        away.node().start().await;
        away.wait_until_one_is_wanted().await;
        away
    }

    async fn wait_until_one_is_wanted(&self) {
        let begun = Instant::now();
        while !self.trio.node(self.leader).replica().wants_snapshot() {
            assert!(begun.elapsed() < CAUGHT_UP_WITHIN, "nobody has asked for it");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn node(&self) -> &Node {
        self.trio.node(self.away)
    }

    fn has_caught_up(&self) -> bool {
        self.node().applied_index() >= self.snapshot
    }
}

/// Waits until the log no longer has what follows entry `last`.
async fn log_goes(node: &Node, last: u64) {
    let begun = Instant::now();
    while node.log_range().0 <= last + 1 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the log of {} is {:?}", node.id, node.log_range());
        sleep(Duration::from_millis(10)).await;
    }
}

/// Nothing is left of what did not come to an end.
fn assert_tidy(node: &Node) {
    let names = node.disk().list().expect("it can be listed");
    let is_left = |name: &&String| name.ends_with(".partial") || name.ends_with(".received");
    assert_eq!(names.iter().find(is_left), None);
}

#[test]
fn who_was_away_for_long_goes_on_from_a_snapshot_and_reads_what_it_names() {
    run(async {
        let away = Away::begin(1).await;
        away.node().start().await;
        sleep(Duration::from_secs(3)).await;
        assert!(away.has_caught_up());
        assert_eq!(away.trio.history.totals().sent, 1);
        away.trio.settle().await;
        assert_tidy(away.node());
        // What the log does not have goes with its own snapshots, for as long as it is needed.
        for _ in 0..2 {
            away.node().keep().await.expect("there is space");
            away.node().crash().await;
            away.node().start().await;
            away.trio.settle().await;
        }
        // It leads, and sends what it was sent.
        let other = 6 - away.leader - away.away;
        let last = away.trio.node(other).applied_index();
        away.trio.node(other).crash().await;
        for _ in 0..2 {
            let leader = away.trio.elected(None).await;
            for _ in 0..100 {
                away.trio.propose(leader).await.expect("two of three are enough");
            }
            sleep(Duration::from_secs(1)).await;
            for node in [away.leader, away.away] {
                away.trio.node(node).keep().await.expect("there is space");
            }
        }
        for node in [away.leader, away.away] {
            log_goes(away.trio.node(node), last).await;
        }
        away.trio.settle().await;
        assert_eq!(away.trio.history.totals().sent, 2);
    });
}

#[test]
fn a_power_cut_at_any_operation_of_receiving_leaves_the_old_state_or_the_new() {
    let (mut olds, mut news) = (0, 0);
    for operation in 1.. {
        let is_over = run(async {
            let away = Away::begin(operation).await;
            away.node().start().await;
            let disk = away.node().disk();
            disk.cut_power_at(disk.operations() + operation);
            let begun = Instant::now();
            while disk.has_power() && begun.elapsed() < Duration::from_secs(4) {
                sleep(Duration::from_millis(5)).await;
            }
            if disk.has_power() {
                assert!(away.has_caught_up(), "it was never cut off");
                return true;
            }
            away.node().crash().await;
            away.node().start().await;
            let applied = away.node().applied_index();
            assert!(applied <= away.before || applied >= away.snapshot, "{applied} is neither old nor new");
            *(if applied >= away.snapshot { &mut news } else { &mut olds }) += 1;
            // And again soon.
            let disk = away.node().disk();
            disk.cut_power_at(disk.operations() + 1 + operation % 40);
            sleep(Duration::from_secs(2)).await;
            if !disk.has_power() {
                away.node().crash().await;
                away.node().start().await;
            } else {
                disk.cut_power_at(u64::MAX);
            }
            away.trio.settle().await;
            assert_tidy(away.node());
            false
        });
        if is_over {
            break;
        }
    }
    eprintln!("{olds} times the old state, {news} times the new one");
    assert!(olds > 10 && news > 1, "{olds} times the old state, {news} times the new one");
}

#[test]
fn a_node_that_is_taken_in_begins_with_a_snapshot_and_then_votes() {
    run(async {
        let mut trio = Trio::form(1).await;
        let leader = trio.elected(None).await;
        for _ in 0..300 {
            trio.propose(leader).await.expect("it leads");
        }
        sleep(Duration::from_secs(1)).await;
        trio.node(leader).keep().await.expect("there is space");
        trio.add_stranger(1).await;
        sleep(Duration::from_secs(3)).await;
        assert_eq!(trio.node(4).applied_index(), 0, "nobody has taken it in");
        let replica = trio.node(leader).replica();
        let alone = replica.view().expect("it leads");
        replica.add_learner(&alone, 4).await.expect("it leads");
        let begun = Instant::now();
        while trio.node(4).applied_index() < trio.node(leader).applied_index() {
            assert!(begun.elapsed() < CAUGHT_UP_WITHIN, "it has applied {}", trio.node(4).applied_index());
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(trio.history.totals().sent, 1);
        // Who has not seen it there changes nothing.
        let late = replica.change_voters(&alone, BTreeSet::from([1, 2])).await;
        assert!(matches!(late, Err(weir_raft::MemberError::Unknown)), "{late:?}");
        assert_eq!(replica.members(), (BTreeSet::from([1, 2, 3]), BTreeSet::from([4])));
        let seen = replica.view().expect("it leads");
        replica.change_voters(&seen, BTreeSet::from([1, 2, 3, 4])).await.expect("it leads");
        sleep(Duration::from_secs(1)).await;
        for node in &trio.nodes {
            assert_eq!(node.replica().members(), (BTreeSet::from([1, 2, 3, 4]), BTreeSet::new()));
        }
        // Without it there is no majority.
        trio.node(leader % 3 + 1).crash().await;
        trio.propose(leader).await.expect("three of four are enough");
        let seen = replica.view().expect("it leads");
        let members = replica.change_voters(&seen, BTreeSet::from([1, 2, 3, 9])).await;
        assert!(matches!(members, Err(weir_raft::MemberError::Refused { .. })), "nobody knows node 9");
        assert!(matches!(trio.node(4).replica().add_learner(&seen, 5).await, Err(weir_raft::MemberError::NotLeader)));
        trio.settle().await;
    });
}

#[test]
fn a_snapshot_of_which_the_log_has_given_up_a_part_is_not_sent_and_another_one_is_wanted() {
    run(async {
        let away = Away::begin_outdated().await;
        let leader = away.trio.node(away.leader);
        assert_eq!(away.node().applied_index(), away.before);
        leader.keep().await.expect("there is space");
        // What goes with it stays until it was sent, although it is not needed here.
        for _ in 0..30 {
            away.trio.propose(away.leader).await.expect("two of three are enough");
        }
        leader.purge().await;
        sleep(Duration::from_secs(2)).await;
        assert!(!leader.replica().wants_snapshot());
        assert_eq!(away.trio.history.totals().sent, 1);
        away.trio.settle().await;
    });
}

/// The log waits for it no longer, and again when it is there.
#[test]
fn a_snapshot_that_was_awaited_for_long_is_sent_although_the_log_goes_on() {
    run(async {
        let away = Away::begin_outdated().await;
        let leader = away.trio.node(away.leader);
        sleep(Duration::from_secs(40)).await;
        leader.replica().take_snapshot().await.expect("there is space");
        // Before the sender looks.
        join_all((0..30).map(|_| away.trio.propose(away.leader))).await;
        leader.purge().await;
        sleep(Duration::from_secs(3)).await;
        assert!(!leader.replica().wants_snapshot());
        assert_eq!(away.trio.history.totals().sent, 1);
        away.trio.settle().await;
    });
}

#[test]
fn before_much_of_the_log_goes_with_a_snapshot_another_one_is_wanted_once() {
    run(async {
        let away = Away::begin(1).await;
        let leader = away.trio.node(away.leader);
        for _ in 0..16 {
            let (number, frame) = away.trio.history.begin(away.trio.node(away.leader).bindings_epoch(), 2 << 20);
            let proposed = leader.propose(frame).await;
            away.trio.history.end(number, proposed);
            assert_eq!(proposed, Ok(()));
        }
        leader.keep().await.expect("there is space");
        away.node().start().await;
        away.wait_until_one_is_wanted().await;
        assert_eq!(away.node().applied_index(), away.before);
        // However long that takes. There is no cold tier, so it cannot be less.
        sleep(Duration::from_millis(2500)).await;
        leader.keep().await.expect("there is space");
        let begun = Instant::now();
        while away.node().applied_index() == away.before {
            assert!(begun.elapsed() < PROMPT + PACED, "it waits for what is there");
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_secs(5)).await;
        assert!(!leader.replica().wants_snapshot());
        assert_eq!(away.trio.history.totals().sent, 1);
        away.trio.settle().await;
    });
}

#[test]
fn a_snapshot_whose_sender_falls_silent_leaves_nothing_behind() {
    run(async {
        let away = Away::begin(1).await;
        // A parcel takes long.
        away.trio.links.throttle_to(away.away, 4 << 10);
        away.node().start().await;
        let begun = Instant::now();
        let is_under_way =
            || away.node().disk().list().expect("it can be listed").iter().any(|name| name.contains("received"));
        while !is_under_way() {
            assert!(begun.elapsed() < CAUGHT_UP_WITHIN, "nothing comes");
            sleep(Duration::from_millis(1)).await;
        }
        for node in 1..=3 {
            if node != away.away {
                away.trio.links.cut(node, away.away);
            }
        }
        sleep(Duration::from_secs(30)).await;
        assert_tidy(away.node());
        assert!(!away.has_caught_up());
        away.trio.settle().await;
        assert_tidy(away.node());
    });
}

/// The file of the one before it would keep its space otherwise.
#[test]
fn what_snapshots_carry_on_is_read_out_of_the_last_one() {
    run(async {
        let away = Away::begin(1).await;
        away.node().start().await;
        sleep(Duration::from_secs(3)).await;
        assert!(away.has_caught_up());
        away.node().keep().await.expect("there is space");
        assert!(!away.node().lacks_carried());
        let disk = away.node().disk();
        let names = disk.list().expect("it can be listed");
        let name = names.iter().find(|name| name.ends_with(".snapshot")).expect("there is one");
        let body = disk.read(name).expect("it can be read").windows(16).position(|bytes| bytes == [b'x'; 16]);
        disk.flip_bit(name, body.expect("it carries an entry") as u64, 0).expect("it is there");
        assert!(away.node().lacks_carried(), "it is read out of another file");
    });
}

/// As one that has left its group does. Elections put entries into the log that the state does not know of.
#[test]
fn the_whole_log_goes_of_who_takes_along_what_it_names() {
    run(async {
        let trio = Trio::form(7).await;
        let leader = trio.elected(None).await;
        for _ in 0..20 {
            trio.propose(leader).await.expect("it leads");
        }
        trio.node(leader).replica().transfer(leader % 3 + 1).await.expect("it is connected and has everything");
        let _ = trio.elected(Some(leader)).await;
        sleep(Duration::from_secs(1)).await;
        for node in &trio.nodes {
            let last = node.applied_index();
            assert!(node.state().expect("it is up").borrow().applied() < Some(last), "somebody was elected last");
            node.keep_all().await.expect("there is space");
            log_goes(node, last - 1).await;
            node.crash().await;
            node.start().await;
        }
        trio.settle().await;
        let leader = trio.elected(None).await;
        trio.propose(leader).await.expect("it leads");
        trio.settle().await;
    });
}

/// A node that has left its group is told what is committed, and then needs no log. It begins again, and comes back.
async fn end_and_come_back(trio: &Trio, leader: u64, gone: &Node) {
    let (Standing { term, applied_index, .. }, last) = (trio.node(leader).replica().standing(), gone.log_range().1);
    gone.replica().hear_committed(term, leader, applied_index).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(gone.applied_index(), last);
    gone.keep_all().await.expect("there is space");
    log_goes(gone, last - 1).await;
    assert!(!gone.replica().needs_log());
    gone.crash().await;
    gone.start().await;
    assert_eq!(gone.applied_index(), last);
    trio.take_in(gone.id).await;
    trio.settle().await;
}

/// Its leader sends it nothing any more, also not that the last is committed which it has sent.
#[test]
fn who_has_left_its_group_applies_all_that_it_was_sent_and_needs_no_log() {
    let mut tails = 0;
    for seed in 0..6 {
        run(async {
            let (trio, leader) = Trio::of_four(seed).await;
            let (replica, gone) = (trio.node(leader).replica(), trio.node(leader % 3 + 1));
            let (seen, voters) = (replica.view().expect("it leads"), (1..=4).filter(|node| *node != gone.id).collect());
            trio.links.delay(Duration::from_millis(20));
            let proposing = async || {
                for _ in 0..10 {
                    sleep(Duration::from_millis(7)).await;
                    trio.propose(leader).await.expect("it leads");
                }
            };
            let (changed, _, _, _, _) =
                tokio::join!(replica.change_voters(&seen, voters), proposing(), proposing(), proposing(), proposing());
            changed.expect("the others are there");
            sleep(Duration::from_secs(1)).await;
            let (Standing { term, applied_index, .. }, last) = (replica.standing(), gone.log_range().1);
            let before = gone.applied_index();
            tails += u64::from(before < last);
            for (term, committed) in [(term - 1, applied_index), (term, before)] {
                gone.replica().hear_committed(term, leader, committed).await;
                sleep(Duration::from_millis(200)).await;
                assert_eq!(gone.applied_index(), before, "nobody says that the rest is committed");
            }
            end_and_come_back(&trio, leader, gone).await;
        });
    }
    assert!(tails > 0, "somebody was not told of the end");
}

/// It is as of its snapshot then, which names what streams have let go of since, and the log has given up.
#[test]
fn who_has_left_its_group_and_begins_again_needs_no_log_either() {
    let mut gone_entries = 0;
    for seed in 0..6 {
        run(async {
            let (trio, leader) = Trio::of_four(seed).await;
            let (replica, gone) = (trio.node(leader).replica(), trio.node(leader % 3 + 1));
            for takes_snapshot in [true, false] {
                for _ in 0..80 {
                    trio.propose(leader).await.expect("it leads");
                }
                sleep(Duration::from_secs(1)).await;
                if takes_snapshot {
                    gone.keep().await.expect("there is space");
                }
                gone.purge().await;
            }
            sleep(Duration::from_millis(200)).await;
            let (seen, voters) = (replica.view().expect("it leads"), (1..=4).filter(|node| *node != gone.id).collect());
            replica.change_voters(&seen, voters).await.expect("the others are there");
            gone.crash().await;
            gone.start().await;
            sleep(Duration::from_secs(1)).await;
            let (first, last) = gone.log_range();
            gone_entries +=
                gone.state().expect("it is up").borrow().hot_indices().filter(|index| *index < first).count();
            assert!(gone.applied_index() < last && !gone.replica().needs_log(), "seed {seed}");
            gone.keep_all().await.expect("there is space");
            end_and_come_back(&trio, leader, gone).await;
        });
    }
    assert!(gone_entries > 0, "a state names what is gone");
}

/// What elections and changes of members have put into a log holds it, too.
#[test]
fn who_has_left_a_group_in_which_nothing_was_proposed_needs_no_log_either() {
    for seed in 0..6 {
        run(async {
            let (trio, leader) = Trio::of_four(seed).await;
            let (replica, gone) = (trio.node(leader).replica(), trio.node(leader % 3 + 1));
            let (seen, voters) = (replica.view().expect("it leads"), (1..=4).filter(|node| *node != gone.id).collect());
            replica.change_voters(&seen, voters).await.expect("the others are there");
            sleep(Duration::from_secs(1)).await;
            assert!(gone.replica().needs_log());
            end_and_come_back(&trio, leader, gone).await;
        });
    }
}

/// A group that a node has left which had led it, and has entries that nobody else has.
struct Replaced {
    trio: Trio,
    leader: u64,
    term: u64,
    gone: u64,
}

impl Replaced {
    async fn begin(seed: u64, entries: usize) -> Replaced {
        let (trio, gone) = Trio::of_four(seed).await;
        for _ in 0..5 {
            trio.propose(gone).await.expect("it leads");
        }
        sleep(Duration::from_secs(1)).await;
        trio.isolate(gone);
        join_all((0..entries).map(|_| trio.propose_within(Duration::from_millis(100), gone))).await;
        let leader = trio.elected(Some(gone)).await;
        for _ in 0..60 {
            trio.propose(leader).await.expect("two of three are enough");
        }
        let seen = trio.node(leader).replica().view().expect("it leads");
        let voters = (1..=4).filter(|node| *node != gone).collect();
        trio.node(leader).replica().change_voters(&seen, voters).await.expect("the others are there");
        trio.links.heal();
        sleep(Duration::from_secs(1)).await;
        let term = trio.node(leader).replica().standing().term;
        Replaced { trio, leader, term, gone }
    }

    fn node(&self) -> &Node {
        self.trio.node(self.gone)
    }

    fn is_settled(&self) -> bool {
        !self.node().replica().has_old_tail(self.term)
    }

    async fn settle(&self) {
        self.trio.node(self.leader).replica().settle(self.gone, self.term).await;
    }

    /// It needs no log, and comes back.
    async fn end(&self) {
        assert!(self.is_settled() && !self.node().replica().needs_log());
        log_goes(self.node(), self.node().applied_index() - 1).await;
        assert_tidy(self.node());
        self.trio.take_in(self.gone).await;
        self.trio.settle().await;
    }
}

/// Nobody knows whether what earlier leaders have sent is committed.
#[test]
fn who_has_left_its_group_with_entries_of_an_earlier_leader_goes_on_from_a_snapshot() {
    // Less than what is in their place, and more.
    for entries in [3, 100] {
        for seed in 0..3 {
            run(async {
                let replaced = Replaced::begin(seed, entries).await;
                let (leader, gone) = (replaced.trio.node(replaced.leader), replaced.node());
                let before = gone.applied_index();
                gone.replica().hear_committed(replaced.term, leader.id, leader.applied_index()).await;
                sleep(Duration::from_millis(200)).await;
                assert_eq!(gone.applied_index(), before);
                assert!(!replaced.is_settled() && !gone.replica().has_old_tail(replaced.term - 1));
                // There is none, or one of the time before.
                replaced.settle().await;
                assert!(!replaced.is_settled() && leader.replica().wants_snapshot());
                leader.keep().await.expect("there is space");
                replaced.settle().await;
                assert_eq!(gone.applied_index(), leader.applied_index());
                assert_eq!(replaced.trio.history.totals().sent, 1);
                replaced.end().await;
            });
        }
    }
}

#[test]
fn a_power_cut_while_a_snapshot_takes_the_place_of_a_log_leaves_the_log_or_the_snapshot() {
    let (mut olds, mut news) = (0, 0);
    for operation in 1.. {
        let is_over = run(async {
            let replaced = Replaced::begin(operation, if operation % 2 == 0 { 3 } else { 100 }).await;
            replaced.trio.node(replaced.leader).keep().await.expect("there is space");
            let disk = replaced.node().disk();
            disk.cut_power_at(disk.operations() + operation);
            replaced.settle().await;
            if disk.has_power() {
                assert!(replaced.is_settled(), "it was never cut off");
                return true;
            }
            replaced.node().crash().await;
            replaced.node().start().await;
            sleep(Duration::from_secs(1)).await;
            *(if replaced.is_settled() { &mut news } else { &mut olds }) += 1;
            if !replaced.is_settled() {
                replaced.settle().await;
            }
            replaced.end().await;
            false
        });
        if is_over {
            break;
        }
    }
    eprintln!("{olds} times the log, {news} times the snapshot");
    assert!(olds > 5 && news > 0, "{olds} times the log, {news} times the snapshot");
}

/// Whoever leads then sends it a snapshot of its own, and takes it in while another one is under way.
#[test]
fn who_has_left_its_group_goes_on_from_a_snapshot_of_whoever_leads() {
    let mut two = 0;
    for seed in 0..12 {
        run(async {
            let replaced = Replaced::begin(seed, if seed % 3 == 0 { 100 } else { 3 }).await;
            let Replaced { trio, leader, gone, .. } = &replaced;
            trio.node(*leader).keep().await.expect("there is space");
            trio.links.delay(Duration::from_millis(10));
            let (settling, later) = (replaced.settle(), Duration::from_millis(15 * seed));
            let next = async {
                sleep(later).await;
                trio.node(*leader).crash().await;
                let next = trio.elected(Some(*leader)).await;
                trio.node(next).keep().await.expect("there is space");
                let Standing { term, .. } = trio.node(next).replica().standing();
                trio.node(next).replica().settle(*gone, term).await;
            };
            let replica = trio.node(*leader).replica();
            let back = async {
                sleep(later).await;
                let seen = replica.view().expect("it leads");
                replica.add_learner(&seen, *gone).await.expect("the others are there");
            };
            if seed % 2 == 0 {
                tokio::join!(settling, next);
            } else {
                tokio::join!(settling, back);
            }
            trio.take_in(*gone).await;
            trio.settle().await;
            assert!(trio.history.totals().sent > 0);
            two += usize::from(trio.history.totals().sent > 1);
        });
    }
    assert!(two > 0, "somebody was sent two");
}
