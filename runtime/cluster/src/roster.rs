//! Who belongs to the cluster, as this node knows it: where the nodes are, what disk each has, and who was removed.
//!
//! The threads of a node share one roster. It is looked at when two nodes meet and when links are made, never for a message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::{Admission, DiskId, Hello, Identity, Lane, NodeId};

/// For how long a refusal is remembered: a link that is wanted is tried again more often.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// Whether this is the address of a node, as `host:port`.
pub fn is_address(address: &str) -> bool {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    matches!(port, Some(Ok(1..))) && is_one_word(address)
}

/// Whether nothing in it separates words or lines: an address is written down by every node, a line each. So is an empty one.
pub fn is_one_word(address: &str) -> bool {
    !address.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// Where nodes are, as the endpoint's network understands it.
pub type Addresses = BTreeMap<NodeId, String>;

/// A node, as this one knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Where it is; empty where that is not known.
    pub address: String,
    /// Its disk, once it was met.
    pub disk: Option<DiskId>,
    /// Whether it was removed, for ever.
    pub is_removed: bool,
}

/// All nodes, as one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The number of the last change that is in it; 0 before the cluster has any.
    pub epoch: u64,
    /// The format level that the cluster is at: who knows a lower one cannot belong to it.
    pub level: u16,
    /// The nodes, this one among them or not.
    pub nodes: BTreeMap<NodeId, Known>,
}

/// Who belongs to the cluster. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Roster(Arc<Shared>);

struct Shared {
    own: NodeId,
    list: Mutex<List>,
    /// The format level that each node has said it knows, when it was met last.
    levels: Mutex<BTreeMap<NodeId, u16>>,
    /// What each node has refused this one with last, and when.
    refusals: Mutex<BTreeMap<NodeId, (Instant, String)>>,
    noted: Box<dyn Fn(&List) + Send + Sync>,
}

impl Roster {
    /// The roster of node `own`, which begins with what was known before. `noted` is called with all of it when it changes; it must
    /// not wait.
    pub fn new(own: NodeId, list: List, noted: impl Fn(&List) + Send + Sync + 'static) -> Roster {
        let (list, levels, refusals) = (Mutex::new(list), Mutex::default(), Mutex::default());
        Roster(Arc::new(Shared { own, list, levels, refusals, noted: Box::new(noted) }))
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list as it is now.
    pub fn current(&self) -> List {
        self.list().clone()
    }

    /// The format level that each node knows that was met since this one has started.
    pub fn levels(&self) -> BTreeMap<NodeId, u16> {
        self.0.levels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the other nodes are, but for those that were removed.
    pub fn addresses(&self) -> Addresses {
        let list = self.list();
        let others = list.nodes.iter().filter(|(node, known)| **node != self.0.own && !known.is_removed);
        let known = others.filter(|(_, known)| !known.address.is_empty());
        known.map(|(node, known)| (*node, known.address.clone())).collect()
    }

    /// Whether this node was removed.
    pub fn is_own_removed(&self) -> bool {
        self.is_removed(self.0.own)
    }

    /// Whether a node was removed.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.list().nodes.get(&node).is_some_and(|known| known.is_removed)
    }

    /// Why other nodes have refused this one lately, each sentence once. It is what they say, and nothing follows from it.
    pub fn refusals(&self) -> BTreeSet<String> {
        let refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = refusals.values().filter(|(at, _)| at.elapsed() < REFUSED_WITHIN);
        lately.map(|(_, sentence)| sentence.clone()).collect()
    }

    /// Takes over what the cluster has decided, unless something newer is known. What it does not say of a node, where it is or what its
    /// disk is, stays as this node knows it. Says whether anything has changed.
    pub fn update(&self, mut news: List) -> bool {
        let mut list = self.list();
        if news.epoch < list.epoch {
            return false;
        }
        for (node, known) in &mut news.nodes {
            let before = list.nodes.get(node);
            if known.address.is_empty() {
                known.address = before.map_or_else(String::new, |before| before.address.clone());
            }
            known.disk = known.disk.or(before.and_then(|before| before.disk));
        }
        if *list == news {
            return false;
        }
        *list = news;
        (self.0.noted)(&list);
        true
    }
}

impl Admission for Roster {
    fn refused(&self, by: NodeId, sentence: &str) {
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.insert(by, (Instant::now(), sentence.to_string()));
    }

