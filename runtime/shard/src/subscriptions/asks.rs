//! What clients and those who were woken ask of group 0's leader. It decides by what it has under the subscription's turn, and group 0's apply
//! decides again.

use std::collections::BTreeSet;
use std::rc::Rc;

use weir_hooks::{Claims, PublicKey, issue, public_key, verify};
use weir_stream::subscription::{
    Delivery, EncodedConfig, EncodedNames, HookKey, HookSeed, Subscription, SubscriptionConfig, SubscriptionStep, Turn,
};
use weir_stream::{Command, Refusal, Reply};
use weir_types::limits::{
    SUBSCRIPTION_STREAMS_MAX, SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_PER_BUCKET_MAX, WAKE_STREAMS_MAX,
};
use weir_types::{BucketName, GroupId, Offset};

use crate::core::{Core, Shard};
use crate::message::{
    AckRequest, Answer, ClaimedWake, Request, Response, ShardError, SubscriptionAnswer, SubscriptionAsk,
    SubscriptionView,
};

/// How long a token is believed, in milliseconds. A lease that is extended for longer ends with it.
const TOKEN_MS: u64 = 24 * 3_600_000;
/// How old a key is when wakes are signed with it, in milliseconds, if there is another: receivers keep what they know of keys for a while.
const KEY_ANNOUNCED_MS: u64 = 600_000;

/// What group 0 has decided on a step.
pub(crate) struct Stepped {
    /// The subscription's generation.
    pub(crate) generation: u64,
    /// Whether it was there before.
    existed: bool,
    /// If every group is to hear of it: the bucket's change before, and this one.
    told: Option<(u64, u64)>,
}

impl Shard {
    /// Makes a subscription, or finds it there with the same configuration. `root` is how its client calls the bucket.
    ///
    /// # Errors
    /// [`Refusal::SubscriptionConflict`], [`Refusal::SubscriptionLimit`]; [`ShardError::WebhookRejected`] for an address that is not called.
    pub async fn subscription_put(
        &self,
        bucket: BucketName,
        id: &str,
        config: SubscriptionConfig,
        root: &str,
    ) -> Result<SubscriptionView, ShardError> {
        let ask = SubscriptionAsk::Put { config, root: root.into() };
        self.subscription_view(bucket, id, ask).await
    }

    /// A subscription and its streams.
    ///
    /// # Errors
    /// [`Refusal::SubscriptionNotFound`].
    pub async fn subscription(&self, bucket: BucketName, id: &str) -> Result<SubscriptionView, ShardError> {
        self.subscription_view(bucket, id, SubscriptionAsk::Get).await
    }

    /// Removes a subscription. Its cursors are gone, and whoever was woken for it is told so.
    ///
    /// # Errors
    /// [`Refusal::SubscriptionNotFound`].
    pub async fn subscription_delete(&self, bucket: BucketName, id: &str) -> Result<(), ShardError> {
        self.ask_subscription(bucket, id, SubscriptionAsk::Delete).await.map(|_| ())
    }

    /// Has a subscription be for streams by name, each from its tail on, or be so no longer.
    ///
    /// # Errors
    /// [`Refusal::SubscriptionNotFound`], [`Refusal::SubscriptionLimit`].
    pub async fn subscription_link(
        &self,
        bucket: BucketName,
        id: &str,
        names: BTreeSet<Box<str>>,
        is_linked: bool,
    ) -> Result<(), ShardError> {
        self.ask_subscription(bucket, id, SubscriptionAsk::Link(names, is_linked)).await.map(|_| ())
    }

    /// Claims what is to be done.
    ///
    /// # Errors
    /// [`ShardError::Claimed`] when another worker has it, [`ShardError::NothingPending`].
    pub async fn subscription_claim(
        &self,
        bucket: BucketName,
        id: &str,
        worker: &str,
    ) -> Result<ClaimedWake, ShardError> {
        match self.ask_subscription(bucket, id, SubscriptionAsk::Claim(worker.into())).await? {
            SubscriptionAnswer::Claimed(claimed) => Ok(*claimed),
            _ => unreachable!("a claim is answered with what is claimed"),
        }
    }

    /// Moves cursors, and ends the wake or begins its lease anew. Says whether there is more to be done.
    ///
    /// # Errors
    /// [`ShardError::TokenInvalid`]; [`Refusal::WakeFenced`] for a wake that is over; [`Refusal::OffsetInvalid`] for a stream that is not
    /// linked, or ends before: then nothing has changed.
    pub async fn subscription_ack(
        &self,
        bucket: BucketName,
        id: &str,
        request: AckRequest,
    ) -> Result<bool, ShardError> {
        match self.ask_subscription(bucket, id, SubscriptionAsk::Ack(request)).await? {
            SubscriptionAnswer::Acked { next_wake } => Ok(next_wake),
            _ => unreachable!("an acknowledgement is answered with what is left"),
        }
    }

