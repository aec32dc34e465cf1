//! Nodes that come and go, on one thread: what is written stays, whoever leaves and whoever crashes.

use std::cell::Cell;
use std::collections::BTreeMap;

use tokio::net::TcpListener;
use weir_cluster::{NodeId, Roster};
use weir_stream::{Command, NodeTable, Reply, Upload};
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

use super::cluster::{Member, Start, create, list, node_id, within};
use super::*;
use crate::message::{
    ClusterOrder, ClusterReport, ClusterStatus, GroupChange, GroupStatus, GroupStep, MembersAnswer, MembersRequest,
    NodeChange,
};

/// A cluster whose nodes come and go.
struct Cluster {
    members: BTreeMap<u64, Member>,
    addresses: BTreeMap<NodeId, String>,
    disks: BTreeMap<u64, Vec<Arc<dyn Disk>>>,
    rosters: BTreeMap<u64, Roster>,
    life: u64,
    /// The format levels of those that are older than this version.
    older: BTreeMap<u64, u16>,
}

impl Cluster {
    /// These nodes form it.
    async fn form(founders: &[u64]) -> Cluster {
        Cluster::form_with(founders, BTreeMap::new()).await
    }

    async fn form_with(founders: &[u64], older: BTreeMap<u64, u16>) -> Cluster {
        let (members, addresses, disks, rosters) = Default::default();
        let mut cluster = Cluster { members, addresses, disks, rosters, life: 1000, older };
        let mut listeners = Vec::new();
        for founder in founders {
            listeners.push((*founder, cluster.place(*founder).await));
        }
        let together: BTreeSet<u64> = founders.iter().copied().collect();
        for (founder, listener) in listeners {
            let known = list(&cluster.addresses);
            cluster.start(founder, known, together.clone(), listener).await;
        }
        cluster
    }

