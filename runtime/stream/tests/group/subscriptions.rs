//! Subscriptions: which streams they are linked to and from where on, and how their wakes follow each other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use weir_stream::subscription::{
    Ack, Delivery, EncodedAcks, EncodedConfig, EncodedNames, EncodedWatches, HookSeed, Link, Subscription,
    SubscriptionConfig, SubscriptionStep, Turn,
};
use weir_stream::{
    BucketStep, BucketTold, Command, EncodedBindings, Expiry, Pattern, Records, Refusal, Reply, Retention, Split,
};
use weir_types::{Incarnation, StreamKey};

use crate::snapshot::frozen;
use crate::world::World;

const BUCKET: &str = "b";

fn key(name: &str) -> StreamKey {
    StreamKey::new(BUCKET, name).expect("a valid name")
}

fn names(names: &[&str]) -> BTreeSet<Box<str>> {
    names.iter().map(|name| Box::from(*name)).collect()
}

fn config(is_webhook: bool, pattern: Option<&str>, streams: &[&str]) -> SubscriptionConfig {
    let delivery = match is_webhook {
        true => Delivery::Webhook { url: "https://worker.example/hook".into() },
        false => Delivery::PullWake { wake_stream: "wake/pool".into() },
    };
    let pattern = pattern.map(|pattern| Pattern::new(pattern).expect("a pattern"));
    SubscriptionConfig { delivery, pattern, streams: names(streams), lease_ms: 1000, description: None }
}

/// What a step is answered with, whatever groups are to hear of it.
fn stepped(generation: u64, existed: bool) -> Reply {
    Reply::Subscription { generation, existed, told: None }
}

/// A group that is group 0, too, with a bucket.
struct Net {
    world: World,
    time_ms: u64,
    lives: BTreeMap<String, u64>,
    next_life: u64,
}

impl Net {
    fn new() -> Net {
        let mut net = Net { world: World::new(), time_ms: 10, lives: BTreeMap::new(), next_life: 1 };
        net.apply(&Command::MetaForm { groups: 1 });
        net.apply(&Command::MetaBucket { name: BUCKET, step: BucketStep::Create });
        net.tell();
        net
    }

    fn apply(&mut self, command: &Command<'_>) -> Reply {
        self.world.apply(self.time_ms, command).reply
    }

    /// Tells the group of the bucket as group 0 has it.
    fn tell(&mut self) {
        let bucket = self.world.group.meta().bucket(BUCKET).expect("it is there").clone();
        let watches = EncodedWatches::encode(bucket.subscriptions.values());
        let (bindings, watches) = (EncodedBindings::of(&[0, 0]), EncodedWatches::of(&watches));
        let retention = Retention::default();
        let told = BucketTold::There { created_ms: bucket.created_ms, fenced: false, retention, bindings, watches };
        let reply = self.apply(&Command::Bucket { name: BUCKET, epoch: bucket.epoch, told });
        assert!(matches!(reply, Reply::Bucket { .. }), "{reply:?}");
    }

    fn step(&mut self, id: &str, step: SubscriptionStep<'_>) -> Reply {
        let before = self.world.group.meta().subscription(BUCKET, id).map(|subscription| subscription.number);
        let reply = self.apply(&Command::MetaSubscription { bucket: BUCKET, id, step });
        let Reply::Subscription { generation, existed, told } = reply else { return reply };
        match told {
            // Every other change is told by itself, so that what comes of both ways is compared.
            Some((after, epoch)) if epoch % 2 == 0 => {
                let bucket = self.world.group.meta().bucket(BUCKET).expect("it is there");
                let subscription = bucket.subscriptions.get(id);
                let number =
                    subscription.map(|subscription| subscription.number).or(before).expect("it is or was there");
                let watches = EncodedWatches::encode(subscription.into_iter());
                let told = BucketTold::Watch { after, number, watches: EncodedWatches::of(&watches) };
                let reply = self.apply(&Command::Bucket { name: BUCKET, epoch, told });
                assert!(matches!(reply, Reply::Bucket { .. }), "{reply:?}");
            }
            Some(_) => self.tell(),
            None => {}
        }
        stepped(generation, existed)
    }