    /// The keys that wakes are or were signed with.
    ///
    /// # Errors
    /// When the shard of group 0 cannot be asked.
    pub async fn hook_keys(&self) -> Result<Vec<PublicKey>, ShardError> {
        match self.ask(Request::HookKeys).await? {
            Answer::HookKeys(keys) => Ok(keys),
            _ => unreachable!("keys are asked for"),
        }
    }

    async fn subscription_view(
        &self,
        bucket: BucketName,
        id: &str,
        ask: SubscriptionAsk,
    ) -> Result<SubscriptionView, ShardError> {
        match self.ask_subscription(bucket.clone(), id, ask).await? {
            SubscriptionAnswer::Subscription(subscription, existed, key) => {
                let streams = self.all_linked(&bucket, &subscription, SUBSCRIPTION_STREAMS_MAX).await?;
                Ok(SubscriptionView { subscription: *subscription, key, streams, existed })
            }
            _ => unreachable!("a subscription is asked for"),
        }
    }

    async fn ask_subscription(
        &self,
        bucket: BucketName,
        id: &str,
        ask: SubscriptionAsk,
    ) -> Result<SubscriptionAnswer, ShardError> {
        match self.ask(Request::Subscription(bucket, id.into(), Box::new(ask))).await? {
            Answer::Subscription(answer) => Ok(*answer),
            _ => unreachable!("a subscription is asked for something"),
        }
    }
}

impl Core {
    pub(crate) async fn serve_subscription(
        self: &Rc<Self>,
        bucket: BucketName,
        id: &str,
        ask: SubscriptionAsk,
    ) -> Response {
        let answer = match ask {
            SubscriptionAsk::Put { config, root } => self.put_subscription(&bucket, id, &config, &root).await?,
            SubscriptionAsk::Get => self.described(self.subscription(&bucket, id)?, true),
            SubscriptionAsk::Delete => {
                let number = self.subscription(&bucket, id)?.number;
                let stepped = self.subscription_step(&bucket, id, SubscriptionStep::Delete).await?;
                self.desk.end_wake_at(number, None);
                self.settle_watch(bucket.as_str(), number, stepped.told).await?;
                SubscriptionAnswer::Acked { next_wake: false }
            }
            SubscriptionAsk::Link(names, is_linked) => {
                if is_linked {
                    self.check_room()?;
                }
                let encoded = EncodedNames::encode(&names);
                let names = EncodedNames::of(&encoded);
                let step =
                    if is_linked { SubscriptionStep::Link { names } } else { SubscriptionStep::Unlink { names } };
                let number = self.subscription(&bucket, id)?.number;
                let stepped = self.subscription_step(&bucket, id, step).await?;
                self.settle_watch(bucket.as_str(), number, stepped.told).await?;
                SubscriptionAnswer::Acked { next_wake: false }
            }
            SubscriptionAsk::Claim(worker) => self.claim(&bucket, id, &worker).await?,
            SubscriptionAsk::Ack(request) => self.ack_wake(&bucket, id, request).await?,
        };
        Ok(Answer::Subscription(Box::new(answer)))
    }

    async fn put_subscription(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        config: &SubscriptionConfig,
        root: &str,
    ) -> Result<SubscriptionAnswer, ShardError> {
        if let Delivery::Webhook { url } = &config.delivery {
            let hooks =
                self.hooks.as_ref().ok_or_else(|| ShardError::WebhookRejected("this node calls none".into()))?;
            hooks.check(url).map_err(|refusal| ShardError::WebhookRejected(refusal.to_string().into()))?;
        }
        self.check_room()?;
        self.ensure_hook_key().await?;
        self.ensure_bucket(bucket.as_str()).await?;
        let encoded = config.encode();
        let put = SubscriptionStep::Put { config: EncodedConfig::of(&encoded), root };
        let Stepped { existed, told, .. } = self.subscription_step(bucket, id, put).await?;
        let number = self.kept(bucket, id)?.number;
        self.settle_watch(bucket.as_str(), number, told).await?;
        Ok(self.described(self.kept(bucket, id)?, existed))
    }

    /// Whether there is memory for more of a subscription.
    fn check_room(&self) -> Result<(), ShardError> {
        self.note_hot_index();
        let bytes = SUBSCRIPTIONS_BYTES_MAX / SUBSCRIPTIONS_PER_BUCKET_MAX;
        self.storage_refusal(&self.group(GroupId::META), bytes).map_or(Ok(()), Err)
    }

