//! Forks and subscriptions: streams of a bucket of their own that come out of each other, are trimmed and deleted in any order, while
//! cursors follow them. What sources and forks owe each other, those do who believe to lead, as shards do.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weir_raft::{ProposeError, State};
use weir_stream::subscription::{
    Ack, Delivery, EncodedAcks, EncodedConfig, EncodedNames, EncodedWatches, SubscriptionConfig, SubscriptionStep,
};
use weir_stream::{
    Batch, BatchBuilder, BucketStep, BucketTold, Command, EncodedBindings, EncodedFork, Expiry, Fork, ForkPoint, Group,
    KeyRef, NewFork, Outcome, Pattern, Records, Release, Reply, Retention, Stream,
};
use weir_types::limits::SLOTS;
use weir_types::{Incarnation, StreamKey};

use crate::Trio;
use crate::faults::Dice;
use crate::history::History;

/// Later than any seed lasts, in milliseconds.
const LATE_MS: u64 = 1 << 50;
/// Other streams are not looked at.
const BUCKET: &str = "f";
/// Few, so that most that is asked for finds something.
const NAMES: u64 = 16;
/// Streams that others write to, at most.
const OTHERS: u64 = 1000;
/// A record is the life of the stream that it was appended to, and the number of its batch.
const RECORD_BYTES: u64 = 16;
/// So long a pin waits for its fork: batches, for a batch's time is its number.
const PIN_BATCHES: u64 = 60;
/// Bytes of a batch, about.
const BATCH_BYTES: usize = 4 << 10;
/// How long it may take until all is done that is owed.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// What streams have had in each of their lives, by what was applied first somewhere.
#[derive(Default)]
pub(crate) struct Lives {
    lives: BTreeMap<Incarnation, Life>,
    /// Pins that were asked for, by the life of the fork.
    pins: BTreeMap<Incarnation, Asked>,
    pub(crate) counts: Counts,
}

/// A pin that was asked for.
struct Asked {
    /// The source's life.
    source: Incarnation,
    /// Where the source's records began when it was pinned: that is where those of the fork do.
    base: Option<u64>,
    upto: u64,
    /// Whether the fork was asked for, too: a life is drawn for one stream, and begins once.
    is_fork_asked: bool,
}

/// All that a stream has had, trimmed or not.
#[derive(Default)]
struct Life {
    begin: u64,
    bytes: Vec<u8>,
}

/// How often something was done that changes something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pinned: usize,
    forked: usize,
    /// Forks of which it was decided that they will never be.
    averted: usize,
    released: usize,
    deleted: usize,
    trimmed: usize,
    /// Cursors that may have moved.
    acknowledged: usize,
    /// Changes of subscriptions.
    stepped: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        let Counts { pinned, forked, averted, released, deleted, trimmed, acknowledged, stepped } = self;
        *pinned += other.pinned;
        *forked += other.forked;
        *averted += other.averted;
        *released += other.released;
        *deleted += other.deleted;
        *trimmed += other.trimmed;
        *acknowledged += other.acknowledged;
        *stepped += other.stepped;
    }

    /// Whether everything was done somewhere.
    pub(crate) fn is_all_done(&self) -> bool {
        let &Counts { pinned, forked, averted, released, deleted, trimmed, acknowledged, stepped } = self;
        [pinned, forked, averted, released, deleted, trimmed, acknowledged, stepped].iter().all(|count| *count > 0)
    }
}

