//! Recovery: what becomes of streams when their group's log is lost.

use std::collections::BTreeMap;

use bytes::Bytes;
use weir_stream::subscription::{
    Delivery, EncodedConfig, EncodedWatches, Subscription, SubscriptionConfig, SubscriptionStep,
};
use weir_stream::{
    BucketState, BucketStep, BucketTold, Command, EncodedBindings, Expiry, Group, ProducerRef, Records, Refusal,
    Remainder, Reply, Split, Thaw, join_buckets,
};
use weir_types::{GroupId, Incarnation, ReadFrom, StreamKey};

use crate::world::{World, view};

fn key(name: &str) -> StreamKey {
    StreamKey::new("b", name).expect("a valid name")
}

fn told(world: &mut World, name: &str, epoch: u64) {
    let told = BucketTold::There {
        created_ms: epoch,
        fenced: false,
        retention: Default::default(),
        bindings: EncodedBindings::of(&[0, 0]),
        watches: EncodedWatches::NONE,
    };
    world.apply(1, &Command::Bucket { name, epoch, told });
}

/// Appends `body` with producer headers and a sequence, and closes if that is said.
fn append(world: &mut World, name: &str, (n, seq): (u64, u64), body: &str, close: bool) -> Reply {
    let key = key(name);
    let command = Command::Append {
        key: (&key).into(),
        incarnation: Incarnation(n),
        close,
        producer: Some(ProducerRef { id: "p", epoch: 0, seq }),
        seq: None,
        if_match: None,
        bindings_epoch: 0,
        records: Records::new(body.as_bytes(), &Split::Whole),
    };
    world.apply(10, &command).reply
}

/// Streams of two records: `whole` is closed and cold, `open` is cold, `cut` is closed and half cold, `hot` has nothing
/// cold.
fn populated() -> World {
    let mut world = World::new();
    told(&mut world, "b", 1);
    for (n, name) in (1..).zip(["whole", "open", "cut", "hot"]) {
        let key = key(name);
        let create = Command::Create {
            key: (&key).into(),
            incarnation: Incarnation(n),
            content_type: "text/plain",
            expiry: Expiry::Never,
            closed: false,
            only_new: true,
            bindings_epoch: 0,
            fork: None,
            records: Records::NONE,
        };
        world.apply(2, &create);
        for (seq, body) in ["first", "second"].into_iter().enumerate() {
            append(&mut world, name, (n, seq as u64), body, seq == 1 && ["whole", "cut"].contains(&name));
        }
    }
    let chunk = world.next_chunk();
    let (whole, open, cut) = (key("whole"), key("open"), key("cut"));
    let picked = [(&whole, Incarnation(1), 0..11), (&open, Incarnation(2), 0..11), (&cut, Incarnation(3), 0..5)];
    world.flush(20, chunk, &picked);
    world
}

/// Forgets the log, and gives what is left, by name.
fn forget(group: &mut Group) -> BTreeMap<String, (u64, u64, bool)> {
    let (mut left, mut number) = (BTreeMap::new(), 1000);
    let random = || {
        number += 1;
        number
    };
    let forks = group.forget_log(random, |Remainder { key, bytes, lost_bytes, is_final }| {
        left.insert(key.to_string(), (bytes, lost_bytes, is_final));
    });
    assert!(forks.is_empty(), "there are none");
    left
}

#[test]
fn streams_end_where_their_cold_bytes_do_and_old_offsets_are_gone() {
    let mut world = populated();
    let tails: Vec<_> =
        ["whole", "open", "cut", "hot"].map(|name| world.group.stream(&key(name)).expect("it is there").tail()).into();
    let left = forget(&mut world.group);
    let expected = [("cut", (5, 6, true)), ("hot", (0, 11, false)), ("open", (11, 0, false)), ("whole", (11, 0, true))];
    assert_eq!(left, expected.map(|(name, left)| (format!("b/{name}"), left)).into());
    assert_eq!((world.group.hot_floor(), world.group.hot_bytes()), (None, 0));
    for (name, tail) in ["whole", "open", "cut", "hot"].into_iter().zip(tails) {
        let stream = world.group.stream(&key(name)).expect("it is there");
        let old = stream.check_offset(ReadFrom::At(tail));
        assert_eq!(old, if name == "whole" { Ok(11) } else { Err(Refusal::OffsetGone) }, "{name}");
        assert_eq!(stream.check_offset(ReadFrom::At(stream.tail())), Ok(left[&format!("b/{name}")].0));
        assert_eq!(stream.is_closed(), name == "whole");
    }
    assert_eq!(world.records(&key("open"), 0).concat(), b"firstsecond");
    assert_eq!(world.records(&key("cut"), 0).concat(), b"first");
}