    fn put(&mut self, id: &str, config: &SubscriptionConfig) -> Reply {
        let encoded = config.encode();
        self.step(id, SubscriptionStep::Put { config: EncodedConfig::of(&encoded), root: "http://localhost/b" })
    }

    fn link(&mut self, id: &str, these: &[&str], is_linked: bool) -> Reply {
        let encoded = EncodedNames::encode(&names(these));
        let names = EncodedNames::of(&encoded);
        self.step(id, if is_linked { SubscriptionStep::Link { names } } else { SubscriptionStep::Unlink { names } })
    }

    fn subscription(&self, id: &str) -> &Subscription {
        self.world.group.meta().subscription(BUCKET, id).expect("it is there")
    }

    /// Creates the stream if it is not there, appends otherwise.
    fn write(&mut self, name: &str, body: &str) {
        let (key, split) = (key(name), Split::Whole);
        let records = match body {
            "" => Records::NONE,
            body => Records::new(body.as_bytes(), &split),
        };
        let key = (&key).into();
        let reply = match self.lives.get(name).copied() {
            None => {
                let incarnation = Incarnation(self.next_life);
                self.lives.insert(name.to_string(), self.next_life);
                self.next_life += 1;
                let (content_type, expiry, bindings_epoch) = ("text/plain", Expiry::Never, 0);
                let (closed, only_new, fork) = (false, true, None);
                self.apply(&Command::Create {
                    key,
                    incarnation,
                    content_type,
                    expiry,
                    closed,
                    only_new,
                    bindings_epoch,
                    fork,
                    records,
                })
            }
            Some(life) => {
                let (producer, seq, if_match) = (None, None, None);
                let incarnation = Incarnation(life);
                self.apply(&Command::Append {
                    key,
                    incarnation,
                    close: false,
                    producer,
                    seq,
                    if_match,
                    bindings_epoch: 0,
                    records,
                })
            }
        };
        assert!(!matches!(reply, Reply::Refused(_)) || body.is_empty(), "{reply:?}");
    }

    fn delete(&mut self, name: &str) {
        let Some(life) = self.lives.remove(name) else { return };
        self.apply(&Command::Delete { key: (&key(name)).into(), incarnation: Incarnation(life), if_match: None });
    }

    fn ack(&mut self, id: &str, name: &str, position: u64) {
        let number = self.subscription(id).number;
        let incarnation = Incarnation(self.lives.get(name).copied().unwrap_or(999));
        let acks = EncodedAcks::encode(&[Ack { name: name.into(), incarnation, position }]);
        let until_ms = self.time_ms + 1;
        self.apply(&Command::Ack { bucket: BUCKET, number, until_ms, acks: EncodedAcks::of(&acks) });
    }

    /// `name link acked/tail` of each stream that a subscription is linked to.
    fn linked(&self, id: &str) -> BTreeMap<String, (Link, u64, u64)> {
        let (group, number) = (&self.world.group, self.subscription(id).number);
        let streams = self.lives.keys().filter_map(|name| group.stream(&key(name)));
        let linked = streams.filter_map(|stream| group.linked(BUCKET, number, stream));
        linked.map(|it| (it.name().to_string(), (it.link, it.acked, it.stream.tail().position))).collect()
    }

    fn pending(&self, id: &str) -> Vec<String> {
        let (group, number) = (&self.world.group, self.subscription(id).number);
        group.pending(BUCKET, number).map(|linked| linked.name().to_string()).collect()
    }
}

