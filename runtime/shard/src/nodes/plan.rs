//! Who should vote in each group, and the next step there. Pure: the driver (`nodes/driver.rs`) looks, asks this, and does it.
//!
//! Nothing is remembered from one look to the next. So whoever leads group 0 next goes on where this one was: a membership that is
//! half changed is finished, a learner that nobody wants is given up.
//!
//! - A group has [`REPLICAS`] voters, or as many as there are nodes. They stay where they are as far as their nodes do; what is
//!   missing goes to the nodes that have the fewest, and one is moved when a node has two more than another.
//! - A node that is silent keeps its votes: it may come back. Nothing new goes there.
//! - One group changes at a time. A new voter has the group's log first; a change begins only when enough of the voters of before
//!   were heard lately, and enough of those that are to be have the log, too: so neither lose their majority, and nobody waits.
//! - A leader that is to leave hands over first.
//! - A group without a leader holds up no other. But no node is gone then, and no move begins that makes nodes even: the group may be
//!   there.

use std::collections::{BTreeMap, BTreeSet};

use weir_stream::{NodeEntry, NodeState};
use weir_types::GroupId;

use crate::message::{Following, GroupChange, GroupStanding, GroupStep};

/// Voters of a group.
pub(crate) const REPLICAS: usize = 3;
/// How long a voter may have been silent when a change begins, in milliseconds: heartbeats come every 200.
const HEARD_WITHIN_MS: u64 = 2_000;
/// What a node may lack of a group's log when it becomes a voter: what comes while it is asked.
const LAG_ENTRIES_MAX: u64 = 256;

/// What is known of the cluster.
pub(crate) struct Look<'a> {
    /// The nodes that there are, and were.
    pub(crate) nodes: &'a BTreeMap<u64, NodeEntry>,
    /// The nodes that were heard lately.
    pub(crate) heard: &'a BTreeSet<u64>,
    /// All groups in their order; none for one whose leader has not answered.
    pub(crate) groups: &'a [Option<GroupStanding>],
    /// Whether the cluster is new, and nobody minds that leaders are moved at once.
    pub(crate) is_new: bool,
}

impl Look<'_> {
    /// Whether all groups have answered.
    fn is_whole(&self) -> bool {
        self.groups.iter().all(Option::is_some)
    }

    /// Groups that a node leads.
    fn leads(&self, node: u64) -> usize {
        self.groups.iter().flatten().filter(|standing| standing.leader == node).count()
    }

    /// Whether all nodes that may lead, heard or not, lead evenly.
    pub(crate) fn is_even(&self) -> bool {
        let active = self.nodes.iter().filter(|(_, entry)| entry.state == NodeState::Active);
        let leads: Vec<usize> = active.map(|(node, _)| self.leads(*node)).collect();
        leads.iter().max().zip(leads.iter().min()).is_none_or(|(most, least)| most - least <= 1)
    }
}

/// What comes of a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What to do now.
    pub(crate) step: Option<Step>,
    /// What cannot be done now, and why, in sentences.
    pub(crate) waits: Vec<Box<str>>,
    /// Whether every group has the voters that it should have, and nobody else, and a new cluster's nodes lead as evenly as they can.
    pub(crate) is_settled: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A group's leader is to do this.
    Ask(GroupStep),
    /// No group has the node any more: it is removed.
    Gone(u64),
}

