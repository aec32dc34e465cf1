//! Snapshots of a group: what `model` does not look at, and bytes that are none.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::world::{World, view};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    Binding, BucketStep, BucketTold, Command, EncodedBindings, EncodedFork, Expiry, Fork, ForkPoint, Group, NewFork,
    NodeStep, Pattern, ProducerRef, Records, Reply, Retention, Split, Thaw, Upload,
};
use weir_types::limits::FORMAT_LEVEL;
use weir_types::{Digest, Incarnation, Role, StreamKey};

pub(crate) fn frozen(group: &mut Group) -> Vec<Bytes> {
    // However small the pieces are to be, it goes on.
    group.freeze(0);
    std::iter::from_fn(|| group.take_frozen()).collect()
}

fn thawed(pages: &[Bytes]) -> Group {
    let mut thaw = Thaw::default();
    pages.iter().for_each(|page| thaw.take(page).expect("pages as they were written"));
    thaw.finish().expect("all pages are there")
}

fn key(name: &str) -> StreamKey {
    StreamKey::new("b", name).expect("a valid name")
}

/// A group with something of everything.
pub(crate) fn populated() -> World {
    let mut world = World::new();
    let binding = Binding {
        name: "totals".into(),
        streams: Pattern::new("orders/**").expect("a pattern"),
        module: "stats".into(),
        digest: Digest([7; 32]),
        role: Role::Summary,
        config: Arc::from(r#"{"a":1}"#),
        epoch: 0,
    };
    let bindings = Binding::encode([&binding].into_iter());
    let upload = |digest| Upload { digest: Digest([digest; 32]), bytes: 1000, roles: &Role::ALL };
    let (bucket, name) = ("b", "stats");
    world.apply(5, &Command::MetaForm { groups: 2 });
    for step in [BucketStep::Create, BucketStep::Renew] {
        world.apply(6, &Command::MetaBucket { name: bucket, step });
    }
    world.apply(7, &Command::MetaBucket { name: "going", step: BucketStep::Create });
    world.apply(7, &Command::MetaBucket { name: "going", step: BucketStep::Delete });
    world.apply(8, &Command::MetaModulePut { bucket, name, upload: upload(7) });
    world.apply(9, &Command::MetaModuleReady { bucket, name, digest: Digest([7; 32]) });
    world.apply(9, &Command::MetaModulePut { bucket, name, upload: upload(8) });
    world.apply(9, &Command::MetaModuleFailed { bucket, name, digest: Digest([8; 32]), reason: "it is too large" });
    world.apply(9, &Command::MetaBindingPut { bucket, binding: EncodedBindings::of(&bindings) });
    let retention = Retention { age_s: NonZeroU64::new(3600), bytes: NonZeroU64::new(1 << 20) };
    world.apply(9, &Command::MetaRetention { bucket, retention });
    let bindings_of = EncodedBindings::of(&bindings);
    let told = BucketTold::There {
        created_ms: 6,
        fenced: false,
        retention,
        bindings: bindings_of,
        watches: EncodedWatches::NONE,
    };
    world.apply(10, &Command::Bucket { name: bucket, epoch: 3, told });
    let bindings_epoch = world.group.bindings_epoch();
    for n in 1..40u64 {
        let key = key(&format!("orders/{}", n % 20));
        let (body, split) = (n.to_string(), Split::Whole);
        let records = Records::new(body.as_bytes(), &split);
        if n < 20 {
            let command = Command::Create {
                key: (&key).into(),
                incarnation: Incarnation(n),
                content_type: if n % 3 == 0 { "text/plain" } else { "application/json" },
                expiry: if n % 4 == 0 { Expiry::Idle { ttl_s: n } } else { Expiry::Never },
                closed: n % 5 == 0,
                only_new: false,
                bindings_epoch,
                fork: None,
                records,
            };
            world.apply(10 * n, &command);
        } else {
            let command = Command::Append {
                key: (&key).into(),
                incarnation: Incarnation(n % 20),
                close: false,
                producer: Some(ProducerRef { id: "p", epoch: 1, seq: 0 }),
                seq: Some("seq"),
                if_match: None,
                bindings_epoch,
                records,
            };
            world.apply(10 * n, &command);
        }
    }
    let (first, second) = (key("orders/1"), key("orders/2"));
    let chunk = world.next_chunk();
    world.flush(500, chunk, &[(&first, Incarnation(1), 0..1), (&second, Incarnation(2), 0..3)]);
    world
}

/// [`populated`], and forks: one that has bytes of two others, a source that is gone, a pin for a fork that has not come, and one
/// that is to be released.
pub(crate) fn populated_with_forks() -> World {
    let mut world = populated();
    let source = key("orders/1");
    for n in 1..4u64 {
        let (fork, incarnation) = (key(&format!("forks/{n}")), Incarnation(100 + n));
        let upto = world.group.stream(&source).expect("it is there").tail().position;
        let pin = Command::Pin {
            key: (&source).into(),
            incarnation: Incarnation(1),
            fork: (&fork).into(),
            fork_incarnation: incarnation,
            upto,
            until_ms: 5000,
        };
        assert!(matches!(world.apply(600, &pin).reply, Reply::Pinned(_)));
        if n == 3 {
            continue;
        }
        let stream = world.group.stream(&source).expect("it is there");
        let new = NewFork {
            fork: Fork {
                source: source.as_str().into(),
                source_incarnation: Incarnation(1),
                point: ForkPoint::Tail,
                anchor: upto,
                sub_offset: 0,
                inherits_expiry: true,
                begin: upto,
                ancestors: stream.ancestors_upto(0, upto),
                lineages: stream.lineages().inherited_by(0, upto),
            },
            base: 0,
            until_ms: 5000,
        };
        let (encoded, split) = (new.encode(), Split::Whole);
        let create = Command::Create {
            key: (&fork).into(),
            incarnation,
            content_type: "application/json",
            expiry: Expiry::Never,
            closed: false,
            only_new: false,
            bindings_epoch: world.group.bindings_epoch(),
            fork: Some(EncodedFork::of(&encoded)),
            records: Records::new(b"own", &split),
        };
        assert!(matches!(world.apply(600, &create).reply, Reply::Created(_)));
    }
    for (name, life) in [("orders/1", 1), ("forks/2", 102)] {
        let key = key(name);
        world.apply(700, &Command::Delete { key: (&key).into(), incarnation: Incarnation(life), if_match: None });
    }
    world
}

/// The one that is made first goes last.
fn delete_all(world: &mut World) {
    for n in (1..20).rev() {
        let key = key(&format!("orders/{n}"));
        world.apply(900, &Command::Delete { key: (&key).into(), incarnation: Incarnation(n), if_match: None });
    }
    assert_eq!(world.group.streams(), 0);
}

#[test]
fn all_of_a_group_comes_back() {
    let mut world = populated();
    assert!(world.group.chunks().count() == 1 && world.group.meta().buckets().count() == 2, "it is populated");
    let other = thawed(&frozen(&mut world.group));
    assert_eq!(view(&other), view(&world.group));
    let mut forks = populated_with_forks();
    let other_forks = thawed(&frozen(&mut forks.group));
    assert_eq!(view(&other_forks), view(&forks.group));
    let orders = key("orders/1");
    let bindings = |group: &Group| group.bindings(&orders, Role::Summary).cloned().collect::<Vec<_>>();
    assert_eq!((bindings(&other).len(), bindings(&other)), (1, bindings(&world.group)));
}

#[test]
fn the_nodes_of_a_cluster_are_in_its_snapshots() {
    let mut world = populated();
    let steps = [NodeStep::Add { address: "a:1" }, NodeStep::Met { disk: 1 << 100 }, NodeStep::Drain];
    for (node, step) in [(1, steps[0]), (7, steps[0]), (7, steps[1]), (7, steps[2]), (1, steps[0])] {
        let outcome = world.apply(10, &Command::MetaNode { node, step });
        assert_eq!(outcome.reply, Reply::Node { refused: None });
    }
    for level in [FORMAT_LEVEL, 0] {
        world.apply(10, &Command::MetaLevel { level });
    }
    let other = thawed(&frozen(&mut world.group));
    assert_eq!(other.meta().nodes(), world.group.meta().nodes());
    let nodes = other.meta().nodes();
    assert_eq!((nodes.epoch, nodes.level, nodes.nodes.len()), (5, FORMAT_LEVEL, 2), "a level does not fall");
}

/// [`populated`], as it was written before there were forks.
const BEFORE_FORKS: &[u8] = include_bytes!("before_forks.snapshot");

#[test]
fn a_snapshot_from_before_there_were_forks_is_read() {
    let mut world = populated();
    let pages = frozen(&mut world.group);
    assert!(pages.concat() != BEFORE_FORKS, "it is another version");
    let old = thawed(&[Bytes::from_static(BEFORE_FORKS)]);
    assert_eq!(view(&old), view(&world.group));
    let mut group = old;
    assert_eq!(frozen(&mut group).concat().len(), pages.concat().len(), "it is written as any other");
}

#[test]
fn a_snapshot_is_of_the_moment_at_which_it_was_begun() {
    let mut world = populated();
    let (entries, before) = (world.log.len(), view(&world.group));
    world.group.freeze(1);
    let first = world.group.take_frozen().expect("the head is there");
    delete_all(&mut world);
    let rest = std::iter::from_fn(|| world.group.take_frozen());
    let pages: Vec<Bytes> = [first].into_iter().chain(rest).collect();
    assert_eq!(view(&thawed(&pages)), before);
    assert_eq!(world.group.take_frozen(), None);
    world.thaw(entries, &pages);
}

/// Appends so many records of six bytes to the first stream.
pub(crate) fn append_many(world: &mut World, records: usize) {
    let (large, bindings_epoch) = (key("orders/1"), world.group.bindings_epoch());
    for _ in 0..records {
        let (body, split) = ("record", Split::Whole);
        let command = Command::Append {
            key: (&large).into(),
            incarnation: Incarnation(1),
            close: false,
            producer: None,
            seq: None,
            if_match: None,
            bindings_epoch,
            records: Records::new(body.as_bytes(), &split),
        };
        world.apply(900, &command);
    }
}

#[test]
fn what_a_large_trimmed_stream_named_is_given_back_bit_by_bit() {
    let mut world = populated();
    append_many(&mut world, 10_000);
    let large = key("orders/1");
    let records = world.records(&large, 0);
    let tail = world.group.stream(&large).expect("it is there").tail().position;
    let others = world.group.hot_bytes();
    let trim = |world: &mut World, before| {
        let command = Command::Trim { key: (&large).into(), incarnation: Incarnation(1), before, force: true };
        world.apply(900, &command);
    };
    trim(&mut world, tail - 6 * 100);
    let left = world.group.hot_bytes();
    assert!(left < others && world.group.reap(1), "a trim gives back a part, and a step is a part");
    assert!(world.group.hot_bytes() < left);
    while world.group.reap(10) {}
    assert_eq!(world.records(&large, tail - 6 * 100), records[records.len() - 100..]);
    let other = thawed(&frozen(&mut world.group));
    assert_eq!(view(&other), view(&world.group), "what is counted is what is named");
    trim(&mut world, tail);
    while world.group.reap(10) {}
    assert_eq!(world.group.stream(&large).expect("it is there").pieces_from(0).count(), 0);
}

#[test]
fn what_a_large_deleted_stream_named_is_given_back_bit_by_bit() {
    let mut world = populated();
    append_many(&mut world, 10_000);
    delete_all(&mut world);
    let floor = world.group.hot_floor().expect("one deletion gives back a part");
    assert!(world.group.reap(1), "a step is a part");
    assert!(world.group.hot_floor() > Some(floor), "the oldest go first");
    while world.group.reap(10) {}
    assert_eq!((world.group.hot_floor(), world.group.streams()), (None, 0));
}

/// Appends so many records to the first stream, each of which goes to a chunk of its own.
fn flush_many(world: &mut World, records: u64) {
    let first = key("orders/1");
    for _ in 0..records {
        let start = world.group.stream(&first).expect("it is there").hot_begin();
        append_many(world, 1);
        let (chunk, end) = (world.next_chunk(), world.group.stream(&first).expect("it is there").tail().position);
        world.flush(900, chunk, &[(&first, Incarnation(1), start..end)]);
    }
}

#[test]
fn what_a_stream_of_many_runs_named_is_given_back_bit_by_bit() {
    const RUNS: usize = 20_000;
    for (is_trimmed, left) in [(true, 1), (false, 0)] {
        let mut world = populated();
        let others = world.group.chunks().count();
        flush_many(&mut world, RUNS as u64);
        let first = key("orders/1");
        let stream = world.group.stream(&first).expect("it is there");
        assert!(stream.runs() >= RUNS && world.group.chunks().count() >= RUNS);
        let last = stream.pieces_from(0).last().expect("it has bytes").start();
        let (key, incarnation) = ((&first).into(), Incarnation(1));
        let end = match is_trimmed {
            true => Command::Trim { key, incarnation, before: last, force: true },
            false => Command::Delete { key, incarnation, if_match: None },
        };
        let before_bytes = world.group.chunks_totals().live_bytes;
        world.apply(900, &end);
        let after = world.group.chunks().count();
        assert!(after > RUNS / 2 && after < RUNS, "a part goes with the entry itself: {after} chunks");
        let mut steps = 0;
        while steps < 100 && world.group.reap(1) {
            steps += 1;
        }
        let now = world.group.chunks().count();
        assert!((after - 100 * 16..after).contains(&now), "a step is small: {now} chunks of {after}");
        // A snapshot in between is that of a group that has given all back.
        let other = thawed(&frozen(&mut world.group));
        assert_eq!(view(&other), view(&world.group), "what is counted is what is named");
        assert_eq!(world.group.chunks().count(), others + left);
        assert!(world.group.chunks_totals().live_bytes < before_bytes);
        assert!(world.group.take_gone_chunks().len() >= RUNS - 1);
        assert!(world.group.index_bytes() < 1 << 20, "{} bytes", world.group.index_bytes());
    }
}

proptest! {
    #[test]
    fn damaged_snapshots_never_panic(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut bytes = frozen(&mut populated_with_forks().group).concat();
        let undamaged = bytes.clone();
        let read = |bytes: &[u8]| {
            let mut thaw = Thaw::default();
            thaw.take(bytes).and_then(|()| thaw.finish())
        };
        prop_assert!(read(&bytes).is_ok());
        if whole {
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read(&bytes);
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(!undamaged.starts_with(&bytes) || read(&bytes).is_err(), "a snapshot cut short is noticed");
    }
}