#[test]
fn producers_of_a_cut_stream_begin_anew_and_those_of_others_go_on() {
    let mut world = populated();
    forget(&mut world.group);
    assert!(matches!(append(&mut world, "open", (2, 1), "second", false), Reply::Appended(_)), "a retry");
    assert!(matches!(append(&mut world, "open", (2, 2), "third", false), Reply::Appended(_)));
    assert!(matches!(append(&mut world, "cut", (3, 2), "third", false), Reply::Refused(_)), "there is a gap");
    assert!(matches!(append(&mut world, "cut", (3, 0), "second", false), Reply::Appended(_)));
    assert_eq!(world.records(&key("open"), 0).concat(), b"firstsecondthird");
    assert_eq!(world.records(&key("cut"), 0).concat(), b"firstsecond");
}

#[test]
fn what_is_left_is_written_down_and_read_back() {
    let mut world = populated();
    forget(&mut world.group);
    world.group.freeze(0);
    let pages: Vec<Bytes> = std::iter::from_fn(|| world.group.take_frozen()).collect();
    let mut thaw = Thaw::default();
    pages.iter().for_each(|page| thaw.take(page).expect("pages as they were written"));
    let thawed = thaw.finish().expect("all pages are there");
    assert_eq!(view(&thawed), view(&world.group));
    assert_eq!(thawed.index_bytes(), world.group.index_bytes());
}

#[test]
fn every_bucket_that_a_group_knows_is_there_and_told_anew() {
    let (mut first, mut second) = (World::new(), populated());
    told(&mut first, "old", 7);
    told(&mut second, "new", 9);
    let mut groups: BTreeMap<GroupId, Group> =
        [(GroupId(1), first.group), (GroupId(2), second.group)].into_iter().collect();
    join_buckets(&mut groups, 3);
    let meta = groups[&GroupId::META].meta();
    assert_eq!(meta.groups(), Some(3));
    let buckets: Vec<_> = meta.buckets().map(|(name, bucket)| (name, bucket.state, bucket.created_ms)).collect();
    let active = BucketState::Active;
    assert_eq!(buckets, [("b", active, 1), ("new", active, 9), ("old", active, 7)]);
    assert!(meta.buckets().all(|(_, bucket)| bucket.epoch > 9), "no group refuses it as old");
    assert!(groups[&GroupId::META].applied().is_some(), "a state that is written down was applied");
}

/// Begins a wake of the subscription, as a leader of group 0 does; returns its generation.
fn wake(world: &mut World) -> u64 {
    let subscription = |world: &World| world.group.meta().subscription("b", "s").expect("it is there").clone();
    if let Some(turn) = subscription(world).turn() {
        let step = SubscriptionStep::End(turn);
        world.apply(20, &Command::MetaSubscription { bucket: "b", id: "s", step });
    }
    let step = SubscriptionStep::Wake { number: subscription(world).number, wake: 7, worker: None };
    let reply = world.apply(20, &Command::MetaSubscription { bucket: "b", id: "s", step }).reply;
    assert!(matches!(reply, Reply::Subscription { .. }), "{reply:?}");
    subscription(world).generation
}

/// Writes a wake to the stream `open`.
fn announce(world: &mut World, epoch: u64) -> Reply {
    let key = key("open");
    let command = Command::Append {
        key: (&key).into(),
        incarnation: Incarnation(2),
        close: false,
        producer: Some(ProducerRef { id: "wakes", epoch, seq: 0 }),
        seq: None,
        if_match: None,
        bindings_epoch: 0,
        records: Records::new(b"w", &Split::Whole),
    };
    world.apply(20, &command).reply
}

#[test]
fn wakes_go_on_behind_all_that_may_have_been_lost() {
    let (mut meta, mut streams) = (World::new(), populated());
    meta.apply(1, &Command::MetaForm { groups: 2 });
    meta.apply(1, &Command::MetaBucket { name: "b", step: BucketStep::Create });
    let config = SubscriptionConfig {
        delivery: Delivery::PullWake { wake_stream: "open".into() },
        pattern: None,
        streams: [Box::from("whole")].into(),
        lease_ms: 1000,
        description: None,
    };
    let encoded = config.encode();
    let step = SubscriptionStep::Put { config: EncodedConfig::of(&encoded), root: "http://localhost/b" };
    meta.apply(1, &Command::MetaSubscription { bucket: "b", id: "s", step });
    assert_eq!(wake(&mut meta), 1);
    // The snapshot of group 0 is of now, and the stream's is later.
    for epoch in 1..200 {
        assert!(matches!(announce(&mut streams, epoch), Reply::Appended(_)));
    }
    let (chunk, open) = (streams.next_chunk(), key("open"));
    streams.flush(20, chunk, &[(&open, Incarnation(2), 11..210)]);
    forget(&mut streams.group);
    let mut groups = BTreeMap::from([(GroupId::META, std::mem::take(&mut meta.group))]);
    join_buckets(&mut groups, 2);
    meta.group = groups.remove(&GroupId::META).expect("it is there");
    let subscription: &Subscription = meta.group.meta().subscription("b", "s").expect("it is there");
    assert!(subscription.wake.is_none(), "nobody has been told of it, for all that is known");
    let generation = wake(&mut meta);
    let announced = announce(&mut streams, generation);
    assert!(matches!(announced, Reply::Appended(_)), "{announced:?} in {generation}");
}