/// What to do next.
pub(crate) fn plan(look: &Look<'_>) -> Plan {
    let mut plan = Plan::default();
    let standings: Vec<&GroupStanding> = look.groups.iter().flatten().collect();
    let leaderless = look.groups.iter().enumerate().filter(|(_, standing)| standing.is_none());
    plan.waits.extend(leaderless.map(|(group, _)| format!("group {group} has no leader that answers").into()));
    let targets = place(look, &standings);
    let groups = || standings.iter().copied().zip(&targets);
    // What is under way goes first, and alone.
    let is_under_way = |standing: &GroupStanding| standing.voters.len() > 1 || !standing.learners.is_empty();
    let is_any_under_way = standings.iter().copied().any(is_under_way);
    for (standing, target) in groups().filter(|(standing, _)| !is_any_under_way || is_under_way(standing)) {
        match next(look, standing, target) {
            Next::Nothing => {}
            Next::Wait(reason) => plan.waits.push(reason.into()),
            Next::Do(change) => {
                plan.step = Some(Step::Ask(standing.step(change)));
                return plan;
            }
        }
    }
    let has = |node: &u64| standings.iter().any(|standing| members(standing).contains(node));
    let silent = look.nodes.iter().filter(|(_, entry)| entry.state == NodeState::Active).map(|(node, _)| node);
    plan.waits.extend(
        silent
            .filter(|node| !look.heard.contains(node) && !has(node))
            .map(|node| format!("node {node} has not answered yet: no group goes there").into()),
    );
    if look.is_whole() {
        let gone = look.nodes.iter().filter(|(_, entry)| entry.state == NodeState::Leaving).map(|(node, _)| *node);
        plan.step = gone.into_iter().find(|node| !has(node)).map(Step::Gone);
    }
    plan.is_settled = plan.step.is_none() && plan.waits.is_empty() && !is_any_under_way;
    if plan.is_settled && look.is_new && !look.is_even() {
        // Whoever voted first leads most.
        plan.step = balance(look).map(Step::Ask);
        if plan.step.is_none() {
            let unable = standings.iter().find_map(|standing| Some((unable_heir(look, standing)?, standing.group)));
            plan.waits.extend(unable.map(|(node, group)| {
                format!("node {node} is to lead as much as others, and does not answer, or lacks much of group {group}")
                    .into()
            }));
        }
        plan.is_settled = plan.step.is_none() && plan.waits.is_empty();
    }
    plan
}

/// A voter of a group that could not lead it now, and might later.
fn unable_heir(look: &Look<'_>, standing: &GroupStanding) -> Option<u64> {
    let is_able = |node: &u64| *node == standing.leader || look.heard.contains(node) && is_near(standing, *node);
    standing.all_voters().into_iter().find(|node| state(look, *node) == Some(NodeState::Active) && !is_able(node))
}

/// A transfer that makes the nodes lead more evenly, when nothing else is to be done: of group 0, whose leader sees to the others, last,
/// and not while the cluster is new, which only that leader knows.
pub(crate) fn balance(look: &Look<'_>) -> Option<GroupStep> {
    let standings: Vec<&GroupStanding> = look.groups.iter().flatten().collect();
    let is_movable = |standing: &GroupStanding| !look.is_new || standing.group != GroupId::META.0;
    let leads = |node: u64| look.leads(node);
    let mut givers: Vec<u64> = standings.iter().map(|standing| standing.leader).collect();
    givers.sort_by_key(|giver| (std::cmp::Reverse(leads(*giver)), *giver));
    givers.dedup();
    let takes = |node: &u64| state(look, *node) == Some(NodeState::Active) && look.heard.contains(node);
    for giver in givers {
        for standing in standings.iter().rev().filter(|standing| standing.leader == giver && is_movable(standing)) {
            let voters = standing.voters.first()?.iter().copied().filter(|node| *node != giver && takes(node));
            let able = voters.filter(|node| is_near(standing, *node));
            let Some(taker) = able.min_by_key(|node| (leads(*node), *node)) else { continue };
            if leads(giver) >= leads(taker) + 2 {
                return Some(standing.step(GroupChange::Transfer { node: taker }));
            }
        }
    }
    None
}

/// What a group does next.
enum Next {
    Nothing,
    Wait(String),
    Do(GroupChange),
}