/// A group with streams and subscriptions in all states.
pub(crate) fn subscribed() -> World {
    let mut net = Net::new();
    net.write("events/old", "before");
    net.apply(&Command::MetaHookKey { seed: HookSeed([1; 32]), after_ms: 0 });
    net.put("hook", &config(true, Some("events/*"), &["manual/a"]));
    net.put("pull", &config(false, Some("**"), &[]));
    net.put("idle", &config(true, None, &["manual/b", "manual/c"]));
    for name in ["events/old", "events/new", "manual/a", "wake/pool"] {
        net.write(name, "some");
        net.write(name, "more");
    }
    net.ack("hook", "events/new", 4);
    for (id, worker) in [("hook", None), ("pull", Some("w-1")), ("idle", None)] {
        let number = net.subscription(id).number;
        net.step(id, SubscriptionStep::Wake { number, wake: 77, worker });
    }
    let turn = net.subscription("idle").turn().expect("a wake is under way");
    net.step("idle", SubscriptionStep::Failed { turn, retry_ms: 1000 });
    net.world
}

#[test]
fn all_of_subscriptions_comes_back() {
    let mut world = subscribed();
    let pages = frozen(&mut world.group);
    world.thaw(world.log.len(), &pages);
    world.check_replay();
}

#[test]
fn what_was_there_is_linked_at_its_tail_and_what_comes_later_at_its_beginning() {
    let mut net = Net::new();
    net.write("events/old", "12345");
    net.put("s", &config(true, Some("events/*"), &[]));
    assert_eq!(net.linked("s"), [("events/old".to_string(), (Link::Glob, 5, 5))].into());
    assert!(net.pending("s").is_empty() && !net.world.group.has_pending_news());
    net.write("events/new", "123");
    net.write("other/new", "123");
    net.write("events/later", "");
    assert_eq!(net.pending("s"), ["events/new"]);
    assert_eq!(net.world.group.take_pending_news().len(), 1);
    net.write("events/old", "678");
    net.write("events/later", "1");
    assert_eq!(net.pending("s"), ["events/later", "events/new", "events/old"]);
    assert_eq!(net.linked("s")["events/old"], (Link::Glob, 5, 8));
    assert_eq!(net.linked("s")["events/later"], (Link::Glob, 0, 1));
    net.write("events/old", "9");
    net.world.group.take_pending_news();
    net.write("events/old", "0");
    assert!(!net.world.group.has_pending_news(), "it was pending before");
}

#[test]
fn cursors_never_go_back_nor_beyond_the_tail() {
    let mut net = Net::new();
    net.put("s", &config(true, None, &["a"]));
    net.write("a", "12345");
    for (position, acked, is_pending) in [(2, 2, true), (1, 2, true), (99, 5, false), (0, 5, false)] {
        net.ack("s", "a", position);
        assert_eq!((net.linked("s")["a"].1, net.pending("s").len() == 1), (acked, is_pending), "{position}");
    }
    net.delete("a");
    net.write("a", "new");
    let life = net.lives.insert("a".to_string(), 1).expect("it is there");
    net.ack("s", "a", 3);
    net.lives.insert("a".to_string(), life);
    assert_eq!(net.linked("s")["a"], (Link::Explicit, 0, 3), "an earlier life was meant");
}

#[test]
fn a_name_is_linked_and_unlinked_beside_the_pattern() {
    let mut net = Net::new();
    net.write("events/a", "123");
    net.write("manual", "123");
    net.put("s", &config(true, Some("events/*"), &["events/a", "manual"]));
    net.write("events/a", "4");
    net.write("manual", "4");
    net.link("s", &["events/a", "manual"], false);
    assert_eq!(net.linked("s"), [("events/a".to_string(), (Link::Glob, 3, 4))].into());
    assert_eq!(net.pending("s"), ["events/a"]);
    net.link("s", &["manual"], true);
    assert_eq!(net.linked("s")["manual"], (Link::Explicit, 4, 4), "it is linked where it ends now");
    let same = net.put("s", &config(true, Some("events/*"), &["events/a", "manual"]));
    assert_eq!(same, stepped(0, true));
    let other = net.put("s", &config(true, Some("events/**"), &[]));
    assert_eq!(other, Reply::Refused(Refusal::SubscriptionConflict));
}