impl Lives {
    /// Notes what a batch has done.
    pub(crate) fn apply(&mut self, batch: &Batch<'_>, outcomes: &[Outcome]) {
        let number = batch.time_ms;
        let Lives { lives, pins, counts } = self;
        for (command, outcome) in batch.commands().zip(outcomes) {
            let (_, command) = command.expect("a command");
            match (command, &outcome.reply) {
                (Command::Create { key, incarnation, .. }, Reply::Created(facts)) if key.bucket() == BUCKET => {
                    let begin = facts.earliest.position;
                    let mut life = Life { begin, bytes: Vec::new() };
                    if let Some(Asked { source, upto, .. }) = pins.get(&incarnation) {
                        let source = &lives[source];
                        let range = (begin - source.begin) as usize..(upto - source.begin) as usize;
                        life.bytes.extend_from_slice(&source.bytes[range]);
                        counts.forked += 1;
                    }
                    life.bytes.extend(record(incarnation, number));
                    assert_eq!(life.end(), facts.next.position, "a stream begins with what it inherits and its body");
                    lives.insert(incarnation, life);
                }
                (Command::Append { key, incarnation, .. }, Reply::Appended(_)) if key.bucket() == BUCKET => {
                    lives.get_mut(&incarnation).expect("it was created").bytes.extend(record(incarnation, number));
                }
                (Command::Pin { fork_incarnation, .. }, Reply::Pinned(facts)) => {
                    pins.get_mut(&fork_incarnation).expect("it was asked for").base = Some(facts.earliest.position);
                    counts.pinned += 1;
                }
                (Command::ForkDecide { .. }, Reply::ForkDecided { is_there: false }) => counts.averted += 1,
                (Command::ForkReleased { .. }, Reply::Done) => counts.released += 1,
                (Command::Delete { key, .. }, Reply::Done) if key.bucket() == BUCKET => counts.deleted += 1,
                (Command::Trim { .. }, Reply::Trimmed(_)) => counts.trimmed += 1,
                (Command::Ack { .. }, Reply::Done) => counts.acknowledged += 1,
                (Command::MetaSubscription { .. }, Reply::Subscription { .. }) => counts.stepped += 1,
                _ => {}
            }
        }
    }
}

impl Life {
    fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }
}

/// A client that changes forks and subscriptions, and now and then does what is owed.
pub(crate) async fn client(trio: Rc<Trio>, dice: Dice, is_over: Rc<Cell<bool>>) {
    while !is_over.get() {
        sleep(dice.millis(5..60)).await;
        let node = if dice.below(10) > 0 { trio.leader() } else { Some(trio.any(&dice)) };
        let Some((node, state)) = node.and_then(|node| Some((node, trio.node(node).state()?))) else { continue };
        if dice.below(4) == 0 {
            let time_ms = state.borrow().time_ms();
            pay(&trio, node, &state, time_ms, &|| dice.below(5) == 0).await;
        } else {
            let change = |builder: &mut BatchBuilder, number| {
                let group = state.borrow();
                for _ in 0..=dice.below(3) {
                    push_change(builder, &group, &dice, &trio.history, number);
                }
            };
            // What becomes of it is in the history.
            let _ = propose(&trio, node, dice.millis(500..4000), change).await;
        }
    }
}

async fn propose(
    trio: &Trio,
    node: u64,
    within: Duration,
    fill: impl FnOnce(&mut BatchBuilder, u64),
) -> Result<(), ProposeError> {
    let (number, frame) = trio.history.begin_batch(BATCH_BYTES, fill);
    let result = timeout(within, trio.node(node).propose(frame)).await.unwrap_or(Err(ProposeError::Unknown));
    trio.history.end(number, result);
    result
}

/// Proposes one command, and says whether the node has applied it.
async fn has_applied(trio: &Trio, node: u64, command: &Command<'_>) -> bool {
    propose(trio, node, Duration::from_secs(4), |builder, _| builder.push(command)).await.is_ok()
}

