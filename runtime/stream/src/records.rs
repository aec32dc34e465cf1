//! Records on their way into a frame: where a body is cut, and the one copy that stores it.
//!
//! A body is stored verbatim as one record, or in JSON mode as `message,message,`: each message followed by a comma, so
//! that any range between boundaries becomes an array when wrapped in brackets, its last comma dropped. In the frame,
//! records are its last bytes, in [packs](crate::pack).

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::codec::{CodecError, Reader};
use crate::json;
use crate::pack::{PACK_BYTES_MAX, Pack, pack_bytes, packs, put_pack};
use crate::reply::Refusal;

/// How a body falls into records; made by the leader's checks, once per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// The body is one record, verbatim; an empty body is none.
    Whole,
    /// Each range of the body is one JSON message.
    Json(SmallVec<[Range<u32>; 2]>),
}

impl Split {
    /// Cuts a body for a stream in JSON mode.
    ///
    /// # Errors
    /// [`Refusal::JsonInvalid`] when it is not one JSON value.
    pub fn json(body: &[u8]) -> Result<Split, Refusal> {
        json::split(body).map(Split::Json)
    }

    /// What it takes besides itself, in bytes.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Split::Json(messages) if messages.spilled() => messages.capacity() * size_of::<Range<u32>>(),
            Split::Whole | Split::Json(_) => 0,
        }
    }

    /// What cutting `body` takes besides the body, at most, in bytes.
    pub fn json_bytes_max(body: &[u8]) -> usize {
        // Twice, for the ranges may be moved to a larger place while they come.
        2 * json::messages_max(body) * size_of::<Range<u32>>()
    }
}

/// The records of one command: a body and its split when encoding, stored packs when decoded.
#[derive(Clone, Copy)]
pub struct Records<'a>(Form<'a>);

#[derive(Clone, Copy)]
enum Form<'a> {
    Body {
        body: &'a [u8],
        split: &'a Split,
    },
    Pieces(&'a [Bytes]),
    /// One record before that of the pieces.
    Prefixed {
        first: &'a [u8],
        pieces: &'a [Bytes],
    },
    Stored {
        packs: &'a [u8],
        pack_count: usize,
        count: usize,
        payload_bytes: usize,
    },
}

impl<'a> Records<'a> {
    /// No records: a close alone, or a create without a body.
    pub const NONE: Records<'static> = Records(Form::Body { body: &[], split: &Split::Whole });

    /// The records of `body`, cut by a `split` that was made from this very body.
    pub fn new(body: &'a [u8], split: &'a Split) -> Records<'a> {
        Records(Form::Body { body, split })
    }

    /// A body that arrived in `pieces` as one record, verbatim; none when there are none. No piece is empty.
    pub fn pieces(pieces: &'a [Bytes]) -> Records<'a> {
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "nothing is no piece");
        Records(Form::Pieces(pieces))
    }

    /// As [`Records::pieces`], behind another record, which is not empty.
    pub fn prefixed(first: &'a [u8], pieces: &'a [Bytes]) -> Records<'a> {
        assert!(!first.is_empty() && pieces.iter().all(|piece| !piece.is_empty()), "nothing is no record");
        Records(Form::Prefixed { first, pieces })
    }

    /// `body` as one record, verbatim; none when it is empty.
    pub fn whole(body: &'a [u8]) -> Records<'a> {
        Records(Form::Body { body, split: &Split::Whole })
    }

    /// How many records there are.
    pub fn count(&self) -> usize {
        match self.0 {
            Form::Body { body, split: Split::Whole } => usize::from(!body.is_empty()),
            Form::Pieces(pieces) => usize::from(!pieces.is_empty()),
            Form::Prefixed { pieces, .. } => 1 + usize::from(!pieces.is_empty()),
            Form::Body { split: Split::Json(messages), .. } => messages.len(),
            Form::Stored { count, .. } => count,
        }
    }

    /// Bytes of the payload as it is stored.
    pub fn payload_bytes(&self) -> usize {
        match self.0 {
            Form::Body { body, split: Split::Whole } => body.len(),
            Form::Pieces(pieces) => bytes_of(pieces),
            Form::Prefixed { first, pieces } => first.len() + bytes_of(pieces),
            Form::Body { split: Split::Json(messages), .. } => stored_bytes(messages),
            Form::Stored { payload_bytes, .. } => payload_bytes,
        }
    }

    /// Bytes that [`Records::put`] writes.
    pub(crate) fn encoded_bytes(&self) -> usize {
        match self.0 {
            Form::Stored { packs, .. } => packs.len(),
            Form::Body { split: Split::Json(messages), .. } => {
                fills(messages).map(|(fill, bytes)| pack_bytes(fill.len(), bytes)).sum()
            }
            Form::Prefixed { first, pieces } => pack_bytes(1, first.len()) + Records::pieces(pieces).encoded_bytes(),
            Form::Body { .. } | Form::Pieces(_) => match self.payload_bytes() {
                0 => 0,
                bytes => pack_bytes(1, bytes),
            },
        }
    }

    /// Writes the packs. The only place where a body is copied.
    pub(crate) fn put(&self, buf: &mut BytesMut) {
        match self.0 {
            Form::Body { split: Split::Whole, .. } | Form::Pieces(_) if self.payload_bytes() == 0 => {}
            Form::Body { body, split: Split::Whole } => {
                put_pack(buf, [body.len() as u32].into_iter(), |buf| buf.put_slice(body));
            }
            Form::Pieces(pieces) => put_pack(buf, [self.payload_bytes() as u32].into_iter(), |buf| {
                pieces.iter().for_each(|piece| buf.put_slice(piece));
            }),
            Form::Prefixed { first, pieces } => {
                Records::whole(first).put(buf);
                Records::pieces(pieces).put(buf);
            }
            Form::Body { body, split: Split::Json(messages) } => {
                for (fill, _) in fills(messages) {
                    let mut end = 0;
                    let ends = fill.iter().map(|message| {
                        end += message.len() as u32 + 1;
                        end
                    });
                    put_pack(buf, ends, |buf| {
                        for run in fill.chunk_by(|message, next| message.end + 1 == next.start) {
                            // A single byte between two messages is their comma.
                            let (start, end) = (run[0].start as usize, run[run.len() - 1].end as usize);
                            buf.put_slice(&body[start..end]);
                            buf.put_u8(b',');
                        }
                    });
                }
            }
            Form::Stored { packs, .. } => buf.put_slice(packs),
        }
    }

    /// Reads what [`Records::put`] wrote; everything up to the end of the frame belongs to it. Only sizes are checked.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Records<'a>, CodecError> {
        let bytes = reader.rest();
        reader.take(bytes.len(), "records")?;
        if let Ok(pack) = Pack::read(bytes) {
            // One pack, as of almost every append.
            let (count, payload_bytes) = (pack.count(), pack.payload().len());
            return Ok(Records(Form::Stored { packs: bytes, pack_count: 1, count, payload_bytes }));
        }
        let (mut pack_count, mut count, mut payload_bytes) = (0, 0, 0);
        for pack in packs(bytes) {
            let pack = Pack::read(pack?)?;
            pack_count += 1;
            count += pack.count();
            payload_bytes += pack.payload().len();
        }
        Ok(Records(Form::Stored { packs: bytes, pack_count, count, payload_bytes }))
    }

    /// Whether stored records are one pack, as those of almost every append are.
    pub(crate) fn is_one_pack(&self) -> bool {
        matches!(self.0, Form::Stored { pack_count: 1, .. })
    }

    /// The packs of stored records, which are the last bytes of their frame.
    pub fn packs(&self) -> &'a [u8] {
        match self.0 {
            Form::Stored { packs, .. } => packs,
            Form::Body { .. } | Form::Pieces(_) | Form::Prefixed { .. } => {
                assert!(self.count() == 0, "records are in packs once they are stored");
                &[]
            }
        }
    }
}

