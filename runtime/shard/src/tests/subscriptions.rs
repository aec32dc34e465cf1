//! Subscriptions over the groups and shards of a node, with a clock that moves when a test says so.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use weir_hooks::{HooksConfig, Policy};
use weir_stream::subscription::{Delivery, EncodedNames, Subscription, SubscriptionConfig, SubscriptionStep, Wake};
use weir_stream::{Pattern, Refusal, Stream};
use weir_types::BucketName;
use weir_types::limits::PRODUCER_NUMBER_MAX;

use super::*;
use crate::message::{LinksAsk, LinksRequest, Request};
use crate::subscriptions::wakes::wake_producer;
use crate::{AckRequest, ClaimedWake, Producer};

const HOUR: Duration = Duration::from_secs(3600);
const STREAMS: [&str; 5] = ["events/a", "events/b", "events/c", "events/d", "events/e"];

fn bucket() -> BucketName {
    BucketName::new("demo").expect("a name")
}

fn pull_wake(wake_stream: &str) -> SubscriptionConfig {
    SubscriptionConfig {
        delivery: Delivery::PullWake { wake_stream: wake_stream.into() },
        pattern: Some(Pattern::new("events/*").expect("a pattern")),
        streams: BTreeSet::new(),
        lease_ms: 5_000,
        description: None,
    }
}

fn said(claimed: &ClaimedWake, acks: Vec<(Box<str>, Offset)>, done: bool) -> AckRequest {
    AckRequest {
        token: claimed.token.clone(),
        generation: claimed.turn.generation,
        wake: claimed.turn.wake,
        acks,
        done,
    }
}

/// All that was claimed.
fn all(claimed: &ClaimedWake) -> Vec<(Box<str>, Offset)> {
    claimed.streams.iter().map(|stream| (stream.name.clone(), stream.tail.expect("it is there"))).collect()
}

impl Node {
    async fn claim(&self, worker: &str) -> Result<ClaimedWake, ShardError> {
        self.shards[1].subscription_claim(bucket(), "s", worker).await
    }

    async fn ack(&self, request: AckRequest) -> Result<bool, ShardError> {
        self.shards[1].subscription_ack(bucket(), "s", request).await
    }

    /// A node with a subscription over streams of several groups, each with a record.
    async fn subscribed(config: ShardConfig) -> Node {
        let node = Node::start_on(disks(), config).await;
        let view = node.shards[1].subscription_put(bucket(), "s", pull_wake("wakes"), "http://localhost/demo").await;
        assert!(!view.expect("it is made").existed);
        for name in STREAMS {
            node.create(&key(name), Expiry::Never).await;
            node.append(&key(name), "x").await.expect("appends");
        }
        node
    }
}

#[test]
fn a_lease_that_is_over_is_fenced_and_another_worker_has_what_was_not_acknowledged() {
    run(async {
        let node = Node::subscribed(config()).await;
        let first = node.claim("w-1").await.expect("it is claimed");
        let names: BTreeSet<&str> = first.streams.iter().map(|stream| &*stream.name).collect();
        assert_eq!(names, BTreeSet::from(STREAMS), "streams of all groups");
        let refused = node.claim("w-2").await.expect_err("it is held");
        assert!(matches!(refused, ShardError::Claimed { holder, generation: 1 } if &*holder == "w-1"));
        let begun = all(&first)[..2].to_vec();
        assert!(!node.ack(said(&first, begun, false)).await.expect("it is held"), "nothing follows yet");
        node.advance(Duration::from_millis(4_900));
        assert!(!node.ack(said(&first, Vec::new(), false)).await.expect("the lease has begun anew"));
        node.advance(Duration::from_millis(5_000));
        let late = node.ack(said(&first, all(&first), true)).await.expect_err("the lease is over");
        assert!(matches!(late, ShardError::Refused(Refusal::WakeFenced)), "{late:?}");
        let second = node.claim("w-2").await.expect("it is free");
        assert!(second.turn.generation > first.turn.generation);
        assert_eq!(second.streams.len(), STREAMS.len() - 2, "what was acknowledged stays so");
        let late = node.ack(said(&first, all(&first), true)).await.expect_err("another one has it");
        assert!(matches!(late, ShardError::Refused(Refusal::WakeFenced)), "{late:?}");
        node.append(&key(STREAMS[0]), "more").await.expect("appends");
        assert!(node.ack(said(&second, all(&second), true)).await.expect("it is held"), "there is more");
        let third = node.claim("w-1").await.expect("it is free");
        assert_eq!(third.streams.iter().map(|stream| &*stream.name).collect::<Vec<_>>(), [STREAMS[0]]);
        assert!(!node.ack(said(&third, all(&third), true)).await.expect("it is held"));
        let nothing = node.claim("w-1").await.expect_err("all is done");
        assert!(matches!(nothing, ShardError::NothingPending), "{nothing:?}");
    });
}