    /// A subscription as it is told of. When it was to be tried again is not, if that has passed: had something been left to try, it would be
    /// looked at now.
    fn described(&self, mut subscription: Subscription, existed: bool) -> SubscriptionAnswer {
        if subscription.next_attempt_ms <= self.meta_now_ms() && !self.desk.is_to_be_looked_at(subscription.number) {
            subscription.next_attempt_ms = 0;
        }
        let key = self.signing_seed().map(|seed| public_key(&seed));
        SubscriptionAnswer::Subscription(Box::new(subscription), existed, key)
    }

    async fn claim(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        worker: &str,
    ) -> Result<SubscriptionAnswer, ShardError> {
        let number = self.subscription(bucket, id)?.number;
        let _turn = self.desk.turn(number).await;
        let subscription = self.subscription(bucket, id)?;
        if subscription.wake_stream().is_none() {
            return Err(ShardError::SubscriptionInvalid("a webhook's wakes are not claimed".into()));
        }
        let is_held = subscription
            .wake
            .as_ref()
            .is_some_and(|wake| wake.lease_until_ms.is_some_and(|until_ms| self.meta_now_ms() < until_ms));
        if let Some(wake) = subscription.wake.as_ref().filter(|_| is_held) {
            let holder = wake.worker.clone().unwrap_or_default();
            return Err(ShardError::Claimed { holder, generation: subscription.generation });
        }
        let mut turn = subscription.turn();
        if let Some(over) =
            turn.filter(|_| subscription.wake.as_ref().is_some_and(|wake| wake.lease_until_ms.is_some()))
        {
            self.subscription_step(bucket, id, SubscriptionStep::End(over)).await?;
            turn = None;
        }
        let streams = self.pending(bucket, number, WAKE_STREAMS_MAX).await?;
        if streams.is_empty() {
            // What it was announced for is gone. It would stand in the way of the next one.
            if let Some(over) = turn {
                self.subscription_step(bucket, id, SubscriptionStep::End(over)).await?;
            }
            return Err(ShardError::NothingPending);
        }
        let turn = match turn {
            Some(turn) => {
                self.subscription_step(bucket, id, SubscriptionStep::Claim { turn, worker }).await?;
                turn
            }
            None => self.begin_wake(bucket, id, number, Some(worker)).await?,
        };
        // Its lease has begun.
        self.remind(&(bucket.as_str().into(), number), false);
        let token = self.token(turn)?;
        let lease_ms = subscription.config.lease_ms;
        Ok(SubscriptionAnswer::Claimed(Box::new(ClaimedWake { turn, token, streams, lease_ms })))
    }

    async fn ack_wake(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        request: AckRequest,
    ) -> Result<SubscriptionAnswer, ShardError> {
        let now_ms = self.meta_now_ms();
        let claims = {
            let meta = self.meta();
            verify(meta.hook_keys().iter().map(|key| &key.seed.0), &request.token, now_ms)
        };
        let claims = claims.ok_or(ShardError::TokenInvalid)?;
        let _turn = self.desk.turn(claims.number).await;
        let subscription = self.subscription(bucket, id)?;
        let turn = Turn { number: claims.number, generation: claims.generation, wake: claims.wake };
        let is_meant = request.generation == claims.generation && request.wake == claims.wake;
        let is_over = subscription
            .wake
            .as_ref()
            .is_none_or(|wake| wake.lease_until_ms.is_none_or(|until_ms| until_ms <= self.meta_now_ms()));
        if !is_meant || subscription.turn() != Some(turn) || is_over {
            return Err(Refusal::WakeFenced.into());
        }
        self.ack_all(bucket, turn.number, &request.acks, None).await?;
        self.extend(bucket, id, turn, &request.acks).await?;
        if !request.done {
            return Ok(SubscriptionAnswer::Acked { next_wake: false });
        }
        let next_wake = self.end_wake(bucket, id, turn).await?;
        Ok(SubscriptionAnswer::Acked { next_wake })
    }

    /// Has group 0 say that the wake is still the one under way, for another lease, and only then moves cursors, before that is over: so
    /// whoever is no longer the leader, or has another's wake, moves none.
    ///
    /// # Errors
    /// [`Refusal::WakeFenced`].
    pub(crate) async fn extend(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        turn: Turn,
        acks: &[(Box<str>, Offset)],
    ) -> Result<(), ShardError> {
        self.subscription_step(bucket, id, SubscriptionStep::Extend(turn)).await?;
        let subscription = self.subscription(bucket, id)?;
        let wake =
            subscription.wake.as_ref().filter(|_| subscription.turn() == Some(turn)).ok_or(Refusal::WakeFenced)?;
        self.ack_all(bucket, turn.number, acks, wake.lease_until_ms).await
    }

