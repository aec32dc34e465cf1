//! Snapshots that are not as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use openraft::vote::leader_id_std::LeaderId;
use openraft::{EmptyNode, Membership, StoredMembership};
use tokio::runtime::{Builder, LocalOptions};
use weir_cluster::{CallError, Lane, Message, NodeId};
use weir_storage::{Arena, Disk, EntryId, FRAME_HEADER_BYTES, FaultyDisk, Wal, WalConfig, WriteMode};
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    BatchBuilder, BucketTold, Command, EncodedBindings, Expiry, Group, KeyRef, Limits, Outcome, Records, Retention,
};
use weir_types::{GroupId, Incarnation, StreamKey};

use super::*;
use crate::config::log_id;
use crate::entry::{KIND_BATCH, KIND_BLANK};
use crate::local::State;
use crate::parcel::{Part, Sum};
use crate::peers::Peers;
use crate::replica::ReplicaOptions;
use crate::snapshot::encode_stored_membership;
use crate::state_machine::Observer;

const CONFIG: WalConfig =
    WalConfig { segment_bytes: 1 << 20, budget_bytes: 8 << 20, cache_bytes: 0, write: WriteMode::Simulated };
const LAST: EntryId = EntryId { index: 7, term: 2 };
/// The entry whose bytes the state names.
const HOT: EntryId = EntryId { index: 5, term: 1 };

struct Nobody;

impl Observer for Nobody {
    fn restored(&mut self, _group: &Group) {}

    fn applied(&mut self, _index: u64, _batch: &Bytes, _outcomes: &[Outcome]) {}
}

impl Peers for Nobody {
    fn call(&self, node: NodeId, _: Lane, _: Message) -> LocalBoxFuture<'static, Result<Message, CallError>> {
        std::future::ready(Err(CallError::NotSent { node, reason: "there is nobody".into() })).boxed_local()
    }

    fn fail(&self, _: NodeId, _: Lane, _: &str) {}
}

/// A replica that waits to be taken in, and its disk.
async fn begin() -> (FaultyDisk, Replica) {
    let disk = FaultyDisk::new(64 << 20, 1);
    Wal::form(&disk, 1).expect("an empty disk");
    let salt = std::cell::Cell::new(1);
    let wal = Wal::open(Arc::new(disk.clone()), CONFIG, Box::new(move || salt.replace(salt.get() + 1))).expect("a log");
    tokio::task::spawn_local(wal.clone().run());
    let options = ReplicaOptions {
        node_id: 4,
        group: GroupId::META,
        founders: BTreeSet::new(),
        peers: Some(Rc::new(Nobody)),
        seed: 4,
    };
    let replica = Replica::start(options, wal, State::new(Group::new()), Box::new(Nobody)).await.expect("it starts");
    (disk, replica)
}

fn vote() -> VoteOf<TypeConfig> {
    VoteOf::<TypeConfig> { leader_id: LeaderId { term: 3, voted_for: 9 }, committed: true }
}

/// A batch that makes a stream with some bytes.
fn batch() -> Bytes {
    let key = StreamKey::new("b", "s").expect("a valid key");
    let told = BucketTold::There {
        created_ms: 0,
        fenced: false,
        retention: Retention::default(),
        bindings: EncodedBindings::of(&[0, 0]),
        watches: EncodedWatches::NONE,
    };
    let mut builder = BatchBuilder::new(Arena::new(1000).into_buf());
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
        records: Records::whole(b"some bytes"),
    });
    builder.finish(1, Limits { producers_max: 1 }).freeze().slice(FRAME_HEADER_BYTES..)
}

fn membership() -> Part {
    let nodes = BTreeMap::from([4, 9].map(|id| (id, EmptyNode {})));
    let membership = Membership::new(vec![BTreeSet::from([9])], nodes).expect("a membership");
    Part::Section(encode_stored_membership(&StoredMembership::new(
        Some(log_id(EntryId { index: 0, term: 0 })),
        membership,
    )))
}

fn pages() -> Part {
    let (mut group, mut outcomes) = (Group::new(), Vec::new());
    group.apply(HOT.term, HOT.index, &batch(), &mut outcomes).expect("a batch");
    group.freeze(64 << 10);
    let pages = group.take_frozen().expect("they fit one piece");
    assert!(group.take_frozen().is_none());
    Part::Section(pages)
}

/// A section in two pieces.
fn pieces(part: Part) -> [Part; 2] {
    let Part::Section(mut bytes) = part else { panic!("only sections are cut") };
    [Part::Piece(bytes.split_to(bytes.len() / 2)), Part::Section(bytes)]
}

fn hot() -> Part {
    Part::Entry(HOT, KIND_BATCH, batch())
}

fn parcel(before: u64, sum: Option<Sum>, parts: Vec<Part>) -> Parcel {
    Parcel { vote: vote(), last: LAST, before, sum, parts }
}