fn bytes_of(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

/// Bytes of messages as they are stored, each with its comma.
fn stored_bytes(messages: &[Range<u32>]) -> usize {
    messages.iter().map(|message| message.len() + 1).sum()
}

/// The messages of each pack, as many as fit, at least one; and what they take as they are stored, in bytes.
fn fills(messages: &[Range<u32>]) -> impl Iterator<Item = (&[Range<u32>], usize)> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = rest.first()?.len() + 1;
        let fitting = rest[1..].iter().take_while(|message| {
            let fits = bytes + message.len() < PACK_BYTES_MAX;
            bytes += if fits { message.len() + 1 } else { 0 };
            fits
        });
        let (fill, after) = rest.split_at(1 + fitting.count());
        rest = after;
        Some((fill, bytes))
    })
}

impl fmt::Debug for Records<'_> {
    // Sizes only: what clients store stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({} in {} bytes)", self.count(), self.payload_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_stored_as_they_are_whatever_lies_between_them() {
        for body in ["[1,22,333]", "[ 1,22 ,333]", "[1, 22,333\n]", "[1 ,\t22 , 333]"] {
            let split = Split::json(body.as_bytes()).expect("JSON");
            let mut buf = BytesMut::new();
            Records::new(body.as_bytes(), &split).put(&mut buf);
            let pack = Pack::check(&buf).expect("one pack");
            assert_eq!(&buf[pack.payload()], b"1,22,333,", "{body}");
            assert!(Split::json_bytes_max(body.as_bytes()) >= split.memory_bytes(), "{body}");
        }
    }

    #[test]
    fn a_large_body_is_cut_into_packs_between_its_messages() {
        let largest = PACK_BYTES_MAX;
        for (message_bytes, count) in [(1, 400_000), (1000, 1000), (largest - 1, 3), (largest, 3), (3 * largest, 2)] {
            let body = vec![b'1'; message_bytes * count];
            let messages = (0..count).map(|i| (i * message_bytes) as u32..((i + 1) * message_bytes) as u32);
            let split = Split::Json(messages.collect());
            let records = Records::new(&body, &split);
            let mut buf = BytesMut::new();
            records.put(&mut buf);
            assert_eq!(buf.len(), records.encoded_bytes());
            let stored = Records::read(&mut Reader::new(&buf)).expect("as it was written");
            assert_eq!((stored.count(), stored.payload_bytes()), (count, records.payload_bytes()));
            for pack in packs(stored.packs()) {
                let pack = Pack::check(pack.expect("whole")).expect("as it was written");
                assert!(pack.payload().len() <= PACK_BYTES_MAX || pack.count() == 1);
            }
        }
    }
}
