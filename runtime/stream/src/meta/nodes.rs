//! The cluster's nodes in group 0: where each is, on which disk, and whether it is to have replicas.
//!
//! This is what is wanted. A driver on group 0's leader brings the groups to it, step by step, and nothing is noted of how far it is:
//! that is in the groups' memberships. A number that was removed never comes back, for its disk may still hold what it once promised.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Reader};
use crate::reply::{ADDRESS_BYTES_MAX, NODES_MAX, NodeRefusal};
use crate::sink::Sink;

const WHAT: &str = "nodes";

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Where other nodes reach it, as `host:port`; empty where each knows it for itself.
    pub address: Box<str>,
    /// What it keeps its logs on; 0 until somebody has met it.
    pub disk: u128,
    /// What is wanted of it.
    pub state: NodeState,
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It has replicas and leads groups.
    Active,
    /// It leads nothing, and its replicas go elsewhere as far as there are other nodes for them.
    Draining,
    /// As draining, and when no group has it any more it is removed.
    Leaving,
    /// It was removed, for ever.
    Removed,
}

impl NodeState {
    /// Every state; its number is its place.
    const ALL: [NodeState; 4] = [NodeState::Active, NodeState::Draining, NodeState::Leaving, NodeState::Removed];
}

/// A step in a node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStep<'a> {
    /// It comes, or is somewhere else now.
    Add {
        /// Where; at most [`ADDRESS_BYTES_MAX`] bytes.
        address: &'a str,
    },
    /// It was met, and this is its disk.
    Met {
        /// Not 0.
        disk: u128,
    },
    /// It is to lead nothing, and to have as little as can be.
    Drain,
    /// It is to have its part again.
    Undrain,
    /// It is to go for ever.
    Remove,
    /// No group has it any more.
    Gone,
}

/// All nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTable {
    /// The number of the last change; 0 before any.
    pub epoch: u64,
    /// The format level that all nodes know; 0 before that is known. It never falls.
    pub level: u16,
    /// The nodes by number, also those that were removed.
    pub nodes: BTreeMap<u64, NodeEntry>,
}

impl NodeTable {
    /// The nodes that were not removed.
    pub fn present(&self) -> impl Iterator<Item = (u64, &NodeEntry)> {
        let nodes = self.nodes.iter().map(|(node, entry)| (*node, entry));
        nodes.filter(|(_, entry)| entry.state != NodeState::Removed)
    }

    /// Enters those who have formed the cluster, all of them at once: a table without some of them would have the others cut off.
    pub(crate) fn form(&mut self, founders: EncodedFounders<'_>) -> Result<(), NodeRefusal> {
        if self.epoch > 0 {
            return Err(NodeRefusal::Formed);
        }
        let entry = |(node, address)| (node, NodeEntry { address, disk: 0, state: NodeState::Active });
        self.nodes = founders.decode().into_iter().map(entry).collect();
        self.epoch = 1;
        Ok(())
    }

    pub(crate) fn raise_level(&mut self, level: u16) {
        if level > self.level {
            self.level = level;
            self.epoch += 1;
        }
    }

