//! Pins: what the source of a fork does for it. See [`crate::write::fork`].

use std::rc::Rc;

use bytes::Bytes;
use weir_stream::{ANCESTORS_MAX, Command, Facts, Group, KeyRef, Refusal, Reply};
use weir_types::{Incarnation, StreamKey};

use crate::core::Core;
use crate::message::{Answer, PinRequest, Pinned, RecordBatch, Response, ShardError};

/// Bytes and messages that are counted at a time.
const COUNTED_BYTES: usize = 1 << 20;
const COUNTED_MESSAGES: usize = 1 << 16;

/// Where a fork leaves its source.
struct Parting {
    /// The position of its first own byte.
    begin: u64,
    /// The part of the source's next record that is its own first one.
    prefix: Bytes,
}

impl Core {
    /// Finds where a fork leaves a stream of this shard, and keeps what comes before.
    pub(crate) async fn pin(self: &Rc<Self>, key: StreamKey, request: PinRequest) -> Response {
        let group = self.local_group(&key);
        let deadline = group.deadline();
        if let Some(refusal) = self.storage_refusal(&group, key.as_str().len()) {
            return Err(refusal);
        }
        let facts = self.head(&key).map_err(|error| match error {
            ShardError::Refused(Refusal::SoftDeleted) => ShardError::Refused(Refusal::NameHeld),
            other => other,
        })?;
        if let Some(sent) = request.content_type.filter(|sent| !Group::is_same_type(sent, &facts.content_type)) {
            return Err(Refusal::ContentTypeMismatch { sent, expected: facts.content_type }.into());
        }
        let anchor = facts.check_offset(request.from)?;
        if anchor > facts.earliest.position && anchor < facts.next.position {
            self.check_boundary(&group, &key, facts.offset(anchor)).await?;
        }
        // Counting goes through the stream, up to its tail if need be.
        let part = self.part(&key, &facts, anchor, request.sub_offset);
        let part = tokio::time::timeout_at(deadline, part).await;
        let Parting { begin, prefix } = part.unwrap_or(Err(ShardError::Unavailable))?;
        let incarnation = facts.incarnation;
        {
            let state = group.leading()?;
            let stream = state.life(&key, incarnation).ok_or(Refusal::NotFound)?;
            if stream.ancestors_upto(stream.base(), begin).len() > ANCESTORS_MAX {
                return Err(Refusal::ForkAncestors { max: ANCESTORS_MAX }.into());
            }
        }
        let pin = Command::Pin {
            key: KeyRef::from(&key),
            incarnation,
            fork: KeyRef::from(&request.fork),
            fork_incarnation: request.fork_incarnation,
            upto: begin,
            until_ms: request.until_ms,
        };
        match group.command(&pin).await? {
            Reply::Pinned(source) => {
                let state = group.applied();
                let stream = state.life(&key, incarnation).ok_or(Refusal::NotFound)?;
                let ancestors = stream.ancestors_upto(source.earliest.position, begin);
                Ok(Answer::Pinned(Box::new(Pinned { source, anchor, begin, ancestors, prefix })))
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a pin is not answered with {other:?}"),
        }
    }

    /// Finds what lies `sub_offset` messages behind `anchor` or, in a stream of bytes, so many bytes into the record there.
    async fn part(
        self: &Rc<Self>,
        key: &StreamKey,
        facts: &Facts,
        anchor: u64,
        sub_offset: u64,
    ) -> Result<Parting, ShardError> {
        let (mut begin, mut left, tail) = (anchor, sub_offset, facts.next.position);
        while left > 0 {
            if begin == tail {
                return Err(Refusal::ForkSubOffset.into());
            }
            let is_json = Group::is_json(&facts.content_type);
            let records_max = if is_json { left.min(COUNTED_MESSAGES as u64) as usize } else { 1 };
            let RecordBatch { records, end, .. } =
                self.read_records(key, facts.offset(begin), tail, COUNTED_BYTES, records_max).await?;
            let records = records.ok_or(Refusal::ForkSubOffset)?;
            begin = end;
            if is_json {
                left -= records.ends.len() as u64;
                continue;
            }
            return match records.data.len() as u64 {
                bytes if left > bytes => Err(Refusal::ForkSubOffset.into()),
                bytes if left == bytes => Ok(Parting { begin, prefix: Bytes::new() }),
                _ => {
                    // A small part of a large buffer would keep all of it.
                    let prefix = Bytes::copy_from_slice(&records.data[..left as usize]);
                    Ok(Parting { begin: anchor, prefix })
                }
            };
        }
        Ok(Parting { begin, prefix: Bytes::new() })
    }

    /// Releases what a fork has held of a stream of this shard.
    pub(crate) async fn unpin(
        self: &Rc<Self>,
        key: &StreamKey,
        incarnation: Incarnation,
        fork: Incarnation,
        keeps_pin: bool,
    ) -> Response {
        let group = self.local_group(key);
        let unpin = Command::Unpin { key: KeyRef::from(key), incarnation, fork, keeps_pin };
        group.command(&unpin).await.map(|_| Answer::Done)
    }

    /// Decides whether a fork of this shard is there or will never be.
    pub(crate) async fn decide_fork(
        self: &Rc<Self>,
        key: &StreamKey,
        incarnation: Incarnation,
        until_ms: u64,
    ) -> Response {
        let group = self.local_group(key);
        if self.clock.now_ms() <= until_ms {
            // The clock of the source's node is ahead.
            return Err(ShardError::Unavailable);
        }
        match group.command(&Command::ForkDecide { key: KeyRef::from(key), incarnation, until_ms }).await? {
            Reply::ForkDecided { is_there } => Ok(Answer::ForkDecided { is_there }),
            other => unreachable!("it is not answered with {other:?}"),
        }
    }
}
