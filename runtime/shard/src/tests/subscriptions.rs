//! Subscriptions over the groups and shards of a node, with a clock that moves when a test says so.

use weir_stream::subscription::{Delivery, SubscriptionConfig, SubscriptionStep};
use weir_stream::{Pattern, Refusal};
use weir_types::BucketName;

use super::*;
use crate::{AckRequest, ClaimedWake};

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
        core.extend(&bucket(), "s", turn, &acks[..1]).await.expect("it is under way");
        // Another leader has ended it, and this one has not heard of that yet.
        core.subscription_step(&bucket(), "s", SubscriptionStep::End(turn)).await.expect("it is under way");
        fenced(core.extend(&bucket(), "s", turn, &acks).await);
        assert_eq!(pending().await, STREAMS.len() - 1);
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
