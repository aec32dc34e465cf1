//! Packs: the records of a command as they are stored, in pieces that can be read back one by one.
//!
//! ```text
//! pack [len u32][crc32c u32]  then `len` bytes: [count u32], for two records or more the end of each [u32], the payload
//! ```
//! All numbers are little-endian; an end is relative to the payload's begin, and the payload is the pack's last bytes. A
//! pack has at most [`PACK_BYTES_MAX`] bytes of payload, or one record: so what a reader has to read, check and search
//! for a page is bounded, however large the body was that the records came in. The checksum is for what is read back from
//! the disk without the rest of its entry; what the log has checked, or has in memory, is not checked again.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use crate::codec::{CodecError, Reader};

/// Bytes of payload that are put into one pack, unless a single record is larger.
pub const PACK_BYTES_MAX: usize = 256 << 10;
/// Bytes before the payload of a pack of one record: length, checksum and count.
pub(crate) const PACK_HEAD_BYTES: usize = 12;
/// Bytes of length and checksum.
const LEN_BYTES: usize = 8;
/// Bytes of one record's end.
const END_BYTES: usize = 4;

/// One pack, borrowed from where it was read.
#[derive(Clone, Debug)]
pub struct Pack<'a> {
    count: u32,
    ends: &'a [u8],
    payload: Range<usize>,
}

