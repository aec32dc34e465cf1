//! What an entry's frame holds: a byte says which kind of entry it is, and the body is a batch, a membership or nothing. The same
//! in the log and between nodes.

use std::io;

use bytes::{Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::alias::EntryPayloadOf;
use weir_storage::{Arena, Claim, FRAME_HEADER_BYTES};

use crate::codec::{decode_membership, encode_membership};
use crate::config::{Batch, TypeConfig};

/// What openraft has in an entry.
pub(crate) type Payload = EntryPayloadOf<TypeConfig>;

pub(crate) const KIND_BLANK: u8 = 0;
pub(crate) const KIND_BATCH: u8 = 1;
pub(crate) const KIND_MEMBERSHIP: u8 = 2;

/// An entry's kind and its body alone, as it goes to another node.
pub(crate) fn encode_body(payload: &Payload) -> (u8, Bytes) {
    match payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(batch) => (KIND_BATCH, batch.body()),
        EntryPayload::Membership(membership) => {
            let mut body = BytesMut::new();
            encode_membership(membership, &mut body);
            (KIND_MEMBERSHIP, body.freeze())
        }
    }
}

/// An entry's kind and frame, ready for the WAL, and whether it may take the reserve: without blank and membership
/// entries a full log could never have a leader that empties it.
pub(crate) fn encode_frame(payload: Payload) -> (u8, Bytes, Claim) {
    match payload {
        EntryPayload::Blank => (KIND_BLANK, Arena::seal(Arena::new(0).into_buf()), Claim::Reserve),
        EntryPayload::Normal(Batch::Loaded { frame, claim, .. }) => (KIND_BATCH, frame, claim),
        EntryPayload::Normal(stored) => unreachable!("{stored} is in the log already"),
        EntryPayload::Membership(membership) => {
            let mut buf = Arena::new(256).into_buf();
            encode_membership(&membership, &mut buf);
            (KIND_MEMBERSHIP, Arena::seal(buf), Claim::Reserve)
        }
    }
}

/// The payload out of a frame with `body_bytes` behind the header's space. A batch may take `claim` when it is appended.
///
/// # Errors
/// `InvalidData` for a kind or a membership that no version of weir wrote.
pub(crate) fn decode_payload(kind: u8, frame: Bytes, body_bytes: usize, claim: Claim) -> io::Result<Payload> {
    assert!(frame.len() >= FRAME_HEADER_BYTES + body_bytes, "the body is in the frame");
    match kind {
        KIND_BLANK if body_bytes == 0 => Ok(EntryPayload::Blank),
        KIND_BATCH => Ok(EntryPayload::Normal(Batch::Loaded { frame, body_bytes, claim, ticket: None })),
        KIND_MEMBERSHIP => {
            let body = &frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes];
            Ok(EntryPayload::Membership(decode_membership(body)?))
        }
        kind => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown entry kind {kind}"))),
    }
}