#[test]
fn what_cannot_be_acknowledged_moves_nothing() {
    run(async {
        let node = Node::subscribed(config()).await;
        node.create(&key("other"), Expiry::Never).await;
        let other = node.append(&key("other"), "x").await.expect("appends").next;
        let claimed = node.claim("w").await.expect("it is claimed");
        let mut beyond = all(&claimed);
        beyond[4].1.position += 1;
        let mut unlinked = all(&claimed);
        unlinked.push(("other".into(), other));
        for acks in [beyond, unlinked] {
            let refused = node.ack(said(&claimed, acks, true)).await.expect_err("it is not there");
            assert!(matches!(refused, ShardError::Refused(Refusal::OffsetInvalid)), "{refused:?}");
        }
        let view = node.shards[0].subscription(bucket(), "s").await.expect("it is there");
        assert_eq!(view.streams.iter().filter(|stream| stream.has_pending()).count(), STREAMS.len());
        let forged = AckRequest { token: "forged".into(), ..said(&claimed, Vec::new(), true) };
        assert!(matches!(node.ack(forged).await, Err(ShardError::TokenInvalid)));
    });
}

#[test]
fn what_was_read_of_an_earlier_fork_of_the_same_name_acknowledges_nothing_of_a_later_one() {
    run(async {
        let node = Node::subscribed(config()).await;
        let claimed = node.claim("w").await.expect("it is claimed");
        node.ack(said(&claimed, all(&claimed), true)).await.expect("it is acknowledged");
        node.fork(&key("events/a"), &key("events/f"), ReadFrom::Now).await.expect("forks");
        node.append(&key("events/f"), "first").await.expect("appends");
        let of_first = node.claim("w").await.expect("it is claimed");
        assert_eq!(all(&of_first).len(), 1, "nothing else has anything new");
        node.delete(&key("events/f")).await.expect("deletes");
        node.fork(&key("events/a"), &key("events/f"), ReadFrom::Now).await.expect("forks");
        node.append(&key("events/f"), "other").await.expect("appends");
        node.ack(said(&of_first, all(&of_first), true)).await.expect("what is gone is passed over");
        let of_second = node.claim("w").await.expect("it is claimed");
        let streams: Vec<_> = of_second.streams.iter().map(|stream| (&*stream.name, stream.acked)).collect();
        let begin = node.with_stream(&key("events/a"), Stream::tail).expect("it is there");
        assert_eq!(streams, [("events/f", Some(begin))]);
    });
}

#[test]
fn whoever_is_not_of_the_wake_under_way_moves_no_cursor_whatever_it_has_checked_before() {
    run(async {
        let node = Node::subscribed(config()).await;
        let claimed = node.claim("w").await.expect("it is claimed");
        let (core, turn, acks) = (&node.shards[0].0, claimed.turn, all(&claimed));
        let pending = async || {
            let view = node.shards[0].subscription(bucket(), "s").await.expect("it is there");
            view.streams.iter().filter(|stream| stream.has_pending()).count()
        };
        let fenced = |result: Result<(), ShardError>| {
            assert!(matches!(result, Err(ShardError::Refused(Refusal::WakeFenced))), "{result:?}");
        };
        // It was under way a moment ago, and this comes late to the groups of the streams.
        fenced(core.ack_all(&bucket(), turn.number, &acks, Some(core.clock.now_ms())).await);
        assert_eq!(pending().await, STREAMS.len());
        node.advance(Duration::from_secs(1));
        core.extend(&bucket(), "s", turn, &acks[..1]).await.expect("it is under way");
        let view = node.shards[0].subscription(bucket(), "s").await.expect("it is there");
        let lease_until_ms = view.subscription.wake.and_then(|wake| wake.lease_until_ms);
        assert_eq!(lease_until_ms, Some(core.clock.now_ms() + 5_000), "group 0 has said so, with another lease");
        // Another leader has ended it, and this one has not heard of that yet.
        core.subscription_step(&bucket(), "s", SubscriptionStep::End(turn)).await.expect("it is under way");
        fenced(core.extend(&bucket(), "s", turn, &acks).await);
        assert_eq!(pending().await, STREAMS.len() - 1);
    });
}