    pub(crate) fn step(&mut self, node: u64, step: NodeStep<'_>) -> Result<(), NodeRefusal> {
        use NodeState::{Active, Draining, Leaving, Removed};
        let stay = self.nodes.values().filter(|entry| matches!(entry.state, Active | Draining)).count();
        let count = self.nodes.len();
        let entry = match (self.nodes.get_mut(&node), step) {
            (_, NodeStep::Add { address }) if address.len() > ADDRESS_BYTES_MAX => return Err(NodeRefusal::Address),
            (None, NodeStep::Add { .. }) if count >= NODES_MAX => return Err(NodeRefusal::TooMany),
            (None, NodeStep::Add { address }) => {
                self.nodes.insert(node, NodeEntry { address: address.into(), disk: 0, state: Active });
                self.epoch += 1;
                return Ok(());
            }
            (None, _) => return Err(NodeRefusal::Unknown),
            (Some(entry), _) => entry,
        };
        let before = entry.clone();
        match (step, entry.state) {
            // Said again: the answer to the first may have been lost.
            (NodeStep::Gone | NodeStep::Remove, Removed) | (NodeStep::Remove, Leaving) => {}
            (_, Removed) => return Err(NodeRefusal::Removed),
            (NodeStep::Met { disk }, _) if entry.disk == 0 || entry.disk == disk => entry.disk = disk,
            (NodeStep::Met { .. }, _) => return Err(NodeRefusal::OtherDisk),
            (NodeStep::Gone, Leaving) => entry.state = Removed,
            (NodeStep::Add { .. } | NodeStep::Drain | NodeStep::Undrain, Leaving) => return Err(NodeRefusal::Leaving),
            (NodeStep::Add { address }, _) => entry.address = address.into(),
            (NodeStep::Drain, _) => entry.state = Draining,
            (NodeStep::Undrain, _) => entry.state = Active,
            (NodeStep::Remove, _) if stay <= 1 => return Err(NodeRefusal::Last),
            (NodeStep::Remove, _) => entry.state = Leaving,
            // Nobody has asked for that.
            (NodeStep::Gone, Active | Draining) => return Err(NodeRefusal::Unknown),
        }
        let is_changed = *entry != before;
        self.epoch += u64::from(is_changed);
        Ok(())
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.u64(self.epoch);
        sink.varint(self.nodes.len() as u64);
        for (node, NodeEntry { address, disk, state }) in &self.nodes {
            sink.u64(*node);
            sink.short(address);
            sink.bytes(&disk.to_le_bytes());
            let code = NodeState::ALL.iter().position(|other| other == state).expect("every state has a place");
            sink.u8(code as u8);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<NodeTable, CodecError> {
        let mut table = NodeTable { epoch: reader.count(WHAT)?, ..NodeTable::default() };
        for _ in 0..reader.varint(WHAT)? {
            let node = follower(reader, &table.nodes)?;
            let (address, disk) = (reader.short(WHAT)?.into(), read_disk(reader)?);
            let state = NodeState::ALL.get(usize::from(reader.u8(WHAT)?)).ok_or(CodecError::Field(WHAT))?;
            table.nodes.insert(node, NodeEntry { address, disk, state: *state });
        }
        Ok(table)
    }
}

/// Those who have formed the cluster, as bytes in a command.
#[derive(Clone, Copy, Debug)]
pub struct EncodedFounders<'a>(&'a [u8]);

impl<'a> EncodedFounders<'a> {
    /// What [`EncodedFounders::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedFounders<'a> {
        EncodedFounders(encoded)
    }