#[test]
fn a_subscription_is_not_woken_for_its_own_wakes() {
    let mut net = Net::new();
    net.put("s", &config(false, Some("**"), &[]));
    net.write("wake/pool", "x");
    net.write("a", "x");
    assert_eq!(net.pending("s"), ["a"]);
}

/// A pull-wake subscription whose wakes are written to `wake_stream`.
fn woken_in(wake_stream: &str, pattern: Option<&str>) -> SubscriptionConfig {
    SubscriptionConfig {
        delivery: Delivery::PullWake { wake_stream: wake_stream.into() },
        ..config(false, pattern, &["named"])
    }
}

#[test]
fn a_pattern_is_for_no_stream_that_wakes_of_the_bucket_are_written_to() {
    let mut net = Net::new();
    net.put("a", &woken_in("wake/a", Some("**")));
    net.put("hook", &config(true, Some("wake/*"), &[]));
    net.write("wake/b", "123");
    assert_eq!((net.pending("a"), net.pending("hook")), (vec!["wake/b".to_string()], vec!["wake/b".to_string()]));
    // Also what was linked before.
    net.put("b", &woken_in("wake/b", Some("**")));
    for _ in 0..2 {
        for id in ["a", "b", "hook"] {
            assert!(net.pending(id).is_empty() && net.linked(id).is_empty(), "{id}");
        }
        net.write("wake/a", "123");
        net.write("wake/b", "456");
        let pages = frozen(&mut net.world.group);
        net.world.thaw(net.world.log.len(), &pages);
    }
    // Unless it is named, and as long as it is.
    net.link("a", &["wake/b"], true);
    net.write("wake/b", "7");
    assert_eq!(net.linked("a"), [("wake/b".to_string(), (Link::Explicit, 9, 10))].into());
    net.put("c", &woken_in("wake/b", None));
    assert_eq!(net.pending("a"), ["wake/b"]);
    net.link("a", &["wake/b"], false);
    assert!(net.pending("a").is_empty() && net.linked("a").is_empty());
    net.step("b", SubscriptionStep::Delete);
    net.write("wake/b", "8");
    assert!(net.pending("a").is_empty(), "another one's wakes are written there");
    net.step("c", SubscriptionStep::Delete);
    net.write("wake/b", "90");
    assert_eq!(net.linked("a"), [("wake/b".to_string(), (Link::Glob, 11, 13))].into(), "it is one like others");
    net.world.check_replay();
}

