//! Records on their way into a frame: where a body is cut, and the one copy that stores it.
//!
//! A body is stored verbatim as one record, or in JSON mode as `message,message,`: each message followed by a comma, so
//! that any range between boundaries becomes an array when wrapped in brackets, its last comma dropped. In the frame,
//! the count comes first, then (for two records or more) the end of each relative to the payload's begin, then the
//! payload, which is therefore the frame's last bytes.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::codec::{CodecError, Reader};

/// Bytes of the count that precedes ends and payload.
const COUNT_BYTES: usize = 4;
/// Bytes of one record's end.
pub(crate) const END_BYTES: usize = 4;

/// How a body falls into records; made by the leader's checks, once per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// The body is one record, verbatim; an empty body is none.
    Whole,
    /// Each range of the body is one JSON message.
    Json(SmallVec<[Range<u32>; 2]>),
}

/// The records of one command: a body and its split when encoding, a stored payload and its ends when decoded.
#[derive(Clone, Copy)]
pub struct Records<'a>(Form<'a>);

#[derive(Clone, Copy)]
enum Form<'a> {
    Body { body: &'a [u8], split: &'a Split },
    Pieces(&'a [Bytes]),
    Stored { payload: &'a [u8], count: u32, ends: &'a [u8] },
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
        Records(Form::Pieces(pieces))
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
            Form::Body { split: Split::Json(messages), .. } => messages.len(),
            Form::Stored { count, .. } => count as usize,
        }
    }

    /// Bytes of the payload as it is stored.
    pub fn payload_bytes(&self) -> usize {
        match self.0 {
            Form::Body { body, split: Split::Whole } => body.len(),
            Form::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
            Form::Body { split: Split::Json(messages), .. } => messages.iter().map(|m| m.len() + 1).sum(),
            Form::Stored { payload, .. } => payload.len(),
        }
    }

    /// Bytes that [`Records::put`] writes.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let ends = match self.count() {
            0 | 1 => 0,
            count => count * END_BYTES,
        };
        COUNT_BYTES + ends + self.payload_bytes()
    }

    /// Writes count, ends and payload. The only place where a body is copied.
    pub(crate) fn put(&self, buf: &mut BytesMut) {
        let count = u32::try_from(self.count()).expect("a body is shorter than 4 GiB");
        buf.put_u32_le(count);
        match self.0 {
            Form::Body { body, split: Split::Whole } => buf.put_slice(body),
            Form::Pieces(pieces) => pieces.iter().for_each(|piece| buf.put_slice(piece)),
            Form::Body { body, split: Split::Json(messages) } => {
                if count > 1 {
                    let mut end = 0;
                    for message in messages {
                        end += message.len() as u32 + 1;
                        buf.put_u32_le(end);
                    }
                }
                for message in messages {
                    buf.put_slice(&body[message.start as usize..message.end as usize]);
                    buf.put_u8(b',');
                }
            }
            Form::Stored { payload, ends, .. } => {
                buf.put_slice(ends);
                buf.put_slice(payload);
            }
        }
    }

    /// Reads what [`Records::put`] wrote; everything up to the end of the frame belongs to it.
    ///
    /// Only sizes are checked here: apply does not look at the ends, and [`Records::check_ends`] is for those who do.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Records<'a>, CodecError> {
        let count = reader.u32("record count")?;
        let ends_bytes = match count {
            0 | 1 => 0,
            _ => (count as usize).checked_mul(END_BYTES).ok_or(CodecError::Field("record count"))?,
        };
        let ends = reader.take(ends_bytes, "record ends")?;
        let payload = reader.rest();
        reader.take(payload.len(), "payload")?;
        if payload.len() < count as usize || (count == 0 && !payload.is_empty()) {
            return Err(CodecError::Field("payload"));
        }
        Ok(Records(Form::Stored { payload, count, ends }))
    }

    /// The stored ends as raw little-endian numbers, once they are known to rise to the payload's end.
    pub(crate) fn check_ends(&self) -> Result<&'a [u8], CodecError> {
        let Form::Stored { payload, ends, .. } = self.0 else {
            return Ok(&[]);
        };
        let mut last = 0;
        for end in ends_of(ends) {
            if end <= last {
                return Err(CodecError::Field("record ends"));
            }
            last = end;
        }
        if ends.is_empty() || last as usize == payload.len() { Ok(ends) } else { Err(CodecError::Field("record ends")) }
    }
}

impl fmt::Debug for Records<'_> {
    // Sizes only: what clients store stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({} in {} bytes)", self.count(), self.payload_bytes())
    }
}

/// The numbers in raw ends.
pub(crate) fn ends_of(ends: &[u8]) -> impl ExactSizeIterator<Item = u32> + '_ {
    ends.chunks_exact(END_BYTES).map(|end| u32::from_le_bytes([end[0], end[1], end[2], end[3]]))
}
