//! Faults at random, by seeds: `WEIR_TEST_SEEDS=first..last` chooses which.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::branches::Counts;
use crate::history::{History, Totals};
use crate::{Trio, branches, runtime};

/// Faults of one seed.
const FAULTS: u32 = 30;
const CLIENTS: u64 = 4;
/// Of forks and subscriptions.
const BRANCHES_CLIENTS: u64 = 2;
/// What is shown of a history that has failed.
const TRACE_LINES: usize = 200;

/// A sequence of numbers that looks like chance (SplitMix64).
#[derive(Clone)]
pub(crate) struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(Rc::new(Cell::new(seed)))
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

/// Those that are asked for, or some and all that have failed once.
fn seeds() -> Vec<u64> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no number"));
    let Ok(given) = std::env::var("WEIR_TEST_SEEDS") else {
        let lines = include_str!("../../../../tests/sim/regressions.txt").lines();
        return (0..12).chain(lines.filter(|line| !line.starts_with('#')).map(number)).collect();
    };
    let (first, last) = given.split_once("..").expect("WEIR_TEST_SEEDS=first..last");
    (number(first)..number(last)).collect()
}

/// A client that proposes to who leads, as far as it can see, and sometimes to who does not.
async fn client(trio: Rc<Trio>, dice: Dice, is_over: Rc<Cell<bool>>) {
    while !is_over.get() {
        let node = if dice.below(10) > 0 { trio.leader() } else { Some(trio.any(&dice)) };
        if let Some(node) = node {
            // What becomes of it is in the history.
            let _ = trio.propose_within(dice.millis(500..4000), node).await;
        }
        sleep(dice.millis(5..60)).await;
    }
}

/// A client that reads from who leads, or from somebody who asks who leads, and must find what was acknowledged before.
async fn reader(trio: Rc<Trio>, dice: Dice, is_over: Rc<Cell<bool>>) {
    while !is_over.get() {
        sleep(dice.millis(5..60)).await;
        let node = trio.node(trio.any(&dice));
        if !node.is_up() {
            continue;
        }
        let (replica, acknowledged) = (node.replica(), trio.history.acknowledged());
        let is_current = replica.is_leading()
            || (dice.below(4) == 0 && matches!(timeout(Duration::from_secs(5), replica.catch_up()).await, Ok(Ok(()))));
        if is_current {
            let applied = replica.standing().applied_index;
            assert!(applied >= acknowledged, "node {} reads {applied}, and {acknowledged} was acknowledged", node.id);
        }
    }
}

/// Takes snapshots and gives up logs on all nodes, so often that who is away for long finds them gone.
async fn keeper(trio: Rc<Trio>, dice: Dice, is_over: Rc<Cell<bool>>) {
    while !is_over.get() {
        sleep(dice.millis(100..1000)).await;
        for node in &trio.nodes {
            if node.is_up() && dice.below(2) > 0 {
                node.purge().await;
            }
            if node.is_up() && (dice.below(3) > 0 || node.replica().wants_snapshot()) {
                let takes_all = node.replica().standing().applied_index.is_multiple_of(4);
                let keep = async { if takes_all { node.keep_all().await } else { node.keep().await } };
                // Its power may be cut meanwhile.
                let _ = timeout(Duration::from_secs(5), keep).await;
            }
        }
    }
}

async fn fault(trio: &Trio, dice: &Dice) {
    let (node, other) = (trio.any(dice), trio.any(dice));
    let which = dice.below(18);
    trio.history.note(format_args!("fault {which} of {node} and {other}"));
    match which {
        0..=2 if trio.node(node).is_up() => trio.node(node).crash().await,
        0..=3 if !trio.node(node).is_up() => trio.node(node).start().await,
        4 => trio.links.cut(node, other),
        5 => {
            trio.links.cut(node, other);
            trio.links.cut(other, node);
        }
        6 => trio.links.delay(dice.millis(0..120)),
        7 => trio.links.throttle(1 << (10 + dice.below(8))),
        8 => change_members(trio, dice).await,
        9 => {
            for node in trio.nodes.iter().filter(|node| node.is_up()) {
                node.crash().await;
            }
            for node in &trio.nodes {
                node.start().await;
            }
        }
        11 | 12 => trio.isolate(trio.leader().unwrap_or(node)),
        10 | 13 => {
            let Some(leader) = trio.leader() else { return };
            if which == 13 {
                trio.links.delay(Duration::from_millis(30));
            }
            let handed_over = timeout(Duration::from_secs(3), trio.node(leader).replica().transfer(other)).await;
            trio.history.note(format_args!("{leader} hands over to {other}: {handed_over:?}"));
            if which == 13 {
                // The other one has heard that it is to lead, and nobody has heard from it yet.
                sleep(dice.millis(31..60)).await;
                trio.isolate(leader);
            }
        }
        _ => trio.links.heal(),
    }
}