/// Waits until the subscription's wake is as `is_so` says.
async fn wait_wake(node: &Node, id: &str, is_so: impl Fn(Option<&Wake>) -> bool) -> u64 {
    wait(node, id, |subscription| is_so(subscription.wake.as_ref())).await
}

/// Waits until the subscription is as `is_so` says; returns its generation.
async fn wait(node: &Node, id: &str, is_so: impl Fn(&Subscription) -> bool) -> u64 {
    let due = Instant::now() + Duration::from_secs(20);
    loop {
        let view = node.shards[1].subscription(bucket(), id).await.expect("it is there");
        if is_so(&view.subscription) {
            return view.subscription.generation;
        }
        assert!(Instant::now() < due, "{:?}", view.subscription);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_announced(wake: Option<&Wake>) -> bool {
    wake.is_some_and(|wake| wake.is_delivered && wake.lease_until_ms.is_none())
}

impl Node {
    async fn create_wake_stream(&self, name: &str) {
        let (content_type, expiry, body) = ("application/json".into(), Expiry::Never, Body::default());
        let request = CreateRequest { content_type, expiry, closed: false, body, condition: None };
        self.shards[0].create(key(name), request).await.expect("it is created");
        // What could not be announced before is tried again.
        self.advance(Duration::from_secs(2));
    }
}

#[test]
fn a_claim_that_finds_nothing_left_ends_the_wake_and_the_next_one_is_announced() {
    run(async {
        let node = Node::subscribed(config()).await;
        node.create_wake_stream("wakes").await;
        let generation = wait_wake(&node, "s", is_announced).await;
        for name in STREAMS {
            node.shards[0].delete(key(name), None).await.expect("it is deleted");
        }
        let nothing = node.claim("w").await.expect_err("all streams are gone");
        assert!(matches!(nothing, ShardError::NothingPending), "{nothing:?}");
        assert_eq!(wait_wake(&node, "s", |wake| wake.is_none()).await, generation, "it is in nobody's way");
        node.create(&key("events/new"), Expiry::Never).await;
        node.append(&key("events/new"), "x").await.expect("appends");
        assert!(wait_wake(&node, "s", is_announced).await > generation);
    });
}

#[test]
fn two_whose_patterns_are_for_all_streams_do_not_wake_each_other() {
    run(async {
        let node = Node::start().await;
        node.create_wake_stream("wakes/a").await;
        node.create_wake_stream("wakes/b").await;
        for (id, wake_stream) in [("a", "wakes/a"), ("b", "wakes/b")] {
            let pattern = Some(Pattern::new("**").expect("a pattern"));
            let config = SubscriptionConfig { pattern, ..pull_wake(wake_stream) };
            let made = node.shards[1].subscription_put(bucket(), id, config, "http://localhost/demo").await;
            made.expect("it is made");
        }
        node.create(&key(STREAMS[0]), Expiry::Never).await;
        node.append(&key(STREAMS[0]), "x").await.expect("appends");
        for id in ["a", "b"] {
            assert_eq!(wait_wake(&node, id, is_announced).await, 1);
        }
        // Both wakes are written by now.
        for id in ["a", "b"] {
            let claimed = node.shards[1].subscription_claim(bucket(), id, "w").await.expect("it is free");
            assert_eq!(claimed.streams.iter().map(|stream| &*stream.name).collect::<Vec<_>>(), [STREAMS[0]]);
            let request = said(&claimed, all(&claimed), true);
            assert!(!node.shards[1].subscription_ack(bucket(), id, request).await.expect("it is held"));
        }
        for id in ["a", "b"] {
            let nothing = node.shards[1].subscription_claim(bucket(), id, "w").await.expect_err("all is done");
            assert!(matches!(nothing, ShardError::NothingPending), "{nothing:?}");
            let view = node.shards[1].subscription(bucket(), id).await.expect("it is there");
            assert_eq!(view.subscription.generation, 1);
        }
    });
}

#[test]
fn what_is_pending_is_said_again_however_much_is_new() {
    run(async {
        let node = Node::subscribed(config()).await;
        node.create_wake_stream("wakes").await;
        let only =
            |name: &str| SubscriptionConfig { pattern: None, streams: [Box::from(name)].into(), ..pull_wake("wakes") };
        for id in ["old", "busy"] {
            let made = node.shards[1].subscription_put(bucket(), id, only(STREAMS[0]), "http://localhost/demo").await;
            made.expect("it is made");
        }
        node.append(&key(STREAMS[0]), "x").await.expect("appends");
        let generation = wait_wake(&node, "old", is_announced).await;
        let view = node.shards[1].subscription(bucket(), "old").await.expect("it is there");
        let turn = view.subscription.turn().expect("it is announced");
        // It is over, and nobody has said that there is more: as if that was lost.
        let core = &node.shards[0].0;
        core.subscription_step(&bucket(), "old", SubscriptionStep::End(turn)).await.expect("it is under way");
        let due = Instant::now() + Duration::from_secs(20);
        let mut rounds = 0;
        loop {
            // There is always something new in the same group, for another subscription.
            let claimed = node.shards[1].subscription_claim(bucket(), "busy", "w").await.expect("it is free");
            let request = said(&claimed, all(&claimed), true);
            node.shards[1].subscription_ack(bucket(), "busy", request).await.expect("it is held");
            node.append(&key(STREAMS[0]), "x").await.expect("appends");
            rounds += 1;
            let view = node.shards[1].subscription(bucket(), "old").await.expect("it is there");
            if view.subscription.generation > generation {
                break;
            }
            assert!(Instant::now() < due, "nothing is said again after {rounds} rounds");
        }
    });
}

#[test]
fn a_group_that_has_missed_a_change_is_told_of_the_whole_bucket() {
    run(async {
        let node = Node::subscribed(config()).await;
        let others = ["other/a", "other/b", "other/c"];
        for name in others {
            node.create(&key(name), Expiry::Never).await;
        }
        let names = |name: &str| BTreeSet::from([Box::from(name)]);
        // Group 0 has decided, and no group hears of it.
        let encoded = EncodedNames::encode(&names(others[0]));
        let missed = SubscriptionStep::Link { names: EncodedNames::of(&encoded) };
        node.shards[0].0.subscription_step(&bucket(), "s", missed).await.expect("it is linked");
        for name in &others[1..] {
            node.shards[1].subscription_link(bucket(), "s", names(name), true).await.expect("it is linked");
        }
        node.shards[1].subscription_link(bucket(), "s", names(others[1]), false).await.expect("it is unlinked");
        for name in others {
            node.append(&key(name), "x").await.expect("appends");
        }
        let view = node.shards[1].subscription(bucket(), "s").await.expect("it is there");
        let pending: BTreeSet<&str> =
            view.streams.iter().filter(|stream| stream.has_pending()).map(|stream| &*stream.name).collect();
        let expected: BTreeSet<&str> = STREAMS.iter().chain([&others[0], &others[2]]).copied().collect();
        assert_eq!(pending, expected);
    });
}

impl Node {
    /// The last entry that each group has applied.
    fn applied(&self) -> Vec<u64> {
        let topology = self.shards[0].0.topology;
        let owner = |group| &self.shards[usize::from(topology.owner_of(group).0)].0;
        topology.groups().map(|group| owner(group).group(group).replica.standing().applied_index).collect()
    }
}

#[test]
fn what_changes_nothing_is_one_step_of_group_0_and_no_other_group_is_asked() {
    run(async {
        let node = Node::start().await;
        let config = SubscriptionConfig { streams: [Box::from("linked")].into(), ..pull_wake("wakes") };
        let put =
            async || node.shards[1].subscription_put(bucket(), "s", config.clone(), "http://localhost/demo").await;
        assert!(!put().await.expect("it is made").existed);
        let names = |name: &str| BTreeSet::from([Box::from(name)]);
        let link =
            async |name, is_linked| node.shards[0].subscription_link(bucket(), "s", names(name), is_linked).await;
        let mut before = node.applied();
        assert!(put().await.expect("it is there").existed);
        link("linked", true).await.expect("it is linked");
        link("absent", false).await.expect("it is not linked");
        assert!(node.shards[1].bucket_create(bucket(), None).await.expect("it is there"));
        before[0] += 4;
        assert_eq!(node.applied(), before);
        // Now it would wait without end.
        node.shards[1].shutdown().await;
        link("linked", true).await.expect("all have heard of it");
        link("absent", false).await.expect("all have heard of it");
        assert!(node.shards[0].bucket_create(bucket(), None).await.expect("all have heard of it"));
    });
}

#[test]
fn what_not_every_group_has_heard_of_is_not_confirmed_and_is_told_to_the_others_once() {
    run(async {
        let node = Node::start().await;
        let made = node.shards[1].subscription_put(bucket(), "s", pull_wake("wakes"), "http://localhost/demo").await;
        made.expect("it is made");
        let last = GroupId(TOPOLOGY.groups - 1);
        let group = node.shards[usize::from(TOPOLOGY.owner_of(last).0)].0.group(last);
        let mut garbage = Arena::new(100).into_buf();
        garbage.resize(FRAME_HEADER_BYTES + 100, 0xee);
        let ticket = group.wal.reserve(garbage.len(), Claim::Spare).map_err(drop).expect("there is room");
        assert!(group.replica.propose(Arena::seal(garbage), ticket).await.is_err(), "apply finds that it is no batch");
        let mut before = node.applied();
        for _ in 0..2 {
            let new = BTreeSet::from([Box::from("new")]);
            let unknown = node.shards[1].subscription_link(bucket(), "s", new, true).await;
            assert!(matches!(unknown, Err(ShardError::Unknown)), "{unknown:?}");
        }
        let (last, others) = before.split_last_mut().expect("there are groups");
        others.iter_mut().for_each(|applied| *applied += 1);
        // The two steps.
        others[0] += 2;
        *last = node.applied()[usize::from(TOPOLOGY.groups) - 1];
        assert_eq!(node.applied(), before);
    });
}

#[test]
fn cursors_and_leases_are_there_after_a_restart() {
    run(async {
        let node = Node::subscribed(config()).await;
        let claimed = node.claim("w").await.expect("it is claimed");
        assert!(!node.ack(said(&claimed, all(&claimed)[..3].to_vec(), false)).await.expect("it is held"));
        let node = node.restart().await;
        let held = node.claim("w-2").await.expect_err("it is held");
        assert!(matches!(held, ShardError::Claimed { .. }), "{held:?}");
        assert!(!node.ack(said(&claimed, all(&claimed), true)).await.expect("the token is known"));
        assert!(matches!(node.claim("w-2").await, Err(ShardError::NothingPending)));
    });
}

#[test]
fn leases_and_rests_end_in_time_where_the_clock_was_set_back_over_a_restart() {
    run(async {
        let node = Node::start().await;
        node.advance(HOUR);
        let root = "http://localhost/demo";
        let held = SubscriptionConfig { streams: [STREAMS[0].into()].into(), ..pull_wake("nowhere") };
        for (id, config) in [("s", held), ("failing", pull_wake("wakes"))] {
            node.shards[1].subscription_put(bucket(), id, config, root).await.expect("it is made");
        }
        node.create(&key(STREAMS[0]), Expiry::Never).await;
        node.append(&key(STREAMS[0]), "x").await.expect("appends");
        let claimed = node.claim("w").await.expect("it is claimed");
        // There is no stream that it could be announced in.
        wait(&node, "failing", |subscription| subscription.failures > 0).await;
        let node = node.restart().await;
        let held = node.claim("w-2").await.expect_err("it is held");
        assert!(matches!(held, ShardError::Claimed { .. }), "{held:?}");
        node.advance(Duration::from_millis(4_000));
        assert!(!node.ack(said(&claimed, Vec::new(), false)).await.expect("the lease is not over"));
        // It goes a little slower than the clock.
        node.advance(Duration::from_millis(5_400));
        let late = node.ack(said(&claimed, Vec::new(), false)).await.expect_err("the lease is over");
        assert!(matches!(late, ShardError::Refused(Refusal::WakeFenced)), "{late:?}");
        let second = node.claim("w-2").await.expect("it is free");
        assert!(!node.ack(said(&second, all(&second), true)).await.expect("its lease has begun now"));
        wait(&node, "failing", |subscription| subscription.failures > 1).await;
    });
}

fn group_of(name: &str) -> GroupId {
    TOPOLOGY.group_of(key(name).slot())
}

#[test]
fn a_group_whose_time_is_ahead_takes_what_is_acknowledged_in_time_and_nothing_later() {
    run(async {
        let node = Node::start().await;
        let ahead = STREAMS.into_iter().find(|name| group_of(name) != GroupId::META).expect("one of them");
        node.create(&key("bucket"), Expiry::Never).await;
        node.advance(HOUR);
        node.create(&key(ahead), Expiry::Never).await;
        let node = node.restart().await;
        let root = "http://localhost/demo";
        node.shards[1].subscription_put(bucket(), "s", pull_wake("wakes"), root).await.expect("it is made");
        let others: Vec<&str> = STREAMS.into_iter().filter(|name| group_of(name) != group_of(ahead)).collect();
        for name in &others {
            node.create(&key(name), Expiry::Never).await;
            node.append(&key(name), "x").await.expect("appends");
        }
        node.append(&key(ahead), "x").await.expect("appends");
        let claimed = node.claim("w").await.expect("it is claimed");
        assert_eq!(claimed.streams.len(), 1 + others.len());
        assert!(!node.ack(said(&claimed, all(&claimed), true)).await.expect("it is held"), "all is done");
        let (core, number) = (&node.shards[0].0, claimed.turn.number);
        let until_ms = core.meta_now_ms() + 5_000;
        let there_ms = core.time_there(&bucket(), number, group_of(ahead), until_ms).await.expect("it is said");
        assert!(there_ms > until_ms + HOUR.as_millis() as u64 / 2, "its time is ahead");
        // What was held up on its way comes when the lease is over, and another one has begun.
        node.append(&key(ahead), "more").await.expect("appends");
        node.advance(Duration::from_millis(5_400));
        let next = node.claim("w-2").await.expect("it is free");
        let ask = LinksAsk::Ack { acks: all(&next), until_ms: Some(there_ms) };
        let held_up = LinksRequest { bucket: bucket(), number, ask };
        let refused = core.request(Request::Links(group_of(ahead), Box::new(held_up))).await.err().expect("it is late");
        assert!(matches!(refused, ShardError::Refused(Refusal::WakeFenced)), "{refused:?}");
    });
}

#[test]
fn a_group_that_cannot_be_asked_keeps_no_other_from_what_is_acknowledged() {
    run(async {
        let node = Node::subscribed(config()).await;
        let (silent, others): (Vec<&str>, Vec<&str>) =
            STREAMS.into_iter().partition(|name| node.shards[0].owner_of(&key(name)) == ShardId(1));
        let is_before = |silent: &&str| others.iter().any(|other| group_of(silent) < group_of(other));
        assert!(silent.iter().any(is_before), "{silent:?} and {others:?}");
        let claimed = node.claim("w").await.expect("it is claimed");
        node.shards[1].shutdown().await;
        let core = &node.shards[0].0;
        let pending = || {
            let groups = others.iter().map(|name| group_of(name)).collect::<BTreeSet<_>>().into_iter();
            let pending = |group| core.group(group).applied().pending_behind("demo", claimed.turn.number, "").count();
            groups.map(pending).sum::<usize>()
        };
        assert_eq!(pending(), others.len());
        let (acks, until_ms) = (all(&claimed), core.meta_now_ms() + 5_000);
        let acking = async {
            let acked = core.ack_all(&bucket(), claimed.turn.number, &acks, Some(until_ms)).await;
            acked.expect_err("not all can be asked");
            std::future::pending::<()>().await;
        };
        let acked = async {
            while pending() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let either = async {
            tokio::select! { () = acking => {}, () = acked => {} }
        };
        tokio::time::timeout(Duration::from_secs(20), either).await.expect("those that answer move their cursors");
    });
}

#[test]
fn a_key_is_replaced_when_it_is_old_and_the_one_before_stays() {
    run(async {
        let node = Node::subscribed(ShardConfig { hook_key_age: 48 * HOUR, ..config() }).await;
        let keys = async || node.shards[1].hook_keys().await.expect("they are known");
        let first = keys().await;
        assert_eq!(first.len(), 1);
        let claimed = node.claim("w").await.expect("it is claimed");
        let signing = || node.shards[0].0.signing_seed().map(|seed| weir_hooks::public_key(&seed));
        let mut before = first.clone();
        for _ in 0..2 {
            node.advance(48 * HOUR);
            let due = Instant::now() + Duration::from_secs(20);
            while keys().await == before {
                assert!(Instant::now() < due, "the key is replaced");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let now = keys().await;
            assert_eq!((now.len(), &now[0]), (2, before.last().expect("there is one")));
            assert_eq!(signing().as_ref(), Some(&now[0]), "receivers are to hear of the new one first");
            node.advance(HOUR);
            assert_eq!(signing().as_ref(), Some(&now[1]));
            before = now;
        }
        let old = node.ack(said(&claimed, Vec::new(), true)).await.expect_err("a token is good for a day");
        assert!(matches!(old, ShardError::TokenInvalid), "{old:?}");
    });
}

/// The body of the next call of a webhook, which is answered: all is done.
async fn called(listener: &TcpListener) -> serde_json::Value {
    called_answering(listener, "200 OK").await
}

/// The body of the next call of a webhook, which is answered with a status.
async fn called_answering(listener: &TcpListener, status: &str) -> serde_json::Value {
    let (mut caller, _) = listener.accept().await.expect("it is called");
    let mut text = String::new();
    while !text.ends_with("\"}") {
        let mut part = [0; 4096];
        let bytes = caller.read(&mut part).await.expect("it is read");
        assert!(bytes > 0, "it breaks off after {text}");
        text.push_str(std::str::from_utf8(&part[..bytes]).expect("text"));
    }
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{{\"done\":true}}");
    caller.write_all(answer.as_bytes()).await.expect("it is answered");
    let (_, body) = text.split_once("\r\n\r\n").expect("a request");
    serde_json::from_str(body).expect("a wake")
}

/// A node that calls webhooks, where it is listened, and how a subscription is delivered there.
async fn calling() -> (Node, TcpListener, SubscriptionConfig) {
    let config_of_hooks = HooksConfig {
        policy: Policy::new(["127.0.0.1"]).expect("an address"),
        timeout: Duration::from_secs(10),
        calls_max: 8,
    };
    let hooks = Hooks::new(tokio::runtime::Handle::current(), config_of_hooks).expect("it calls");
    let node = Node::try_start_calling(disks(), None, Some(hooks), config()).await.expect("it starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let webhook = SubscriptionConfig { delivery: Delivery::Webhook { url: url.into() }, ..pull_wake("wakes") };
    (node, listener, webhook)
}

#[test]
fn a_subscription_has_failed_only_as_long_as_something_is_to_be_tried_again() {
    run(async {
        let (node, listener, webhook) = calling().await;
        let root = "http://localhost/demo";
        node.shards[1].subscription_put(bucket(), "s", webhook, root).await.expect("it is made");
        for (name, wakes) in [(STREAMS[0], 1), (STREAMS[1], 2)] {
            node.create(&key(name), Expiry::Never).await;
            node.append(&key(name), "x").await.expect("appends");
            called_answering(&listener, "500 Internal Server Error").await;
            wait(&node, "s", |subscription| subscription.failures == wakes && subscription.wake.is_none()).await;
            let view = node.shards[1].subscription(bucket(), "s").await.expect("it is there");
            assert!(view.subscription.next_attempt_ms > 0, "it is tried again");
            node.shards[1].delete(key(name), None).await.expect("it is deleted");
            node.advance(Duration::from_secs(4));
            let generation = wait(&node, "s", |subscription| subscription.next_attempt_ms == 0).await;
            assert_eq!(generation, u64::from(wakes), "nothing was left to try");
        }
        let node = node.restart().await;
        node.advance(Duration::from_secs(20));
        wait(&node, "s", |subscription| subscription.next_attempt_ms == 0).await;
    });
}

#[test]
fn a_group_that_does_not_answer_keeps_no_wake_from_the_streams_of_others() {
    run(async {
        let (node, listener, webhook) = calling().await;
        let is_of_first = |name: &&str| node.shards[0].owner_of(&key(name)) == ShardId(0);
        let wake_stream =
            ["w-1", "w-2", "w-3", "w-4", "w-5", "w-6"].into_iter().find(is_of_first).expect("one of them");
        for (id, config) in [("s", pull_wake(wake_stream)), ("hook", webhook)] {
            let made = node.shards[0].subscription_put(bucket(), id, config, "http://localhost/demo").await;
            made.expect("it is made");
        }
        for name in STREAMS {
            node.create(&key(name), Expiry::Never).await;
        }
        let (answering, silent): (Vec<&str>, Vec<&str>) = STREAMS.into_iter().partition(is_of_first);
        assert!(answering.len() > 1 && !silent.is_empty(), "{answering:?}");
        node.shards[1].shutdown().await;
        for name in &answering {
            node.shards[0].append(key(name), append("x")).await.expect("appends");
        }
        let (mut told, expected) = (BTreeSet::new(), answering.iter().map(|name| (*name).to_owned()).collect());
        let due = Instant::now() + Duration::from_secs(30);
        while told != expected {
            let wake = tokio::time::timeout_at(due, called(&listener)).await.expect("it is called");
            let streams = wake["streams"].as_array().expect("a list").iter();
            told.extend(streams.map(|stream| stream["path"].as_str().expect("a name").to_owned()));
        }
        let claimed = node.shards[0].subscription_claim(bucket(), "s", "w").await.expect("it is claimed");
        let names: BTreeSet<String> = claimed.streams.iter().map(|stream| stream.name.to_string()).collect();
        assert_eq!(names, expected);
        let acked = node.shards[0].subscription_ack(bucket(), "s", said(&claimed, all(&claimed), true)).await;
        acked.expect("it is held");
        // Whether the silent one has something, nobody knows.
        let unknown = node.shards[0].subscription_claim(bucket(), "s", "w").await.expect_err("it is not known");
        assert!(matches!(unknown, ShardError::Unavailable), "{unknown:?}");
    });
}

#[test]
fn a_wake_begins_behind_where_the_last_one_ended_and_goes_round() {
    run(async {
        let node = Node::subscribed(config()).await;
        let core = &node.shards[0].0;
        let view = node.shards[0].subscription(bucket(), "s").await.expect("it is there");
        let number = view.subscription.number;
        let next = async |limit| {
            let found = core.pending(&bucket(), number, limit).await.expect("all answer");
            let names: BTreeSet<String> = found.iter().map(|stream| stream.name.to_string()).collect();
            assert_eq!(names.len(), found.len(), "each once");
            names
        };
        // Nobody acknowledges anything.
        for limit in 1..STREAMS.len() {
            let mut seen = BTreeSet::new();
            for _ in 0..STREAMS.len().div_ceil(limit) {
                let found = next(limit).await;
                assert_eq!(found.len(), limit);
                seen.extend(found);
            }
            assert_eq!(seen.len(), STREAMS.len(), "{limit} at a time");
        }
        assert_eq!(next(STREAMS.len() + 1).await.len(), STREAMS.len());
        assert!(core.desk.wake_end(number).is_none(), "there is no more");
        next(2).await;
        node.shards[1].subscription_delete(bucket(), "s").await.expect("it is deleted");
        assert!(core.desk.wake_end(number).is_none());
    });
}

#[test]
fn a_stream_that_is_named_is_described_however_many_are_listed_before_it() {
    run(async {
        let node = Node::subscribed(config()).await;
        let names: BTreeSet<Box<str>> = STREAMS.iter().copied().chain(["absent"]).map(Box::from).collect();
        node.shards[1].subscription_link(bucket(), "s", names.clone(), true).await.expect("it is linked");
        let view = node.shards[1].subscription(bucket(), "s").await.expect("it is there");
        for limit in [1, 3, 100] {
            let streams = node.shards[1].all_linked(&bucket(), &view.subscription, limit).await.expect("all answer");
            assert!(streams.iter().map(|stream| &stream.name).eq(&names), "{limit}: {streams:?}");
            let absent: Vec<&str> = streams.iter().filter(|one| one.tail.is_none()).map(|one| &*one.name).collect();
            assert_eq!(absent, ["absent"], "{limit}");
        }
    });
}

#[test]
fn a_wake_whose_generation_was_overtaken_in_its_stream_ends_and_a_later_one_is_announced() {
    run(async {
        let node = Node::start().await;
        node.create_wake_stream("wakes").await;
        let made = node.shards[1].subscription_put(bucket(), "s", pull_wake("wakes"), "http://localhost/demo").await;
        let number = made.expect("it is made").subscription.number;
        let overtaking = AppendRequest {
            content_type: Some("application/json".into()),
            producer: Some(Producer { id: wake_producer(number), epoch: 3, seq: 0 }),
            ..append("{}")
        };
        // Two generations come before it.
        node.shards[0].append(key("wakes"), overtaking).await.expect("it is written");
        node.create(&key(STREAMS[0]), Expiry::Never).await;
        node.append(&key(STREAMS[0]), "x").await.expect("appends");
        let due = Instant::now() + Duration::from_secs(30);
        loop {
            // What has failed rests.
            node.advance(Duration::from_secs(2));
            let view = node.shards[1].subscription(bucket(), "s").await.expect("it is there");
            if is_announced(view.subscription.wake.as_ref()) && view.subscription.generation >= 3 {
                break;
            }
            assert!(Instant::now() < due, "{:?}", view.subscription);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn whoever_writes_to_a_wake_stream_keeps_no_wake_from_being_announced() {
    run(async {
        let node = Node::start().await;
        node.create_wake_stream("wakes").await;
        let made = node.shards[1].subscription_put(bucket(), "s", pull_wake("wakes"), "http://localhost/demo").await;
        let number = made.expect("it is made").subscription.number;
        for id in [format!("ds:{number}"), number.to_string(), "s".into()] {
            let hostile = AppendRequest {
                content_type: Some("application/json".into()),
                producer: Some(Producer { id: id.into(), epoch: PRODUCER_NUMBER_MAX, seq: 0 }),
                ..append("{}")
            };
            node.shards[0].append(key("wakes"), hostile).await.expect("anybody may write");
        }
        node.create(&key(STREAMS[0]), Expiry::Never).await;
        node.append(&key(STREAMS[0]), "x").await.expect("appends");
        assert_eq!(wait_wake(&node, "s", is_announced).await, 1);
    });
}