/// Does what a node has to do as the leader: releases pins, and settles those whose time is over at `time_ms`. Stops anywhere when it
/// fails or `is_interrupted` says so; says whether nothing is left of what there was.
async fn pay(trio: &Trio, node: u64, state: &State, time_ms: u64, is_interrupted: &dyn Fn() -> bool) -> bool {
    let parse = |key: &str| StreamKey::parse(key).expect("it is a stream's");
    let (releases, pins): (Vec<_>, Vec<_>) = {
        let group = state.borrow();
        let releases = group.releases().map(|(fork, release)| (fork, release.clone()));
        let pins = group.unsettled_pins(time_ms).map(|(fork, until_ms, pin)| (fork, until_ms, pin.clone()));
        (releases.collect(), pins.collect())
    };
    for (fork, Release { source, source_incarnation: incarnation, keeps_pin }) in releases {
        let source = parse(&source);
        let unpin = Command::Unpin { key: KeyRef::from(&source), incarnation, fork, keeps_pin };
        let released = Command::ForkReleased { incarnation: fork, keeps_pin };
        if !has_applied(trio, node, &unpin).await || is_interrupted() || !has_applied(trio, node, &released).await {
            return false;
        }
    }
    for (fork, until_ms, pin) in pins {
        let (source, fork_key) = (parse(&pin.source), parse(&pin.fork));
        let decide = Command::ForkDecide { key: KeyRef::from(&fork_key), incarnation: fork, until_ms };
        if !has_applied(trio, node, &decide).await || is_interrupted() {
            return false;
        }
        // It was decided, so one that is not there will never be.
        let is_there = state.borrow().life(&fork_key, fork).is_some();
        let (key, incarnation) = (KeyRef::from(&source), pin.source_incarnation);
        let settled = match is_there {
            true => Command::PinSettle { key, incarnation, fork },
            false => Command::Unpin { key, incarnation, fork, keeps_pin: false },
        };
        if !has_applied(trio, node, &settled).await || is_interrupted() {
            return false;
        }
    }
    true
}

/// Adds a change that somebody may ask for who has seen `group`.
fn push_change(builder: &mut BatchBuilder, group: &Group, dice: &Dice, history: &History, number: u64) {
    let Some(bucket) = group.meta().bucket(BUCKET) else {
        builder.push(&Command::MetaForm { groups: 1 });
        builder.push(&Command::MetaBucket { name: BUCKET, step: BucketStep::Create });
        return;
    };
    if group.bucket(BUCKET).is_none_or(|known| known.epoch < bucket.epoch) && dice.below(2) == 0 {
        push_told(builder, group);
    }
    let live: Vec<&Stream> = streams(group).filter(|stream| !stream.is_gone()).collect();
    let some = || live.get(dice.below(live.len().max(1) as u64) as usize).copied();
    // Where a record of it begins, or its tail.
    let position = |stream: &Stream| {
        let (base, tail) = (stream.base(), stream.tail().position);
        base + dice.below((tail - base) / RECORD_BYTES + 1) * RECORD_BYTES
    };
    let drawn = || Incarnation(1 + dice.below(u64::MAX - 1));
    let name = || key(dice.below(NAMES));
    match dice.below(16) {
        0 | 1 => push_create(builder, group, &name(), drawn(), None, number),
        2..=5 => {
            let Some(stream) = some() else { return };
            let (key, incarnation) = (key_of(stream), stream.incarnation());
            let body = record(incarnation, number);
            builder.push(&Command::Append {
                key: KeyRef::from(&key),
                incarnation,
                close: false,
                producer: None,
                seq: None,
                if_match: None,
                bindings_epoch: group.bindings_epoch(),
                records: Records::whole(&body),
            });
        }
        6 | 7 => {
            let Some(stream) = some() else { return };
            let (source, fork, fork_incarnation, upto) = (key_of(stream), name(), drawn(), position(stream));
            let asked = Asked { source: stream.incarnation(), base: None, upto, is_fork_asked: false };
            history.lives().pins.insert(fork_incarnation, asked);
            builder.push(&Command::Pin {
                key: KeyRef::from(&source),
                incarnation: stream.incarnation(),
                fork: KeyRef::from(&fork),
                fork_incarnation,
                upto,
                until_ms: number + dice.below(PIN_BATCHES),
            });
        }
        8..=10 => push_fork(builder, group, dice, history, number),
        11 => {
            let Some(stream) = some() else { return };
            let (key, incarnation) = (key_of(stream), stream.incarnation());
            builder.push(&Command::Delete { key: KeyRef::from(&key), incarnation, if_match: None });
        }
        12 => {
            let Some(stream) = some() else { return };
            let (key, incarnation, before) = (key_of(stream), stream.incarnation(), position(stream));
            builder.push(&Command::Trim { key: KeyRef::from(&key), incarnation, before, force: true });
        }
        13 => push_ack(builder, group, dice, position),
        _ => push_step(builder, group, dice),
    }
}

