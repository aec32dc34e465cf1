//! Three replicas with real links between them, over sockets.

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{sleep, timeout};
use weir_cluster::{
    Acceptor, ClusterId, DiskId, Endpoint, Hello, Identity, Lane, LinkConfig, Message, NodeId, Security, Tcp,
};
use weir_raft::{Links, Observer, Peers, Replica, ReplicaOptions, Role, State, answer_peer};
use weir_storage::{Arena, Claim, EntryBody, FRAME_HEADER_BYTES, FaultyDisk, Wal, WalConfig, WriteMode};
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    BatchBuilder, BucketTold, Command, EncodedBindings, Expiry, Group, KeyRef, Limits, Outcome, Records, Retention,
};
use weir_types::limits::FORMAT_LEVEL;
use weir_types::{GroupId, Incarnation, StreamKey};

use crate::support::push_append;

const CONFIG: WalConfig =
    WalConfig { segment_bytes: 8 << 20, budget_bytes: 64 << 20, cache_bytes: 1 << 20, write: WriteMode::Inline };
const NODES: [u64; 3] = [1, 2, 3];
/// How long anything may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps what is applied.
struct Witness(Rc<RefCell<Vec<Bytes>>>);

impl Observer for Witness {
    fn restored(&mut self, _group: &Group) {}

    fn applied(&mut self, _index: u64, batch: &Bytes, _outcomes: &[Outcome]) {
        self.0.borrow_mut().push(batch.clone());
    }
}

struct Node {
    wal: Wal,
    replica: Replica,
    state: State,
    applied: Rc<RefCell<Vec<Bytes>>>,
}

fn node_id(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}

fn endpoint(number: u64) -> Endpoint {
    let counter = AtomicU64::new(number << 32);
    Endpoint {
        identity: Identity { cluster: ClusterId(7), node: node_id(number), disk: DiskId(number.into()) },
        level: FORMAT_LEVEL,
        security: Security::None,
        network: Arc::new(Tcp),
        entropy: Arc::new(move || counter.fetch_add(1, Ordering::Relaxed)),
        admission: Arc::new(|_: &Hello| Ok(())),
        config: LinkConfig::default(),
    }
}

impl Node {
    async fn start(
        number: u64,
        founders: BTreeSet<u64>,
        listener: TcpListener,
        addresses: BTreeMap<NodeId, String>,
    ) -> Node {
        let disk = FaultyDisk::new(96 << 20, number);
        Wal::form(&disk, number).expect("an empty disk");
        let salt = std::cell::Cell::new(number << 32);
        let wal = Wal::open(Arc::new(disk), CONFIG, Box::new(move || salt.replace(salt.get() + 1))).expect("a log");
        tokio::task::spawn_local(wal.clone().run());
        let endpoint = endpoint(number);
        let options = ReplicaOptions {
            node_id: number,
            group: GroupId::META,
            founders,
            peers: Some(Rc::new(Links::new(endpoint.clone(), addresses))),
            seed: number,
        };
        let applied = Rc::<RefCell<Vec<Bytes>>>::default();
        let witness = Box::new(Witness(applied.clone()));
        let state = State::new(Group::new());
        let replica = Replica::start(options, wal.clone(), state.clone(), witness).await.expect("it starts");
        let answering = replica.clone();
        tokio::task::spawn_local(async move {
            let config = endpoint.config;
            let mut acceptor = Acceptor::new(endpoint, Box::new(listener));
            loop {
                tokio::task::spawn_local(answer_peer(acceptor.next().await, answering.clone(), config));
            }
        });
        Node { wal, replica, state, applied }
    }

    async fn propose(&self, batch: Bytes) {
        let ticket = loop {
            match self.wal.reserve(batch.len(), Claim::Spare) {
                Ok(ticket) => break ticket,
                Err(_) => self.wal.room_changed().await,
            }
        };
        self.replica.propose(batch, ticket).await.expect("it leads");
    }
}

