//! What a shard is asked and answers: plain values that cross from one shard to another.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use weir_stream::{Expiry, Refusal};
use weir_types::{Incarnation, Offset};

use crate::limit::Limit;

/// Create a stream.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// The stream's content type, as sent; `application/octet-stream` when the request has none.
    pub content_type: Box<str>,
    /// When it ends by itself.
    pub expiry: Expiry,
    /// Whether it is closed from the start.
    pub closed: bool,
    /// Its first records; empty for none.
    pub body: Body,
}

/// Append records, close, or both.
#[derive(Clone, Debug, Default)]
pub struct AppendRequest {
    /// The body's content type, as sent.
    pub content_type: Option<Box<str>>,
    /// Close the stream after the append.
    pub close: bool,
    /// Who writes, for exactly-once.
    pub producer: Option<Producer>,
    /// `Stream-Seq`.
    pub seq: Option<Box<str>>,
    /// Append only if this is the tail.
    pub if_match: Option<Offset>,
    /// The records; empty only with `close`.
    pub body: Body,
}

/// A request's body in the pieces in which it arrived; almost always one. The log is where they are put together.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// None of them is empty.
    pieces: SmallVec<[Bytes; 1]>,
    bytes: usize,
}

impl Body {
    /// Adds what arrived next.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The first piece, which is all of it once it is [joined](Body::join); nothing for an empty body.
    pub fn first(&self) -> &[u8] {
        self.pieces.first().map_or(&[], |piece| piece)
    }

    /// Puts the pieces together: only a body that has to be parsed needs that, and only one of several pieces is copied.
    pub fn join(&mut self) {
        if self.pieces.len() > 1 {
            let mut whole = BytesMut::with_capacity(self.bytes);
            self.pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
            self.pieces.push(whole.freeze());
        }
    }
}

impl From<Bytes> for Body {
    fn from(piece: Bytes) -> Body {
        let mut body = Body::default();
        body.push(piece);
        body
    }
}

/// An idempotent producer's headers.
#[derive(Clone, Debug)]
pub struct Producer {
    /// `Producer-Id`, 1 to [`weir_types::limits::PRODUCER_ID_BYTES_MAX`] bytes.
    pub id: Box<str>,
    /// `Producer-Epoch`.
    pub epoch: u64,
    /// `Producer-Seq`.
    pub seq: u64,
}

/// A range of a stream that begins and ends at record boundaries.
#[derive(Clone, Debug)]
pub struct Page {
    /// Which life of the name it was read from.
    pub incarnation: Incarnation,
    /// The stream's content type.
    pub content_type: Arc<str>,
    /// Where the range begins.
    pub start: Offset,
    /// Where it ends: where to read on.
    pub next: Offset,
    /// The stored bytes, in order; in JSON mode `message,message,`. Empty when `start` is the tail.
    pub chunks: Vec<Bytes>,
    /// Whether `next` was the tail.
    pub up_to_date: bool,
    /// Whether `next` is the tail of a closed stream: nothing will ever follow.
    pub closed: bool,
    /// The stream's expiry, for cache headers.
    pub expiry: Expiry,
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
    },
}

/// One row of a bucket's listing.
#[derive(Clone, Debug)]
pub struct ListedStream {
    /// The name within the bucket.
    pub name: Box<str>,
    /// Its state.
    pub summary: weir_stream::Summary,
}

/// A bucket, described.
#[derive(Clone, Copy, Debug)]
pub struct BucketSummary {
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// Streams in it.
    pub streams: u64,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShardError {
    /// The stream's state forbids it; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The bucket does not exist and may not come to be by itself; nothing changed.
    #[error("no such bucket, and buckets are not created automatically")]
    BucketUnknown,
    /// A limit is met; nothing changed.
    #[error("a limit is met: {}", .0.key())]
    Limit(Limit),
    /// The group has no leader, or its queue is full; nothing changed.
    #[error("the stream's group cannot take requests now")]
    Unavailable,
    /// The log cannot be written any more; nothing changed. Only a restart helps.
    #[error("the stream's log has failed")]
    LogFailed,
    /// No outcome within the deadline, or the log failed under the request: it may or may not have been carried out.
    #[error("the outcome is unknown")]
    Unknown,
    /// A validator refused a record; nothing changed.
    #[error("record {index} was refused by {binding}: {message}")]
    RecordRejected {
        /// The validator's binding.
        binding: Box<str>,
        /// Which record of the request, counted from 0.
        index: u32,
        /// For programs: 1 to 64 characters of `a-z`, `0-9`, `-` and `_`.
        code: Box<str>,
        /// For people.
        message: Box<str>,
    },
    /// A module that was needed for the answer ended instead of giving it; nothing changed.
    #[error("{0}")]
    ModuleTrapped(Arc<str>),
    /// A module that is needed for the answer is not ready on this node yet; nothing changed.
    #[error("a module that the stream is bound to is not ready yet")]
    ModuleNotReady,
    /// What was uploaded is no module that can be used; nothing is kept.
    #[error("{0}")]
    ModuleInvalid(Box<str>),
    /// What was uploaded is larger than modules may be; nothing is kept.
    #[error("a module may have {bytes_max} bytes")]
    ModuleTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// What was uploaded cannot be kept.
    #[error("the module cannot be kept")]
    ModuleStore(Arc<str>),
    /// The module cannot be bound like this; nothing changed.
    #[error("{0}")]
    BindingInvalid(Box<str>),
    /// The fold has ended before the offset that was asked for: the record there ends the module.
    #[error("the summary has failed at offset {at}: {reason}")]
    SummaryFailed {
        /// The offset of the record.
        at: Offset,
        /// Why.
        reason: Arc<str>,
    },
    /// The module refuses the question, in its own words.
    #[error("{0}")]
    SummaryRefused(Box<str>),
    /// What the disk holds is not what was written.
    #[error("stored bytes are damaged: {0}")]
    Corrupt(Arc<str>),
}