    /// Lets in the nodes of the list, each with the disk that it had when it came first.
    fn admit(&self, hello: &Hello) -> Result<(), String> {
        let Identity { node, disk, .. } = hello.identity;
        let mut list = self.list();
        if list.nodes.get(&self.0.own).is_some_and(|own| own.is_removed) {
            return Err(format!("node {} was removed from the cluster for ever", self.0.own));
        }
        let Some(known) = list.nodes.get_mut(&node) else {
            return Err(format!(
                "node {node} is not one of the cluster's nodes, as node {} knows them: `weir cluster add {node} host:port` takes it in",
                self.0.own
            ));
        };
        if known.is_removed {
            return Err(format!(
                "node {node} was removed from the cluster for ever: it comes again under a new number, with an empty data directory"
            ));
        }
        if let Some(before) = known.disk
            && before != disk
        {
            return Err(format!(
                "node {node} had disk {before} before, and has disk {disk} now: a node that has lost its logs comes again under a new number"
            ));
        }
        let is_first = known.disk.is_none();
        if hello.level < list.level {
            let (level, theirs) = (list.level, hello.level);
            return Err(format!(
                "the cluster is at format level {level}, and the version of node {node} knows {theirs}: start it with a later version"
            ));
        }
        self.0.levels.lock().unwrap_or_else(PoisonError::into_inner).insert(node, hello.level);
        // One that only asks may still begin anew before it has anything to lose.
        if is_first && hello.lane != Lane::Join {
            list.nodes.entry(node).or_default().disk = Some(disk);
            (self.0.noted)(&list);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use weir_types::ShardId;

    use super::*;
    use crate::identity::ClusterId;

    fn node(number: u64) -> NodeId {
        NodeId::new(number).expect("not 0")
    }

    fn known(address: &str, disk: u128, is_removed: bool) -> Known {
        let disk = (disk > 0).then_some(DiskId(disk));
        Known { address: address.into(), disk, is_removed }
    }

    fn roster(nodes: &[(u64, Known)]) -> (Roster, mpsc::Receiver<List>) {
        let nodes = nodes.iter().map(|(number, known)| (node(*number), known.clone())).collect();
        let (noted, notes) = mpsc::channel();
        (
            Roster::new(node(1), List { epoch: 3, level: 2, nodes }, move |list| {
                noted.send(list.clone()).expect("somebody listens")
            }),
            notes,
        )
    }

    fn admit(roster: &Roster, number: u64, disk: u128, lane: Lane) -> Result<(), String> {
        let identity = Identity { cluster: ClusterId(1), node: node(number), disk: DiskId(disk) };
        roster.admit(&Hello { identity, meant: Some(node(1)), lane, level: 3 })
    }

    const MAIL: Lane = Lane::Mail(ShardId(0));

    #[test]
    fn who_is_not_named_or_was_removed_or_has_another_disk_is_not_let_in() {
        let nodes = [(2, known("b:1", 0, false)), (4, known("d:1", 1, false)), (5, known("e:1", 5, true))];
        let (roster, notes) = roster(&nodes);
        assert!(admit(&roster, 3, 1, MAIL).expect_err("nobody knows it").contains("node 3 is not one"));
        admit(&roster, 2, 6, Lane::Join).expect("it only asks");
        admit(&roster, 2, 7, MAIL).expect("it is known");
        assert!(admit(&roster, 2, 8, MAIL).expect_err("another disk").contains("had disk"));
        assert!(admit(&roster, 2, 8, Lane::Join).expect_err("another disk").contains("had disk"));
        admit(&roster, 2, 7, MAIL).expect("the one that it had");
        admit(&roster, 4, 2, MAIL).expect_err("it was met in an earlier life");
        assert!(admit(&roster, 5, 5, MAIL).expect_err("it was removed").contains("node 5 was removed"));
        let notes: Vec<List> = notes.try_iter().collect();
        assert_eq!((notes.len(), notes[0].nodes[&node(2)].disk), (1, Some(DiskId(7))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_refuse_this_node_with_is_remembered_for_a_while() {
        let (roster, _notes) = roster(&[]);
        [2, 3].into_iter().for_each(|by| roster.refused(node(by), "node 1 was removed"));
        roster.refused(node(4), "node 4 was removed");
        assert_eq!(roster.refusals(), ["node 1 was removed".to_string(), "node 4 was removed".to_string()].into());
        tokio::time::advance(REFUSED_WITHIN / 2).await;
        roster.refused(node(4), "node 1 had disk 7");
        tokio::time::advance(REFUSED_WITHIN / 2).await;
        assert_eq!(roster.refusals(), ["node 1 had disk 7".to_string()].into());
    }

    #[test]
    fn whose_version_is_older_than_the_cluster_is_not_let_in() {
        let (roster, _notes) = roster(&[(2, known("b:1", 7, false))]);
        let identity = Identity { cluster: ClusterId(1), node: node(2), disk: DiskId(7) };
        let admit = |level| roster.admit(&Hello { identity, meant: Some(node(1)), lane: MAIL, level });
        let refused = admit(1).expect_err("the cluster is at 2");
        assert!(refused.contains("at format level 2, and the version of node 2 knows 1"), "{refused}");
        assert_eq!(roster.levels(), BTreeMap::new());
        for level in [3, 2] {
            admit(level).expect("it knows that");
            assert_eq!(roster.levels(), [(node(2), level)].into(), "the last word counts");
        }
    }

    #[test]
    fn what_the_cluster_decides_is_taken_over_and_what_it_leaves_open_stays() {
        let (roster, notes) =
            roster(&[(1, known("", 9, false)), (2, known("b:1", 7, false)), (3, known("c:1", 0, false))]);
        assert_eq!(roster.addresses(), [(node(2), "b:1".into()), (node(3), "c:1".into())].into());
        let list = |epoch, nodes: &[(u64, Known)]| List {
            epoch,
            level: 2,
            nodes: nodes.iter().map(|(number, known)| (node(*number), known.clone())).collect(),
        };
        assert!(!roster.update(list(2, &[])), "it is of before");
        let news = [
            (1, known("a:1", 9, false)),
            (2, known("", 0, false)),
            (3, known("c:2", 3, true)),
            (4, known("d:1", 0, false)),
        ];
        assert!(roster.update(list(5, &news)));
        assert!(!roster.update(list(5, &news)), "it is known");
        assert_eq!(roster.addresses(), [(node(2), "b:1".into()), (node(4), "d:1".into())].into());
        assert_eq!(roster.current().nodes[&node(2)].disk, Some(DiskId(7)));
        assert!(roster.is_removed(node(3)) && !roster.is_removed(node(2)));
        assert_eq!(notes.try_iter().count(), 1);
        assert!(roster.update(list(6, &[(1, known("a:1", 9, true)), (2, known("", 0, false))])));
        assert!(admit(&roster, 2, 7, MAIL).expect_err("this node is none of them").contains("node 1 was removed"));
    }
}
