//! Frames: what one message is between two nodes, once they have met (see [`crate::hello`] for what comes before).
//!
//! All numbers are little endian.
//!
//! ```text
//!  0 bytes of the whole frame (u32)      10 number of bodies (u16)
//!  4 crc32c of all other bytes           12 bytes of the head (u32)
//!  8 role (u8)                           16 request number (u64)
//!  9 kind, the embedder's (u8)           24 bytes of each body (u32 each), then the head, then the bodies
//! ```
//!
//! A reply carries the number of the request that it answers. The hello has agreed on a version, so a frame has none. A
//! header says how much memory the frame will take, and the limits below are checked before any of it is allocated; the
//! checksum is known only when all is there. It finds damage and mistakes, not forgery: that is what TLS is for.

use bytes::{BufMut, Bytes, BytesMut};
use weir_types::limits::BODY_BYTES_CEILING;

/// The largest frame, in bytes: a command with the largest body that can be configured, with space to spare.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// The largest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 1 << 20;
/// The most bodies of one message.
pub const BODIES_MAX: usize = 4096;

const _: () = assert!(FRAME_BYTES_MAX >= BODY_BYTES_CEILING + HEAD_BYTES_MAX + 4 * BODIES_MAX + HEADER_BYTES);

/// Bytes of a frame before the lengths of its bodies.
pub(crate) const HEADER_BYTES: usize = 24;

/// The checksum lies between these two.
const CRC_AT: usize = 4;
const CHECKED_FROM: usize = 8;

/// What one node says to another: a request, or the reply to one. The embedder decides what it means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: u8,
    /// Its small part, at most [`HEAD_BYTES_MAX`].
    pub head: Bytes,
    /// Its large parts, at most [`BODIES_MAX`]. They are sent as they are. On arrival, each is what the embedder's buffer
    /// held before, and behind that the body.
    pub bodies: Vec<Bytes>,
}

impl Message {
    /// Bytes on the wire; at most [`FRAME_BYTES_MAX`] can be sent.
    pub fn frame_bytes(&self) -> usize {
        let bodies: usize = self.bodies.iter().map(Bytes::len).sum();
        HEADER_BYTES + 4 * self.bodies.len() + self.head.len() + bodies
    }

    /// Asserts what a sender has to see to.
    pub(crate) fn assert_fits(&self) {
        assert!(self.head.len() <= HEAD_BYTES_MAX, "a head is at most {HEAD_BYTES_MAX} bytes");
        assert!(self.bodies.len() <= BODIES_MAX, "a message has at most {BODIES_MAX} bodies");
        assert!(self.frame_bytes() <= FRAME_BYTES_MAX, "a message is at most {FRAME_BYTES_MAX} bytes");
    }
}

/// What a frame is to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Role {
    /// It begins the call.
    Request = 1,
    /// It answers it.
    Reply = 2,
    /// There will be no answer: who should have answered did not. Such a frame is empty.
    Unanswered = 3,
}

impl Role {
    fn from_u8(role: u8) -> Option<Role> {
        [Role::Request, Role::Reply, Role::Unanswered].into_iter().find(|&known| known as u8 == role)
    }
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) role: Role,
    pub(crate) number: u64,
    pub(crate) message: Message,
}