#[test]
fn limits_are_said() {
    let mut net = Net::new();
    for n in 0..256 {
        let reply = net.put(&format!("s-{n}"), &config(true, Some("a"), &[]));
        assert_eq!(reply, stepped(0, false));
    }
    let full = Reply::Refused(Refusal::SubscriptionLimit);
    let long = config(true, Some(&format!("{}*b*", "a/".repeat(500))), &[]);
    let mut other = Net::new();
    let taken = (0..).take_while(|n| other.put(&format!("s-{n}"), &long) != full).count();
    assert_eq!(taken, 16_384 / (1003 + 1 + 1025), "what matching takes is bounded, for all of a bucket");
    assert_eq!(net.put("one-more", &config(true, Some("a"), &[])), full);
    let many: Vec<String> = (0..1024).map(|n| format!("m/{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(net.link("s-1", &["one", "more"], true), stepped(0, true));
    assert_eq!(net.link("s-1", &many, true), full);
    net.link("s-1", &["one", "more"], false);
    assert_eq!(net.link("s-1", &many, true), stepped(0, true));
    assert_eq!(net.link("s-1", &["more"], true), full);
    let missing = Reply::Refused(Refusal::SubscriptionNotFound);
    assert_eq!(net.step("nobody", SubscriptionStep::Delete), missing);
}

#[test]
fn one_wake_follows_another_and_what_was_meant_for_an_earlier_one_is_refused() {
    let fenced = Reply::Refused(Refusal::WakeFenced);
    let mut net = Net::new();
    net.put("s", &config(false, Some("**"), &[]));
    let number = net.subscription("s").number;
    let wake = |wake, worker| SubscriptionStep::Wake { number, wake, worker };
    assert_eq!(net.step("s", wake(5, None)), stepped(1, true));
    assert_eq!(net.step("s", wake(6, None)), fenced, "one at a time");
    let first = net.subscription("s").turn().expect("it is under way");
    assert_eq!(first, Turn { number, generation: 1, wake: 5 });
    for wrong in [Turn { number: number + 1, ..first }, Turn { generation: 2, ..first }, Turn { wake: 6, ..first }] {
        assert_eq!(net.step("s", SubscriptionStep::End(wrong)), fenced);
    }
    net.step("s", SubscriptionStep::Failed { turn: first, retry_ms: 500 });
    assert_eq!((net.subscription("s").failures, net.subscription("s").next_attempt_ms), (1, 510));
    net.step("s", SubscriptionStep::Claim { turn: first, worker: "w-1" });
    let claimed = net.subscription("s").clone();
    assert_eq!((claimed.failures, claimed.next_attempt_ms), (0, 0), "somebody has heard of it");
    assert_eq!(claimed.wake.and_then(|wake| wake.lease_until_ms), Some(1010));
    assert_eq!(net.step("s", SubscriptionStep::Claim { turn: first, worker: "w-2" }), fenced);
    net.time_ms = 700;
    net.step("s", SubscriptionStep::Extend(first));
    assert_eq!(net.subscription("s").wake.as_ref().and_then(|wake| wake.lease_until_ms), Some(1700));
    assert_eq!(net.step("s", SubscriptionStep::End(first)), stepped(1, true));
    assert_eq!(net.step("s", SubscriptionStep::End(first)), fenced);
    assert_eq!(net.step("s", wake(5, Some("w-2"))), stepped(2, true));
    net.step("s", SubscriptionStep::Delete);
    net.put("s", &config(false, Some("**"), &[]));
    assert_eq!(net.step("s", wake(7, None)), fenced, "another subscription was meant");
}

#[test]
fn a_webhook_that_fails_ends_its_wake() {
    let mut net = Net::new();
    net.put("s", &config(true, Some("**"), &[]));
    let number = net.subscription("s").number;
    for failures in 1..4 {
        net.step("s", SubscriptionStep::Wake { number, wake: 5, worker: None });
        let leased = net.subscription("s").wake.as_ref().and_then(|wake| wake.lease_until_ms);
        assert_eq!(leased, Some(1010), "its lease begins with it");
        let turn = net.subscription("s").turn().expect("it is under way");
        net.step("s", SubscriptionStep::Failed { turn, retry_ms: 1000 });
        let subscription = net.subscription("s");
        assert_eq!((subscription.failures, subscription.generation), (failures, u64::from(failures)));
        assert!(subscription.wake.is_none());
    }
}

#[test]
fn whoever_has_called_back_keeps_its_wake_whatever_becomes_of_the_call() {
    let mut net = Net::new();
    net.put("s", &config(true, Some("**"), &[]));
    let number = net.subscription("s").number;
    let begin = |net: &mut Net| {
        net.step("s", SubscriptionStep::Wake { number, wake: 5, worker: None });
        net.subscription("s").turn().expect("it is under way")
    };
    let turn = begin(&mut net);
    net.step("s", SubscriptionStep::Failed { turn, retry_ms: 1000 });
    let turn = begin(&mut net);
    net.time_ms = 900;
    net.step("s", SubscriptionStep::Extend(turn));
    let extended = net.subscription("s").clone();
    assert_eq!((extended.failures, extended.next_attempt_ms), (0, 0), "it was delivered");
    net.time_ms = 1010;
    net.step("s", SubscriptionStep::Failed { turn, retry_ms: 1000 });
    let failed = net.subscription("s").clone();
    assert_eq!((failed.turn(), &failed.wake), (Some(turn), &extended.wake), "its lease is as it was");
    assert_eq!((failed.failures, failed.next_attempt_ms), (1, 0), "nothing is to be tried again");
    net.time_ms = 1900;
    let late = net.step("s", SubscriptionStep::Extend(turn));
    assert_eq!(late, Reply::Refused(Refusal::WakeFenced), "its lease is over");
}

#[test]
fn an_acknowledgement_that_comes_after_the_lease_moves_no_cursor() {
    let mut net = Net::new();
    net.put("s", &config(true, None, &["a"]));
    net.write("a", "12345");
    let number = net.subscription("s").number;
    let acks = EncodedAcks::encode(&[Ack { name: "a".into(), incarnation: Incarnation(1), position: 3 }]);
    let ack = |until_ms| Command::Ack { bucket: BUCKET, number, until_ms, acks: EncodedAcks::of(&acks) };
    net.time_ms = 500;
    assert_eq!(net.apply(&ack(500)), Reply::Refused(Refusal::WakeFenced));
    assert_eq!(net.linked("s")["a"].1, 0);
    assert_eq!(net.apply(&ack(501)), Reply::Done);
    assert_eq!(net.linked("s")["a"].1, 3);
}

#[test]
fn what_subscriptions_hold_is_counted_until_they_are_gone() {
    let mut net = Net::new();
    let bytes = |net: &Net| net.world.group.index_bytes();
    let before = bytes(&net);
    let long = format!("{}/*", "p".repeat(500));
    let named: Vec<String> = (0..100).map(|n| format!("{}/{n}", "n".repeat(200))).collect();
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    net.put("s", &config(false, Some(&long), &[]));
    let put = bytes(&net);
    assert!(put > before + 2 * long.len(), "a pattern is in group 0 and in every group: {}", put - before);
    net.link("s", &named, true);
    let linked = bytes(&net);
    assert!(linked > put + 2 * 100 * 200, "and so are names: {}", linked - put);
    let number = net.subscription("s").number;
    net.step("s", SubscriptionStep::Wake { number, wake: 1, worker: Some(&"w".repeat(700)) });
    assert_eq!(bytes(&net), linked + 700, "and whoever has a wake");
    net.step("s", SubscriptionStep::End(net.subscription("s").turn().expect("it is under way")));
    assert_eq!(bytes(&net), linked);
    net.write(named[0], "x");
    let pages = frozen(&mut net.world.group);
    net.world.thaw(net.world.log.len(), &pages);
    net.delete(named[0]);
    while net.world.group.reap(100) {}
    assert_eq!(bytes(&net), linked, "it is the same after a snapshot");
    net.link("s", &named, false);
    net.step("s", SubscriptionStep::Delete);
    assert_eq!(bytes(&net), before);
}

#[test]
fn a_change_of_one_subscription_is_for_those_who_have_heard_of_the_one_before() {
    let mut net = Net::new();
    net.put("s", &config(true, Some("events/*"), &[]));
    let number = net.subscription("s").number;
    let bucket = net.world.group.bucket(BUCKET).expect("it is there");
    let none = EncodedWatches::NONE;
    let tell = |after, epoch| Command::Bucket {
        name: BUCKET,
        epoch,
        told: BucketTold::Watch { after, number, watches: none },
    };
    let stale = Reply::Refused(Refusal::Stale);
    assert_eq!(net.apply(&tell(bucket.epoch + 1, bucket.epoch + 2)), stale, "something between is missing");
    assert_eq!(net.apply(&tell(bucket.epoch - 1, bucket.epoch - 1)), stale, "it is older");
    net.write("events/a", "x");
    assert_eq!(net.pending("s"), ["events/a"]);
    assert!(matches!(net.apply(&tell(bucket.epoch, bucket.epoch + 1)), Reply::Bucket { .. }));
    assert!(net.pending("s").is_empty(), "it is gone");
}

#[test]
fn the_key_before_the_newest_stays() {
    let mut net = Net::new();
    for n in [1, 1, 2, 3] {
        net.time_ms += 1;
        let after_ms = net.world.group.meta().newest_key_ms();
        net.apply(&Command::MetaHookKey { seed: HookSeed([n; 32]), after_ms });
    }
    let seeds = |net: &Net| net.world.group.meta().hook_keys().iter().map(|key| key.seed.0[0]).collect::<Vec<u8>>();
    assert_eq!(seeds(&net), [2, 3]);
    let command = Command::MetaHookKey { seed: HookSeed([3; 32]), after_ms: 0 };
    let printed = format!("{:?} {command:?} {:?}", net.world.group.meta(), config(true, None, &["a"]));
    assert!(!printed.contains("3, 3") && !printed.contains("worker.example"), "a secret is in no log: {printed}");
}

#[test]
fn of_keys_that_were_asked_for_at_once_one_comes() {
    let mut net = Net::new();
    for n in [1, 2, 3] {
        net.apply(&Command::MetaHookKey { seed: HookSeed([n; 32]), after_ms: 0 });
    }
    let first_ms = net.world.group.meta().newest_key_ms();
    net.time_ms += 5;
    for n in [4, 5] {
        net.apply(&Command::MetaHookKey { seed: HookSeed([n; 32]), after_ms: first_ms });
    }
    let seeds: Vec<u8> = net.world.group.meta().hook_keys().iter().map(|key| key.seed.0[0]).collect();
    assert_eq!(seeds, [1, 4], "what was signed with the first is believed");
}

/// What may happen, in no particular order.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, &'static str),
    Delete(usize),
    Put(usize, usize),
    Remove(usize),
    Link(usize, usize, bool),
    Ack(usize, usize, u64),
    Snapshot,
}

const NAMES: [&str; 5] = ["a", "a/1", "a/2", "b/1", "wake/pool"];
const PATTERNS: [Option<&str>; 4] = [None, Some("a/*"), Some("**"), Some("b/**")];
/// Where each subscription's wakes are written.
const WAKES: [&str; 3] = ["wake/pool", "a/2", "b/1"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..NAMES.len(), prop_oneof![Just(""), Just("x"), Just("yyy")]).prop_map(|(n, body)| Step::Write(n, body)),
        1 => (0..NAMES.len()).prop_map(Step::Delete),
        2 => (0..3usize, 0..PATTERNS.len()).prop_map(|(id, pattern)| Step::Put(id, pattern)),
        1 => (0..3usize).prop_map(Step::Remove),
        2 => (0..3usize, 0..NAMES.len(), any::<bool>()).prop_map(|(id, name, on)| Step::Link(id, name, on)),
        4 => (0..3usize, 0..NAMES.len(), 0..12u64).prop_map(|(id, name, at)| Step::Ack(id, name, at)),
        1 => Just(Step::Snapshot),
    ];
    vec(step, 1..60)
}

