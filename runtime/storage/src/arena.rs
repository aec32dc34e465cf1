//! Buffers for frames: a payload is encoded into one once, and the disk is written from it without a further copy.

use bytes::{Bytes, BytesMut};

use crate::block::{BLOCK_BYTES, block_buf, is_block_address, padded};
use crate::frame::FRAME_HEADER_BYTES;

/// A buffer at a block address, with space for the frame header in front and for padding behind.
#[derive(Debug)]
pub struct Arena {
    buf: BytesMut,
}

impl Arena {
    /// A buffer for a frame whose body has about `body_bytes`. A body that outgrows it costs a copy, and so does one
    /// that uses less than half of a large buffer (which the cache would otherwise keep whole).
    pub fn new(body_bytes: usize) -> Arena {
        let mut buf = block_buf(FRAME_HEADER_BYTES + body_bytes);
        buf.resize(FRAME_HEADER_BYTES, 0);
        Arena { buf }
    }

    /// The buffer to encode into: it holds [`FRAME_HEADER_BYTES`], and the body is put behind them.
    pub fn into_buf(self) -> BytesMut {
        self.buf
    }

    /// The finished frame, header space and body: what [`Wal::append`](crate::Wal::append) takes. It should have no
    /// other owner by then, or it is copied.
    pub fn seal(buf: BytesMut) -> Bytes {
        assert!(buf.len() >= FRAME_HEADER_BYTES, "the header's space is kept");
        buf.freeze()
    }
}

/// A frame as the disk takes it.
pub(crate) struct Blocks {
    /// At a block address, padded with zeros to whole blocks.
    pub(crate) buf: BytesMut,
    /// Whether it had to be copied for that.
    pub(crate) is_copied: bool,
    /// Memory that it holds on to, in bytes: what it was made for, which may be several times what it came to hold.
    pub(crate) memory_bytes: usize,
}

/// Makes `frame` writable, at a block address and padded with zeros.
pub(crate) fn to_blocks(frame: Bytes) -> Blocks {
    let bytes = padded(frame.len());
    let copy = |from: &[u8]| {
        let mut buf = block_buf(from.len());
        buf.extend_from_slice(from);
        buf
    };
    let (mut buf, is_copied) = match frame.try_into_mut() {
        // A buffer without space for its padding would be moved to another address by it.
        Ok(buf) if is_block_address(&buf) && buf.capacity() >= bytes && !is_roomy(&buf) => (buf, false),
        Ok(buf) => (copy(&buf), true),
        Err(shared) => (copy(&shared), true),
    };
    buf.resize(bytes, 0);
    assert!(is_block_address(&buf), "padding does not move the buffer");
    let memory_bytes = buf.capacity() + BLOCK_BYTES;
    Blocks { buf, is_copied, memory_bytes }
}

/// Whether the buffer holds on to far more memory than its bytes need. The slack is what makes small frames cheap.
fn is_roomy(buf: &BytesMut) -> bool {
    buf.capacity() > 2 * buf.len() + 16 * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_within_its_estimate_is_written_from_where_it_was_encoded() {
        for body_bytes in [0, 1, 4000, 4032, 4033, 100_000, 1 << 20] {
            let mut buf = Arena::new(body_bytes).into_buf();
            assert_eq!(buf.len(), FRAME_HEADER_BYTES);
            buf.resize(FRAME_HEADER_BYTES + body_bytes, 7);
            let address = buf.as_ptr();
            let Blocks { buf, is_copied, memory_bytes } = to_blocks(Arena::seal(buf));
            assert!(!is_copied, "{body_bytes}");
            assert_eq!(buf.as_ptr(), address);
            assert_eq!(buf.len(), padded(FRAME_HEADER_BYTES + body_bytes));
            assert!(memory_bytes >= buf.len() + BLOCK_BYTES);
            assert!(buf[FRAME_HEADER_BYTES + body_bytes..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn grown_shared_and_roomy_buffers_are_copied() {
        let mut grown = Arena::new(10).into_buf();
        grown.resize(100_000, 7);
        let mut roomy = Arena::new(1 << 20).into_buf();
        roomy.resize(1000, 7);
        let shared = Arena::seal(Arena::new(10).into_buf());
        let other = shared.clone();
        for frame in [Arena::seal(grown), Arena::seal(roomy), shared] {
            let bytes = frame.to_vec();
            let Blocks { buf, is_copied, .. } = to_blocks(frame);
            assert!(is_copied && is_block_address(&buf));
            assert_eq!(buf[..bytes.len()], bytes);
        }
        assert_eq!(other.len(), FRAME_HEADER_BYTES);
    }
}