/// Sends all parts at once, and what they are together; says what becomes of it.
async fn send(replica: &Replica, parts: Vec<Part>, change: impl Fn(&mut Sum)) -> Receipt {
    let mut sum = Sum::default();
    parts.iter().for_each(|part| sum.add(part));
    match replica.receive(parcel(0, None, parts)).await {
        Receipt::GoOn => {}
        receipt => return receipt,
    }
    let before = sum.parts;
    change(&mut sum);
    loop {
        match replica.receive(parcel(before, Some(sum), Vec::new())).await {
            Receipt::Wait => sleep(Duration::from_millis(1)).await,
            receipt => return receipt,
        }
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(test)
}

fn snapshots_in(disk: &FaultyDisk) -> Vec<String> {
    disk.list().expect("it can be listed").into_iter().filter(|name| name.starts_with("group-")).collect()
}

#[test]
fn what_is_not_a_snapshot_is_refused_and_leaves_nothing_and_what_is_one_is_taken_over_once() {
    run(async {
        let (disk, replica) = begin().await;
        let short = batch().slice(..20);
        let refused = [
            ("no membership", vec![pages(), hot()]),
            ("no pages", vec![membership()]),
            ("other pages", vec![membership(), Part::Section(Bytes::from("pages")), hot()]),
            ("pages twice", vec![membership(), pages(), pages(), hot()]),
            ("a name without its entry", vec![membership(), pages()]),
            (
                "another entry",
                vec![membership(), Part::Entry(EntryId { index: 6, ..HOT }, KIND_BATCH, batch()), pages()],
            ),
            ("an entry of another kind", vec![membership(), Part::Entry(HOT, KIND_BLANK, batch()), pages()]),
            ("a part of an entry", vec![membership(), Part::Entry(HOT, KIND_BATCH, short), pages()]),
            ("an entry twice", vec![membership(), hot(), hot(), pages()]),
            ("a section without its end", vec![membership(), hot(), pages(), pieces(pages())[0].clone()]),
            (
                "an entry within a section",
                [&pieces(membership())[..1], &[hot()], &pieces(membership())[1..], &[pages()]].concat(),
            ),
            (
                "a later entry",
                vec![membership(), hot(), Part::Entry(EntryId { index: 8, term: 2 }, KIND_BATCH, batch()), pages()],
            ),
        ];
        for (what, parts) in refused {
            assert_eq!(send(&replica, parts, |_| ()).await, Receipt::BeginAgain, "{what}");
            assert_eq!(snapshots_in(&disk), Vec::<String>::new(), "{what}");
            assert_eq!(replica.standing().applied_index, 0, "{what}");
        }
        let parts = || vec![membership(), hot(), pages()];
        let changes: [fn(&mut Sum); 3] = [|sum| sum.crc ^= 1, |sum| sum.bytes += 1, |sum| sum.parts += 1];
        for change in changes {
            assert_eq!(send(&replica, parts(), change).await, Receipt::BeginAgain);
            assert_eq!(snapshots_in(&disk), Vec::<String>::new());
        }
        // Out of order.
        assert_eq!(replica.receive(parcel(1, None, parts())).await, Receipt::BeginAgain);
        assert_eq!(replica.receive(parcel(0, None, vec![membership()])).await, Receipt::GoOn);
        assert_eq!(replica.receive(parcel(2, None, vec![pages()])).await, Receipt::BeginAgain);
        assert_eq!(snapshots_in(&disk), Vec::<String>::new(), "what does not go on is given up");

        // In pieces it is the same.
        let cut = [&pieces(membership())[..], &[hot()], &pieces(pages())[..]].concat();
        assert_eq!(send(&replica, cut, |_| ()).await, Receipt::Vote(vote()));
        assert_eq!(snapshots_in(&disk), ["group-00000.snapshot"]);
        assert_eq!((replica.standing().applied_index, replica.snapshot_index()), (7, Some(7)));
        assert_eq!(replica.members(), (BTreeSet::from([9]), BTreeSet::from([4])));
        let entry = replica.wal.entry(GroupId::META, HOT.index).expect("it came along");
        assert_eq!(replica.wal.reader().body(&entry).expect("no damage"), batch());
        // Again, and an older one.
        let operations = disk.operations();
        for last in [LAST, EntryId { index: 6, term: 2 }] {
            let again = Parcel { last, ..parcel(0, None, parts()) };
            assert_eq!(replica.receive(again).await, Receipt::Vote(vote()));
        }
        let mut earlier = vote();
        earlier.leader_id.term = 2;
        let earlier = Parcel { vote: earlier, last: EntryId { index: 9, term: 2 }, ..parcel(0, None, parts()) };
        assert_eq!(replica.receive(earlier).await, Receipt::Vote(vote()), "there is a later leader");
        assert_eq!(disk.operations(), operations, "nothing was written for that");
        assert!(!replica.is_stopped());
    });
}

#[test]
fn a_disk_without_space_refuses_a_snapshot_until_there_is_some() {
    run(async {
        let (disk, replica) = begin().await;
        disk.set_full(true);
        let parts = || vec![membership(), hot(), pages()];
        assert_eq!(send(&replica, parts(), |_| ()).await, Receipt::BeginAgain);
        disk.set_full(false);
        assert_eq!(send(&replica, parts(), |_| ()).await, Receipt::Vote(vote()));
    });
}