/// Takes the fourth node in, or has it vote or not.
async fn change_members(trio: &Trio, dice: &Dice) {
    let Some(leader) = trio.leader() else { return };
    let replica = trio.node(leader).replica();
    let wanted = dice.below(3);
    let Some(seen) = replica.view() else { return };
    let change = async {
        match wanted {
            0 => replica.add_learner(&seen, 4).await,
            1 => replica.change_voters(&seen, BTreeSet::from([1, 2, 3, 4])).await,
            _ => replica.change_voters(&seen, BTreeSet::from([1, 2, 3])).await,
        }
    };
    let changed = timeout(Duration::from_secs(3), change).await;
    trio.history.note(format_args!("members, change {wanted} by {leader}: {changed:?}"));
}

/// What becomes of a seed, from which all that is drawn by chance follows. It has a thread of its own, which nothing was drawn
/// on before.
fn live(seed: u64) -> (Totals, String) {
    eprintln!("seed {seed}");
    let life = std::thread::spawn(move || {
        let history = history_of(seed);
        (history.totals(), history.to_string())
    });
    life.join().unwrap_or_else(|_| panic!("seed {seed} has failed"))
}

/// Shows how it came to that, if a test fails.
struct LastWords(History);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.0.to_string();
            let lines: Vec<&str> = trace.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(TRACE_LINES)..].join("\n"));
        }
    }
}

fn history_of(seed: u64) -> History {
    let runtime = runtime();
    runtime.block_on(async {
        let mut trio = Trio::form(seed).await;
        trio.add_stranger(seed).await;
        let trio = Rc::new(trio);
        let _last_words = LastWords(trio.history.clone());
        let dice = Dice::new(seed);
        let is_over = Rc::new(Cell::new(false));
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::task::spawn_local(client(trio.clone(), dice.clone(), is_over.clone())))
            .collect();
        clients.extend((0..BRANCHES_CLIENTS).map(|_| {
            let client = branches::client(trio.clone(), dice.clone(), is_over.clone());
            tokio::task::spawn_local(client)
        }));
        clients.push(tokio::task::spawn_local(reader(trio.clone(), dice.clone(), is_over.clone())));
        clients.push(tokio::task::spawn_local(keeper(trio.clone(), dice.clone(), is_over.clone())));
        for _ in 0..FAULTS {
            sleep(dice.millis(0..1500)).await;
            let fault = timeout(Duration::from_secs(60), fault(&trio, &dice));
            fault.await.expect("a node ends and begins in time");
        }
        is_over.set(true);
        for client in clients {
            client.await.expect("a client ends");
        }
        trio.take_in(4).await;
        trio.settle().await;
        branches::pay_all(&trio).await;
        trio.settle().await;
        trio.check_branches();
        branches::delete_all(&trio).await;
        trio.settle().await;
        // Links and replicas know each other, so they would stay with all that the disks have.
        for node in &trio.nodes {
            node.crash().await;
        }
        trio.history.clone()
    })
}

#[test]
fn whatever_happens_to_links_and_nodes_the_history_fits() {
    let (mut acknowledged, mut unknown, mut proposed, mut sent) = (0, 0, 0, 0);
    let mut counts = Counts::default();
    for seed in seeds() {
        let (totals, _) = live(seed);
        counts.add(totals.counts);
        (acknowledged, unknown, proposed) =
            (acknowledged + totals.acknowledged, unknown + totals.unknown, proposed + totals.proposed);
        sent += totals.sent;
    }
    eprintln!(
        "{proposed} proposals: {acknowledged} acknowledged, {unknown} with an unknown outcome; {sent} snapshots sent"
    );
    eprintln!("{counts:?}");
    assert!(counts.is_all_done(), "something was done nowhere: {counts:?}");
    assert!(acknowledged * 2 > proposed, "most of what is proposed is acknowledged");
    assert!(unknown * 10 < proposed * 3, "less than 30 % have an unknown outcome");
    assert!(sent > 0, "some nodes were away for so long that the log had gone");
}

#[test]
fn a_seed_has_the_same_history_twice() {
    for seed in [1, 2] {
        let (once, twice) = (live(seed).1, live(seed).1);
        let differs = once.lines().zip(twice.lines()).position(|(one, other)| one != other);
        assert_eq!(differs.map(|line| (once.lines().nth(line), twice.lines().nth(line))), None, "of seed {seed}");
        assert_eq!(once, twice);
    }
}
