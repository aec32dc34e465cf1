//! A node of a cluster, on one thread: what it says and hears, and what becomes of calls when others are gone.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use weir_cluster::{
    Acceptor, ClusterId, Connecting, Connection, DiskId, Endpoint, Hello, Identity, Incoming, Known, LinkConfig, List,
    Message, Network, NodeId, Roster, Security, Stream, Tcp,
};
use weir_types::GroupId;
use weir_types::limits::FORMAT_LEVEL;

use super::*;
use crate::message::{Addressee, Answer, CallId, Lead, Letter, Mail, Peer, Request, encode};
use crate::nodes::salute::{self, Hearer, MAIL, REFUSED, Salute, TAKEN};
use crate::{Nodes, Producer};

const LIFE: u64 = 77;
/// How long anything may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn node_id(number: u64) -> NodeId {
    NodeId::new(number).expect("not 0")
}

/// Connections that break when a test says so, wherever they are.
struct Brittle(Arc<AtomicU64>);

/// One of them: broken when there were more breaks than before.
struct BrittleStream {
    stream: Stream,
    breaks: Arc<AtomicU64>,
    before: u64,
}

impl BrittleStream {
    fn check(&self) -> io::Result<()> {
        let is_whole = self.breaks.load(Ordering::Relaxed) == self.before;
        if is_whole { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }
}

impl Network for Brittle {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let (breaks, stream) = (self.0.clone(), Tcp.connect(address).await?);
            let before = breaks.load(Ordering::Relaxed);
            Ok(Box::new(BrittleStream { stream, breaks, before }) as Stream)
        })
    }
}

impl Connection for BrittleStream {
    fn moved_here(self: Box<Self>) -> io::Result<Stream> {
        let BrittleStream { stream, breaks, before } = *self;
        Ok(Box::new(BrittleStream { stream: stream.moved_here()?, breaks, before }))
    }
}

impl AsyncRead for BrittleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BrittleStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How node `number` meets others.
pub(super) fn endpoint(number: u64, breaks: Arc<AtomicU64>) -> Endpoint {
    let counter = AtomicU64::new(number << 40);
    Endpoint {
        identity: Identity { cluster: ClusterId(7), node: node_id(number), disk: DiskId(number.into()) },
        level: FORMAT_LEVEL,
        security: Security::None,
        network: Arc::new(Brittle(breaks)),
        entropy: Arc::new(move || counter.fetch_add(1, Ordering::Relaxed)),
        admission: Arc::new(|_: &Hello| Ok(())),
        config: LinkConfig::default(),
    }
}

/// A node of a cluster with real links, whose life is `LIFE` and its number.
pub(super) struct Member {
    pub(super) shards: Vec<Shard>,
    pub(super) roster: Roster,
    accepting: tokio::task::JoinHandle<()>,
}

/// What a node of a cluster is started with.
pub(super) struct Start {
    pub(super) number: u64,
    /// Where it and others are.
    pub(super) list: List,
    pub(super) founders: BTreeSet<u64>,
    pub(super) disks: Vec<Arc<dyn Disk>>,
    pub(super) config: ShardConfig,
    pub(super) breaks: Arc<AtomicU64>,
    /// Another one whenever it is started.
    pub(super) life: u64,
    pub(super) cold: Option<Cold>,
    /// The format level that its version knows.
    pub(super) level: u16,
}

impl Member {
    async fn start(
        number: u64,
        listener: TcpListener,
        addresses: &BTreeMap<NodeId, String>,
        config: ShardConfig,
        breaks: Arc<AtomicU64>,
    ) -> Member {
        let (list, founders) = (list(addresses), addresses.keys().map(|node| node.get()).collect());
        Member::start_with(
            Start {
                number,
                list,
                founders,
                disks: disks(),
                config,
                breaks,
                life: LIFE + number,
                cold: None,
                level: FORMAT_LEVEL,
            },
            listener,
        )
        .await
    }

