//! Snapshots on their way to another replica, as bytes: see [`crate::wire`] for how the rest is said.
//!
//! ```text
//! parcel   vote, last entry, parts before, whether it is the last and what all are together, its parts
//!            -> go on, wait, begin again, or a vote
//! ```
//! A part is a section of the snapshot, a piece of one that is too long for a message, or an entry that goes with it; its bytes are a
//! body of the message. A vote says that
//! the snapshot was taken over, or is not needed; or that it is that of a later leader.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::alias::VoteOf;
use weir_cluster::Message;
use weir_storage::{EntryId, FRAME_HEADER_BYTES};

use crate::config::TypeConfig;
use crate::wire::{ended, get_bool, get_u64, get_vote, malformed, put_vote};

/// What a message is that carries one.
pub(crate) const PARCEL: u8 = 6;

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// The leader's that sends it.
    pub(crate) vote: VoteOf<TypeConfig>,
    /// The entry that the snapshot is as of.
    pub(crate) last: EntryId,
    /// How many parts have gone before.
    pub(crate) before: u64,
    /// What all parts are together, if these are the last.
    pub(crate) sum: Option<Sum>,
    pub(crate) parts: Vec<Part>,
}

/// What tells whether all parts have arrived as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) parts: u64,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A section, or the last piece of one. It is not empty.
    Section(Bytes),
    /// A piece of a section, which the next part goes on with. It is not empty.
    Piece(Bytes),
    /// An entry: which, of what kind, and its body.
    Entry(EntryId, u8, Bytes),
}

/// What a part is called on the way.
const SECTION: u8 = 0;
const ENTRY: u8 = 1;
const PIECE: u8 = 2;

/// What is answered to a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// The next one is awaited.
    GoOn,
    /// All is there, and being taken over: ask again.
    Wait,
    /// Something is missing, or was not as it should be.
    BeginAgain,
    /// It is done, or will not be.
    Vote(VoteOf<TypeConfig>),
}