    /// A node's own port and disks.
    async fn place(&mut self, number: u64) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.addresses.insert(node_id(number), listener.local_addr().expect("an address").to_string());
        self.disks.insert(number, disks());
        listener
    }

    async fn start(&mut self, number: u64, known: weir_cluster::List, founders: BTreeSet<u64>, listener: TcpListener) {
        self.life += 1;
        let (disks, breaks) = (self.disks[&number].clone(), Arc::default());
        let (config, life, cold) = (config(), self.life, None);
        let level = self.older.get(&number).copied().unwrap_or(FORMAT_LEVEL);
        let start = Start { number, list: known, founders, disks, config, breaks, life, cold, level };
        let member = Member::start_with(start, listener).await;
        self.rosters.insert(number, member.roster.clone());
        self.members.insert(number, member);
    }

    /// A node that forms nothing is started and taken in, and knows of the others what `asked` knows.
    async fn add(&mut self, number: u64, asked: u64) {
        let listener = self.place(number).await;
        let address = self.addresses[&node_id(number)].as_str().into();
        self.order(asked, ClusterOrder::Change { node: number, change: NodeChange::Add { address } }).await;
        let known = self.rosters[&asked].current();
        self.start(number, known, BTreeSet::new(), listener).await;
    }

    async fn change(&self, asked: u64, node: u64, change: NodeChange) {
        self.order(asked, ClusterOrder::Change { node, change }).await;
    }

    async fn order(&self, asked: u64, order: ClusterOrder) {
        let ordered = async {
            loop {
                match self.core(asked).carry_out_order(order.clone()).await {
                    ClusterReport::Done(_) => return,
                    ClusterReport::Refused(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    ClusterReport::Status(_) => panic!("no status is asked for"),
                }
            }
        };
        within("what was ordered", ordered).await;
    }

    fn core(&self, number: u64) -> Rc<crate::core::Core> {
        Rc::clone(&self.members[&number].shards[0].0)
    }

    async fn status(&self, asked: u64) -> ClusterStatus {
        match self.core(asked).carry_out_order(ClusterOrder::Status).await {
            ClusterReport::Status(status) => *status,
            report => panic!("{report:?}"),
        }
    }

    /// Waits until all groups are where they should be, and these nodes are there.
    async fn settled(&self, asked: u64, nodes: &[u64]) -> ClusterStatus {
        let last = Cell::new(None);
        let settling = async {
            loop {
                let status = self.status(asked).await;
                let there: Vec<u64> = status.nodes.iter().map(|node| node.node).collect();
                if status.is_settled == Some(true) && there == nodes {
                    return status;
                }
                last.set(Some(status));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(90), settling).await {
            Ok(status) => status,
            Err(_) => panic!("it does not come to rest: {:#?}", last.take()),
        }
    }

    /// Ends a node, and starts it again where it was, with what it knew.
    async fn crash(&mut self, number: u64) {
        self.members.remove(&number).expect("it runs").stop().await;
        let address = &self.addresses[&node_id(number)];
        let listener = TcpListener::bind(address).await.expect("its port is free");
        let known = self.rosters[&number].current();
        self.start(number, known, BTreeSet::new(), listener).await;
    }

    async fn stop(self) {
        for (_, member) in self.members {
            member.stop().await;
        }
    }
}

fn keys() -> Vec<StreamKey> {
    (0..8).map(|number| StreamKey::parse(&format!("b/s{number}")).expect("a key")).collect()
}

/// Writes one record after the other to all streams, through one node, and says how long the longest took.
struct Writer {
    number: u64,
    longest: Duration,
}

impl Writer {
    async fn begin(shard: &Shard) -> Writer {
        for key in keys() {
            let created = async {
                while let Err(error) = shard.create(key.clone(), create()).await {
                    assert!(matches!(error, ShardError::Unavailable | ShardError::Unknown), "{error:?}");
                }
            };
            within("a create", created).await;
        }
        Writer { number: 0, longest: Duration::ZERO }
    }

    async fn write(&mut self, shard: &Shard) {
        for key in keys() {
            let begun = Instant::now();
            let producer = Some(crate::Producer { id: "p".into(), epoch: 0, seq: self.number });
            let body = Body::from(Bytes::from(format!("{:04}.", self.number)));
            let request =
                AppendRequest { producer, body, content_type: Some("text/plain".into()), ..AppendRequest::default() };
            let written = async {
                loop {
                    match shard.append(key.clone(), request.clone()).await {
                        Ok(_) => return,
                        Err(ShardError::Unavailable | ShardError::Unknown) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            };
            within("a write", written).await;
            self.longest = self.longest.max(begun.elapsed());
        }
        self.number += 1;
    }

    /// All that was written is there, once, in order.
    async fn check(&self, shard: &Shard) {
        let expected: String = (0..self.number).map(|number| format!("{number:04}.")).collect();
        for key in keys() {
            let read = async {
                loop {
                    match shard.read(key.clone(), ReadFrom::Start, PAGE_BYTES_MAX).await {
                        Ok(page) => return page.chunks.concat(),
                        Err(ShardError::Unavailable | ShardError::Unknown) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            };
            let read = within("a read", read).await;
            assert_eq!(String::from_utf8(read).expect("text"), expected, "{key:?}");
        }
    }
}

fn voters(status: &ClusterStatus) -> Vec<BTreeSet<u64>> {
    status.groups.iter().filter_map(GroupStatus::standing).map(|standing| standing.all_voters()).collect()
}

#[tokio::test(flavor = "local")]
async fn one_node_grows_to_three_and_the_last_of_them_goes_on_alone() {
    let mut cluster = Cluster::form(&[1]).await;
    let mut writer = Writer::begin(&cluster.members[&1].shards[1]).await;
    writer.write(&cluster.members[&1].shards[1]).await;
    cluster.add(2, 1).await;
    cluster.add(3, 2).await;
    loop {
        writer.write(&cluster.members[&3].shards[0]).await;
        let status = cluster.status(2).await;
        if status.is_settled == Some(true) && status.nodes.len() == 3 {
            break;
        }
    }
    let status = cluster.settled(3, &[1, 2, 3]).await;
    assert_eq!(voters(&status), vec![BTreeSet::from([1, 2, 3]); 4]);
    assert!(status.nodes.iter().all(|node| node.disk.is_some() && node.heard_ms.is_some()), "{status:?}");
    for member in cluster.members.values() {
        writer.check(&member.shards[1]).await;
    }
    cluster.change(2, 1, NodeChange::Remove).await;
    cluster.change(3, 2, NodeChange::Remove).await;
    let status = cluster.settled(3, &[3]).await;
    assert_eq!(voters(&status), vec![BTreeSet::from([3]); 4]);
    assert!(cluster.rosters[&1].is_removed(node_id(1)) || cluster.rosters[&3].is_removed(node_id(1)));
    for gone in [1, 2] {
        cluster.members.remove(&gone).expect("it runs").stop().await;
    }
    writer.write(&cluster.members[&3].shards[0]).await;
    writer.check(&cluster.members[&3].shards[1]).await;
    cluster.crash(3).await;
    writer.write(&cluster.members[&3].shards[0]).await;
    writer.check(&cluster.members[&3].shards[0]).await;
    println!("the longest write took {:?}", writer.longest);
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn the_cluster_is_at_the_format_level_that_all_its_nodes_know() {
    let mut cluster = Cluster::form_with(&[1, 2, 3], [(3, 0)].into()).await;
    let levels = |status: &ClusterStatus| status.nodes.iter().map(|node| node.level).collect::<Vec<_>>();
    let status = cluster.settled(1, &[1, 2, 3]).await;
    let met = async {
        while levels(&cluster.status(1).await) != [Some(FORMAT_LEVEL), Some(FORMAT_LEVEL), Some(0)] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("all are met", met).await;
    assert_eq!((status.level, cluster.status(2).await.level), (0, 0), "node 3 knows no more");

    // It is replaced by the newer version, and the level rises.
    cluster.older.clear();
    cluster.crash(3).await;
    let raised = async {
        while cluster.status(1).await.level != FORMAT_LEVEL {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the level rises", raised).await;
    cluster.settled(1, &[1, 2, 3]).await;

    // Nobody goes back: what the others write now, it could not read.
    cluster.older.insert(2, 0);
    cluster.crash(2).await;
    let is_silent = |status: &ClusterStatus| {
        let heard_ms = status.nodes.iter().find(|node| node.node == 2).and_then(|node| node.heard_ms);
        heard_ms.is_none_or(|heard_ms| heard_ms > 1500)
    };
    let shut_out = async {
        while !is_silent(&cluster.status(1).await) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("it is not let in", shut_out).await;
    cluster.older.clear();
    cluster.crash(2).await;
    let status = cluster.settled(2, &[1, 2, 3]).await;
    assert_eq!(levels(&status), [Some(FORMAT_LEVEL); 3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn no_table_lacks_some_of_those_who_have_formed_the_cluster() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let table = |node| cluster.core(node).meta().nodes().clone();
    let formed = async {
        while (1..=3).all(|node| table(node).epoch == 0) {
            tokio::task::yield_now().await;
        }
    };
    within("the cluster's forming", formed).await;
    // Whoever has a table, however early, has a whole one.
    for node in 1..=3 {
        let NodeTable { epoch, nodes, .. } = table(node);
        assert!(epoch == 0 || nodes.keys().eq(&[1, 2, 3]), "{nodes:?}");
    }
    let status = cluster.settled(1, &[1, 2, 3]).await;
    let address = |node| &*cluster.addresses[&node_id(node)];
    assert!(status.nodes.iter().all(|node| &*node.address == address(node.node)), "{status:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn a_step_that_comes_late_is_not_taken() {
    let cluster = Cluster::form(&[1, 2, 3]).await;
    let status = cluster.settled(1, &[1, 2, 3]).await;
    let seen = status.groups[1].standing().expect("it is led").clone();
    let ask = |step: GroupStep| {
        let core = cluster.core(1);
        async move { core.ask_members(MembersRequest::Step(Box::new(step))).await }
    };
    // Another one leads since then.
    let next = seen.leader % 3 + 1;
    cluster.order(1, ClusterOrder::Transfer { group: 1, node: next }).await;
    let now = async {
        loop {
            let status = cluster.status(1).await;
            match status.groups[1].standing().filter(|standing| standing.leader == next) {
                Some(standing) => return standing.clone(),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let now = within("the transfer", now).await;
    let two = BTreeSet::from([next, next % 3 + 1]);
    let changes = [
        GroupChange::Transfer { node: seen.leader },
        GroupChange::AddLearner { node: 9 },
        GroupChange::Voters(two.clone()),
    ];
    for change in changes {
        let answer = ask(seen.step(change)).await;
        let Ok(MembersAnswer::Refused(reason)) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("group 1 has changed since that was decided on"), "{reason}");
    }
    assert_eq!(voters(&cluster.status(1).await), vec![BTreeSet::from([1, 2, 3]); 4]);
    // As it stands now, it may.
    assert_eq!(ask(now.step(GroupChange::Voters(two))).await.ok(), Some(MembersAnswer::Done));
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn a_dead_node_is_replaced_and_its_number_never_comes_back() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let mut writer = Writer::begin(&cluster.members[&1].shards[0]).await;
    cluster.settled(1, &[1, 2, 3]).await;
    cluster.members.remove(&3).expect("it runs").stop().await;
    writer.write(&cluster.members[&1].shards[0]).await;
    cluster.add(4, 2).await;
    cluster.change(4, 3, NodeChange::Remove).await;
    let status = cluster.settled(4, &[1, 2, 4]).await;
    assert_eq!(voters(&status), vec![BTreeSet::from([1, 2, 4]); 4]);
    writer.write(&cluster.members[&4].shards[0]).await;
    // It is let in nowhere, and does not come back by being added.
    let refused = cluster
        .core(1)
        .carry_out_order(ClusterOrder::Change { node: 3, change: NodeChange::Add { address: "127.0.0.1:1".into() } });
    let ClusterReport::Refused(reason) = refused.await else { panic!("it was removed") };
    assert!(reason.contains("node 3: it was removed for ever"), "{reason}");
    assert!(cluster.rosters[&4].is_removed(node_id(3)));
    for member in cluster.members.values() {
        writer.check(&member.shards[0]).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn whoever_drives_may_crash_at_any_moment() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let mut writer = Writer::begin(&cluster.members[&1].shards[0]).await;
    cluster.settled(1, &[1, 2, 3]).await;
    let mut nodes = vec![1, 2, 3];
    for (round, wait_ms) in [0, 150, 400, 900].into_iter().enumerate() {
        let (new, old) = (4 + round as u64, nodes.remove(0));
        cluster.add(new, nodes[0]).await;
        cluster.change(nodes[0], old, NodeChange::Remove).await;
        nodes.push(new);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let status = cluster.status(nodes[0]).await;
        if let Some(driver) = status.groups[0].standing().map(|standing| standing.leader) {
            cluster.crash(driver).await;
        }
        writer.write(&cluster.members[&new].shards[0]).await;
        let status = cluster.settled(new, &nodes).await;
        let expected: BTreeSet<u64> = nodes.iter().copied().collect();
        assert_eq!(voters(&status), vec![expected; 4], "round {round}");
        cluster.members.remove(&old).expect("it runs").stop().await;
        writer.check(&cluster.members[&new].shards[0]).await;
    }
    println!("the longest write took {:?}", writer.longest);
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn a_node_stays_until_others_have_the_modules() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let _ = Writer::begin(&cluster.members[&1].shards[0]).await;
    cluster.add(4, 1).await;
    let status = cluster.settled(1, &[1, 2, 3, 4]).await;
    // It was uploaded, and nobody has it.
    let wasm = Bytes::from_static(b"a module");
    let digest = weir_wasm::digest_of(&wasm);
    let upload = Upload { digest, bytes: wasm.len() as u64, roles: &[weir_types::Role::Validator] };
    let leader = cluster.core(status.groups[0].standing().expect("it is led").leader);
    for command in [
        Command::MetaModulePut { bucket: "b", name: "m", upload },
        Command::MetaModuleReady { bucket: "b", name: "m", digest },
    ] {
        let reply = leader.group(GroupId::META).command(&command).await;
        assert!(matches!(reply, Ok(Reply::Module { .. } | Reply::Done)), "{reply:?}");
    }
    cluster.change(1, 4, NodeChange::Remove).await;
    let waits = async {
        loop {
            let ClusterStatus { nodes, waits, is_settled, .. } = cluster.status(1).await;
            assert!(nodes.iter().any(|node| node.node == 4), "it is still there");
            if waits.iter().any(|wait| wait.starts_with("node 4 stays until others have the modules")) {
                return (waits, is_settled);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (waits, is_settled) = within("what is waited for", waits).await;
    assert!(waits[0].contains("lacks 1 of the modules") && is_settled == Some(false), "{waits:?}");
    // The node that leaves is the only one that has it.
    cluster.core(4).guests.store(wasm).await.expect("there is space");
    cluster.settled(1, &[1, 2, 3]).await;
    let mut keeping = 0;
    for node in 1..=3 {
        let has = cluster.core(node).guests.blocking(move |host| host.read(digest).is_ok()).await.expect("it runs");
        keeping += usize::from(has);
    }
    assert!(keeping >= 2, "{keeping} of three have it");
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn an_address_is_one_word() {
    let cluster = Cluster::form(&[1]).await;
    cluster.settled(1, &[1]).await;
    for address in ["a:1\nb:2", "a b:1", "\ta:1", "a:0", ":1", "a"] {
        let change = NodeChange::Add { address: address.into() };
        let report = cluster.core(1).carry_out_order(ClusterOrder::Change { node: 2, change }).await;
        let ClusterReport::Refused(reason) = report else { panic!("{address:?}: {report:?}") };
        assert_eq!(*reason, *format!("{address:?} is no address of a node: it is written as host:port"));
    }
    assert_eq!(cluster.rosters[&1].current().nodes.len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "local")]
async fn three_grow_to_five_and_shrink_again_while_they_are_written_to() {
    let mut cluster = Cluster::form(&[1, 2, 3]).await;
    let mut writer = Writer::begin(&cluster.members[&1].shards[0]).await;
    cluster.settled(1, &[1, 2, 3]).await;
    cluster.add(4, 1).await;
    cluster.add(5, 1).await;
    loop {
        writer.write(&cluster.members[&5].shards[0]).await;
        let status = cluster.status(4).await;
        if status.is_settled == Some(true) && status.nodes.len() == 5 {
            let voters = voters(&status);
            assert!(voters.iter().all(|voters| voters.len() == 3), "{voters:?}");
            let load = |node| voters.iter().filter(|voters| voters.contains(&node)).count();
            assert!((1..=5).all(|node| (2..=3).contains(&load(node))), "{voters:?}");
            break;
        }
    }
    cluster.change(5, 1, NodeChange::Remove).await;
    cluster.change(5, 2, NodeChange::Remove).await;
    loop {
        writer.write(&cluster.members[&3].shards[0]).await;
        let status = cluster.status(5).await;
        if status.is_settled == Some(true) && status.nodes.len() == 3 {
            assert_eq!(voters(&status), vec![BTreeSet::from([3, 4, 5]); 4]);
            break;
        }
    }
    for number in [3, 4, 5] {
        writer.check(&cluster.members[&number].shards[1]).await;
    }
    println!("the longest write took {:?}", writer.longest);
    cluster.stop().await;
}
