//! Streams that end by themselves. The leader keeps touches in memory and never writes for a read; a stream ends only by
//! an *expire* command, which apply checks once more against the last write.
//!
//! A touch is lost with the process. So a leader that has just begun to serve takes every stream for touched at that
//! moment, and adds a tenth of its TTL.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use weir_stream::{Command, Expiry, KeyRef, Stream};
use weir_types::limits::SLOTS;
use weir_types::{Incarnation, StreamKey};

use crate::agenda::Due;
use crate::core::Core;
use crate::message::ShardError;
use crate::write::job::LocalGroup;

/// How often streams that nobody asks for are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Streams that are looked at in one turn; those that end go together in one round or two.
const DUE_PER_TURN: usize = 256;
/// When a stream is looked at again that ends now, unless it has: the log may have been full.
const AGAIN_MS: u64 = 10_000;
/// Slots that are looked through in one turn.
const SLOTS_PER_TURN: usize = 8;

impl Core {
    /// Notes that a stream with a sliding TTL was used.
    pub(crate) fn touch(&self, incarnation: Incarnation, expiry: Expiry) {
        if let Expiry::Idle { .. } = expiry {
            self.agenda.touch(incarnation, self.clock.now_ms());
        }
    }

    /// Whether the stream's time is over: to readers it is gone, even before the command that removes it is applied.
    pub(crate) fn is_expired(&self, group: &LocalGroup, stream: &Stream) -> bool {
        self.ends_ms(group, stream).is_some_and(|ends_ms| self.clock.now_ms() >= ends_ms)
    }

    /// When the stream ends unless it is used, by the clock, in milliseconds since 1970.
    fn ends_ms(&self, group: &LocalGroup, stream: &Stream) -> Option<u64> {
        let expiry = stream.expiry();
        let Expiry::Idle { ttl_s } = expiry else { return expiry.ends_ms(stream.last_write_ms()) };
        if self.feeds.is_followed(stream.incarnation()) {
            // Whoever follows it uses it all the time.
            self.touch(stream.incarnation(), expiry);
        }
        let written_ms = stream.last_write_ms().saturating_sub(group.ahead_ms());
        let used_ms = self.agenda.used_ms(stream.incarnation()).max(written_ms);
        if used_ms >= group.leading_since_ms() {
            return expiry.ends_ms(used_ms);
        }
        let ends_ms = expiry.ends_ms(group.leading_since_ms());
        ends_ms.map(|ends_ms| ends_ms.saturating_add(ttl_s.saturating_mul(1000) / 10))
    }

    /// The stream's group, if the stream is there and its time is over.
    pub(crate) fn expired_group(&self, key: &StreamKey) -> Option<Rc<LocalGroup>> {
        let group = self.local_group(key);
        let is_expired = {
            let state = group.applied();
            // Most groups have no stream that ends by itself, and every request asks.
            state.has_expirable()
                && group.leading().is_ok()
                && state.stream(key).is_some_and(|stream| self.is_expired(&group, stream))
        };
        is_expired.then_some(group)
    }

    /// Ends the stream if its time is over, and waits until it is gone.
    ///
    /// # Errors
    /// When the log takes no command: the stream may come back after a restart, so nobody is told that it is gone.
    pub(crate) async fn expire(&self, group: &LocalGroup, key: &StreamKey) -> Result<(), ShardError> {
        let expired = {
            let state = group.leading()?;
            state.stream(key).filter(|stream| self.is_expired(group, stream)).map(Stream::incarnation)
        };
        match expired {
            Some(incarnation) => self.end(group, key, incarnation).await,
            None => Ok(()),
        }
    }

    async fn end(&self, group: &LocalGroup, key: &StreamKey, incarnation: Incarnation) -> Result<(), ShardError> {
        if let Some(refusal) = group.refusal(key.as_str().len()) {
            return Err(refusal);
        }
        group.command(&Command::Expire { key: KeyRef::from(key), incarnation }).await?;
        self.guests.folds.forget(incarnation);
        Ok(())
    }

    /// Looks at streams that have come due: ends those whose time is over, and arms the others for when it will be.
    async fn end_due(&self, due: Vec<(Incarnation, Due)>) {
        let over = due.into_iter().filter(|(incarnation, Due { group, key })| {
            let group = self.group(*group);
            // Only the leader ends streams; it looks at this one again, as this shard does.
            let Ok(state) = group.leading() else { return false };
            let stream = state.stream(key).filter(|stream| stream.incarnation() == *incarnation);
            let Some(ends_ms) = stream.and_then(|stream| self.ends_ms(&group, stream)) else {
                self.agenda.remove(*incarnation);
                return false;
            };
            let is_over = self.clock.now_ms() >= ends_ms;
            if !is_over {
                self.agenda.arm(*incarnation, ends_ms);
            }
            is_over
        });
        // All at once: they wait for the same rounds. A full or failed log keeps them a while longer; to readers they are
        // gone already.
        let ends = over.map(|(incarnation, Due { group, key })| async move {
            let _ = self.end(&self.group(group), &key, incarnation).await;
        });
        join_all(ends.collect::<Vec<_>>()).await;
    }

    /// Puts the streams on the agenda that end by themselves, of groups that were restored. Apply does so with those that are
    /// created.
    async fn fill_agenda(&self) {
        while let Some(group) = self.agenda.take_unfilled() {
            let group = self.group(group);
            for slot in 0..SLOTS {
                if slot % SLOTS_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
                let (state, now_ms) = (group.applied(), self.clock.now_ms());
                if !state.has_expirable() {
                    break;
                }
                let streams = state.slot(slot).filter(|stream| !stream.is_gone());
                streams.for_each(|stream| self.agenda.add(group.id, stream.key(), &stream.facts(), now_ms));
            }
        }
    }
}

/// Ends streams whose time is over, without being asked. Runs for the shard's life.
pub(crate) async fn sweep(shard: Rc<Core>) {
    shard.local_groups().iter().for_each(|group| shard.agenda.note_unfilled(group.id));
    loop {
        shard.fill_agenda().await;
        tokio::time::sleep(SWEEP_INTERVAL).await;
        loop {
            let now_ms = shard.clock.now_ms();
            let due = shard.agenda.take_due(now_ms, now_ms.saturating_add(AGAIN_MS), DUE_PER_TURN);
            if due.is_empty() {
                break;
            }
            shard.end_due(due).await;
            tokio::task::yield_now().await;
        }
    }
}
