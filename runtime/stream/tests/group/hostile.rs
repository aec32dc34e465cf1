//! Snapshots that somebody has made up: every number of a valid one is replaced by others, as whoever writes the checksums around
//! it could do. The result is a group that can be gone on with, or an error.

use bytes::{Bytes, BytesMut};
use weir_stream::subscription::{Ack, EncodedAcks, EncodedWatches, HookSeed, SubscriptionStep, Turn};
use weir_stream::{
    BatchBuilder, BucketStep, BucketTold, ChunkId, Command, EncodedBindings, EncodedParts, Expiry, Group, Limits, Part,
    ProducerRef, Records, Split, Thaw, Upload, join_buckets, join_forks,
};
use weir_types::limits::SLOTS;
use weir_types::{Digest, GroupId, Incarnation, Role, StreamKey};

use crate::snapshot::{append_many, frozen, populated, populated_with_forks};
use crate::subscriptions::subscribed;
use crate::world::{TERM, view};

/// How many are tried, if `WEIR_TEST_SNAPSHOTS` does not say: that many of all, evenly spread.
const TRIES: usize = 3000;
/// What numbers are replaced by: the ends of the widths that there are, and what lies around them.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0xffff,
    1 << 28,
    u32::MAX as u64 - 1,
    u32::MAX as u64,
    1 << 32,
    1 << 62,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

fn thaw(bytes: &[u8]) -> Option<Group> {
    let mut thaw = Thaw::default();
    thaw.take(bytes).and_then(|()| thaw.finish()).ok()
}

/// As the format writes most numbers: seven bits a byte, the lowest first.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// How a number is written in place of another.
const WAYS: usize = 5;

/// `bytes` with one of the numbers in place of whatever number may be at `at`; `None` where there is no place for it.
fn changed(bytes: &[u8], at: usize, number: u64, way: usize) -> Option<Vec<u8>> {
    let (len, new) = match way {
        0 => {
            let goes_on = bytes[at..].iter().take(9).take_while(|byte| **byte >= 0x80).count();
            (goes_on + 1, varint(number))
        }
        _ => (1 << (way - 1), number.to_le_bytes()[..1 << (way - 1)].to_vec()),
    };
    let rest = bytes.get(at + len..)?;
    Some([&bytes[..at], &new, rest].concat())
}

/// Applies commands behind all that there are, one per entry.
struct Rest {
    group: Group,
    index: u64,
    time_ms: u64,
}

impl Rest {
    fn apply(&mut self, command: &Command<'_>) {
        let mut builder = BatchBuilder::new(BytesMut::new());
        builder.push(command);
        let batch = builder.finish(self.time_ms, Limits { producers_max: 8 });
        self.index += 1;
        self.group.apply(TERM, self.index, &batch, &mut Vec::new()).expect("our own bytes");
    }
}

