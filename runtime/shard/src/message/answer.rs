//! What a shard answers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_hooks::PublicKey;
use weir_stream::{Ancestor, Appended, Binding, BucketView, Expiry, Facts, Retention, Revision};
use weir_types::{Incarnation, Lineages, Offset};
use weir_wasm::GuestBatch;

use crate::message::apart;
use crate::message::error::ShardError;
use crate::message::members::MembersAnswer;
use crate::message::request::ListCursor;
use crate::message::subscription::{LinkedStream, SubscriptionAnswer};

/// A range of a stream that begins and ends at record boundaries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// Which life of the name it was read from.
    pub incarnation: Incarnation,
    /// The stream's content type.
    #[serde(with = "weir_types::shared")]
    pub content_type: Arc<str>,
    /// Where the range begins.
    pub start: Offset,
    /// Where it ends: where to read on.
    pub next: Offset,
    /// The stored bytes, in order; in JSON mode `message,message,`. Empty when `start` is the tail.
    #[serde(with = "apart::several")]
    pub chunks: Vec<Bytes>,
    /// Whether `next` was the tail.
    pub up_to_date: bool,
    /// Whether `next` is the tail of a closed stream: nothing will ever follow.
    pub closed: bool,
    /// The stream's expiry, for cache headers.
    pub expiry: Expiry,
    /// The offset before the stream's first record that has not been trimmed.
    pub earliest: Offset,
}

/// How a long-poll ended.
#[derive(Clone, Debug)]
pub enum LongPoll {
    /// There are bytes after the offset.
    Page(Page),
    /// There are none: time ran out, or the stream is closed there.
    Nothing {
        /// The tail.
        next: Offset,
        /// Whether the stream is closed.
        closed: bool,
        /// The offset before the stream's first record that had not been trimmed when the wait began.
        earliest: Offset,
    },
}

/// How a wait for a summary ended.
#[derive(Clone, Debug)]
pub enum SummaryWait {
    /// The view is of the records asked for.
    View(SummaryView),
    /// There is none yet: time ran out, or the stream has ended before.
    Nothing {
        /// The last view was of all records before this offset.
        next: Offset,
        /// Whether the stream is closed there.
        closed: bool,
    },
}

/// A page of a bucket's listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// Streams, in no order that means anything.
    pub streams: Vec<ListedStream>,
    /// Where the next page begins; none on the last.
    pub next: Option<ListCursor>,
}

/// One row of a bucket's listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListedStream {
    /// The name within the bucket.
    pub name: Box<str>,
    /// Its state.
    pub facts: weir_stream::Facts,
}

/// A bucket, described.
#[derive(Clone, Copy, Debug)]
pub struct BucketSummary {
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Streams in it.
    pub streams: u64,
    /// How much of its streams is kept.
    pub retention: Retention,
}

/// A module as a client sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModuleSummary {
    /// Its name.
    pub name: Box<str>,
    /// What has become of the newest upload.
    pub state: ModuleState,
    /// The newest upload.
    pub newest: Revision,
    /// The uploads that can be bound, the newest first.
    pub revisions: Vec<Revision>,
}

/// What has become of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleState {
    /// It is being compiled.
    Compiling,
    /// It can be bound.
    Ready,
    /// It could not be compiled, for this reason, and is not kept.
    Failed(Box<str>),
}

/// What a fold has said, and of which part of the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SummaryView {
    /// Which life of the stream.
    pub incarnation: Incarnation,
    /// The change of bindings that made the binding what it is.
    pub epoch: u64,
    /// The view is of all records from this offset on: the first one, but for a stream that was trimmed.
    pub from: Offset,
    /// And before this offset.
    pub next: Offset,
    /// What the stream's offsets carry.
    pub lineages: Lineages,
    /// The view's media type, fit to be a header.
    #[serde(with = "weir_types::shared")]
    pub content_type: Arc<str>,
    /// The view.
    #[serde(with = "apart::one")]
    pub body: Bytes,
    /// Whether the stream is closed there: the view is the last.
    pub closed: bool,
    /// Why the fold does not go on beyond `next`: the record there ends the module.
    #[serde(with = "weir_types::shared::option")]
    pub failed: Option<Arc<str>>,
}