fn next(look: &Look<'_>, standing: &GroupStanding, target: &BTreeSet<u64>) -> Next {
    let number = standing.group;
    let voters = standing.voters.last().cloned().unwrap_or_default();
    if standing.voters.len() > 1 {
        // Whatever is wanted now, half of a change is no place to stay.
        return change(standing, voters);
    }
    if let Some(node) = standing.learners.iter().find(|node| !target.contains(node)) {
        return Next::Do(GroupChange::RemoveLearner { node: *node });
    }
    if let Some(node) = target.iter().find(|node| !voters.contains(node) && !standing.learners.contains(node)) {
        return Next::Do(GroupChange::AddLearner { node: *node });
    }
    for node in target.difference(&voters) {
        let other = standing.other(*node).copied().unwrap_or_default();
        if other.heard_ms.is_none_or(|heard_ms| heard_ms > HEARD_WITHIN_MS) {
            return Next::Wait(format!("node {node} is to vote in group {number}, and does not answer its leader"));
        }
        if other.lag_entries > LAG_ENTRIES_MAX {
            let lag = other.lag_entries;
            return Next::Wait(format!("node {node} is to vote in group {number}, and lacks {lag} entries yet"));
        }
    }
    if voters != *target && !target.contains(&standing.leader) {
        let heirs = target.intersection(&voters).copied().filter(|node| is_near(standing, *node));
        if let Some(node) = heirs.min_by_key(|node| (lag(standing, *node), *node)) {
            return Next::Do(GroupChange::Transfer { node });
        }
        // Nobody who stays votes yet: they do first, and the leader with them.
        let both = target.iter().copied().chain([standing.leader]).collect();
        return if both == voters {
            Next::Wait(format!(
                "node {} is to leave group {number}, and nobody is near enough to lead it",
                standing.leader
            ))
        } else {
            change(standing, both)
        };
    }
    if voters != *target {
        return change(standing, target.clone());
    }
    let is_unwanted = |node: u64| !matches!(state(look, node), Some(NodeState::Active));
    if is_unwanted(standing.leader) {
        let heirs = voters.iter().copied().filter(|node| !is_unwanted(*node) && is_near(standing, *node));
        if let Some(node) = heirs.min_by_key(|node| (lag(standing, *node), *node)) {
            return Next::Do(GroupChange::Transfer { node });
        }
    }
    Next::Nothing
}

/// A change of voters, unless it would take a majority away, or have the group wait for somebody who lacks much of its log.
fn change(standing: &GroupStanding, voters: BTreeSet<u64>) -> Next {
    let is_able = |node: u64| node == standing.leader || is_near(standing, node);
    let before = standing.voters.iter().map(|set| (set, set.iter().filter(|node| is_heard(standing, **node)).count()));
    let to_be = (&voters, voters.iter().filter(|node| is_able(**node)).count());
    for (set, able) in before.chain([to_be]) {
        if able <= set.len() / 2 {
            return Next::Wait(format!(
                "the voters of group {} are to be {}, and of {} only {able} answer and have its log: a change would stop the group",
                standing.group,
                list(&voters),
                list(set)
            ));
        }
    }
    Next::Do(GroupChange::Voters(voters))
}

fn list(nodes: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}

fn state(look: &Look<'_>, node: u64) -> Option<NodeState> {
    look.nodes.get(&node).map(|entry| entry.state)
}

fn members(standing: &GroupStanding) -> BTreeSet<u64> {
    standing.all_voters().union(&standing.learners).copied().collect()
}

/// Whether the leader has heard of a node lately, or is it.
fn is_heard(standing: &GroupStanding, node: u64) -> bool {
    let heard_ms = standing.other(node).and_then(|other| other.heard_ms);
    node == standing.leader || heard_ms.is_some_and(|heard_ms| heard_ms <= HEARD_WITHIN_MS)
}

fn lag(standing: &GroupStanding, node: u64) -> u64 {
    standing.other(node).map_or(u64::MAX, |other: &Following| other.lag_entries)
}

/// Whether a node could lead soon.
fn is_near(standing: &GroupStanding, node: u64) -> bool {
    node != standing.leader && is_heard(standing, node) && lag(standing, node) <= LAG_ENTRIES_MAX
}