    pub(super) async fn start_with(start: Start, listener: TcpListener) -> Member {
        let Start { number, list, founders, disks, config, breaks, life, cold, level } = start;
        let roster = Roster::new(node_id(number), list, |_| {});
        let endpoint = Endpoint { admission: Arc::new(roster.clone()), level, ..endpoint(number, breaks) };
        let nodes = Some(Nodes { endpoint: endpoint.clone(), roster: roster.clone(), founders, life });
        let modules = Host::new(Arc::new(MemoryStore::default()), Arc::new(InProcess), HostConfig::default());
        let seams = Seams {
            clock: Arc::new(TestClock::default()),
            entropy: Arc::new(Counter(AtomicU64::new(life))),
            disks,
            cold,
            hooks: None,
            modules: modules.expect("the engine runs"),
            builtins: Arc::new([]),
            nodes,
            turn: || {},
        };
        let config = ShardConfig { node_id: number, ..config };
        let mut shards = Vec::new();
        for (id, mailbox) in mesh(TOPOLOGY.shards).0.into_iter().enumerate() {
            let shard = Shard::open(ShardId(id as u16), TOPOLOGY, mailbox, seams.clone(), config.clone()).await;
            shards.push(shard.expect("it opens"));
        }
        let takers = shards.clone();
        let accepting = tokio::task::spawn_local(async move {
            let mut acceptor = Acceptor::new(endpoint, Box::new(listener));
            loop {
                let accepted = acceptor.next().await;
                let taker = Shard::taker_of(TOPOLOGY, accepted.hello.lane).expect("a shard takes it");
                takers[usize::from(taker.0)].accept(accepted);
            }
        });
        Member { shards, roster, accepting }
    }

    /// Ends it as a crash would, but for what is on its disk.
    pub(super) async fn stop(self) {
        self.accepting.abort();
        for shard in &self.shards {
            shard.shutdown().await;
        }
    }
}

/// Where nodes are.
pub(super) fn list(addresses: &BTreeMap<NodeId, String>) -> List {
    let known = |address: &String| Known { address: address.clone(), ..Known::default() };
    let nodes = addresses.iter().map(|(node, address)| (*node, known(address))).collect();
    List { nodes, ..List::default() }
}

/// Three listeners and their addresses.
pub(super) async fn addresses() -> (Vec<TcpListener>, BTreeMap<NodeId, String>) {
    let (mut listeners, mut addresses) = (Vec::new(), BTreeMap::new());
    for number in 1..=3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        addresses.insert(node_id(number), listener.local_addr().expect("an address").to_string());
        listeners.push(listener);
    }
    (listeners, addresses)
}

/// The first node of three, the others of which are not there.
async fn lone(config: ShardConfig) -> Member {
    let (mut listeners, addresses) = addresses().await;
    Member::start(1, listeners.remove(0), &addresses, config, Arc::default()).await
}

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

pub(super) fn create() -> CreateRequest {
    CreateRequest {
        content_type: "text/plain".into(),
        expiry: Expiry::Never,
        closed: false,
        body: Body::default(),
        condition: None,
    }
}

