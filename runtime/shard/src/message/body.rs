//! Bodies: bytes as they came in.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use weir_stream::{Refusal, Split};

use crate::in_flight::InFlight;
use crate::message::apart;

/// A request's body in the pieces in which it arrived; almost always one. The log is where they are put together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Body {
    /// None of them is empty.
    #[serde(with = "apart::several")]
    pieces: SmallVec<[Bytes; 1]>,
    #[serde(skip)]
    bytes: usize,
    /// Of a large one.
    #[serde(skip)]
    large: Option<Box<Large>>,
}

/// What a large body has besides its bytes.
#[derive(Debug, Default)]
struct Large {
    /// The memory that was counted for it while it came in.
    counted: Option<InFlight>,
    /// How it falls into messages, where that was found before it came to its stream.
    cut: Option<Result<Split, Refusal>>,
}

impl Body {
    /// Adds what arrived next.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Has it keep what was counted for it.
    pub fn keep(&mut self, counted: InFlight) {
        self.large.get_or_insert_default().counted = Some(counted);
    }

    /// Takes what is counted for it. That belongs to the thread on which it was counted.
    pub(crate) fn take_counted(&mut self) -> Option<InFlight> {
        self.large.as_mut().and_then(|large| large.counted.take())
    }

    /// Notes how it falls into messages.
    pub(crate) fn set_cut(&mut self, cut: Result<Split, Refusal>) {
        self.large.get_or_insert_default().cut = Some(cut);
    }

    /// How it falls into messages, if that is known; asked once.
    pub(crate) fn take_cut(&mut self) -> Option<Result<Split, Refusal>> {
        self.large.as_mut().and_then(|large| large.cut.take())
    }

    /// What it takes: its bytes, and what is known of its messages.
    pub(crate) fn memory_bytes(&self) -> usize {
        let cut = self.large.as_ref().and_then(|large| large.cut.as_ref());
        self.bytes + cut.and_then(|cut| cut.as_ref().ok()).map_or(0, Split::memory_bytes)
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

    /// Has `visit` take the pieces out or put them in.
    pub(crate) fn exchange(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        self.pieces.iter_mut().for_each(visit);
        self.pieces.retain(|piece| !piece.is_empty());
        self.bytes = self.pieces.iter().map(Bytes::len).sum();
    }

    /// All of it in one piece, as a guest takes it; see [`Body::join`].
    pub(crate) fn whole(&mut self) -> Bytes {
        self.join();
        self.pieces.first().cloned().unwrap_or_default()
    }

    /// Puts the pieces together if there are more than `pieces_max`.
    pub(crate) fn join_beyond(&mut self, pieces_max: usize) {
        if self.pieces.len() > pieces_max {
            self.join();
        }
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

impl Clone for Body {
    /// The same bytes. What is counted is counted once, and how they fall into messages may be found again.
    fn clone(&self) -> Body {
        Body { pieces: self.pieces.clone(), bytes: self.bytes, large: None }
    }
}

impl From<Bytes> for Body {
    fn from(piece: Bytes) -> Body {
        let mut body = Body::default();
        body.push(piece);
        body
    }
}