impl Sum {
    /// Adds a part.
    pub(crate) fn add(&mut self, part: &Part) {
        let (Part::Section(bytes) | Part::Piece(bytes) | Part::Entry(_, _, bytes)) = part;
        self.parts += 1;
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

pub(crate) fn encode_parcel(parcel: Parcel) -> Message {
    let Parcel { vote, last, before, sum, parts } = parcel;
    let mut head = BytesMut::new();
    put_vote(&mut head, &vote);
    head.put_u64_le(last.term);
    head.put_u64_le(last.index);
    head.put_u64_le(before);
    head.put_u8(u8::from(sum.is_some()));
    let Sum { parts: parts_sum, bytes, crc } = sum.unwrap_or_default();
    head.put_u64_le(parts_sum);
    head.put_u64_le(bytes);
    head.put_u32_le(crc);
    let mut bodies = Vec::with_capacity(parts.len());
    for part in parts {
        let none = EntryId { index: 0, term: 0 };
        let (what, kind, id, body) = match part {
            Part::Section(bytes) => (SECTION, 0, none, bytes),
            Part::Piece(bytes) => (PIECE, 0, none, bytes),
            Part::Entry(id, kind, body) => (ENTRY, kind, id, body),
        };
        head.put_u8(what);
        head.put_u8(kind);
        head.put_u64_le(id.term);
        head.put_u64_le(id.index);
        bodies.push(body);
    }
    Message { kind: PARCEL, head: head.freeze(), bodies }
}

/// `bodies` stand behind the space of a frame's header.
pub(crate) fn decode_parcel(mut head: Bytes, bodies: Vec<Bytes>) -> io::Result<Parcel> {
    let vote = get_vote(&mut head)?;
    let last = EntryId { term: get_u64(&mut head)?, index: get_u64(&mut head)? };
    // Only who was elected sends snapshots, and nobody has entries of a later leader.
    if !vote.committed || last.term > vote.leader_id.term {
        return Err(malformed());
    }
    let before = get_u64(&mut head)?;
    let is_last = get_bool(&mut head)?;
    let (sum_parts, bytes) = (get_u64(&mut head)?, get_u64(&mut head)?);
    let crc = head.try_get_u32_le().map_err(|_| malformed())?;
    let mut parts = Vec::with_capacity(bodies.len());
    for body in bodies {
        let what = head.try_get_u8().map_err(|_| malformed())?;
        let kind = head.try_get_u8().map_err(|_| malformed())?;
        let id = EntryId { term: get_u64(&mut head)?, index: get_u64(&mut head)? };
        if body.len() < FRAME_HEADER_BYTES {
            return Err(malformed());
        }
        let body = body.slice(FRAME_HEADER_BYTES..);
        parts.push(match what {
            ENTRY => Part::Entry(id, kind, body),
            SECTION if !body.is_empty() => Part::Section(body),
            PIECE if !body.is_empty() => Part::Piece(body),
            _ => return Err(malformed()),
        });
    }
    let sum = is_last.then_some(Sum { parts: sum_parts, bytes, crc });
    ended(head, Parcel { vote, last, before, sum, parts })
}

pub(crate) fn encode_receipt(receipt: Receipt) -> Message {
    let mut head = BytesMut::new();
    match receipt {
        Receipt::GoOn => head.put_u8(0),
        Receipt::Wait => head.put_u8(1),
        Receipt::BeginAgain => head.put_u8(2),
        Receipt::Vote(vote) => {
            head.put_u8(3);
            put_vote(&mut head, &vote);
        }
    }
    Message { kind: PARCEL, head: head.freeze(), bodies: Vec::new() }
}

pub(crate) fn decode_receipt(mut head: Bytes) -> io::Result<Receipt> {
    let receipt = match head.try_get_u8() {
        Ok(0) => Receipt::GoOn,
        Ok(1) => Receipt::Wait,
        Ok(2) => Receipt::BeginAgain,
        Ok(3) => Receipt::Vote(get_vote(&mut head)?),
        _ => return Err(malformed()),
    };
    ended(head, receipt)
}

#[cfg(test)]
mod tests {
    use openraft::vote::leader_id_std::LeaderId;
    use weir_storage::Arena;

    use super::*;

    fn vote(committed: bool) -> VoteOf<TypeConfig> {
        VoteOf::<TypeConfig> { leader_id: LeaderId { term: 7, voted_for: 3 }, committed }
    }

    fn parcel() -> Parcel {
        let id = EntryId { index: 30, term: 4 };
        let parts = vec![
            Part::Piece(Bytes::from("more ")),
            Part::Section(Bytes::from("pages")),
            Part::Entry(id, 1, Bytes::from("batch")),
        ];
        let mut sum = Sum::default();
        parts.iter().for_each(|part| sum.add(part));
        Parcel { vote: vote(true), last: EntryId { index: 41, term: 6 }, before: 3, sum: Some(sum), parts }
    }

    fn arrived(message: Message) -> (Bytes, Vec<Bytes>) {
        let frame = |body: &Bytes| {
            let mut buf = Arena::new(body.len()).into_buf();
            buf.put_slice(body);
            Arena::seal(buf)
        };
        (message.head, message.bodies.iter().map(frame).collect())
    }

    #[test]
    fn parcels_and_receipts_read_back_as_written_and_not_otherwise() {
        for parcel in [parcel(), Parcel { sum: None, ..parcel() }, Parcel { parts: Vec::new(), ..parcel() }] {
            let (head, bodies) = arrived(encode_parcel(parcel.clone()));
            assert_eq!(decode_parcel(head.clone(), bodies.clone()).expect("it is whole"), parcel);
            for cut in 0..head.len() {
                assert!(decode_parcel(head.slice(..cut), bodies.clone()).is_err(), "{cut}");
            }
            let more = [bodies, vec![Bytes::from(vec![0; FRAME_HEADER_BYTES + 1])]].concat();
            assert!(decode_parcel(head, more).is_err(), "nobody says what the body is");
        }
        for receipt in [Receipt::GoOn, Receipt::Wait, Receipt::BeginAgain, Receipt::Vote(vote(true))] {
            let head = encode_receipt(receipt).head;
            assert_eq!(decode_receipt(head.clone()).expect("it is whole"), receipt);
            assert!((0..head.len()).all(|cut| decode_receipt(head.slice(..cut)).is_err()));
        }
    }

    #[test]
    fn parcels_of_candidates_and_of_later_leaders_are_refused() {
        for wrong in [
            Parcel { vote: vote(false), ..parcel() },
            Parcel { last: EntryId { index: 41, term: 8 }, ..parcel() },
            Parcel { parts: vec![Part::Section(Bytes::new())], ..parcel() },
            Parcel { parts: vec![Part::Piece(Bytes::new())], ..parcel() },
        ] {
            let (head, bodies) = arrived(encode_parcel(wrong));
            assert!(decode_parcel(head, bodies).is_err());
        }
        let (head, _) = arrived(encode_parcel(parcel()));
        assert!(decode_parcel(head, vec![Bytes::from("short"); 3]).is_err());
    }
}
