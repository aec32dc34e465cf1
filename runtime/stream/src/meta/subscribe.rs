//! Subscriptions in group 0: they come and go, and their wakes begin and end.

use std::collections::BTreeSet;

use weir_types::limits::{
    SUBSCRIPTION_STREAMS_MAX, SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_PER_BUCKET_MAX, SUBSCRIPTIONS_STEPS_MAX,
};

use crate::meta::{Meta, MetaBucket};
use crate::reply::{Refusal, Reply};
use crate::subscription::kept::{
    Delivery, HookKey, HookSeed, Subscription, SubscriptionConfig, SubscriptionStep, Turn, Wake,
};

impl Meta {
    /// The keys that wakes are signed with, the newest last.
    pub fn hook_keys(&self) -> &[HookKey] {
        &self.hook_keys
    }

    /// When the newest key came, in milliseconds since 1970; 0 if there is none.
    pub fn newest_key_ms(&self) -> u64 {
        self.hook_keys.last().map_or(0, |key| key.created_ms)
    }

    /// A subscription.
    pub fn subscription(&self, bucket: &str, id: &str) -> Option<&Subscription> {
        self.bucket(bucket)?.subscriptions.get(id)
    }

    /// Adds a key, unless the newest is not the one of `after_ms`: who has asked for this one has another now.
    pub(crate) fn hook_key_put(&mut self, seed: HookSeed, after_ms: u64, time_ms: u64) -> Reply {
        let is_known = self.hook_keys.iter().any(|key| key.seed == seed);
        if !is_known && (after_ms == u64::MAX || self.newest_key_ms() == after_ms) {
            self.hook_keys.push(HookKey { seed, created_ms: time_ms });
            let old = self.hook_keys.len().saturating_sub(HookKey::KEPT);
            self.hook_keys.drain(..old);
        }
        Reply::Done
    }

    /// Takes a step, and counts what is kept with it.
    pub(crate) fn subscription_step(
        &mut self,
        bucket: &str,
        id: &str,
        step: SubscriptionStep<'_>,
        time_ms: u64,
    ) -> Result<Reply, Refusal> {
        use SubscriptionStep::{Delete, Link, Put, Unlink};
        let has_names = matches!(step, Put { .. } | Delete | Link { .. } | Unlink { .. });
        let bytes = |meta: &Meta| match meta.subscription(bucket, id) {
            Some(subscription) if has_names => subscription.memory_bytes(id),
            // Wakes come and go more often than anything else, and change nothing else.
            Some(subscription) => subscription.worker_bytes(),
            None => 0,
        };
        let before_bytes = bytes(self);
        let reply = self.take_subscription_step(bucket, id, step, time_ms);
        self.subscriptions_bytes = self.subscriptions_bytes + bytes(self) - before_bytes;
        reply
    }

    fn take_subscription_step(
        &mut self,
        bucket: &str,
        id: &str,
        step: SubscriptionStep<'_>,
        time_ms: u64,
    ) -> Result<Reply, Refusal> {
        // A change that every group is to hear of has a number of its own.
        let number = self.changes + 1;
        let found = self.active_bucket(bucket)?;
        let (existed, is_told) = match step {
            SubscriptionStep::Put { config, root } => {
                let existed = found.subscription_put(id, config.decode(), root, number, time_ms)?;
                (existed, !existed)
            }
            SubscriptionStep::Delete => {
                let gone = found.subscriptions.remove(id).ok_or(Refusal::SubscriptionNotFound)?;
                let told = Some(self.tell_of(bucket));
                return Ok(Reply::Subscription { generation: gone.generation, existed: true, told });
            }
            SubscriptionStep::Link { names } => (true, found.link(id, names.decode())?),
            SubscriptionStep::Unlink { names } => {
                let explicit = &mut found.subscription_mut(id)?.explicit;
                let before = explicit.len();
                let names = names.decode();
                explicit.retain(|name| !names.contains(name));
                (true, explicit.len() < before)
            }
            SubscriptionStep::Wake { number, wake, worker } => {
                let subscription = found.subscription_mut(id)?;
                subscription.begin_wake(number, wake, worker, time_ms)?;
                (true, false)
            }
            SubscriptionStep::Claim { turn, worker } => {
                let subscription = found.subscription_mut(id)?;
                subscription.claim(turn, worker, time_ms)?;
                (true, false)
            }
            SubscriptionStep::Extend(turn) => {
                let subscription = found.subscription_mut(id)?;
                let until_ms = subscription.lease_until_ms(time_ms);
                let wake = subscription.wake_of(turn)?;
                // Nobody has it who could go on having it, before it is claimed or when its lease is over.
                let is_had = wake.lease_until_ms.is_some_and(|until_ms| time_ms < until_ms);
                if !is_had {
                    return Err(Refusal::WakeFenced);
                }
                wake.lease_until_ms = Some(until_ms);
                // Who has it was told of it.
                wake.is_delivered = true;
                subscription.recovered();
                (true, false)
            }
            SubscriptionStep::Delivered(turn) => {
                let subscription = found.subscription_mut(id)?;
                subscription.wake_of(turn)?.is_delivered = true;
                subscription.recovered();
                (true, false)
            }
            SubscriptionStep::Failed { turn, retry_ms } => {
                let subscription = found.subscription_mut(id)?;
                let is_delivered = subscription.wake_of(turn)?.is_delivered;
                subscription.failures = subscription.failures.saturating_add(1);
                // Who has called back has it, whatever has become of the call.
                if !is_delivered {
                    if matches!(subscription.config.delivery, Delivery::Webhook { .. }) {
                        subscription.wake = None;
                    }
                    subscription.next_attempt_ms = time_ms + retry_ms;
                }
                (true, false)
            }
            SubscriptionStep::End(turn) => {
                let subscription = found.subscription_mut(id)?;
                subscription.wake_of(turn)?;
                subscription.wake = None;
                (true, false)
            }
        };
        let generation = found.subscription_mut(id)?.generation;
        let told = is_told.then(|| self.tell_of(bucket));
        Ok(Reply::Subscription { generation, existed, told })
    }

