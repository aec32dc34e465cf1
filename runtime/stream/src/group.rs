//! A group: the streams placed on it, and what is kept beside them. [`Group::apply`] is what changes it; each verb has a file.

use std::collections::BTreeMap;

use weir_types::{Incarnation, StreamKey};

use crate::batch::{Frame, Limits};
use crate::bucket::Bucket;
use crate::chunks::{Chunk, ChunkId, ChunkTotals, Chunks};
use crate::content_type::ContentTypes;
use crate::extents::buried::Buried;
use crate::fork::Releases;
use crate::fork::pins::UnsettledPins;
use crate::freeze::Freeze;
use crate::hotlog::HotLog;
use crate::key::KeyRef;
use crate::meta::Meta;
use crate::reply::{Refusal, Reply};
use crate::slots::Slots;
use crate::stream::Stream;
use crate::subscription::cursors::Pending;

/// One group's state.
#[derive(Debug)]
pub struct Group {
    pub(crate) slots: Slots,
    pub(crate) buckets: BTreeMap<Box<str>, Bucket>,
    pub(crate) content_types: ContentTypes,
    /// Streams that have an expiry.
    pub(crate) expirable: usize,
    pub(crate) meta: Meta,
    pub(crate) index_bytes: usize,
    /// Changes of any bucket's bindings in this group.
    pub(crate) bindings_epoch: u64,
    /// Buckets that have a binding.
    pub(crate) bound_buckets: usize,
    /// Buckets that a subscription watches.
    pub(crate) watched_buckets: usize,
    /// Memory of all watches.
    pub(crate) watches_bytes: usize,
    /// Which watches these are: a stream that has seen others is linked anew. Counted from 1 in each process.
    pub(crate) watch_epoch: u32,
    /// Streams that have more than some subscription has processed.
    pub(crate) pending: Pending,
    /// The last change that this group has heard of of a bucket that is gone: what is older may be of its life.
    pub(crate) buckets_gone_epoch: u64,
    /// What of the log is still named.
    pub(crate) hotlog: HotLog,
    pub(crate) chunks: Chunks,
    /// What deleted and trimmed streams named of the log and of chunks, and has not been given back yet.
    pub(crate) buried: Buried,
    /// Pins that forks of this group need no longer, of which their sources do not know yet.
    pub(crate) releases: Releases,
    /// Pins whose forks may not have come to be.
    pub(crate) unsettled: UnsettledPins,
    /// The last log index applied.
    pub(crate) applied: Option<u64>,
    pub(crate) time_ms: u64,
}

/// What became of one command, for its requester and for those who watch the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub reply: Reply,
    /// What changed.
    pub change: Change,
}

/// What a command changed in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The stream came to be.
    Created {
        /// Its life.
        incarnation: Incarnation,
    },
    /// Records were appended, or the stream was closed, or both.
    Advanced {
        /// The stream's life.
        incarnation: Incarnation,
        /// The position of the first new byte.
        start: u64,
        /// The new tail; `start` when the stream was only closed.
        end: u64,
        /// From the batch's first byte to the first of the records' [packs](crate::pack).
        packs_pos: u32,
        /// From the batch's first byte to the end of the last of them.
        packs_end: u32,
        /// Whether the stream is closed now.
        closed: bool,
    },
    /// The stream is gone.
    Removed {
        /// Its life.
        incarnation: Incarnation,
    },
}

/// Where and when a command is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) frame: Frame,
    /// Group time.
    pub(crate) time_ms: u64,
    pub(crate) limits: Limits,
}

impl Outcome {
    pub(crate) fn unchanged(reply: Reply) -> Outcome {
        Outcome { reply, change: Change::None }
    }

    pub(crate) fn refused(refusal: Refusal) -> Outcome {
        Outcome::unchanged(Reply::Refused(refusal))
    }
}

impl Default for Group {
    fn default() -> Group {
        Group::new()
    }
}

/// Counts a stream anew, of which `before_bytes` were counted.
pub(crate) fn recount(index_bytes: &mut usize, before_bytes: usize, bytes: usize) {
    assert!(*index_bytes >= before_bytes, "what a stream takes was counted");
    *index_bytes = *index_bytes - before_bytes + bytes;
}

impl Group {
    /// A group without streams or buckets.
    pub fn new() -> Group {
        Group {
            slots: Slots::new(),
            buckets: BTreeMap::new(),
            content_types: ContentTypes::default(),
            expirable: 0,
            meta: Meta::default(),
            index_bytes: 0,
            bindings_epoch: 0,
            bound_buckets: 0,
            watched_buckets: 0,
            watches_bytes: 0,
            watch_epoch: 1,
            pending: Pending::default(),
            buckets_gone_epoch: 0,
            hotlog: HotLog::default(),
            chunks: Chunks::default(),
            buried: Buried::default(),
            releases: Releases::default(),
            unsettled: UnsettledPins::default(),
            applied: None,
            time_ms: 0,
        }
    }