/// The voters that each of these groups should have.
fn place(look: &Look<'_>, standings: &[&GroupStanding]) -> Vec<BTreeSet<u64>> {
    let with = |wanted: NodeState| {
        let nodes = look.nodes.iter().filter(move |(_, entry)| entry.state == wanted);
        nodes.map(|(node, _)| *node).collect::<BTreeSet<u64>>()
    };
    let (active, draining) = (with(NodeState::Active), with(NodeState::Draining));
    let size = REPLICAS.min(active.len() + draining.len());
    let mut targets: Vec<BTreeSet<u64>> = Vec::new();
    for standing in standings {
        let voters = standing.voters.last().expect("somebody votes");
        let mut kept: Vec<u64> = voters.intersection(&active).copied().collect();
        // The leader stays, if anybody does.
        kept.sort_by_key(|node| (*node != standing.leader, !is_heard(standing, *node), *node));
        kept.truncate(size);
        targets.push(kept.into_iter().collect());
    }
    let load = |targets: &[BTreeSet<u64>], node: u64| targets.iter().filter(|target| target.contains(&node)).count();
    for (at, standing) in standings.iter().enumerate() {
        while targets[at].len() < size {
            let free = active.iter().filter(|node| !targets[at].contains(node) && look.heard.contains(node));
            // What has begun goes on.
            let rank = |node: &u64| (!standing.learners.contains(node), load(&targets, *node), *node);
            let Some(node) = free.copied().min_by_key(rank) else { break };
            targets[at].insert(node);
        }
        // Until there are others, those stay who are to go, but not those that are silent. Of those that are drained, whoever votes stays
        // first; if too few do, others of them come, too.
        let voters = standing.voters.last().expect("somebody votes");
        let going = voters.iter().filter(|node| !active.contains(node) && is_heard(standing, **node));
        let mut others: Vec<u64> = going.copied().collect();
        others.sort_by_key(|node| (!draining.contains(node), *node != standing.leader, *node));
        let idle = draining.iter().filter(|node| !voters.contains(node) && look.heard.contains(node));
        let mut idle: Vec<u64> = idle.copied().collect();
        idle.sort_by_key(|node| (!standing.learners.contains(node), *node));
        let staying = others.iter().take_while(|node| draining.contains(node)).count();
        let leaving = others.split_off(staying);
        for node in others.into_iter().chain(idle).chain(leaving) {
            if targets[at].len() < size {
                targets[at].insert(node);
            }
        }
        // Nobody is heard but the leader.
        if targets[at].is_empty() {
            targets[at] = voters.clone();
        }
    }
    even_out(look, standings, &active, &mut targets);
    targets
}

/// Moves voters from nodes that have many to nodes that have few, as long as they are two apart. Unless all groups are known, nobody
/// knows what they have: then what has begun goes on, and nothing begins.
fn even_out(look: &Look<'_>, standings: &[&GroupStanding], active: &BTreeSet<u64>, targets: &mut [BTreeSet<u64>]) {
    if !look.is_whole() {
        for (at, standing) in standings.iter().enumerate() {
            for taker in standing.learners.iter().filter(|node| active.contains(node) && look.heard.contains(node)) {
                let load = |node: &u64| targets.iter().filter(|target| target.contains(node)).count();
                let givers =
                    targets[at].iter().filter(|node| active.contains(node) && !standing.learners.contains(node));
                let giver = givers.copied().max_by_key(|node| (*node != standing.leader, load(node), *node));
                if let Some(giver) = giver.filter(|_| !targets[at].contains(taker)) {
                    targets[at].remove(&giver);
                    targets[at].insert(*taker);
                }
            }
        }
        return;
    }
    loop {
        let load = |node: &u64| targets.iter().filter(|target| target.contains(node)).count();
        let mut givers: Vec<u64> = active.iter().copied().collect();
        givers.sort_by_key(|node| (std::cmp::Reverse(load(node)), *node));
        let takers = || active.iter().filter(|node| look.heard.contains(node));
        let moved = givers.iter().find_map(|giver| {
            let poorer = takers().filter(|taker| load(taker) + 2 <= load(giver));
            let moves = poorer.flat_map(|taker| {
                let from =
                    targets.iter().enumerate().filter(|(_, target)| target.contains(giver) && !target.contains(taker));
                from.map(|(at, _)| (at, *giver, *taker))
            });
            moves.min_by_key(|(at, giver, taker)| {
                let standing = standings[*at];
                (!standing.learners.contains(taker), load(taker), standing.leader == *giver, *at, *taker)
            })
        });
        let Some((at, giver, taker)) = moved else { return };
        targets[at].remove(&giver);
        targets[at].insert(taker);
    }
}

#[cfg(test)]
mod tests;
