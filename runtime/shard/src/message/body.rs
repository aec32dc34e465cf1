//! Bodies: bytes as they came in.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

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

    /// All of it in one piece, as a guest takes it; see [`Body::join`].
    pub(crate) fn whole(&mut self) -> Bytes {
        self.join();
        self.pieces.first().cloned().unwrap_or_default()
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
