//! Streams that end by themselves. The leader keeps touches in memory and never writes for a read; a stream ends only by
//! an *expire* command, which apply checks once more against the last write.
//!
//! A touch is lost with the process. So a leader that has just begun to serve takes every stream for touched at that
//! moment, and adds a tenth of its TTL.

use std::rc::Rc;
use std::time::Duration;

use weir_stream::{Command, Expiry, KeyRef, Stream};
use weir_types::StreamKey;

use crate::core::Core;
use crate::write::job::LocalGroup;

/// How often streams that nobody asks for are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Core {
    /// Notes that a stream with a sliding TTL was used.
    pub(crate) fn touch(&self, stream: &Stream) {
        if let Expiry::Idle { .. } = stream.expiry() {
            self.touches.borrow_mut().insert(stream.incarnation(), self.clock.now_ms());
        }
    }

    /// Whether the stream's time is over: to readers it is gone, even before the command that removes it is applied.
    pub(crate) fn is_expired(&self, group: &LocalGroup, stream: &Stream) -> bool {
        match stream.expiry() {
            Expiry::Never => false,
            Expiry::At { at_ms } => self.clock.now_ms() >= at_ms,
            Expiry::Idle { ttl_s } => {
                let ttl_ms = ttl_s.saturating_mul(1000);
                let touched = self.touches.borrow().get(&stream.incarnation()).copied().unwrap_or(0);
                let used_ms = touched.max(stream.last_write_ms());
                let ends_ms = if used_ms >= group.serving_since_ms {
                    used_ms.saturating_add(ttl_ms)
                } else {
                    group.serving_since_ms.saturating_add(ttl_ms).saturating_add(ttl_ms / 10)
                };
                self.clock.now_ms() >= ends_ms
            }
        }
    }

    /// The stream's group, if the stream is there and its time is over.
    pub(crate) fn expired_group(&self, key: &StreamKey) -> Option<Rc<LocalGroup>> {
        let group = self.local_group(key);
        let is_expired = {
            let state = group.state.borrow();
            // Most groups have no stream that ends by itself, and every request asks.
            state.has_expirable() && state.stream(key).is_some_and(|stream| self.is_expired(&group, stream))
        };
        is_expired.then_some(group)
    }

    /// Ends the stream if its time is over, and waits until it is gone.
    pub(crate) async fn expire(&self, group: &LocalGroup, key: &StreamKey) {
        let expired = {
            let state = group.state.borrow();
            state.stream(key).filter(|stream| self.is_expired(group, stream)).map(Stream::incarnation)
        };
        let Some(incarnation) = expired else { return };
        // A full or failed log keeps the stream a while longer; to readers it is gone already.
        if group.command(&Command::Expire { key: KeyRef::from(key), incarnation }).await.is_ok() {
            self.touches.borrow_mut().remove(&incarnation);
            self.guests.folds.forget(incarnation);
        }
    }
}

/// Ends streams whose time is over, without being asked. Runs for the shard's life.
pub(crate) async fn sweep(shard: Rc<Core>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        for group in shard.local_groups() {
            let expired: Vec<StreamKey> = {
                let state = group.state.borrow();
                let expired = state.expirable().filter(|(_, stream)| shard.is_expired(&group, stream));
                expired.filter_map(|(key, _)| key_of(key)).collect()
            };
            for key in expired {
                shard.expire(&group, &key).await;
            }
        }
    }
}

fn key_of(text: &str) -> Option<StreamKey> {
    let (bucket, name) = text.split_once('/')?;
    StreamKey::new(bucket, name).ok()
}