    /// Writes nodes and where they are for [`EncodedFounders::of`]: 1 to [`NODES_MAX`], none of which is 0, and addresses of at most
    /// [`ADDRESS_BYTES_MAX`] bytes.
    pub fn encode(founders: &BTreeMap<u64, Box<str>>) -> Vec<u8> {
        assert!(!founders.is_empty(), "somebody forms it");
        assert!(founders.len() <= NODES_MAX, "the configuration bounds them");
        let mut buf = Vec::new();
        buf.varint(founders.len() as u64);
        for (node, address) in founders {
            buf.u64(*node);
            buf.short(address);
        }
        buf
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EncodedFounders<'a>, CodecError> {
        let bytes = reader.rest();
        let founders = EncodedFounders(reader.take(bytes.len(), WHAT)?);
        founders.try_decode()?;
        Ok(founders)
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    fn decode(self) -> BTreeMap<u64, Box<str>> {
        self.try_decode().expect("founders are checked when their command is read")
    }

    fn try_decode(self) -> Result<BTreeMap<u64, Box<str>>, CodecError> {
        let (mut reader, mut founders) = (Reader::new(self.0), BTreeMap::new());
        for _ in 0..reader.varint(WHAT)? {
            let node = follower(&mut reader, &founders)?;
            founders.insert(node, reader.short(WHAT)?.into());
        }
        reader.finish()?;
        if founders.is_empty() { Err(CodecError::Field(WHAT)) } else { Ok(founders) }
    }
}

/// The number of the next node of a list, which is greater than those before.
fn follower<T>(reader: &mut Reader<'_>, before: &BTreeMap<u64, T>) -> Result<u64, CodecError> {
    let node = reader.u64(WHAT)?;
    let follows = before.keys().next_back().is_none_or(|last| *last < node);
    if node == 0 || !follows || before.len() == NODES_MAX {
        return Err(CodecError::Field(WHAT));
    }
    Ok(node)
}

const STEP_ADD: u8 = 1;
const STEP_MET: u8 = 2;
const STEP_DRAIN: u8 = 3;
const STEP_UNDRAIN: u8 = 4;
const STEP_REMOVE: u8 = 5;
const STEP_GONE: u8 = 6;

impl<'a> NodeStep<'a> {
    pub(crate) fn put<S: Sink>(self, sink: &mut S) {
        match self {
            NodeStep::Add { address } => {
                sink.u8(STEP_ADD);
                sink.short(address);
            }
            NodeStep::Met { disk } => {
                sink.u8(STEP_MET);
                sink.bytes(&disk.to_le_bytes());
            }
            NodeStep::Drain => sink.u8(STEP_DRAIN),
            NodeStep::Undrain => sink.u8(STEP_UNDRAIN),
            NodeStep::Remove => sink.u8(STEP_REMOVE),
            NodeStep::Gone => sink.u8(STEP_GONE),
        }
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<NodeStep<'a>, CodecError> {
        match reader.u8(WHAT)? {
            STEP_ADD => Ok(NodeStep::Add { address: reader.short(WHAT)? }),
            STEP_MET => match read_disk(reader)? {
                0 => Err(CodecError::Field(WHAT)),
                disk => Ok(NodeStep::Met { disk }),
            },
            STEP_DRAIN => Ok(NodeStep::Drain),
            STEP_UNDRAIN => Ok(NodeStep::Undrain),
            STEP_REMOVE => Ok(NodeStep::Remove),
            STEP_GONE => Ok(NodeStep::Gone),
            _ => Err(CodecError::Field(WHAT)),
        }
    }
}

fn read_disk(reader: &mut Reader<'_>) -> Result<u128, CodecError> {
    let bytes = reader.take(16, WHAT)?;
    Ok(u128::from_le_bytes(*bytes.first_chunk().expect("so many were taken")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(steps: &[(u64, NodeStep<'_>)]) -> NodeTable {
        let mut table = NodeTable::default();
        steps.iter().for_each(|&(node, step)| table.step(node, step).expect("it is taken"));
        table
    }

    #[test]
    fn a_number_that_was_removed_never_comes_back() {
        let add = NodeStep::Add { address: "a:1" };
        let mut nodes = table(&[(1, add), (2, add), (2, NodeStep::Met { disk: 7 })]);
        assert_eq!(nodes.step(2, NodeStep::Met { disk: 8 }), Err(NodeRefusal::OtherDisk));
        assert_eq!(nodes.step(2, NodeStep::Gone), Err(NodeRefusal::Unknown), "nobody has asked for it");
        nodes.step(2, NodeStep::Remove).expect("another one stays");
        assert_eq!(nodes.step(1, NodeStep::Remove), Err(NodeRefusal::Last));
        assert_eq!(nodes.step(2, NodeStep::Undrain), Err(NodeRefusal::Leaving));
        let epoch = nodes.epoch;
        nodes.step(2, NodeStep::Remove).expect("said again");
        assert_eq!(nodes.epoch, epoch, "nothing has changed");
        nodes.step(2, NodeStep::Gone).expect("no group has it");
        assert_eq!(nodes.step(2, add), Err(NodeRefusal::Removed));
        assert_eq!(nodes.nodes[&2].state, NodeState::Removed);
        assert_eq!(nodes.present().map(|(node, _)| node).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_node_that_is_drained_can_be_had_back_and_may_move() {
        let mut nodes = table(&[(1, NodeStep::Add { address: "" }), (1, NodeStep::Drain)]);
        assert_eq!(nodes.nodes[&1].state, NodeState::Draining);
        nodes.step(1, NodeStep::Add { address: "b:2" }).expect("it is somewhere else");
        assert_eq!((&*nodes.nodes[&1].address, nodes.nodes[&1].state), ("b:2", NodeState::Draining));
        nodes.step(1, NodeStep::Undrain).expect("it was drained");
        assert_eq!((nodes.nodes[&1].state, nodes.epoch), (NodeState::Active, 4));
        let long = "x".repeat(ADDRESS_BYTES_MAX + 1);
        assert_eq!(nodes.step(2, NodeStep::Add { address: &long }), Err(NodeRefusal::Address));
        assert_eq!(nodes.step(2, NodeStep::Drain), Err(NodeRefusal::Unknown));
    }

    #[test]
    fn who_forms_a_cluster_is_entered_at_once_and_once() {
        let founders = |numbers: &[u64]| {
            let address = |node: &u64| (*node, format!("n{node}:1").into());
            EncodedFounders::encode(&numbers.iter().map(address).collect())
        };
        let mut nodes = NodeTable::default();
        nodes.form(EncodedFounders::of(&founders(&[1, 2, 3]))).expect("there is none yet");
        assert_eq!((nodes.epoch, nodes.nodes.keys().copied().collect::<Vec<_>>()), (1, vec![1, 2, 3]));
        assert_eq!(&*nodes.nodes[&3].address, "n3:1");
        let before = nodes.clone();
        // Said again, by the same leader or by another one that knows of others.
        for again in [founders(&[1, 2, 3]), founders(&[2, 4])] {
            assert_eq!(nodes.form(EncodedFounders::of(&again)), Err(NodeRefusal::Formed));
        }
        assert_eq!(nodes, before);
        let mut twice = founders(&[5]);
        twice.extend_from_slice(&founders(&[5])[1..]);
        twice[0] = 2;
        for unsound in [&[0][..], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], &twice, &founders(&[1])[..5]] {
            assert!(EncodedFounders::read(&mut Reader::new(unsound)).is_err(), "{unsound:?}");
        }
    }

    fn any_step() -> impl Strategy<Value = (u64, usize)> {
        (1..5u64, 0..6usize)
    }

    proptest! {
        #[test]
        fn whatever_is_asked_somebody_stays_and_the_table_reads_back(steps in prop::collection::vec(any_step(), 1..60)) {
            let all = [
                NodeStep::Add { address: "a:1" }, NodeStep::Met { disk: 9 }, NodeStep::Drain, NodeStep::Undrain,
                NodeStep::Remove, NodeStep::Gone,
            ];
            let mut nodes = NodeTable::default();
            for (node, step) in steps {
                let before = nodes.clone();
                let taken = nodes.step(node, all[step]);
                prop_assert!(taken.is_ok() || nodes == before, "a refusal changes nothing");
                prop_assert_eq!(nodes.epoch > before.epoch, nodes.nodes != before.nodes);
                let stay = nodes.nodes.values().any(|n| matches!(n.state, NodeState::Active | NodeState::Draining));
                prop_assert!(stay || nodes.nodes.is_empty());
                for (node, entry) in &before.nodes {
                    prop_assert!(entry.state != NodeState::Removed || nodes.nodes[node] == *entry);
                }
            }
            let mut bytes = Vec::new();
            nodes.put(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(NodeTable::read(&mut reader), Ok(nodes));
            prop_assert!(reader.is_empty());
        }
    }
}
