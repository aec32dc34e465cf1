//! A million streams in one group: what they take, and how long a shard's thread would be kept by each step of flushing,
//! freezing and thawing. `cargo bench -p weir-stream`.

#![expect(clippy::disallowed_methods, reason = "a measurement asks the clock, and the crate does not")]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    BatchBuilder, BucketTold, ChunkId, Command, EncodedBindings, EncodedParts, Expiry, Group, Limits, PARTS_MAX, Part,
    Records, Retention, Split, Thaw,
};
use weir_types::{Incarnation, StreamKey};

const STREAMS: usize = 1_000_000;
const BATCH: usize = 500;
const TERM: u64 = 1;
/// As large as the pieces that a snapshot is written in.
const PAGES_BYTES: usize = 256 << 10;

/// Steps of one kind.
#[derive(Default)]
struct Steps {
    times: Vec<Duration>,
}

impl Steps {
    fn time<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = step();
        self.times.push(began.elapsed());
        result
    }

    fn say(&mut self, what: &str) {
        self.times.sort_unstable();
        let (sum, count) = (self.times.iter().sum::<Duration>(), self.times.len());
        let p99 = self.times[(count - 1) * 99 / 100];
        println!("{what}: {count} steps, {sum:.1?} together, p99 {p99:.2?}, longest {:.2?}", self.times[count - 1]);
    }
}

fn apply(group: &mut Group, steps: &mut Steps, commands: &[Command<'_>]) {
    let mut builder = BatchBuilder::new(BytesMut::new());
    commands.iter().for_each(|command| builder.push(command));
    let batch = builder.finish(1, Limits { producers_max: 8 });
    let index = group.applied().map_or(0, |applied| applied + 1);
    let mut outcomes = Vec::new();
    steps.time(|| group.apply(TERM, index, &batch, &mut outcomes)).expect("our own bytes");
    assert_eq!(outcomes.len(), commands.len());
}

fn main() {
    let keys: Vec<StreamKey> =
        (0..STREAMS).map(|n| StreamKey::new("b", &format!("stream-{n:07}")).expect("a valid name")).collect();
    let names_bytes: usize = keys.iter().map(|key| key.as_str().len()).sum();
    let (body, split) = ([b'x'; 256], Split::Whole);
    let append = |n: usize| Command::Append {
        key: (&keys[n]).into(),
        incarnation: Incarnation(n as u64 + 1),
        close: false,
        producer: None,
        seq: None,
        if_match: None,
        bindings_epoch: 0,
        records: Records::new(&body, &split),
    };
    let mut group = Group::new();
    let told = BucketTold::There {
        created_ms: 0,
        fenced: false,
        retention: Retention::default(),
        bindings: EncodedBindings::of(&[0, 0]),
        watches: EncodedWatches::NONE,
    };
    let mut created = Steps::default();
    apply(&mut group, &mut created, &[Command::Bucket { name: "b", epoch: 1, told }]);
    for batch in (0..STREAMS).collect::<Vec<_>>().chunks(BATCH) {
        let commands: Vec<_> = batch
            .iter()
            .map(|&n| Command::Create {
                key: (&keys[n]).into(),
                incarnation: Incarnation(n as u64 + 1),
                content_type: "application/octet-stream",
                expiry: Expiry::Never,
                closed: false,
                only_new: true,
                bindings_epoch: 0,
                fork: None,
                records: Records::new(&body, &split),
            })
            .collect();
        apply(&mut group, &mut created, &commands);
    }
    created.say("create with one record of 256 B, 500 in a batch");
    let say_size = |group: &Group, what: &str| {
        println!("{what}: {} B per stream besides its name", (group.index_bytes() - names_bytes) / STREAMS);
    };
    say_size(&group, "hot");

    // Frozen while others write: every append meets a slot that may have to be written down first.
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % STREAMS
    };
    let (mut begun, mut taken, mut appended, mut pages) = Default::default();
    let (begun, taken, appended): (&mut Steps, &mut Steps, &mut Steps) = (&mut begun, &mut taken, &mut appended);
    let pages: &mut Vec<Bytes> = &mut pages;
    begun.time(|| group.freeze(PAGES_BYTES));
    while let Some(page) = taken.time(|| group.take_frozen()) {
        pages.push(page);
        let commands: Vec<_> = (0..8).map(|_| append(next())).collect();
        apply(&mut group, appended, &commands);
    }
    begun.say("begin to freeze");
    taken.say("take frozen pages");
    appended.say("append 8 records meanwhile");
    println!("snapshot: {} B per stream with its name", pages.iter().map(Bytes::len).sum::<usize>() / STREAMS);

    // Nobody takes anything for a while, and all that is written has to be written down first.
    let mut behind = Steps::default();
    group.freeze(PAGES_BYTES);
    for _ in 0..200 {
        let commands: Vec<_> = (0..BATCH).map(|_| append(next())).collect();
        apply(&mut group, &mut behind, &commands);
    }
    group.end_freeze();
    behind.say("append 500 records behind a freeze");

    let (mut thawed, mut finished) = (Steps::default(), Steps::default());
    let mut thaw = Thaw::default();
    for page in pages {
        thawed.time(|| thaw.take(page)).expect("pages as they were written");
    }
    let other = finished.time(|| thaw.finish()).expect("all pages are there");
    thawed.say("thaw pages");
    finished.say("finish the thaw");
    say_size(&other, "thawed");
    let mut dropped = Steps::default();
    dropped.time(|| drop(other));
    dropped.say("drop the group (to be done elsewhere)");

    let mut flushed = Steps::default();
    for (number, streams) in (1..).zip((0..STREAMS).collect::<Vec<_>>().chunks(PARTS_MAX)) {
        let parts: Vec<Part<'_>> = (0..)
            .zip(streams)
            .map(|(at, &n)| {
                let tail = group.stream(&keys[n]).expect("it is there").tail().position;
                Part { key: (&keys[n]).into(), incarnation: Incarnation(n as u64 + 1), range: 0..tail, at }
            })
            .collect();
        let encoded = Part::encode(&parts);
        let chunk = ChunkId { term: TERM, number, nonce: 0 };
        let parts = EncodedParts::of(&encoded);
        apply(&mut group, &mut flushed, &[Command::Flush { chunk, bytes: 1, crc: 1, times: (1, 1), parts }]);
    }
    flushed.say("flush a chunk of 8,192 parts");
    assert_eq!(group.hot_floor(), None);
    say_size(&group, "cold");

    // One stream of a million packs, deleted.
    let (mut grown, mut deleted) = (Steps::default(), Steps::default());
    for _ in 0..1_000_000 / BATCH {
        apply(&mut group, &mut grown, &(0..BATCH).map(|_| append(0)).collect::<Vec<_>>());
    }
    let key = (&keys[0]).into();
    apply(&mut group, &mut deleted, &[Command::Delete { key, incarnation: Incarnation(1), if_match: None }]);
    let mut reaped = Steps::default();
    while reaped.time(|| group.reap(64)) {}
    grown.say("append to one stream, 500 in a batch");
    deleted.say("delete a stream of a million packs");
    reaped.say("give back what it named");
    assert_eq!(group.hot_floor(), None);
}