/// A subscription as the model has it: every stream is linked as soon as it is there.
#[derive(Clone, Debug, Default)]
struct Model {
    pattern: usize,
    explicit: BTreeSet<&'static str>,
    acked: BTreeMap<&'static str, u64>,
}

impl Model {
    fn is_for(&self, name: &str, wakes: &[&str]) -> bool {
        let pattern = PATTERNS[self.pattern].map(|pattern| Pattern::new(pattern).expect("a pattern"));
        self.explicit.contains(name) || (!wakes.contains(&name) && pattern.is_some_and(|all| all.matches(name)))
    }

    /// What it is for is linked, new ones at these tails; nothing else is.
    fn link(&mut self, tails: &BTreeMap<&'static str, u64>, wakes: &[&str]) {
        let is_for = self.clone();
        self.acked.retain(|name, _| is_for.is_for(name, wakes) && tails.contains_key(name));
        for (name, tail) in tails.iter().filter(|(name, _)| is_for.is_for(name, wakes)) {
            self.acked.entry(name).or_insert(*tail);
        }
    }
}

fn link_all(models: &mut BTreeMap<usize, Model>, tails: &BTreeMap<&'static str, u64>) {
    let wakes: Vec<&str> = models.keys().map(|id| WAKES[*id]).collect();
    models.values_mut().for_each(|model| model.link(tails, &wakes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn links_and_cursors_agree_with_a_naive_model(steps in steps()) {
        let mut net = Net::new();
        let mut tails: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut models: BTreeMap<usize, Model> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Write(name, body) => {
                    let name = NAMES[name];
                    net.write(name, body);
                    if !tails.contains_key(name) {
                        tails.insert(name, 0);
                        link_all(&mut models, &tails);
                    }
                    *tails.get_mut(name).expect("it is there") += body.len() as u64;
                }
                Step::Delete(name) => {
                    net.delete(NAMES[name]);
                    tails.remove(NAMES[name]);
                    link_all(&mut models, &tails);
                }
                Step::Put(id, pattern) => {
                    let streams: &[&str] = if pattern == 0 { &["a"] } else { &[] };
                    let delivery = Delivery::PullWake { wake_stream: WAKES[id].into() };
                    let asked = SubscriptionConfig { delivery, ..config(false, PATTERNS[pattern], streams) };
                    let reply = net.put(&id.to_string(), &asked);
                    if reply == stepped(0, false) {
                        let explicit = if pattern == 0 { ["a"].into() } else { BTreeSet::new() };
                        let model = Model { pattern, explicit, ..Model::default() };
                        prop_assert!(models.insert(id, model).is_none());
                        link_all(&mut models, &tails);
                    } else {
                        prop_assert!(models.contains_key(&id));
                    }
                }
                Step::Remove(id) => {
                    net.step(&id.to_string(), SubscriptionStep::Delete);
                    models.remove(&id);
                    link_all(&mut models, &tails);
                }
                Step::Link(id, name, is_linked) => {
                    net.link(&id.to_string(), &[NAMES[name]], is_linked);
                    if let Some(model) = models.get_mut(&id) {
                        if is_linked { model.explicit.insert(NAMES[name]); } else { model.explicit.remove(NAMES[name]); }
                    }
                    link_all(&mut models, &tails);
                }
                Step::Ack(id, name, position) => {
                    if let Some(model) = models.get_mut(&id) {
                        net.ack(&id.to_string(), NAMES[name], position);
                        if let Some(acked) = model.acked.get_mut(NAMES[name]) {
                            *acked = (*acked).max(position.min(tails[NAMES[name]]));
                        }
                    }
                }
                Step::Snapshot => {
                    let pages = frozen(&mut net.world.group);
                    net.world.thaw(net.world.log.len(), &pages);
                }
            }
            for (id, model) in &models {
                let linked = net.linked(&id.to_string());
                let acked: BTreeMap<&str, u64> = linked.iter().map(|(name, it)| (name.as_str(), it.1)).collect();
                prop_assert_eq!(&acked, &model.acked);
                let behind = model.acked.iter().filter(|(name, acked)| **acked < tails[**name]);
                let behind: Vec<String> = behind.map(|(name, _)| name.to_string()).collect();
                prop_assert_eq!(net.pending(&id.to_string()), behind);
            }
        }
        net.world.check_replay();
    }
}