/// Records of a stream from one offset to another, as a guest takes them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordBatch {
    /// The records; none at the tail.
    #[serde(with = "packed")]
    pub(crate) records: Option<GuestBatch>,
    /// The position after the last of them.
    pub(crate) end: u64,
    /// Stored bytes behind each record that are none of it.
    pub(crate) separator_bytes: usize,
}

/// Records in a message: their bytes are apart.
mod packed {
    use serde::{Deserializer, Serializer};

    use super::*;

    type Heads = (u64, Vec<u32>, Vec<u64>);

    pub(super) fn serialize<S: Serializer>(records: &Option<GuestBatch>, serializer: S) -> Result<S::Ok, S::Error> {
        let heads = |GuestBatch { first_offset, ends, times, data: _ }: &GuestBatch| -> Heads {
            (*first_offset, ends.clone(), times.clone())
        };
        records.as_ref().map(heads).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GuestBatch>, D::Error> {
        let batch = |(first_offset, ends, times): Heads| GuestBatch { first_offset, ends, times, data: Bytes::new() };
        Ok(Option::<Heads>::deserialize(deserializer)?.map(batch))
    }
}

/// What a fork begins with, kept by its source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pinned {
    /// The source, when it was pinned. The fork inherits its records from the earliest on.
    pub(crate) source: Facts,
    /// The position that the request has named.
    pub(crate) anchor: u64,
    /// The position of the fork's first own byte.
    pub(crate) begin: u64,
    /// Who holds what it inherits.
    pub(crate) ancestors: Vec<Ancestor>,
    /// Its first own record, a part of the source's next one; empty for none.
    #[serde(with = "apart::one")]
    pub(crate) prefix: Bytes,
}

/// What a request is answered with.
pub(crate) type Response = Result<Answer, ShardError>;

impl Answer {
    /// Has `visit` take what is large out, or put it in.
    pub(crate) fn exchange(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        match self {
            Answer::Page(page) => page.chunks.iter_mut().for_each(visit),
            Answer::View(view) => visit(&mut view.body),
            Answer::Records(batch) => batch.records.iter_mut().for_each(|records| visit(&mut records.data)),
            Answer::Pinned(pinned) => visit(&mut pinned.prefix),
            Answer::ModuleBytes(wasm) => visit(wasm),
            Answer::FoldState { state, .. } => state.iter_mut().for_each(visit),
            _ => {}
        }
    }
}

/// A request's result, by its kind.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Appended(Appended),
    Created {
        facts: Facts,
        existed: bool,
    },
    Facts(Facts),
    Watching {
        facts: Facts,
        number: u64,
    },
    Page(Box<Page>),
    Records(Box<RecordBatch>),
    /// Up to which position it is of the stream, and what it is; nothing where there is none.
    FoldState {
        position: u64,
        #[serde(with = "apart::maybe")]
        state: Option<Bytes>,
    },
    Pinned(Box<Pinned>),
    ForkDecided {
        is_there: bool,
    },
    Listed(Listing),
    Bucket(BucketView),
    /// Names, and when each was created, in milliseconds since 1970.
    Buckets(Vec<(Box<str>, u64)>),
    /// The bucket's streams in one group.
    BucketStreams(u64),
    BucketCreated {
        existed: bool,
    },
    Module {
        module: Box<ModuleSummary>,
        existed: bool,
    },
    Modules(Vec<ModuleSummary>),
    ModuleBytes(#[serde(with = "apart::one")] Bytes),
    Binding {
        #[serde(with = "weir_types::shared")]
        binding: Arc<Binding>,
        existed: bool,
    },
    Bindings(#[serde(with = "weir_types::shared::list")] Vec<Arc<Binding>>),
    View(Box<SummaryView>),
    Subscription(Box<SubscriptionAnswer>),
    HookKeys(Vec<PublicKey>),
    Links(Vec<LinkedStream>),
    Members(MembersAnswer),
    Done,
    /// A group's time, in milliseconds since 1970.
    Now(u64),
}