#[tokio::test(flavor = "local")]
async fn without_a_leader_requests_are_refused_at_their_deadline_and_not_before() {
    let deadline = Duration::from_millis(300);
    let member = lone(ShardConfig { write_deadline: deadline, ..config() }).await;
    let key = StreamKey::parse("b/s").expect("a key");
    let begun = Instant::now();
    let refused = member.shards[0].create(key.clone(), create()).await;
    assert!(matches!(refused, Err(ShardError::Unavailable)), "{refused:?}");
    assert!(begun.elapsed() >= deadline);
    let refused = member.shards[1].head(key.clone()).await;
    assert!(matches!(refused, Err(ShardError::Unavailable)), "{refused:?}");
    let refused = member.shards[0].subscribe(key, ReadFrom::Start).await.map(drop);
    assert!(matches!(refused, Err(ShardError::Unavailable)), "{refused:?}");
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn three_nodes_serve_and_follow_through_each_other() {
    let (listeners, addresses) = addresses().await;
    let mut members = Vec::new();
    for (number, listener) in (1..).zip(listeners) {
        members.push(Member::start(number, listener, &addresses, config(), Arc::default()).await);
    }
    let keys: Vec<StreamKey> = (0..8).map(|number| StreamKey::parse(&format!("b/s{number}")).expect("a key")).collect();
    for (at, key) in keys.iter().enumerate() {
        let shard = &members[at % 3].shards[at % 2];
        within("a create", shard.create(key.clone(), create())).await.expect("it is created");
    }
    let shards = || members.iter().flat_map(|member| &member.shards);
    for key in &keys {
        let mut followers = Vec::new();
        for shard in shards() {
            followers
                .push(within("a watch", shard.subscribe(key.clone(), ReadFrom::Start)).await.expect("it is there"));
        }
        for shard in shards() {
            within("an append", shard.append(key.clone(), append("12345"))).await.expect("it is appended");
        }
        for follower in &mut followers {
            let mut bytes = 0;
            while bytes < 5 * shards().count() {
                if let LiveEvent::Data(data) = within("an event", follower.next()).await {
                    bytes += data.len();
                }
            }
        }
        for shard in shards() {
            let page =
                within("a read", shard.read(key.clone(), ReadFrom::Start, PAGE_BYTES_MAX)).await.expect("it is read");
            assert_eq!(page.next.position, 5 * shards().count() as u64);
        }
    }
    // Nobody follows any more, and everybody is told.
    let is_quiet = async {
        while !shards().all(|shard| shard.0.feeds.is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the last feed is closed", is_quiet).await;
    for member in members {
        member.stop().await;
    }
}

/// What node 2's shard 0 says in a life and session, and what it is answered.
struct Caller {
    life: u64,
    session: u64,
    lost: Vec<u64>,
}

impl Caller {
    fn say(&self, core: &Rc<crate::core::Core>, to: Option<Hearer>, letters: Vec<Letter>) -> (u8, Hearer) {
        let (sent, bodies) = encode(&mut letters.into(), |_| panic!("none is too long"));
        let (life, session, groups) = (self.life, self.session, TOPOLOGY.groups);
        let salute = Salute { life, session, lost: self.lost.clone(), to, groups, letters: sent.len() as u16 };
        let reply = core.take_message(lane(), salute::message(MAIL, &salute, bodies)).expect("it is mail");
        (reply.kind, salute::head(&reply).expect("an answer"))
    }
}

/// Whatever is lost on the way, when links break all the time: nothing that was acknowledged is, nothing is there twice, and who
/// follows a stream sees all of it in order.
#[tokio::test(flavor = "local")]
async fn links_that_break_lose_nothing() {
    const RECORDS: u64 = 150;
    let breaks = Arc::new(AtomicU64::new(0));
    let (listeners, addresses) = addresses().await;
    let mut members = Vec::new();
    for (number, listener) in (1..).zip(listeners) {
        members.push(Member::start(number, listener, &addresses, config(), breaks.clone()).await);
    }
    let shards: Vec<Shard> = members.iter().flat_map(|member| member.shards.clone()).collect();
    let key = StreamKey::parse("b/s").expect("a key");
    within("a create", shards[0].create(key.clone(), create())).await.expect("it is created");
    let follow = |shard: Shard| {
        let key = key.clone();
        async move {
            let (mut from, mut bytes) = (ReadFrom::Start, Vec::new());
            'anew: loop {
                let Ok(mut subscription) = shard.subscribe(key.clone(), from).await else { continue };
                while bytes.len() < 4 * RECORDS as usize {
                    match subscription.next().await {
                        LiveEvent::Data(data) => {
                            from = ReadFrom::At(data.next);
                            data.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
                        }
                        LiveEvent::CaughtUp { .. } => {}
                        LiveEvent::Failed(_) => continue 'anew,
                        LiveEvent::Lagged | LiveEvent::Removed | LiveEvent::Closed { .. } => panic!("it goes on"),
                    }
                }
                return bytes;
            }
        }
    };
    let following: Vec<_> = shards.iter().map(|shard| tokio::task::spawn_local(follow(shard.clone()))).collect();
    let breaking = tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(40)).await;
            breaks.fetch_add(1, Ordering::Relaxed);
        }
    });
    for number in 0..RECORDS {
        let shard = &shards[number as usize % shards.len()];
        let write = async {
            loop {
                let producer = Some(Producer { id: "p".into(), epoch: 0, seq: number });
                let request = AppendRequest { producer, ..append(&format!("{number:03}.")) };
                match shard.append(key.clone(), request).await {
                    Ok(_) => return,
                    Err(ShardError::Unknown | ShardError::Unavailable) => {}
                    Err(error) => panic!("{number}: {error}"),
                }
            }
        };
        within("a write", write).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    breaking.abort();
    let expected: String = (0..RECORDS).map(|number| format!("{number:03}.")).collect();
    for followed in following {
        let bytes = within("the last record", followed).await.expect("it has followed");
        assert_eq!(String::from_utf8(bytes).expect("text"), expected);
    }
    drop(shards);
    for member in members {
        member.stop().await;
    }
}

