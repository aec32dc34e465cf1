//! What every group had when a segment began: the first frame of each segment, so that older segments can go.
//!
//! Little endian: the number of groups (u16), then for each
//! `group u16 | first u64 | next u64 | purged | vote length u16 | vote`, where purged is
//! `given u8 | index u64 | term u64` and a vote length of [`NO_VOTE`] says that there is none.

use bytes::{BufMut, Bytes, BytesMut};
use weir_types::GroupId;

use crate::entry::EntryId;

const NO_VOTE: u16 = u16::MAX;
const _: () = assert!(VOTE_BYTES_MAX < NO_VOTE as usize, "no vote is taken for none");

/// The longest vote, in bytes.
pub(crate) const VOTE_BYTES_MAX: usize = 4096;

/// One group's part of a state frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub(crate) group: GroupId,
    /// Index of the first entry, or `next` when there is none.
    pub(crate) first: u64,
    /// Index after the last entry.
    pub(crate) next: u64,
    pub(crate) purged: Option<EntryId>,
    pub(crate) vote: Option<Bytes>,
}

/// Bytes of [`encode`]'s result for groups with votes of these lengths.
pub(crate) fn encoded_bytes(votes: impl Iterator<Item = usize>) -> usize {
    2 + votes.map(|vote_bytes| 2 + 8 + 8 + (1 + 8 + 8) + 2 + vote_bytes).sum::<usize>()
}

/// Encodes `groups` behind what `buf` holds.
pub(crate) fn encode(groups: impl ExactSizeIterator<Item = GroupState>, buf: &mut BytesMut) {
    let put_id = |buf: &mut BytesMut, id: Option<EntryId>| {
        buf.put_u8(u8::from(id.is_some()));
        let id = id.unwrap_or(EntryId { index: 0, term: 0 });
        buf.put_u64_le(id.index);
        buf.put_u64_le(id.term);
    };
    buf.put_u16_le(groups.len() as u16);
    for state in groups {
        buf.put_u16_le(state.group.0);
        buf.put_u64_le(state.first);
        buf.put_u64_le(state.next);
        put_id(buf, state.purged);
        match state.vote {
            Some(vote) => {
                assert!(vote.len() <= VOTE_BYTES_MAX, "a vote is a few numbers");
                buf.put_u16_le(vote.len() as u16);
                buf.put_slice(&vote);
            }
            None => buf.put_u16_le(NO_VOTE),
        }
    }
}

/// Decodes what [`encode`] wrote; `None` for anything else.
pub(crate) fn decode(mut body: &[u8]) -> Option<Vec<GroupState>> {
    let body = &mut body;
    let count = take_u16(body)?;
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(GroupState {
            group: GroupId(take_u16(body)?),
            first: take_u64(body)?,
            next: take_u64(body)?,
            purged: take_id(body)?,
            vote: match take_u16(body)? {
                NO_VOTE => None,
                bytes => Some(Bytes::copy_from_slice(body.split_off(..usize::from(bytes))?)),
            },
        });
    }
    body.is_empty().then_some(groups)
}

fn take_u16(body: &mut &[u8]) -> Option<u16> {
    body.split_off(..2).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_le_bytes(*bytes))
}

fn take_u64(body: &mut &[u8]) -> Option<u64> {
    body.split_off(..8).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes))
}

fn take_id(body: &mut &[u8]) -> Option<Option<EntryId>> {
    let is_given = *body.split_off_first()?;
    let id = EntryId { index: take_u64(body)?, term: take_u64(body)? };
    match is_given {
        0 => Some(None),
        1 => Some(Some(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_as_written_and_not_otherwise() {
        let id = |index| Some(EntryId { index, term: 2 });
        let state = |group, purged, vote| GroupState { group: GroupId(group), first: 3, next: 9, purged, vote };
        let groups = vec![state(0, None, Some(Bytes::from_static(b"vote"))), state(9, id(2), None)];
        let mut buf = BytesMut::new();
        encode(groups.iter().cloned(), &mut buf);
        let votes = groups.iter().map(|group| group.vote.as_ref().map_or(0, Bytes::len));
        assert_eq!(buf.len(), encoded_bytes(votes));
        assert_eq!(decode(&buf), Some(groups));
        for bytes in 0..buf.len() {
            assert_eq!(decode(&buf[..bytes]), None, "{bytes}");
        }
    }
}