/// Does with a group whatever can be done with one.
fn go_on(mut group: Group) {
    let before = view(&group);
    let again = thaw(&frozen(&mut group).concat()).expect("what can be read once can be read again");
    assert_eq!(view(&again), before);
    let mut lost = thaw(&frozen(&mut group).concat()).expect("it can be read");
    let forks = lost.forget_log(|| 7, |_| ());
    let mut groups = [(GroupId(0), lost)].into();
    join_forks(&mut groups, forks, || 7, |_| ());
    join_buckets(&mut groups, 2);

    let bindings_epoch = group.bindings_epoch();
    let streams: Vec<(StreamKey, Incarnation, u64, u64)> = (0..SLOTS)
        .flat_map(|slot| group.slot(slot))
        .map(|stream| {
            let key = StreamKey::parse(stream.key()).expect("keys are as requests may have them");
            (key, stream.incarnation(), stream.base(), stream.tail().position)
        })
        .collect();
    let (index, time_ms) = (group.applied().expect("something was applied"), group.time_ms() + 1000);
    let mut rest = Rest { group, index, time_ms };
    let parts: Vec<Part<'_>> = streams
        .iter()
        .filter(|(_, _, base, tail)| base < tail)
        .map(|(key, incarnation, base, tail)| Part {
            key: key.into(),
            incarnation: *incarnation,
            range: *base..*tail,
            at: 1,
        })
        .collect();
    let split = Split::Whole;
    for (key, incarnation, ..) in &streams {
        for producer in [None, Some(ProducerRef { id: "p", epoch: 1, seq: 1 })] {
            rest.apply(&Command::Append {
                key: key.into(),
                incarnation: *incarnation,
                close: false,
                producer,
                seq: None,
                if_match: None,
                bindings_epoch,
                records: Records::new(b"more", &split),
            });
        }
    }
    for _ in 0..2 {
        let id = ChunkId { term: TERM, number: rest.group.chunk_number_last() + 1, nonce: 1 };
        let parts = Part::encode(&parts);
        let (parts, times) = (EncodedParts::of(&parts), (time_ms, time_ms));
        rest.apply(&Command::Flush { chunk: id, bytes: 5000, crc: 1, times, parts });
    }
    let buckets: Vec<String> = rest.group.meta().buckets().map(|(name, _)| name.to_string()).collect();
    for bucket in buckets.iter().map(String::as_str).chain(["b"]) {
        for step in [BucketStep::Renew, BucketStep::Delete, BucketStep::Keep] {
            rest.apply(&Command::MetaBucket { name: bucket, step });
        }
        let upload = Upload { digest: Digest([9; 32]), bytes: 1, roles: &Role::ALL };
        rest.apply(&Command::MetaModulePut { bucket, name: "stats", upload });
        let modules = rest.group.meta().bucket(bucket).into_iter().flat_map(|bucket| bucket.modules.values());
        assert!(modules.map(weir_stream::Module::newest).all(|newest| newest.number > 0));
        let epoch = rest.group.bucket(bucket).map_or(1, |bucket| bucket.epoch + 1);
        let bindings = EncodedBindings::of(&[0, 0]);
        let told = BucketTold::There {
            created_ms: 1,
            fenced: false,
            retention: Default::default(),
            bindings,
            watches: EncodedWatches::NONE,
        };
        rest.apply(&Command::Bucket { name: bucket, epoch, told });
    }
    let new = StreamKey::new("b", "new").expect("a valid name");
    rest.apply(&Command::Create {
        key: (&new).into(),
        incarnation: Incarnation(99),
        content_type: "text/plain",
        expiry: Expiry::Idle { ttl_s: 1 },
        closed: false,
        only_new: false,
        bindings_epoch: rest.group.bindings_epoch(),
        fork: None,
        records: Records::new(b"more", &split),
    });
    let subscriptions: Vec<(String, String, Option<Turn>, u64)> = rest
        .group
        .meta()
        .buckets()
        .flat_map(|(name, bucket)| bucket.subscriptions.iter().map(move |(id, s)| (name, id, s)))
        .map(|(bucket, id, s)| (bucket.to_string(), id.to_string(), s.turn(), s.number))
        .collect();
    for (bucket, id, turn, number) in &subscriptions {
        let mut step = |step| rest.apply(&Command::MetaSubscription { bucket, id, step });
        if let Some(turn) = turn {
            step(SubscriptionStep::Claim { turn: *turn, worker: "w" });
            step(SubscriptionStep::Extend(*turn));
            step(SubscriptionStep::Failed { turn: *turn, retry_ms: 1000 });
            step(SubscriptionStep::End(*turn));
        }
        step(SubscriptionStep::Wake { number: *number, wake: 1, worker: None });
        let ack = |(key, incarnation, ..): &(StreamKey, Incarnation, u64, u64)| Ack {
            name: key.name().into(),
            incarnation: *incarnation,
            position: u64::MAX,
        };
        let acks = EncodedAcks::encode(&streams.iter().map(ack).collect::<Vec<_>>());
        rest.apply(&Command::Ack { bucket, number: *number, until_ms: u64::MAX, acks: EncodedAcks::of(&acks) });
        assert_eq!(rest.group.pending(bucket, *number).count(), 0, "all is processed");
    }
    rest.apply(&Command::MetaHookKey { seed: HookSeed([9; 32]), after_ms: rest.group.meta().newest_key_ms() });
    for (n, (key, incarnation, base, tail)) in streams.iter().enumerate() {
        let (key, incarnation) = (key.into(), *incarnation);
        rest.apply(&Command::Trim { key, incarnation, before: base + (tail - base) / 2, force: true });
        rest.apply(&Command::Expire { key, incarnation });
        rest.apply(&Command::Trim { key, incarnation, before: *tail, force: true });
        let fork = Incarnation(103);
        rest.apply(&Command::PinSettle { key, incarnation, fork });
        for keeps_pin in [true, false] {
            rest.apply(&Command::Unpin { key, incarnation, fork, keeps_pin });
        }
        rest.apply(&Command::Unpin { key, incarnation, fork: Incarnation(101), keeps_pin: false });
        if n % 2 == 0 {
            rest.apply(&Command::Delete { key, incarnation, if_match: None });
        }
    }
    let before = view(&rest.group);
    let pages: Vec<Bytes> = frozen(&mut rest.group);
    assert_eq!(view(&thaw(&pages.concat()).expect("what was gone on with can be read")), before);
    while rest.group.reap(100) {}
    assert!(rest.group.index_bytes() < 32 << 20, "it takes no more than it must");
}