/// What node 2's first shard says.
fn lane() -> (NodeId, ShardId) {
    (node_id(2), ShardId(0))
}

/// A call to node 2 that node 1's first shard has begun.
fn call(core: &Rc<crate::core::Core>) -> crate::calls::Call {
    let outgoing = core.post.node(lane().0).expect("node 2 is known");
    core.calls.begin_away(None, &outgoing, lane().0)
}

fn is_pending(call: &mut crate::calls::Call) -> bool {
    pin!(call).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test(flavor = "local")]
async fn an_answer_is_taken_in_the_life_that_asked_and_from_the_node_that_was_asked() {
    let member = lone(config()).await;
    let core = Rc::clone(&member.shards[0].0);
    let caller = Caller { life: 5, session: 0, lost: Vec::new() };
    let mut waiting = call(&core);
    let (kind, hearer) = caller.say(&core, None, Vec::new());
    assert_eq!((kind, hearer.life), (TAKEN, LIFE + 1));
    let done = |life| {
        let (to, call) = (Addressee { shard: ShardId(0), life }, waiting.id());
        vec![Letter::Response { to, call, response: Ok(Answer::Done) }]
    };
    // The same place and generation, asked by the process before this one.
    assert_eq!(caller.say(&core, Some(hearer), done(LIFE)).0, TAKEN);
    // And the same for another life's ears.
    let before = Hearer { life: LIFE, ..hearer };
    assert_eq!(caller.say(&core, Some(before), done(LIFE + 1)).0, REFUSED);
    let before = Hearer { epoch: hearer.epoch - 1, ..hearer };
    assert_eq!(caller.say(&core, Some(before), done(LIFE + 1)).0, REFUSED);
    let letters = done(LIFE + 1);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(is_pending(&mut waiting), "none of these is an answer to this call");
    assert_eq!(caller.say(&core, Some(hearer), letters).0, TAKEN);
    assert!(matches!(within("the answer", waiting).await, Ok(Answer::Done)));
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn a_node_that_begins_anew_ends_what_waits_for_it_and_what_was_lost_is_not_taken_for_heard() {
    let member = lone(config()).await;
    let core = Rc::clone(&member.shards[0].0);
    let (first, hearer) = {
        let first = Caller { life: 5, session: 0, lost: Vec::new() };
        let (_, hearer) = first.say(&core, None, Vec::new());
        (first, hearer)
    };
    // It has lost something that it had to say, or it is another process by now.
    for next in [Caller { life: 5, session: 1, lost: Vec::new() }, Caller { life: 6, session: 1, lost: Vec::new() }] {
        let waiting = call(&core);
        let (kind, anew) = next.say(&core, None, Vec::new());
        assert!(kind == TAKEN && anew.epoch > hearer.epoch);
        let ended = within("the call's end", waiting).await.err();
        assert!(matches!(ended, Some(ShardError::Unknown)), "{ended:?}");
    }
    assert_eq!(first.say(&core, Some(hearer), Vec::new()).0, REFUSED, "it is the one before");
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn what_was_lost_before_a_node_was_heard_first_is_not_waited_for() {
    let member = lone(config()).await;
    let core = Rc::clone(&member.shards[0].0);
    let mut waiting = call(&core);
    let of_another = Caller { life: 5, session: 3, lost: vec![LIFE] };
    assert_eq!(of_another.say(&core, None, Vec::new()).0, TAKEN);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(is_pending(&mut waiting), "what was lost was owed to an earlier life");
    // Its connection has ended meanwhile, and nothing was heard on this one.
    core.lanes.borrow_mut().clear();
    let of_ours = Caller { life: 5, session: 4, lost: vec![LIFE, LIFE + 1] };
    assert_eq!(of_ours.say(&core, None, Vec::new()).0, TAKEN);
    let ended = within("the call's end", waiting).await.err();
    assert!(matches!(ended, Some(ShardError::Unknown)), "{ended:?}");
    member.stop().await;
}

/// Work that ends with a loss owes an answer, also when none was on its way.
#[tokio::test(flavor = "local")]
async fn whose_work_has_ended_is_told_so() {
    let (mut listeners, addresses) = addresses().await;
    let mut acceptor = Acceptor::new(endpoint(2, Arc::default()), Box::new(listeners.remove(1)));
    let member = Member::start(1, listeners.remove(0), &addresses, config(), Arc::default()).await;
    let core = Rc::clone(&member.shards[0].0);
    let outgoing = core.post.node(lane().0).expect("node 2 is known").clone();
    let asked = CallId { place: 0, generation: 0 };
    let origin = Peer::Away(lane().0, Addressee { shard: ShardId(0), life: 5 });
    // Node 1 has something to say all the time, and works for node 2, which has heard nothing of it on this connection.
    let _expected = outgoing.expect();
    core.work(origin, asked, std::future::pending());
    let told = async {
        let mut lost = Vec::new();
        while !lost.contains(&5) {
            let accepted = acceptor.next().await;
            if accepted.hello.lane != weir_cluster::Lane::Mail(ShardId(0)) {
                continue;
            }
            let mut incoming = Incoming::new(accepted, BytesMut::with_capacity, &LinkConfig::default());
            // The first word is heard, and the one behind it is not.
            let hearer = Hearer { life: 5, epoch: 1 };
            while let Some((message, responder)) = incoming.next().await {
                let salute = salute::head::<Salute>(&message).expect("it is mail");
                lost.extend(salute.lost);
                if salute.to.is_some() {
                    break;
                }
                responder.send(salute::message(TAKEN, &hearer, Vec::new()));
            }
        }
    };
    within("the end of the work is told", told).await;
    member.stop().await;
}

/// What a node was owed where it was before, it is owed where it is now: the first word there says so.
#[tokio::test(flavor = "local")]
async fn a_node_that_has_moved_is_told_what_it_waits_for_in_vain() {
    let (mut listeners, addresses) = addresses().await;
    let (new, old) = (listeners.remove(2), listeners.remove(1));
    let mut acceptor = Acceptor::new(endpoint(2, Arc::default()), Box::new(old));
    let member = Member::start(1, listeners.remove(0), &addresses, config(), Arc::default()).await;
    let core = Rc::clone(&member.shards[0].0);
    let outgoing = core.post.node(lane().0).expect("node 2 is known").clone();
    let (to, asked) = (Addressee { shard: ShardId(0), life: 5 }, CallId { place: 0, generation: 0 });
    // An answer is on its way to one life, and another one is worked for.
    outgoing.mail(to, Mail::Response { owner: ShardId(0).into(), call: asked, response: Ok(Answer::Done) });
    core.work(Peer::Away(lane().0, Addressee { life: 6, ..to }), asked, std::future::pending());
    let unanswered = async {
        loop {
            let accepted = acceptor.next().await;
            if accepted.hello.lane != weir_cluster::Lane::Mail(ShardId(0)) {
                continue;
            }
            let mut incoming = Incoming::new(accepted, BytesMut::with_capacity, &LinkConfig::default());
            while let Some((message, responder)) = incoming.next().await {
                if salute::head::<Salute>(&message).expect("it is mail").letters > 0 {
                    return (incoming, responder);
                }
                responder.send(salute::message(TAKEN, &Hearer { life: 5, epoch: 1 }, Vec::new()));
            }
        }
    };
    let unanswered = within("the answer is sent", unanswered).await;
    let mut moved = list(&addresses);
    let address = new.local_addr().expect("an address").to_string();
    moved.nodes.get_mut(&lane().0).expect("it is known").address = address;
    moved.nodes.remove(&node_id(3));
    assert!(member.roster.update(List { epoch: 1, ..moved }));
    core.meet_nodes();
    let now = core.post.node(lane().0).expect("it is somewhere else").clone();
    let _expected = now.expect();
    let mut acceptor = Acceptor::new(endpoint(2, Arc::default()), Box::new(new));
    let told = async {
        loop {
            let accepted = acceptor.next().await;
            if accepted.hello.lane == weir_cluster::Lane::Mail(ShardId(0)) {
                let mut incoming = Incoming::new(accepted, BytesMut::with_capacity, &LinkConfig::default());
                let (message, _) = incoming.next().await.expect("a word");
                return salute::head::<Salute>(&message).expect("it is mail");
            }
        }
    };
    let first = within("the first word there", told).await;
    assert_eq!((first.session, first.to, BTreeSet::from_iter(first.lost)), (1, None, BTreeSet::from([5, 6])));
    drop(unanswered);
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn what_was_never_sent_is_known_to_be_undone() {
    let member = lone(config()).await;
    let core = Rc::clone(&member.shards[0].0);
    let outgoing = core.post.node(lane().0).expect("node 2 is known").clone();
    let mut calls = Vec::new();
    for _ in 0..3 {
        let call = call(&core);
        outgoing.ask(call.id(), Request::BucketDelete("b".into()));
        calls.push(call);
    }
    // Nobody listens there, and that is all that happens.
    for call in calls {
        let ended = within("the call's end", call).await.err();
        assert!(matches!(ended, Some(ShardError::Unavailable)), "{ended:?}");
    }
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn what_waits_for_a_node_is_bounded() {
    let member = lone(ShardConfig { body_bytes_max: 16 << 20, ..config() }).await;
    let core = Rc::clone(&member.shards[0].0);
    let outgoing = core.post.node(lane().0).expect("node 2 is known").clone();
    let key = StreamKey::parse("b/s").expect("a key");
    let mut calls = Vec::new();
    for _ in 0..9 {
        let call = call(&core);
        let body = Body::from(Bytes::from(vec![b'x'; 8 << 20]));
        outgoing.ask(call.id(), Request::Append(key.clone(), AppendRequest { body, ..AppendRequest::default() }));
        calls.push(call);
    }
    let last = calls.pop().expect("there are nine");
    let refused = within("its refusal", last).await.err();
    assert!(matches!(refused, Some(ShardError::Limit(Limit::InFlight))), "{refused:?}");
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn a_node_that_does_not_lead_says_so_and_passes_nothing_on() {
    let member = lone(config()).await;
    let core = Rc::clone(&member.shards[0].0);
    // It would know whom to ask.
    (0..TOPOLOGY.groups).for_each(|group| core.leaders.set(GroupId(group), Lead::Away(node_id(3))));
    let key = StreamKey::parse("b/s").expect("a key");
    let requests = [
        Request::Head(key.clone()),
        Request::Append(key.clone(), append("x")),
        Request::Create(key.clone(), create()),
        Request::Delete(key.clone(), None),
        Request::Watch { key: key.clone(), number: 1 },
        Request::Read { key, from: ReadFrom::Start, bytes_max: 10, is_live: false },
        Request::Buckets { after: "".into(), limit: 1 },
        Request::BucketCreate("b".into(), None),
        Request::BucketDescribe { group: GroupId(0), name: "b".into() },
    ];
    for request in requests {
        let owner = TOPOLOGY.owner_of(request.group(TOPOLOGY));
        let asking = Rc::clone(&member.shards[usize::from(owner.0)].0);
        let refused = within("the answer", asking.call(owner, request)).await.err();
        assert!(matches!(refused, Some(ShardError::Unavailable)), "{refused:?}");
    }
    member.stop().await;
}

#[tokio::test(flavor = "local")]
async fn what_is_no_mail_ends_the_connection_and_nothing_else() {
    let member = lone(config()).await;
    let core = Rc::clone(&member.shards[0].0);
    let salute = || Salute { life: 1, session: 0, lost: Vec::new(), to: None, groups: TOPOLOGY.groups, letters: 0 };
    let messages = [
        Message { kind: 9, ..salute::message(MAIL, &salute(), Vec::new()) },
        salute::message(MAIL, &(), Vec::new()),
        salute::message(MAIL, &Salute { groups: 9, ..salute() }, Vec::new()),
        salute::message(MAIL, &Salute { letters: 1, ..salute() }, Vec::new()),
        salute::message(MAIL, &salute(), vec![Bytes::from_static(b"more")]),
    ];
    for (at, message) in messages.into_iter().enumerate() {
        assert!(core.take_message(lane(), message).is_err(), "number {at}");
    }
    member.stop().await;
}