impl Frame {
    /// Puts header and lengths behind what is in `out`. Head and bodies follow on the wire.
    pub(crate) fn encode_front(&self, out: &mut BytesMut) {
        let Message { kind, head, bodies } = &self.message;
        self.message.assert_fits();
        let from = out.len();
        out.put_u32_le(self.message.frame_bytes() as u32);
        out.put_u32_le(0);
        out.put_u8(self.role as u8);
        out.put_u8(*kind);
        out.put_u16_le(bodies.len() as u16);
        out.put_u32_le(head.len() as u32);
        out.put_u64_le(self.number);
        assert_eq!(out.len() - from, HEADER_BYTES, "the fixed fields");
        bodies.iter().for_each(|body| out.put_u32_le(body.len() as u32));

        let front = &mut out[from..];
        let crc = crc32c::crc32c_append(checksum_begun(front), &front[CHECKED_FROM..]);
        let crc = bodies.iter().fold(crc32c::crc32c_append(crc, head), |crc, body| crc32c::crc32c_append(crc, body));
        front[CRC_AT..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The checksum of the frame's length, which lies before the checksum itself.
fn checksum_begun(front: &[u8]) -> u32 {
    crc32c::crc32c(&front[..CRC_AT])
}

/// A frame's header, as far as it can be checked alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) role: Role,
    pub(crate) kind: u8,
    pub(crate) number: u64,
    /// At most [`BODIES_MAX`].
    pub(crate) bodies: usize,
    /// At most [`HEAD_BYTES_MAX`].
    pub(crate) head_bytes: usize,
    /// Of all bodies together.
    pub(crate) bodies_bytes: usize,
    /// What the frame says that its checksum is.
    pub(crate) crc: u32,
    /// What it is so far.
    pub(crate) crc_begun: u32,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let number = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the header"));
        let frame_bytes = number(0) as usize;
        let bodies = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
        let head_bytes = number(12) as usize;
        if frame_bytes > FRAME_BYTES_MAX || head_bytes > HEAD_BYTES_MAX || bodies > BODIES_MAX {
            return Err(FrameError::TooLarge { frame_bytes, head_bytes, bodies });
        }
        let bodies_bytes = frame_bytes.checked_sub(HEADER_BYTES + 4 * bodies + head_bytes);
        let role = Role::from_u8(bytes[8]);
        let (Some(bodies_bytes), Some(role)) = (bodies_bytes, role) else { return Err(FrameError::Malformed) };
        if role == Role::Unanswered && frame_bytes != HEADER_BYTES {
            return Err(FrameError::Malformed);
        }
        Ok(Header {
            role,
            kind: bytes[9],
            number: u64::from_le_bytes(*bytes[16..].first_chunk().expect("within the header")),
            bodies,
            head_bytes,
            bodies_bytes,
            crc: number(CRC_AT),
            crc_begun: crc32c::crc32c_append(checksum_begun(bytes), &bytes[CHECKED_FROM..]),
        })
    }

    /// The lengths of the bodies, from the bytes behind the header.
    pub(crate) fn lengths(&self, bytes: &[u8]) -> Result<Vec<usize>, FrameError> {
        assert_eq!(bytes.len(), 4 * self.bodies, "a length is four bytes");
        let lengths = bytes.chunks_exact(4).map(|length| {
            let length: &[u8; 4] = length.first_chunk().expect("a chunk of four");
            u32::from_le_bytes(*length) as usize
        });
        let lengths: Vec<usize> = lengths.collect();
        // Numbers of 32 bits, and not many of them: their sum has room.
        if lengths.iter().sum::<usize>() == self.bodies_bytes { Ok(lengths) } else { Err(FrameError::Malformed) }
    }
}

/// Why what came from a node is no frame. The connection is of no use then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {frame_bytes} bytes with a head of {head_bytes} and {bodies} bodies is too large")]
    TooLarge { frame_bytes: usize, head_bytes: usize, bodies: usize },
    #[error("a frame that no version of weir wrote")]
    Malformed,
    #[error("a damaged frame")]
    Damaged,
    #[error("the connection ended within a frame")]
    CutOff,
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame.encode_front(&mut out);
        out.to_vec()
    }

    fn frame() -> Frame {
        let bodies = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        Frame { role: Role::Reply, number: u64::MAX - 1, message: Message { kind: 9, head: "head".into(), bodies } }
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let bytes = encoded(&frame());
        let header = Header::parse(bytes.first_chunk().expect("a header")).expect("parses");
        assert_eq!((header.role, header.kind, header.number), (Role::Reply, 9, u64::MAX - 1));
        assert_eq!((header.bodies, header.head_bytes, header.bodies_bytes), (3, 4, 8));
        assert_eq!(header.lengths(&bytes[HEADER_BYTES..]).expect("add up"), [3, 0, 5]);
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused_by_the_header_alone() {
        let good = encoded(&frame());
        let cases: [(usize, &[u8], &str); 8] = [
            (0, &u32::MAX.to_le_bytes(), "too large"),
            (0, &(FRAME_BYTES_MAX as u32 + 1).to_le_bytes(), "too large"),
            (12, &(HEAD_BYTES_MAX as u32 + 1).to_le_bytes(), "too large"),
            (10, &(BODIES_MAX as u16 + 1).to_le_bytes(), "too large"),
            (0, &23u32.to_le_bytes(), "no version"),
            (12, &100u32.to_le_bytes(), "no version"),
            (8, &[0], "no version"),
            (8, &[3], "no version"),
        ];
        for (at, bytes, expected) in cases {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            let error = Header::parse(bad.first_chunk().expect("a header")).expect_err("is refused");
            assert!(error.to_string().contains(expected), "{at} {bytes:?}: {error}");
        }
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let mut bytes = encoded(&frame());
        let header = Header::parse(bytes.first_chunk().expect("a header")).expect("parses");
        bytes[HEADER_BYTES..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(header.lengths(&bytes[HEADER_BYTES..]), Err(FrameError::Malformed)));
    }
}