#[test]
fn a_made_up_snapshot_is_refused_or_can_be_gone_on_with() {
    let mut world = populated();
    append_many(&mut world, 150);
    try_all(&frozen(&mut world.group).concat());
}

#[test]
fn a_made_up_snapshot_of_subscriptions_is_refused_or_can_be_gone_on_with() {
    try_all(&frozen(&mut subscribed().group).concat());
}

#[test]
fn a_made_up_snapshot_of_forks_is_refused_or_can_be_gone_on_with() {
    try_all(&frozen(&mut populated_with_forks().group).concat());
}

/// Tries what comes of a snapshot, changed in as many ways as are to be tried.
fn try_all(bytes: &[u8]) {
    let tries = std::env::var("WEIR_TEST_SNAPSHOTS").map_or(TRIES, |tries| tries.parse().expect("a number"));
    go_on(thaw(bytes).expect("it is as it was written"));
    let all = bytes.len() * NUMBERS.len() * WAYS;
    let tries = tries.min(all);
    let (mut refused, mut taken) = (0, 0);
    for case in (0..tries).map(|n| (n as u64 * all as u64 / tries as u64) as usize) {
        let (number, way) = (NUMBERS[case / WAYS % NUMBERS.len()], case % WAYS);
        let Some(changed) = changed(bytes, case / WAYS / NUMBERS.len(), number, way) else { continue };
        match thaw(&changed) {
            None => refused += 1,
            Some(group) => {
                taken += 1;
                go_on(group);
            }
        }
    }
    eprintln!("{} bytes: {refused} snapshots refused, {taken} taken", bytes.len());
    assert!(refused > tries / 4 && taken > tries / 20, "{refused} refused, {taken} taken");
}

#[test]
fn an_entry_that_is_named_far_before_the_others_takes_no_memory_for_those_between() {
    let world = populated();
    let streams: Vec<(StreamKey, Incarnation)> = (0..SLOTS)
        .flat_map(|slot| world.group.slot(slot))
        .filter(|stream| !stream.is_closed())
        .map(|stream| (StreamKey::parse(stream.key()).expect("a key"), stream.incarnation()))
        .collect();
    let bindings_epoch = world.group.bindings_epoch();
    let mut rest = Rest { group: world.group, index: (1 << 28) - 2, time_ms: 1000 };
    let split = Split::Whole;
    let (key, incarnation) = &streams[0];
    rest.apply(&Command::Append {
        key: key.into(),
        incarnation: *incarnation,
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        bindings_epoch,
        records: Records::new(b"more", &split),
    });
    let again = thaw(&frozen(&mut rest.group).concat()).expect("it is as it was written");
    assert_eq!(view(&again), view(&rest.group));
    assert!(again.index_bytes() < 32 << 20, "{} bytes", again.index_bytes());
    let mut group = again;
    for (key, incarnation) in streams {
        assert!(group.hot_floor() < Some(1000), "the oldest are named");
        let mut last = Rest { index: group.applied().expect("there is one"), group, time_ms: 1000 };
        last.apply(&Command::Delete { key: (&key).into(), incarnation, if_match: None });
        group = last.group;
    }
    assert!(group.index_bytes() < 1 << 20, "{} bytes", group.index_bytes());
}
