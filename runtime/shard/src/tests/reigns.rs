//! The cold tier of three nodes, while leadership moves: leaders that are replaced and do not know it, whose calls to the store come
//! to their end late, power cuts, and a store that fails. Whoever leads, what the newest stored snapshot names is there after each
//! change to the store, and what was acknowledged is read in the end.

use std::cell::Cell;
use std::collections::BTreeMap;

use tokio::net::TcpListener;
use tokio::sync::watch;
use weir_cluster::NodeId;

use weir_cold::SnapshotName;

use super::anchors::recovered;
use super::cluster::{Member, Start, addresses, create, list, node_id, within};
use super::*;
use crate::Producer;
use weir_types::limits::FORMAT_LEVEL;

const DISK_BYTES: u64 = 64 << 20;
const NODES: usize = 3;
/// Streams of each group that last.
const LASTING: usize = 2;
const RECORD_BYTES: usize = 2000;
/// A group with a shard's only snapshots that wait.
const GROUP: GroupId = GroupId(1);

/// The store that all nodes have, and what was ever whole in it: by group, the entry of the newest snapshot.
#[derive(Clone, Default)]
struct Shared {
    objects: ChunkMemory,
    newest: Arc<std::sync::Mutex<BTreeMap<GroupId, u64>>>,
    looks: Arc<AtomicU64>,
    found_whole: Arc<AtomicU64>,
}

impl Shared {
    /// A panic here ends only the task that has called, so it is noticed at the end.
    fn look(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let found = recovered(&self.objects);
        let mut newest = self.newest.lock().expect("nobody has panicked here");
        let found: BTreeMap<GroupId, u64> = found.iter().map(|(of, _)| (of.name.group, of.name.index)).collect();
        for (group, before) in &*newest {
            assert!(found.get(group) >= Some(before), "a snapshot of group {group} is gone, and none follows it");
        }
        *newest = found;
        self.found_whole.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a node's calls to the store do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// They wait until that is over.
    Late,
    /// Those wait that put a manifest of [`GROUP`].
    Unsealed,
    /// They do what is asked for, and say that they have not.
    Deaf,
    /// They do nothing.
    Dead,
}

/// The store as one life of a node has it. What is asked of it when the node has no power is never answered.
#[derive(Clone)]
struct View {
    shared: Shared,
    mood: watch::Receiver<Mood>,
    power: FaultyDisk,
}

impl View {
    async fn call<T>(
        &self,
        act: impl FnOnce(&ChunkMemory) -> Result<T, StoreError>,
        (changes, seals): (bool, bool),
    ) -> Result<T, StoreError> {
        let mut mood = self.mood.clone();
        let failed = || StoreError::Failed("it has failed".to_string());
        let goes_on = |mood: &Mood| *mood != Mood::Late && !(seals && *mood == Mood::Unsealed);
        let now = *mood.wait_for(goes_on).await.map_err(|_| failed())?;
        if now == Mood::Dead {
            return Err(failed());
        }
        let Some(done) = self.power.while_powered(|| act(&self.shared.objects)) else {
            return std::future::pending().await;
        };
        if changes {
            self.shared.look();
        }
        if now == Mood::Deaf { Err(failed()) } else { done }
    }
}

/// Whether an object is a manifest of [`GROUP`].
fn seals(object: &str) -> bool {
    SnapshotName::of_manifest(object).is_some_and(|of| of.group == GROUP)
}

/// What comes of a call to memory.
fn now<T>(call: BoxFuture<'_, T>) -> T {
    futures_util::FutureExt::now_or_never(call).expect("it is memory")
}

impl ChunkStore for View {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call(move |objects| now(objects.put(object, bytes)), (true, seals(object))))
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.call(move |objects| now(objects.get(object, range)), (false, false)))
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call(move |objects| now(objects.delete(object)), (true, false)))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(self.call(move |objects| now(objects.list()), (false, false)))
    }
}

/// A node, what it runs on, and how its store is.
struct Seat {
    member: Option<Member>,
    disks: Vec<FaultyDisk>,
    mood: watch::Sender<Mood>,
}

struct Trio {
    shared: Shared,
    addresses: BTreeMap<NodeId, String>,
    seats: Vec<Seat>,
    config: ShardConfig,
    lives: Cell<u64>,
    /// How often all connections were broken.
    breaks: Arc<AtomicU64>,
}