/// A batch with a number and a body of so many bytes. Its stream is not there, which all replicas find.
fn batch(number: u64, body_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Arena::new(body_bytes + 256).into_buf());
    let body = vec![b'x'; body_bytes];
    push_append(&mut builder, "s", 0, &body);
    Arena::seal(builder.finish(number, Limits { producers_max: 1 }))
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

/// Where nodes listen.
type Ports = BTreeMap<u64, (TcpListener, BTreeMap<NodeId, String>)>;

/// Ports of so many nodes, each with the addresses of all.
async fn ports(count: u64) -> Ports {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
    let addresses: BTreeMap<_, _> = (1..=count).map(node_id).zip(listeners.iter().map(address)).collect();
    (1..).zip(listeners.into_iter().map(|listener| (listener, addresses.clone()))).collect()
}

/// Three nodes that form a group.
async fn form(ports: &mut Ports) -> Vec<Node> {
    let mut nodes = Vec::new();
    for number in NODES {
        let (listener, addresses) = ports.remove(&number).expect("it was bound");
        nodes.push(Node::start(number, BTreeSet::from(NODES), listener, addresses).await);
    }
    nodes
}

async fn leader_of(nodes: &[Node]) -> &Node {
    let leads = |node: &&Node| matches!(node.replica.role(), Role::Leading { .. });
    wait_until("somebody leads", || nodes.iter().any(|node| leads(&node))).await;
    nodes.iter().find(leads).expect("somebody leads")
}

#[test]
fn what_one_replica_is_told_all_have_and_no_body_is_copied() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async {
        let mut ports = ports(3).await;
        let nodes = form(&mut ports).await;
        let leader = leader_of(&nodes).await;
        for number in 0..200 {
            leader.propose(batch(number, if number % 10 == 0 { 100 << 10 } else { 100 })).await;
        }
        for node in &nodes {
            timeout(PATIENCE, node.replica.catch_up()).await.expect("in time").expect("all are connected");
            assert_eq!(node.applied.borrow().len(), 200);
            assert_eq!(*node.applied.borrow(), *leader.applied.borrow());
            assert_eq!(node.wal.stats().copies, 0, "a body goes from the socket to the log without a copy");
        }
    });
}

/// A request for a vote, as `raft/wire.rs` says: of node 1 in term 1, whose log is empty.
fn vote_request() -> Message {
    let mut head = BytesMut::new();
    head.put_u8(1);
    head.put_u64_le(1);
    head.put_u64_le(1);
    head.put_slice(&[0; 1 + 17 + 1]);
    Message { kind: 1, head: head.freeze(), bodies: Vec::new() }
}

#[test]
fn what_is_not_answered_ends_with_its_connection() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let disk = FaultyDisk::new(96 << 20, 2);
        Wal::form(&disk, 2).expect("an empty disk");
        // Nobody writes what it is given: a vote is never durable, and never answered.
        let wal = Wal::open(Arc::new(disk), CONFIG, Box::new(|| 7)).expect("a log");
        let peers = Rc::new(Links::new(endpoint(2), BTreeMap::new()));
        let options = ReplicaOptions {
            node_id: 2,
            group: GroupId::META,
            founders: BTreeSet::new(),
            peers: Some(peers.clone()),
            seed: 2,
        };
        let (state, witness) = (State::new(Group::new()), Box::new(Witness(Rc::default())));
        let replica = Replica::start(options, wal, state, witness).await.expect("it starts");
        let clones = Rc::strong_count(&peers);
        tokio::task::spawn_local(async move {
            let mut acceptor = Acceptor::new(endpoint(2), Box::new(listener));
            let accepted = acceptor.next().await;
            answer_peer(accepted, replica, LinkConfig::default()).await;
        });
        let lane = Lane::Control(GroupId::META);
        let asking = Rc::new(Links::new(endpoint(1), BTreeMap::from([(node_id(2), address)])));
        let asked = asking.clone();
        let call = tokio::task::spawn_local(async move {
            loop {
                // Until there is a connection it fails at once.
                match asked.call(node_id(2), lane, vote_request()).await {
                    Err(error) if !error.may_have_arrived() => sleep(Duration::from_millis(2)).await,
                    answer => return answer.map(drop),
                }
            }
        });
        wait_until("the vote is asked for", || Rc::strong_count(&peers) == clones + 1).await;
        asking.fail(node_id(2), lane, "it is not waited for");
        assert!(call.await.expect("it ends").is_err(), "there is no answer");
        wait_until("nobody works on it", || Rc::strong_count(&peers) < clones).await;
    });
}