impl<'a> Pack<'a> {
    /// Looks at a pack that the log has checked already: only at its sizes.
    ///
    /// # Errors
    /// [`CodecError`] when `bytes` are not one whole pack.
    pub fn read(bytes: &'a [u8]) -> Result<Pack<'a>, CodecError> {
        let mut reader = Reader::new(bytes);
        let len = reader.u32("pack head")?;
        reader.u32("pack head")?;
        if reader.rest().len() != len as usize {
            return Err(CodecError::Field("pack length"));
        }
        let count = reader.u32("record count")?;
        let ends_bytes = match count {
            0 => return Err(CodecError::Field("record count")),
            1 => 0,
            _ => (count as usize).checked_mul(END_BYTES).ok_or(CodecError::Field("record count"))?,
        };
        let ends = reader.take(ends_bytes, "record ends")?;
        let payload = bytes.len() - reader.rest().len()..bytes.len();
        if payload.len() < count as usize {
            return Err(CodecError::Field("payload"));
        }
        Ok(Pack { count, ends, payload })
    }

    /// Whether `bytes` are a pack as it was written; see [`Pack::check`].
    pub fn is_whole(bytes: &[u8]) -> bool {
        Pack::check(bytes).is_ok()
    }

    /// Looks at a pack that was read back by itself: at its checksum and its record ends, too.
    ///
    /// # Errors
    /// [`CodecError`] when `bytes` are not a pack as it was written.
    pub fn check(bytes: &'a [u8]) -> Result<Pack<'a>, CodecError> {
        let pack = Pack::read(bytes)?;
        let crc = Reader::new(&bytes[4..]).u32("pack head")?;
        if crc32c::crc32c(&bytes[LEN_BYTES..]) != crc {
            return Err(CodecError::Checksum);
        }
        let rises = pack.record_ends().is_sorted_by(|a, b| a < b);
        if !rises || pack.record_ends().last() != Some(pack.payload.len() as u32) {
            return Err(CodecError::Field("record ends"));
        }
        Ok(pack)
    }

    /// How many records there are, at least one.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Where the payload lies within the pack: at its end.
    pub fn payload(&self) -> Range<usize> {
        self.payload.clone()
    }

    /// The end of each record, relative to the payload's begin; rising, the last is the payload's length.
    pub fn record_ends(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.count()).map(|record| self.end(record))
    }

    /// The records that fit `bytes_max` from `begin` on, as a range of the payload; at least one.
    ///
    /// # Errors
    /// [`CodecError::Field`] when no record begins at `begin`.
    pub fn cut(&self, begin: usize, bytes_max: usize) -> Result<Range<usize>, CodecError> {
        let after = self.ends_until(begin);
        if after == self.count() || (begin > 0 && (after == 0 || self.end(after - 1) as usize != begin)) {
            return Err(CodecError::Field("record begin"));
        }
        let last = self.ends_until(begin.saturating_add(bytes_max)).max(after + 1) - 1;
        let end = self.end(last) as usize;
        assert!(begin < end, "a record has bytes");
        Ok(begin..end.min(self.payload.len()))
    }

    /// How many records end at or before `position` of the payload.
    fn ends_until(&self, position: usize) -> usize {
        assert!(self.count > 0, "a pack has records");
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.end(middle) as usize <= position { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The end of a record. A single one's is not stored: it is the payload's.
    fn end(&self, record: usize) -> u32 {
        match self.ends.get(record * END_BYTES..(record + 1) * END_BYTES) {
            Some(end) => u32::from_le_bytes([end[0], end[1], end[2], end[3]]),
            None => self.payload.len() as u32,
        }
    }
}

/// The packs that lie one after another in `bytes`, each whole. Ends after the first error.
pub fn packs(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], CodecError>> + Clone {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = Reader::new(rest).u32("pack head").and_then(|len| {
            rest.split_at_checked(LEN_BYTES.saturating_add(len as usize)).ok_or(CodecError::Truncated("pack"))
        });
        let (pack, after) = match split {
            Ok(split) => split,
            Err(error) => {
                rest = &[];
                return Some(Err(error));
            }
        };
        rest = after;
        Some(Ok(pack))
    })
}

/// Bytes of a pack of `count` records with this payload.
pub(crate) fn pack_bytes(count: usize, payload_bytes: usize) -> usize {
    let ends_bytes = if count > 1 { count * END_BYTES } else { 0 };
    PACK_HEAD_BYTES + ends_bytes + payload_bytes
}

/// Writes a pack; `put_payload` writes as many bytes as the last of `ends` says.
pub(crate) fn put_pack(
    buf: &mut BytesMut,
    ends: impl ExactSizeIterator<Item = u32>,
    put_payload: impl FnOnce(&mut BytesMut),
) {
    let begin = buf.len();
    buf.put_u64_le(0);
    let count = u32::try_from(ends.len()).expect("a body is shorter than 4 GiB");
    assert!(count > 0, "a pack has records");
    buf.put_u32_le(count);
    if count > 1 {
        ends.for_each(|end| buf.put_u32_le(end));
    }
    let payload = buf.len();
    put_payload(buf);
    assert!(buf.len() - payload >= count as usize, "a record has bytes");
    let len = u32::try_from(buf.len() - begin - LEN_BYTES).expect("a body is shorter than 4 GiB");
    let crc = crc32c::crc32c(&buf[begin + LEN_BYTES..]);
    buf[begin..begin + 4].copy_from_slice(&len.to_le_bytes());
    buf[begin + 4..begin + LEN_BYTES].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(records: &[&str]) -> BytesMut {
        let mut buf = BytesMut::new();
        let mut end = 0;
        let ends: Vec<u32> = records
            .iter()
            .map(|record| {
                end += record.len() as u32;
                end
            })
            .collect();
        put_pack(&mut buf, ends.into_iter(), |buf| buf.put_slice(records.concat().as_bytes()));
        assert_eq!(buf.len(), pack_bytes(records.len(), records.concat().len()));
        buf
    }

    #[test]
    fn a_cut_begins_at_a_record_and_ends_with_the_last_that_fits() {
        let bytes = pack(&["1,", "22,", "333,"]);
        let pack = Pack::check(&bytes).expect("as it was written");
        let cut = |begin, bytes_max| pack.cut(begin, bytes_max).ok();
        assert_eq!(cut(0, 100), Some(0..9));
        assert_eq!(cut(0, 8), Some(0..5));
        assert_eq!(cut(0, 5), Some(0..5));
        assert_eq!(cut(0, 4), Some(0..2));
        assert_eq!(cut(0, 0), Some(0..2), "one record is read in any case");
        assert_eq!(cut(2, 3), Some(2..5));
        assert_eq!(cut(5, usize::MAX), Some(5..9));
        for inside in [1, 3, 4, 6, 9, 10] {
            assert_eq!(cut(inside, 100), None, "{inside}");
        }
    }

    #[test]
    fn a_single_record_is_its_payload() {
        let bytes = pack(&["record"]);
        let pack = Pack::check(&bytes).expect("as it was written");
        assert_eq!((pack.count(), &bytes[pack.payload()]), (1, &b"record"[..]));
        assert_eq!(pack.cut(0, 1), Ok(0..6));
        assert!(pack.cut(1, 1).is_err());
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let bytes = pack(&["1,", "22,"]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Pack::check(&damaged).is_err(), "{bit}");
        }
    }
}