impl Trio {
    async fn start(config: ShardConfig) -> Trio {
        let (listeners, addresses) = addresses().await;
        let (shared, seats, lives, breaks) = (Shared::default(), Vec::new(), Cell::new(1000), Arc::default());
        let mut trio = Trio { shared, addresses, seats, config, lives, breaks };
        for (number, listener) in (1..).zip(listeners) {
            let first = FaultyDisk::new(DISK_BYTES, number);
            let disks: Vec<FaultyDisk> =
                (0..TOPOLOGY.wals).map(|wal| if wal == 0 { first.clone() } else { first.beside(DISK_BYTES) }).collect();
            disks.iter().for_each(|disk| drop(formed(disk.clone())));
            trio.seats.push(Seat { member: None, disks, mood: watch::channel(Mood::Well).0 });
            trio.begin(number as usize - 1, listener).await;
        }
        trio
    }

    async fn begin(&mut self, seat: usize, listener: TcpListener) {
        let (mood, mooded) = watch::channel(Mood::Well);
        let disks = self.seats[seat].disks.clone();
        let view = View { shared: self.shared.clone(), mood: mooded, power: disks[0].clone() };
        let cold = Cold::new(Arc::new(view), 4 << 20, tokio::runtime::Handle::current(), BTreeSet::new());
        let disks = disks.into_iter().map(|disk| Arc::new(disk) as Arc<dyn Disk>).collect();
        let life = self.lives.replace(self.lives.get() + 1);
        let start = Start {
            level: FORMAT_LEVEL,
            number: seat as u64 + 1,
            list: list(&self.addresses),
            founders: self.addresses.keys().map(|node| node.get()).collect(),
            disks,
            config: self.config.clone(),
            breaks: self.breaks.clone(),
            life,
            cold: Some(cold.keeping_snapshots().owned_by(9)),
        };
        let member = Member::start_with(start, listener).await;
        (self.seats[seat].member, self.seats[seat].mood) = (Some(member), mood);
    }