/// A batch that makes a stream with these bytes in it.
fn stream(number: u64, body: &[u8]) -> Bytes {
    let key = StreamKey::new("b", &format!("s{number}")).expect("a valid key");
    let told = BucketTold::There {
        created_ms: 0,
        fenced: false,
        retention: Retention::default(),
        bindings: EncodedBindings::of(&[0, 0]),
        watches: EncodedWatches::NONE,
    };
    let mut builder = BatchBuilder::new(Arena::new(body.len() + 1000).into_buf());
    builder.push(&Command::Bucket { name: "b", epoch: 1, told });
    builder.push(&Command::Create {
        key: KeyRef::from(&key),
        incarnation: Incarnation(1),
        content_type: "text/plain",
        expiry: Expiry::Never,
        closed: false,
        only_new: true,
        bindings_epoch: 0,
        fork: None,
        records: Records::whole(body),
    });
    Arena::seal(builder.finish(number, Limits { producers_max: 1 }))
}

#[test]
fn a_node_that_is_taken_in_gets_a_snapshot_and_the_bytes_that_it_names() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(async {
        let mut ports = ports(4).await;
        let nodes = form(&mut ports).await;
        let leader = leader_of(&nodes).await;
        for number in 0..20 {
            leader.propose(batch(number, 100)).await;
        }
        // Several parcels.
        for number in 20..60 {
            leader.propose(stream(number, &vec![number as u8; 100 << 10])).await;
        }
        leader.replica.take_snapshot().await.expect("there is space");
        let floor = leader.state.borrow().hot_floor().expect("streams name the log");
        leader.replica.purge(floor - 1).await;
        wait_until("the log goes", || leader.wal.first_index(GroupId::META) == floor).await;

        let (listener, addresses) = ports.remove(&4).expect("it was bound");
        let new = Node::start(4, BTreeSet::new(), listener, addresses).await;
        let begun = std::time::Instant::now();
        let seen = leader.replica.view().expect("it leads");
        leader.replica.add_learner(&seen, 4).await.expect("it leads");
        let has_all = || new.replica.standing().applied_index == leader.replica.standing().applied_index;
        wait_until("it has what the others have", has_all).await;
        eprintln!("{} bytes of state and 4 MiB that it names in {:?}", new.replica.snapshot_bytes(), begun.elapsed());
        assert_eq!(new.replica.snapshot_index(), leader.replica.snapshot_index());
        assert!(new.applied.borrow().is_empty(), "no batch follows the snapshot");
        assert_eq!(new.wal.first_index(GroupId::META), leader.replica.snapshot_index().expect("it was taken") + 1);
        let read = |node: &Node, index| {
            let entry = node.wal.entry(GroupId::META, index).expect("a stream names it");
            match entry.body {
                EntryBody::Cached(frame, body_bytes) => {
                    frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes)
                }
                EntryBody::Stored(place) => {
                    let frame = node.wal.reader().read_frame(&place).expect("no damage");
                    frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + place.body_bytes())
                }
            }
        };
        let hot: Vec<u64> = new.state.borrow().hot_indices().collect();
        assert_eq!(hot.len(), 40);
        assert!(hot.into_iter().all(|index| read(&new, index) == read(leader, index)));
    });
}