/// Tells the group of its bucket as group 0 has it, which is the same group here.
fn push_told(builder: &mut BatchBuilder, group: &Group) {
    let Some(bucket) = group.meta().bucket(BUCKET) else { return };
    let watches = EncodedWatches::encode(bucket.subscriptions.values());
    let (bindings, watches) = (EncodedBindings::of(&[0, 0]), EncodedWatches::of(&watches));
    let (created_ms, retention) = (bucket.created_ms, Retention::default());
    let told = BucketTold::There { created_ms, fenced: false, retention, bindings, watches };
    builder.push(&Command::Bucket { name: BUCKET, epoch: bucket.epoch, told });
}

fn push_create(
    builder: &mut BatchBuilder,
    group: &Group,
    key: &StreamKey,
    incarnation: Incarnation,
    fork: Option<EncodedFork<'_>>,
    number: u64,
) {
    let body = record(incarnation, number);
    builder.push(&Command::Create {
        key: KeyRef::from(key),
        incarnation,
        content_type: "text/plain",
        expiry: Expiry::Never,
        closed: false,
        only_new: fork.is_none(),
        bindings_epoch: group.bindings_epoch(),
        fork,
        records: Records::whole(&body),
    });
}

/// The second step of a fork, for some pin that has none yet, as far as is known.
fn push_fork(builder: &mut BatchBuilder, group: &Group, dice: &Dice, history: &History, number: u64) {
    let mut lives = history.lives();
    let is_free = |key: &str| group.stream(&StreamKey::parse(key).expect("it is a stream's")).is_none();
    let is_asked = |fork| lives.pins[&fork].is_fork_asked;
    let unsettled = group.unsettled_pins(u64::MAX);
    let unsettled: Vec<_> = unsettled.filter(|(fork, _, pin)| !is_asked(*fork) && is_free(&pin.fork)).collect();
    if unsettled.is_empty() {
        return;
    }
    let (incarnation, until_ms, pin) = unsettled[dice.below(unsettled.len() as u64) as usize];
    let source = StreamKey::parse(&pin.source).expect("it is a stream's");
    let Some(source) = group.life(&source, pin.source_incarnation) else { return };
    let asked = lives.pins.get_mut(&incarnation).expect("it was asked for");
    asked.is_fork_asked = true;
    let (base, begin) = (asked.base.expect("it was pinned"), asked.upto);
    let fork = Fork {
        source: source.key().into(),
        source_incarnation: source.incarnation(),
        point: ForkPoint::At,
        anchor: begin,
        sub_offset: 0,
        inherits_expiry: true,
        begin,
        ancestors: source.ancestors_upto(base, begin),
        lineages: source.lineages().inherited_by(base, begin),
    };
    let encoded = NewFork { fork, base, until_ms }.encode();
    let key = StreamKey::parse(&pin.fork).expect("it is a stream's");
    push_create(builder, group, &key, incarnation, Some(EncodedFork::of(&encoded)), number);
}

/// A worker says up to where it has processed something.
fn push_ack(builder: &mut BatchBuilder, group: &Group, dice: &Dice, position: impl Fn(&Stream) -> u64) {
    let numbers = group.meta().bucket(BUCKET).into_iter().flat_map(|bucket| bucket.subscriptions.values());
    let pending: Vec<(u64, Vec<Ack>)> = numbers
        .map(|subscription| {
            let ack = |stream: &Stream| Ack {
                name: key_of(stream).name().into(),
                incarnation: stream.incarnation(),
                position: position(stream),
            };
            let linked = group.pending(BUCKET, subscription.number).map(|linked| ack(linked.stream));
            (subscription.number, linked.collect())
        })
        .collect();
    for (number, acks) in pending.iter().filter(|_| dice.below(2) == 0) {
        let acks = EncodedAcks::encode(acks);
        // Some come too late.
        let until_ms = if dice.below(8) == 0 { 0 } else { LATE_MS };
        builder.push(&Command::Ack { bucket: BUCKET, number: *number, until_ms, acks: EncodedAcks::of(&acks) });
    }
}