    /// The power of a node goes. What was under way at its store then is done, or is not.
    async fn cut(&mut self, seat: usize) {
        self.seats[seat].disks[0].cut_power();
        let member = self.seats[seat].member.take().expect("it runs");
        within("the end", member.stop()).await;
        // What a process had of connections ends with it.
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    async fn restart(&mut self, seat: usize) {
        self.seats[seat].disks = self.seats[seat].disks.iter().map(FaultyDisk::crash).collect();
        let address = self.addresses[&node_id(seat as u64 + 1)].clone();
        let listener = TcpListener::bind(&address).await.expect("nobody else has it");
        self.begin(seat, listener).await;
    }

    fn member(&self, seat: usize) -> &Member {
        self.seats[seat].member.as_ref().expect("it runs")
    }

    /// The node that leads a group; none while nobody does.
    fn leader(&self, group: GroupId) -> Option<usize> {
        let leads = |seat: &Seat| {
            let groups = seat.member.iter().flat_map(|member| &member.shards).flat_map(|shard| shard.0.local_groups());
            let mut led = groups.filter(|of| of.leading().is_ok());
            led.any(|of| of.id == group)
        };
        self.seats.iter().position(leads)
    }

    async fn wait_leader(&self, group: GroupId) -> usize {
        let mut leader = None;
        until("somebody leads", || {
            leader = self.leader(group);
            leader.is_some()
        })
        .await;
        leader.expect("somebody leads")
    }

    async fn hand_over(&self, seat: usize) {
        let shards = self.member(seat).shards.clone();
        within("others lead", join_all(shards.iter().map(Shard::hand_over))).await;
    }

    /// Sums a figure of what each group's leader has.
    fn sum_led(&self, figure: impl Fn(&weir_stream::Group) -> u64) -> Option<u64> {
        let led = |group: GroupId| {
            let member = self.member(self.leader(group)?);
            let shard = member.shards.iter().find(|shard| shard.0.groups[usize::from(group.0)].is_some())?;
            let group = shard.0.group(group);
            let state = group.leading().ok()?;
            Some(figure(&state))
        };
        TOPOLOGY.groups().map(led).sum()
    }

    fn chunks(&self) -> u64 {
        self.shared.objects.objects().keys().filter(|name| ChunkName::parse(name).is_some()).count() as u64
    }
}

/// A stream, and what was written to it.
struct Written {
    key: StreamKey,
    content: String,
}

/// Writes through any node that runs, again until it is done: a producer's number says that it is the same.
async fn write(trio: &Trio, written: &mut Written, number: u64) {
    let record = format!("{number:05}").repeat(RECORD_BYTES / 5);
    let producer = Some(Producer { id: "p".into(), epoch: 0, seq: number });
    let run = async {
        for turn in number as usize.. {
            let seat = &trio.seats[turn % NODES];
            let Some(member) = &seat.member else { continue };
            let request = AppendRequest { producer: producer.clone(), ..append(&record) };
            match member.shards[turn % 2].append(written.key.clone(), request).await {
                Ok(_) => return,
                Err(ShardError::Unavailable | ShardError::Unknown) => tokio::task::yield_now().await,
                Err(error) => panic!("{}: {error:?}", written.key),
            }
        }
    };
    within("a write", run).await;
    written.content.push_str(&record);
}

async fn make(trio: &Trio, key: StreamKey) -> Written {
    let run = async {
        for turn in 0.. {
            let Some(member) = &trio.seats[turn % NODES].member else { continue };
            match member.shards[0].create(key.clone(), create()).await {
                Ok(_) => return,
                Err(ShardError::Unavailable | ShardError::Unknown) => tokio::task::yield_now().await,
                Err(error) => panic!("{key}: {error:?}"),
            }
        }
    };
    within("a create", run).await;
    Written { key, content: String::new() }
}

async fn unmake(trio: &Trio, key: &StreamKey) {
    let run = async {
        for turn in 0.. {
            let Some(member) = &trio.seats[turn % NODES].member else { continue };
            match member.shards[1].delete(key.clone(), None).await {
                Ok(_) | Err(ShardError::Refused(Refusal::NotFound)) => return,
                Err(ShardError::Unavailable | ShardError::Unknown) => tokio::task::yield_now().await,
                Err(error) => panic!("{key}: {error:?}"),
            }
        }
    };
    within("a delete", run).await;
}

/// All of a stream, through a node.
async fn content(member: &Member, key: &StreamKey) -> String {
    let (mut all, mut from) = (Vec::new(), ReadFrom::Start);
    loop {
        let page = member.shards[0].read(key.clone(), from, PAGE_BYTES_MAX).await.expect("it is read");
        page.chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
        if page.up_to_date {
            return String::from_utf8(all).expect("text");
        }
        from = ReadFrom::At(page.next);
    }
}

/// Some of everything: chunks that come, are merged and go, in all groups.
async fn work(trio: &Trio, lasting: &mut [Written], round: u64) {
    let passing = key_in(GroupId((round % 4) as u16), &format!("passing{round}-"));
    let mut passing = make(trio, passing).await;
    for number in 0..4 {
        write(trio, &mut passing, number).await;
        for written in lasting.iter_mut() {
            write(trio, written, 4 * round + number).await;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    unmake(trio, &passing.key).await;
}

#[tokio::test(flavor = "local")]
async fn whoever_leads_the_newest_stored_snapshot_is_whole_and_nothing_is_lost_or_left() {
    let config = ShardConfig { flush_age: Duration::from_millis(200), ..config() };
    let mut trio = Trio::start(config).await;
    let mut lasting = Vec::new();
    for n in 0..LASTING * usize::from(TOPOLOGY.groups) {
        let key = key_in(GroupId((n % usize::from(TOPOLOGY.groups)) as u16), &format!("lasting{n}-"));
        lasting.push(make(&trio, key).await);
    }
    for round in 0..8 {
        let group = GroupId((round % 4) as u16);
        let leader = trio.wait_leader(group).await;
        work(&trio, &mut lasting, 2 * round).await;
        let mood = match round % 4 {
            // It is replaced, and what it has begun to put and to delete comes to its end when others have gone on for a while.
            0 | 2 => Mood::Late,
            1 => Mood::Deaf,
            _ => Mood::Dead,
        };
        trio.seats[leader].mood.send_replace(mood);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if round % 2 == 0 {
            trio.hand_over(leader).await;
        } else {
            trio.cut(leader).await;
        }
        trio.wait_leader(group).await;
        work(&trio, &mut lasting, 2 * round + 1).await;
        if round % 2 == 0 {
            trio.seats[leader].mood.send_replace(Mood::Well);
        } else {
            trio.restart(leader).await;
        }
    }
    // What came late, whoever leads next finds.
    for seat in 0..NODES {
        trio.hand_over(seat).await;
    }
    let is_swept = || {
        trio.sum_led(weir_stream::Group::hot_bytes) == Some(0)
            && trio.sum_led(|of| of.chunks_totals().chunks) == Some(trio.chunks())
    };
    let swept = async {
        while !is_swept() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("all is cold, and nothing is in the store that nobody names", swept).await;
    for seat in 0..NODES {
        for written in &lasting {
            let found = content(trio.member(seat), &written.key).await;
            assert!(found == written.content, "{} through node {}", written.key, seat + 1);
        }
        let damaged: u64 = trio.member(seat).shards.iter().map(|shard| shard.0.figures().cold_damaged).sum();
        assert_eq!(damaged, 0, "node {}", seat + 1);
    }
    let (looks, whole) = (trio.shared.looks.load(Ordering::Relaxed), trio.shared.found_whole.load(Ordering::Relaxed));
    assert!(looks == whole && looks > 100, "{whole} of {looks} looks have found it whole");
    // As it would be without all of the nodes: nothing was written since.
    let stored = async {
        let has_all = |written: &Written| {
            let states = recovered(&trio.shared.objects);
            states.iter().any(|(_, state)| {
                let stream = state.stream(&written.key);
                stream.is_some_and(|of| of.tail().position == written.content.len() as u64) && state.hot_bytes() == 0
            })
        };
        while !lasting.iter().all(has_all) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("all is in stored snapshots", stored).await;
    for seat in trio.seats {
        seat.member.expect("it runs").stop().await;
    }
}

/// Two leaders put a snapshot each, and one of them has been replaced: what one has put is not whole yet when the other looks.
#[tokio::test(flavor = "local")]
async fn two_leaders_that_store_snapshots_at_once_leave_one_that_is_whole() {
    let config = ShardConfig { flush_age: Duration::from_millis(100), ..config() };
    let trio = Trio::start(config).await;
    let mut written = make(&trio, key_in(GROUP, "s")).await;
    let stored = || trio.shared.newest.lock().expect("nobody has panicked here").get(&GROUP).copied();
    let pieces_behind = |index: Option<u64>| {
        let objects = trio.shared.objects.objects();
        let of_group =
            objects.keys().filter_map(|object| SnapshotName::of_piece(object)).filter(|of| of.group == GROUP);
        of_group.map(|of| of.index).filter(|of| Some(*of) > index).max()
    };
    until("a snapshot is stored", || stored().is_some()).await;
    let leader = trio.wait_leader(GROUP).await;
    trio.seats.iter().for_each(|seat| seat.mood.send(Mood::Unsealed).expect("it runs"));
    write(&trio, &mut written, 0).await;
    until("the next one has its pieces", || pieces_behind(stored()).is_some()).await;
    let first = pieces_behind(stored());
    trio.hand_over(leader).await;
    let next = trio.wait_leader(GROUP).await;
    assert_ne!(next, leader);
    until("the other leader has looked and has put pieces", || pieces_behind(first).is_some()).await;
    trio.seats[leader].mood.send_replace(Mood::Well);
    until("the first leader has put its manifest", || stored() >= first).await;
    let objects_before = |index| {
        let objects = trio.shared.objects.objects();
        let names = objects.keys().filter_map(|object| SnapshotName::of_object(object)).filter(|of| of.group == GROUP);
        names.filter(|of| Some(of.index) < index).count()
    };
    until("and has taken away the one before", || objects_before(first) == 0).await;
    trio.seats.iter().for_each(|seat| seat.mood.send(Mood::Well).expect("it runs"));
    until("the other leader's replaces it", || stored() > first).await;
    let (looks, whole) = (trio.shared.looks.load(Ordering::Relaxed), trio.shared.found_whole.load(Ordering::Relaxed));
    assert_eq!(looks, whole, "it was whole whenever somebody looked");
    for seat in trio.seats {
        seat.member.expect("it runs").stop().await;
    }
}

/// What is garbage for two leaders after each other stays while the newest stored snapshot names it.
#[tokio::test(flavor = "local")]
async fn a_chunk_stays_until_a_snapshot_without_it_is_stored_whoever_leads() {
    let config = ShardConfig { flush_age: Duration::from_millis(100), ..config() };
    let trio = Trio::start(config).await;
    let mut written = make(&trio, key_in(GROUP, "s")).await;
    write(&trio, &mut written, 0).await;
    let names_it = || recovered(&trio.shared.objects).iter().any(|(_, state)| state.chunks().next().is_some());
    until("a stored snapshot names the chunk", names_it).await;
    let leader = trio.wait_leader(GROUP).await;
    trio.seats.iter().for_each(|seat| seat.mood.send(Mood::Unsealed).expect("it runs"));
    unmake(&trio, &written.key).await;
    until("nothing names it", || trio.sum_led(|of| of.chunks_totals().chunks) == Some(0)).await;
    // Each of them looks for garbage every second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(trio.chunks(), 1, "it is there while it may be needed");
    trio.hand_over(leader).await;
    trio.wait_leader(GROUP).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(trio.chunks(), 1, "for the next leader, too");
    assert!(names_it(), "the newest snapshot is the one of before");
    trio.seats.iter().for_each(|seat| seat.mood.send(Mood::Well).expect("it runs"));
    until("it goes with that", || trio.chunks() == 0).await;
    let (looks, whole) = (trio.shared.looks.load(Ordering::Relaxed), trio.shared.found_whole.load(Ordering::Relaxed));
    assert_eq!(looks, whole, "it was whole whenever somebody looked");
    for seat in trio.seats {
        seat.member.expect("it runs").stop().await;
    }
}
