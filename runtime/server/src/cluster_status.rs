//! `weir cluster status`: what is wrong with a cluster, and how its nodes and groups stand, for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use weir_shard::{ClusterStatus, Following, GroupStanding, GroupStatus, NodeStatus};
use weir_stream::NodeState;

/// For how long a node may say nothing before that is told.
const SILENT_MS: u64 = 3_000;
/// How much a node may lack before that is told: a moment of a busy stream.
const LAG_ENTRIES: u64 = 1_000;

/// What the admin listener answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// What the cluster is called; empty for a node that is alone.
    pub(crate) cluster: String,
    /// What is wrong, a sentence each, the worst first.
    pub(crate) troubles: Vec<String>,
    /// Where old bytes go, in a word.
    pub(crate) store: String,
    /// How it stands.
    #[serde(flatten)]
    pub(crate) status: ClusterStatus,
}

impl StatusReport {
    /// A report on what a node has found.
    pub(crate) fn new(cluster: String, store: String, status: ClusterStatus) -> StatusReport {
        StatusReport { cluster, troubles: troubles(&status), store, status }
    }

    /// The report as a table, after what is wrong.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let ClusterStatus { asked, nodes, groups, level, waits, is_settled } = &self.status;
        for trouble in &self.troubles {
            line(&mut text, format_args!("WRONG: {trouble}"));
        }
        for wait in waits {
            line(&mut text, format_args!("waiting: {wait}"));
        }
        if *is_settled == Some(false) && waits.is_empty() {
            line(
                &mut text,
                format_args!("moving: not every group has the voters and the leader yet that it is to have"),
            );
        }
        let all_is_well = if self.troubles.is_empty() { ": all is well" } else { "" };
        let name = if self.cluster.is_empty() { "a node that is alone" } else { &self.cluster };
        line(
            &mut text,
            format_args!(
                "{name}, as node {asked} sees it: {}, {}{all_is_well}",
                count(nodes.len(), "node"),
                count(groups.len(), "group")
            ),
        );
        line(&mut text, format_args!("store: {}", self.store));
        line(&mut text, format_args!("format level: {level}{}", behind(*level, nodes)));
        let header = ["NODE", "STATE", "HEARD", "LEADS", "VOTES IN", "ADDRESS"].map(str::to_string);
        let rows = nodes.iter().map(|node| self.node_row(node));
        push_table(&mut text, std::iter::once(header).chain(rows).collect());
        let header = ["GROUP", "LEADER", "TERM", "VOTERS", "LEARNERS", "BEHIND"].map(str::to_string);
        let rows = groups.iter().map(group_row);
        push_table(&mut text, std::iter::once(header).chain(rows).collect());
        text
    }

    fn node_row(&self, node: &NodeStatus) -> [String; 6] {
        let standings = || self.status.groups.iter().filter_map(GroupStatus::standing);
        let leads = standings().filter(|standing| standing.leader == node.node).count();
        let votes = standings().filter(|standing| standing.all_voters().contains(&node.node)).count();
        let address = if node.address.is_empty() { "-".to_string() } else { node.address.to_string() };
        let state = match node.state {
            NodeState::Active => "active",
            NodeState::Draining => "draining",
            NodeState::Leaving => "leaving",
            NodeState::Removed => "removed",
        };
        [node.node.to_string(), state.to_string(), heard(node.heard_ms), leads.to_string(), votes.to_string(), address]
    }
}

/// Which nodes keep the cluster from a higher format level, if some others know one.
fn behind(level: u16, nodes: &[NodeStatus]) -> String {
    let newest = nodes.iter().filter_map(|node| node.level).max().unwrap_or(level);
    let older = nodes.iter().filter(|node| newest > level && node.level != Some(newest));
    let sentence = |node: &NodeStatus| match node.level {
        Some(known) => format!("; node {} knows {known} and not {newest}", node.node),
        None => format!("; node {} has not said yet what it knows", node.node),
    };
    older.map(sentence).collect()
}

fn group_row(group: &GroupStatus) -> [String; 6] {
    let standing = match group {
        GroupStatus::Led(standing) => standing,
        GroupStatus::Leaderless { group, .. } => {
            return [group.to_string(), "none".into(), "-".into(), "-".into(), "-".into(), "-".into()];
        }
    };
    let behind: Vec<String> = standing
        .others
        .iter()
        .filter(|other| other.lag_entries > 0)
        .map(|Following { node, lag_entries, lag_bytes, .. }| {
            format!("node {node}: {}, {}", count(*lag_entries as usize, "entry"), bytes(*lag_bytes))
        })
        .collect();
    let voters: Vec<String> = standing.voters.iter().map(list).collect();
    let behind = if behind.is_empty() { "nobody".to_string() } else { behind.join("; ") };
    [
        standing.group.to_string(),
        standing.leader.to_string(),
        standing.term.to_string(),
        voters.join(" -> "),
        list(&standing.learners),
        behind,
    ]
}