/// A step of some subscription.
fn push_step(builder: &mut BatchBuilder, group: &Group, dice: &Dice) {
    let id = if dice.below(2) == 0 { "one" } else { "two" };
    let names: BTreeSet<Box<str>> = (0..3).map(|_| key(dice.below(NAMES)).name().into()).collect();
    let encoded_names = EncodedNames::encode(&names);
    let names_said = EncodedNames::of(&encoded_names);
    let subscription = group.meta().subscription(BUCKET, id);
    let push = |builder: &mut BatchBuilder, step| {
        builder.push(&Command::MetaSubscription { bucket: BUCKET, id, step });
    };
    let Some(subscription) = subscription else {
        let config = SubscriptionConfig {
            delivery: Delivery::Webhook { url: "https://worker.example/hook".into() },
            pattern: (dice.below(2) == 0).then(|| Pattern::new("s*").expect("a pattern")),
            streams: names,
            lease_ms: 1000,
            description: None,
        };
        let config = config.encode();
        return push(builder, SubscriptionStep::Put { config: EncodedConfig::of(&config), root: "http://localhost/f" });
    };
    let number = subscription.number;
    let step = match (dice.below(8), subscription.turn()) {
        (0, _) => SubscriptionStep::Delete,
        (1, _) => SubscriptionStep::Link { names: names_said },
        (2, _) => SubscriptionStep::Unlink { names: names_said },
        (_, None) => SubscriptionStep::Wake { number, wake: 1 + dice.below(u64::MAX - 1), worker: None },
        (3, Some(turn)) => SubscriptionStep::Claim { turn, worker: "w" },
        (4, Some(turn)) => SubscriptionStep::Extend(turn),
        (5, Some(turn)) => SubscriptionStep::Delivered(turn),
        (6, Some(turn)) => SubscriptionStep::Failed { turn, retry_ms: dice.below(20) },
        (_, Some(turn)) => SubscriptionStep::End(turn),
    };
    push(builder, step);
}

/// Does all that is owed, while all is well.
pub(crate) async fn pay_all(trio: &Trio) {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < DONE_WITHIN, "forks and sources come to no agreement");
        let leader = trio.elected(None).await;
        let Some(state) = trio.node(leader).state() else { continue };
        // A leader that was just elected may have applied less than others have.
        if has_applied(trio, leader, &Command::MetaForm { groups: 1 }).await
            && pay(trio, leader, &state, u64::MAX, &|| false).await
            && owed(&state.borrow()) == 0
        {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Deletes all streams, and finds that nothing is left of them.
pub(crate) async fn delete_all(trio: &Trio) {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < DONE_WITHIN, "not all streams go");
        let leader = trio.elected(None).await;
        let Some(state) = trio.node(leader).state() else { continue };
        let delete = |builder: &mut BatchBuilder, _| {
            let group = state.borrow();
            for stream in streams(&group) {
                let (key, incarnation) = (key_of(stream), stream.incarnation());
                builder.push(&Command::Delete { key: KeyRef::from(&key), incarnation, if_match: None });
            }
        };
        if propose(trio, leader, Duration::from_secs(4), delete).await.is_ok() {
            break;
        }
    }
    pay_all(trio).await;
    let state = trio.node(trio.elected(None).await).state().expect("it leads");
    let group = state.borrow();
    let left: Vec<&str> = streams(&group).map(Stream::key).collect();
    assert!(left.is_empty(), "{left:?} are left");
    assert_eq!(group.pending_subscriptions().count(), 0, "nothing is pending in what is gone");
}

/// What forks and their sources owe each other.
fn owed(group: &Group) -> usize {
    group.releases().count() + group.unsettled_pins(u64::MAX).count()
}