    /// Ends a wake; says whether there is more to be done, which begins another one.
    pub(crate) async fn end_wake(
        self: &Rc<Self>,
        bucket: &BucketName,
        id: &str,
        turn: Turn,
    ) -> Result<bool, ShardError> {
        self.subscription_step(bucket, id, SubscriptionStep::End(turn)).await?;
        // It is over, whatever is found out now.
        let next_wake = self.first_pending(bucket, turn.number).await.is_ok_and(|first| first.is_some());
        if next_wake {
            self.desk.add((bucket.as_str().into(), turn.number));
        }
        Ok(next_wake)
    }

    /// Begins a wake.
    pub(crate) async fn begin_wake(
        &self,
        bucket: &BucketName,
        id: &str,
        number: u64,
        worker: Option<&str>,
    ) -> Result<Turn, ShardError> {
        let wake = self.entropy.u64();
        let step = SubscriptionStep::Wake { number, wake, worker };
        let Stepped { generation, .. } = self.subscription_step(bucket, id, step).await?;
        Ok(Turn { number, generation, wake })
    }

    /// Has group 0 decide on a step.
    pub(crate) async fn subscription_step(
        &self,
        bucket: &BucketName,
        id: &str,
        step: SubscriptionStep<'_>,
    ) -> Result<Stepped, ShardError> {
        let command = Command::MetaSubscription { bucket: bucket.as_str(), id, step };
        match self.group(GroupId::META).command(&command).await? {
            Reply::Subscription { generation, existed, told } => Ok(Stepped { generation, existed, told }),
            // What is in no bucket is not there.
            Reply::Refused(Refusal::BucketNotFound) => Err(Refusal::SubscriptionNotFound.into()),
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a step of a subscription is not answered with {other:?}"),
        }
    }

    /// A subscription as group 0 has it.
    fn subscription(&self, bucket: &BucketName, id: &str) -> Result<Subscription, ShardError> {
        self.group(GroupId::META).leading()?;
        self.kept(bucket, id)
    }

    /// A subscription as this replica has it: with every step that it has had an answer to, also where another may lead by now. Whoever is
    /// told after a step that nothing was done would ask again.
    fn kept(&self, bucket: &BucketName, id: &str) -> Result<Subscription, ShardError> {
        let meta = self.meta();
        let found = meta.subscription(bucket.as_str(), id);
        Ok(found.ok_or(Refusal::SubscriptionNotFound)?.clone())
    }

    /// What whoever was woken shows.
    pub(crate) fn token(&self, turn: Turn) -> Result<Box<str>, ShardError> {
        let meta = self.meta();
        // Believed by whoever knows the key, so by all from the start.
        let key = meta.hook_keys().last().ok_or(ShardError::Unavailable)?;
        let Turn { number, generation, wake } = turn;
        let claims = Claims { number, generation, wake, expires_ms: self.meta_now_ms() + TOKEN_MS };
        Ok(issue(&key.seed.0, claims).into())
    }

    /// What the key is made of that wakes are signed with now.
    pub(crate) fn signing_seed(&self) -> Option<[u8; 32]> {
        let (meta, now_ms) = (self.meta(), self.meta_now_ms());
        let is_announced = |key: &&HookKey| key.created_ms + KEY_ANNOUNCED_MS <= now_ms;
        let keys = meta.hook_keys();
        keys.iter().rev().find(is_announced).or(keys.first()).map(|key| key.seed.0)
    }

    /// Makes the first key.
    async fn ensure_hook_key(&self) -> Result<(), ShardError> {
        let newest_ms = self.meta().newest_key_ms();
        if newest_ms == 0 { self.make_hook_key(newest_ms).await } else { Ok(()) }
    }

    /// Makes another key than the one of `after_ms`, unless somebody else does. The one before goes on being known.
    pub(crate) async fn make_hook_key(&self, after_ms: u64) -> Result<(), ShardError> {
        let mut seed = [0; 32];
        for part in seed.chunks_exact_mut(8) {
            part.copy_from_slice(&self.entropy.u64().to_le_bytes());
        }
        self.group(GroupId::META).command(&Command::MetaHookKey { seed: HookSeed(seed), after_ms }).await.map(|_| ())
    }

    pub(crate) fn hook_keys(&self) -> Response {
        let meta = self.meta();
        Ok(Answer::HookKeys(meta.hook_keys().iter().map(|key| public_key(&key.seed.0)).collect()))
    }
}
