//! The index of a part: which bytes of which stream lie where in a chunk.
//!
//! ```text
//! index  [len u32][crc32c u32]  then `len` bytes:
//!        [incarnation u64][start][place of the first pack][time of the first][packs]
//!        then for each pack [payload bytes][bytes][difference to the time of the pack before]
//! ```
//! The numbers behind the incarnation have seven bits a byte, the lowest first. The checksum begins with the chunk's name.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use weir_types::Incarnation;

use crate::name::ChunkName;

/// Bytes of length and checksum.
pub(crate) const HEAD_BYTES: usize = 8;
/// The longest index: more is read as damage before there is memory for it.
const INDEX_BYTES_MAX: u32 = 1 << 28;

/// A pack on its way into a chunk.
#[derive(Clone, Debug)]
pub struct PackIn {
    /// All of it.
    pub bytes: Bytes,
    /// How many bytes of the stream are in it.
    pub payload_bytes: u32,
    /// When they were appended, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Where a pack lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackAt {
    /// The position of its first byte in the stream.
    pub start: u64,
    /// The position after its last byte.
    pub end: u64,
    /// Its place in the chunk.
    pub pos: u32,
    /// Its length there.
    pub len: u32,
    /// When its bytes were appended, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Writes the index of `packs`, which lie from `begin` on, and are the stream's bytes from `start` on.
pub(crate) fn put(
    buf: &mut BytesMut,
    name: ChunkName,
    (incarnation, start, begin): (Incarnation, u64, u32),
    packs: &[PackIn],
) {
    let head = buf.len();
    buf.put_u64_le(0);
    buf.put_u64_le(incarnation.0);
    let mut time_ms = packs[0].time_ms;
    for number in [start, begin.into(), time_ms, packs.len() as u64] {
        put_varint(buf, number);
    }
    for pack in packs {
        assert!(pack.payload_bytes > 0 && pack.payload_bytes as usize <= pack.bytes.len(), "a pack holds bytes");
        put_varint(buf, pack.payload_bytes.into());
        put_varint(buf, pack.bytes.len() as u64);
        // A leader's clock may be behind its predecessor's.
        put_varint(buf, zigzag(pack.time_ms.wrapping_sub(time_ms)));
        time_ms = pack.time_ms;
    }
    let len = (buf.len() - head - HEAD_BYTES) as u32;
    let crc = crc32c::crc32c_append(name.seed(), &buf[head + HEAD_BYTES..]);
    buf[head..head + 4].copy_from_slice(&len.to_le_bytes());
    buf[head + 4..head + HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// How long the index is that begins with `head`, and its checksum; `None` for one that cannot be.
pub(crate) fn head(head: &[u8; HEAD_BYTES]) -> Option<(usize, u32)> {
    let (len, crc) = ((&head[..4]).get_u32_le(), (&head[4..]).get_u32_le());
    (len <= INDEX_BYTES_MAX).then_some((len as usize, crc))
}

/// The first packs that hold bytes of `wanted`, at most `packs_max`, out of an index without its head; `None` when it is not
/// one of this chunk, of this stream, and of all these bytes.
pub(crate) fn packs(
    name: ChunkName,
    (body, crc): (&[u8], u32),
    incarnation: Incarnation,
    wanted: &Range<u64>,
    packs_max: usize,
) -> Option<Vec<PackAt>> {
    if crc32c::crc32c_append(name.seed(), body) != crc {
        return None;
    }
    let mut rest = body;
    let of = rest.try_get_u64_le().ok()?;
    let start = take_varint(&mut rest)?;
    let mut pos = u32::try_from(take_varint(&mut rest)?).ok()?;
    let mut time_ms = take_varint(&mut rest)?;
    let count = take_varint(&mut rest)?;
    if of != incarnation.0 || start > wanted.start {
        return None;
    }
    let (mut packs, mut position) = (Vec::new(), start);
    for _ in 0..count {
        let payload_bytes = take_varint(&mut rest).filter(|bytes| *bytes > 0)?;
        let len = u32::try_from(take_varint(&mut rest)?).ok().filter(|len| u64::from(*len) >= payload_bytes)?;
        time_ms = time_ms.wrapping_add(unzigzag(take_varint(&mut rest)?));
        let end = position.checked_add(payload_bytes)?;
        if end > wanted.start && position < wanted.end && packs.len() < packs_max {
            packs.push(PackAt { start: position, end, pos, len, time_ms });
        }
        position = end;
        pos = pos.checked_add(len)?;
    }
    (rest.is_empty() && position >= wanted.end).then_some(packs)
}

/// A small number for a small difference, whichever way it goes.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ ((difference as i64) >> 63) as u64
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Seven bits a byte, the lowest first; the last byte's highest bit is 0.
pub(crate) fn put_varint(buf: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        buf.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    buf.put_u8(number as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0u64, 0);
    loop {
        let byte = *rest.split_off_first()?;
        if shift == 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}