/// Whether all fits together, when nothing is owed: each fork pins its source and nobody else does, what streams inherit is there,
/// and who has a cursor before a tail knows it. `held` has for each stream where the bytes begin that it holds, and these.
pub(crate) fn check(group: &Group, held: &BTreeMap<String, (u64, Vec<u8>)>, lives: &Lives) {
    let all: BTreeMap<&str, &Stream> = streams(group).map(|stream| (stream.key(), stream)).collect();
    let forks = || all.values().filter_map(|stream| stream.fork());
    for (key, stream) in &all {
        let count = forks().filter(|fork| (&*fork.source, fork.source_incarnation) == (key, stream.incarnation()));
        assert_eq!(stream.forks(), count.count(), "the pins of {key} are its forks");
        assert!(!stream.is_gone() || stream.forks() > 0, "{key} is kept for nobody");
        if !stream.is_gone() {
            let life = &lives.lives[&stream.incarnation()];
            assert_eq!(stream.tail().position, life.end(), "the end of {key}");
            let expected = &life.bytes[(stream.base() - life.begin) as usize..];
            assert!(content(stream, &all, held) == expected, "{key} has what was appended to it and to its sources");
        }
    }
    for fork in forks() {
        let source = all.get(&*fork.source).map(|source| source.incarnation());
        assert_eq!(source, Some(fork.source_incarnation), "{} is kept for its forks", fork.source);
    }
    for subscription in group.meta().bucket(BUCKET).into_iter().flat_map(|bucket| bucket.subscriptions.values()) {
        let number = subscription.number;
        let linked = all.values().filter_map(|stream| group.linked(BUCKET, number, stream));
        let behind: BTreeSet<&str> =
            linked.filter(|it| it.acked < it.stream.tail().position).map(|it| it.stream.key()).collect();
        let pending: BTreeSet<&str> = group.pending(BUCKET, number).map(|linked| linked.stream.key()).collect();
        assert_eq!(pending, behind, "what is pending for {number}");
    }
}

/// What a stream has, wherever it is held.
fn content(stream: &Stream, all: &BTreeMap<&str, &Stream>, held: &BTreeMap<String, (u64, Vec<u8>)>) -> Vec<u8> {
    let mut position = stream.base();
    let inherited = stream.inherited_from(position).iter().map(|it| (&*it.key, it.incarnation, it.upto));
    let own = (stream.key(), stream.incarnation(), stream.tail().position);
    let mut content = Vec::new();
    for (key, life, upto) in inherited.chain([own]) {
        assert_eq!(all.get(key).map(|it| it.incarnation()), Some(life), "{key} holds a part of {}", stream.key());
        let (begin, bytes) = &held[key];
        let range = position.checked_sub(*begin).zip(upto.checked_sub(*begin));
        let part = range.and_then(|(from, to)| bytes.get(from as usize..to as usize));
        content.extend_from_slice(part.unwrap_or_else(|| panic!("{key} lacks {position}..{upto}")));
        position = upto;
    }
    content
}

fn streams(group: &Group) -> impl Iterator<Item = &Stream> {
    let all = (0..SLOTS).flat_map(|slot| group.slot(slot));
    all.filter(|stream| stream.key().split_once('/').is_some_and(|(bucket, _)| bucket == BUCKET))
}

fn key(nth: u64) -> StreamKey {
    KEYS[nth as usize].clone()
}

/// In slots of their own: of streams of one slot, a snapshot's bytes depend on their order, which is no part of the state.
static KEYS: LazyLock<Vec<StreamKey>> = LazyLock::new(|| {
    let key = |bucket, nth| StreamKey::new(bucket, &format!("s{nth}")).expect("a valid key");
    let mut taken: BTreeSet<usize> = (0..OTHERS).map(|nth| key("b", nth).slot().index()).collect();
    let keys = (0..).map(|nth| key(BUCKET, nth));
    keys.filter(|key| taken.insert(key.slot().index())).take(NAMES as usize).collect()
});

fn key_of(stream: &Stream) -> StreamKey {
    StreamKey::parse(stream.key()).expect("it is a stream's")
}

fn record(incarnation: Incarnation, number: u64) -> Vec<u8> {
    [incarnation.0.to_le_bytes(), number.to_le_bytes()].concat()
}