    /// The stream at `key`, unless it is gone.
    pub fn stream(&self, key: &StreamKey) -> Option<&Stream> {
        self.find(key).ok()
    }

    /// The stream at `key`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::SoftDeleted`] for one that is gone and kept for its forks.
    pub fn find(&self, key: &StreamKey) -> Result<&Stream, Refusal> {
        let stream = self.slots.get(key.into()).ok_or(Refusal::NotFound)?;
        if stream.is_gone() { Err(Refusal::SoftDeleted) } else { Ok(stream) }
    }

    /// The life of the stream at `key`, gone or not: whoever moves its bytes or reads them for a fork.
    pub fn life(&self, key: &StreamKey, incarnation: Incarnation) -> Option<&Stream> {
        self.life_at(key.into(), incarnation)
    }

    pub(crate) fn life_at(&self, key: KeyRef<'_>, incarnation: Incarnation) -> Option<&Stream> {
        self.slots.get(key).filter(|stream| stream.incarnation() == incarnation)
    }

    /// Group time: the latest time of any applied batch, in milliseconds since 1970. Never goes backwards.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Memory of all streams: names, extents, producers, content types, what of the log is named, chunks, frozen pages, cursors; and of
    /// subscriptions. Kept as commands are applied, so asking costs nothing.
    pub fn index_bytes(&self) -> usize {
        let named_bytes = self.hotlog.memory_bytes() + self.chunks.memory_bytes() + self.buried.memory_bytes();
        let frozen_bytes = self.slots.freeze.as_ref().map_or(0, Freeze::memory_bytes);
        let forks_bytes = self.unsettled.memory_bytes() + self.releases.memory_bytes();
        let followed_bytes = self.pending.memory_bytes() + self.watches_bytes + self.meta.subscriptions_bytes;
        self.index_bytes + self.content_types.bytes() + named_bytes + frozen_bytes + forks_bytes + followed_bytes
    }

    /// The last log index applied.
    pub fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// The log has begun, with an entry that says who belongs to the group: the state is as of that, unless it is as of a later one.
    pub fn begin(&mut self) {
        self.applied.get_or_insert(0);
    }

    /// The lowest log index whose bytes a stream names, or one that was deleted and has not given them back yet; `None`
    /// when there is none. What lies before it is not needed for reads.
    pub fn hot_floor(&self) -> Option<u64> {
        self.hotlog.floor()
    }

    /// Whether a stream names bytes of this log entry.
    pub fn is_hot(&self, index: u64) -> bool {
        self.hotlog.names(index)
    }

    /// All log entries whose bytes a stream names, in order, or one that was deleted and has not given them back yet.
    pub fn hot_indices(&self) -> impl Iterator<Item = u64> {
        self.hot_indices_from(0)
    }

    /// As [`Group::hot_indices`], those from `first` on.
    pub fn hot_indices_from(&self, first: u64) -> impl Iterator<Item = u64> {
        self.hotlog.indices_from(first)
    }

    /// Bytes of packs in the log that streams name.
    pub fn hot_bytes(&self) -> u64 {
        self.hotlog.bytes()
    }

    /// The chunk of a number that a stream names.
    pub fn chunk(&self, number: u32) -> Option<&Chunk> {
        self.chunks.get(number)
    }

    /// All chunks that some stream names, in the order of their numbers.
    pub fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter()
    }

    /// How many chunks streams name, and what is in them.
    pub fn chunks_totals(&self) -> ChunkTotals {
        self.chunks.totals()
    }

    /// The highest number that a chunk has had.
    pub fn chunk_number_last(&self) -> u32 {
        self.chunks.last_number()
    }

    /// The log index with which a chunk has come or gone last, if that was behind the snapshot that this began with.
    pub fn chunks_changed(&self) -> Option<u64> {
        self.chunks.changed()
    }

    /// The chunks that have lost their last live byte since this was asked before, and the log index with which they did:
    /// nothing will read them again, unless it begins with a snapshot as of an earlier one.
    pub fn take_gone_chunks(&mut self) -> Vec<(ChunkId, u64)> {
        self.chunks.take_gone()
    }

    /// Streams in the group.
    pub fn streams(&self) -> usize {
        self.slots.len()
    }

    /// What group 0 keeps for all groups; empty in every other group.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}