    /// Every group is to hear of the bucket's change: returns the one before, and this one.
    fn tell_of(&mut self, bucket: &str) -> (u64, u64) {
        let epoch = self.next_change();
        let bucket = self.bucket_mut(bucket).expect("it was just changed");
        (std::mem::replace(&mut bucket.epoch, epoch), epoch)
    }
}

impl MetaBucket {
    /// Makes a subscription, or finds it there as it is asked for, which the answer says.
    fn subscription_put(
        &mut self,
        id: &str,
        config: SubscriptionConfig,
        root: &str,
        number: u64,
        time_ms: u64,
    ) -> Result<bool, Refusal> {
        if let Some(existing) = self.subscriptions.get(id) {
            return if existing.config == config { Ok(true) } else { Err(Refusal::SubscriptionConflict) };
        }
        let explicit = config.streams.clone();
        let subscription = Subscription {
            number,
            config,
            root: root.into(),
            created_ms: time_ms,
            explicit,
            generation: 0,
            wake: None,
            failures: 0,
            next_attempt_ms: 0,
        };
        let is_full = self.subscriptions.len() >= SUBSCRIPTIONS_PER_BUCKET_MAX;
        let steps = self.subscriptions.values().chain([&subscription]).map(Subscription::steps_max).sum::<usize>();
        let is_long = self.told_bytes() + subscription.told_bytes() > SUBSCRIPTIONS_BYTES_MAX;
        if is_full || is_long || steps > SUBSCRIPTIONS_STEPS_MAX {
            return Err(Refusal::SubscriptionLimit);
        }
        self.subscriptions.insert(id.into(), subscription);
        Ok(false)
    }

    /// Adds streams by name; says whether one is new.
    fn link(&mut self, id: &str, names: BTreeSet<Box<str>>) -> Result<bool, Refusal> {
        let others_bytes = self.told_bytes();
        let subscription = self.subscription_mut(id)?;
        let new: Vec<Box<str>> = names.into_iter().filter(|name| !subscription.explicit.contains(name)).collect();
        let new_bytes: usize = new.iter().map(|name| name.len() + 2).sum();
        if subscription.explicit.len() + new.len() > SUBSCRIPTION_STREAMS_MAX
            || others_bytes + new_bytes > SUBSCRIPTIONS_BYTES_MAX
        {
            return Err(Refusal::SubscriptionLimit);
        }
        let is_more = !new.is_empty();
        subscription.explicit.extend(new);
        Ok(is_more)
    }

    /// Memory of its subscriptions.
    pub(crate) fn subscriptions_bytes(&self) -> usize {
        self.subscriptions.iter().map(|(id, subscription)| subscription.memory_bytes(id)).sum()
    }

    fn told_bytes(&self) -> usize {
        self.subscriptions.values().map(Subscription::told_bytes).sum()
    }

    fn subscription_mut(&mut self, id: &str) -> Result<&mut Subscription, Refusal> {
        self.subscriptions.get_mut(id).ok_or(Refusal::SubscriptionNotFound)
    }
}

impl Subscription {
    fn lease_until_ms(&self, time_ms: u64) -> u64 {
        time_ms + self.config.lease_ms
    }

    /// The wake that is meant, if it is the one that is under way.
    fn wake_of(&mut self, turn: Turn) -> Result<&mut Wake, Refusal> {
        if self.turn() != Some(turn) {
            return Err(Refusal::WakeFenced);
        }
        Ok(self.wake.as_mut().expect("it is under way"))
    }

    fn begin_wake(&mut self, number: u64, wake: u64, worker: Option<&str>, time_ms: u64) -> Result<(), Refusal> {
        if self.number != number || self.wake.is_some() {
            return Err(Refusal::WakeFenced);
        }
        // The lease of a webhook begins with the wake.
        let is_leased = worker.is_some() || matches!(self.config.delivery, Delivery::Webhook { .. });
        self.generation += 1;
        self.wake = Some(Wake {
            id: wake,
            lease_until_ms: is_leased.then(|| self.lease_until_ms(time_ms)),
            worker: worker.map(Into::into),
            // Who claims it knows.
            is_delivered: worker.is_some(),
        });
        if worker.is_some() {
            self.recovered();
        }
        Ok(())
    }

    fn claim(&mut self, turn: Turn, worker: &str, time_ms: u64) -> Result<(), Refusal> {
        let until_ms = self.lease_until_ms(time_ms);
        let wake = self.wake_of(turn)?;
        if wake.lease_until_ms.is_some() {
            return Err(Refusal::WakeFenced);
        }
        wake.lease_until_ms = Some(until_ms);
        wake.worker = Some(worker.into());
        wake.is_delivered = true;
        self.recovered();
        Ok(())
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.next_attempt_ms = 0;
    }
}