/// What is wrong, the worst first.
fn troubles(status: &ClusterStatus) -> Vec<String> {
    let mut troubles = Vec::new();
    for group in &status.groups {
        if let GroupStatus::Leaderless { reason, .. } = group {
            troubles.push(format!("{reason}: its streams take nothing"));
        }
    }
    let silent: BTreeSet<u64> = status
        .nodes
        .iter()
        .filter(|node| node.heard_ms.is_none_or(|heard_ms| heard_ms > SILENT_MS))
        .map(|node| node.node)
        .collect();
    // Where nobody leads, nobody listens.
    let is_led = status.groups.iter().any(|group| group.standing().is_some());
    for node in status.nodes.iter().filter(|node| is_led && silent.contains(&node.node)) {
        troubles.push(match node.heard_ms {
            Some(heard_ms) => format!("node {} was heard {} s ago", node.node, heard_ms / 1000),
            None => format!("node {} is not heard", node.node),
        });
    }
    for standing in status.groups.iter().filter_map(GroupStatus::standing) {
        troubles.extend(group_troubles(standing, &silent));
    }
    for node in status.nodes.iter().filter(|node| node.address.is_empty() && status.nodes.len() > 1) {
        let node = node.node;
        troubles.push(format!(
            "nobody knows where node {node} is reached: set cluster.advertise there, or say `weir cluster add {node} host:port`"
        ));
    }
    troubles
}

fn group_troubles(standing: &GroupStanding, silent: &BTreeSet<u64>) -> Vec<String> {
    let mut troubles = Vec::new();
    let group = standing.group;
    for voters in &standing.voters {
        let heard = voters.iter().filter(|node| !silent.contains(node)).count();
        if voters.len() > 1 && heard <= voters.len() / 2 + 1 && heard < voters.len() {
            let count = count(voters.len(), "voter");
            troubles.push(format!(
                "group {group} takes nothing any more if it loses another node: {heard} of {count} are heard"
            ));
        }
    }
    for other in standing.others.iter().filter(|other| !silent.contains(&other.node)) {
        if other.lag_entries > LAG_ENTRIES {
            troubles.push(format!(
                "node {} is {} behind in group {group}",
                other.node,
                count(other.lag_entries as usize, "entry")
            ));
        }
    }
    troubles
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes it");
}

/// Rows under their header, in columns, behind an empty line.
fn push_table<const N: usize>(text: &mut String, rows: Vec<[String; N]>) {
    text.push('\n');
    let mut widths = [0; N];
    for row in &rows {
        row.iter().zip(&mut widths).for_each(|(cell, width)| *width = cell.chars().count().max(*width));
    }
    for row in rows {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        line(text, format_args!("{}", cells.trim_end()));
    }
}

fn heard(heard_ms: Option<u64>) -> String {
    match heard_ms {
        None => "never".to_string(),
        Some(heard_ms) if heard_ms < 1000 => "now".to_string(),
        Some(heard_ms) => format!("{} s ago", heard_ms / 1000),
    }
}

fn list(nodes: &BTreeSet<u64>) -> String {
    if nodes.is_empty() {
        return "-".to_string();
    }
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn count(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {what}s"),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, heard_ms: Option<u64>) -> NodeStatus {
        NodeStatus {
            node,
            address: format!("10.0.0.{node}:4439").into(),
            state: NodeState::Active,
            disk: None,
            heard_ms,
            level: [Some(0), None, Some(1)].into_iter().nth(node as usize - 1).flatten(),
        }
    }

    fn led(group: u16, others: &[(u64, u64)]) -> GroupStatus {
        let other =
            |&(node, lag_entries)| Following { node, lag_entries, lag_bytes: 100 * lag_entries, heard_ms: Some(5) };
        let others = others.iter().map(other).collect();
        let voters = vec![[1, 2, 3].into()];
        let (leader, term, last_index, learners) = (1, 4, 77, BTreeSet::new());
        GroupStatus::Led(Box::new(GroupStanding { group, leader, term, last_index, voters, learners, others }))
    }

    fn report(nodes: Vec<NodeStatus>, groups: Vec<GroupStatus>) -> StatusReport {
        StatusReport::new(
            "c1".into(),
            "none".into(),
            ClusterStatus { asked: 1, nodes, groups, level: 0, waits: Vec::new(), is_settled: Some(true) },
        )
    }

    #[test]
    fn a_cluster_that_is_well_says_so_first() {
        let nodes = vec![node(1, Some(0)), node(2, Some(20)), node(3, Some(1500))];
        let report = report(nodes, vec![led(0, &[(2, 0), (3, 2)])]);
        assert_eq!(
            report.text(),
            "\
c1, as node 1 sees it: 3 nodes, 1 group: all is well
store: none
format level: 0; node 1 knows 0 and not 1; node 2 has not said yet what it knows

NODE  STATE   HEARD    LEADS  VOTES IN  ADDRESS
1     active  now      1      1         10.0.0.1:4439
2     active  now      0      1         10.0.0.2:4439
3     active  1 s ago  0      1         10.0.0.3:4439

GROUP  LEADER  TERM  VOTERS  LEARNERS  BEHIND
0      1       4     1 2 3   -         node 3: 2 entries, 200 B
"
        );
        let json = serde_json::to_string(&report).expect("plain values");
        assert_eq!(serde_json::from_str::<StatusReport>(&json).expect("it reads back"), report);
    }

    #[test]
    fn what_is_wrong_comes_first_and_the_worst_before_the_rest() {
        let nodes = vec![node(1, Some(0)), node(2, Some(0)), node(3, Some(12_000))];
        let leaderless = GroupStatus::Leaderless { group: 1, reason: "group 1 has no leader that answers".into() };
        let report = report(nodes, vec![led(0, &[(2, 5_000), (3, 9)]), leaderless]);
        assert_eq!(
            report.troubles,
            [
                "group 1 has no leader that answers: its streams take nothing",
                "node 3 was heard 12 s ago",
                "group 0 takes nothing any more if it loses another node: 2 of 3 voters are heard",
                "node 2 is 5000 entries behind in group 0",
            ]
        );
        assert!(report.text().starts_with("WRONG: group 1 has no leader"));
    }
}
