//! What replicas say to each other, as bytes: little endian, with the codec of the log for votes, memberships and batches. Links
//! check that what arrives is what was sent, and that both ends speak the same version; here only the form is checked.
//!
//! ```text
//! vote        vote, last entry, whether it was asked to lead      -> vote, whether granted, last entry
//! append      vote, entry before, committed entry, entries        -> done, done up to an entry, conflict, or a higher vote
//! transfer    vote, node, last entry                              -> done, or why not
//! read index  nothing                                             -> index, or that it does not lead
//! ```
//! [`crate::parcel`] says how snapshots go. An entry is its kind and term; its body is a body of the message, and its index follows from the entry before.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use weir_cluster::Message;
use weir_storage::{Claim, EntryId, FRAME_HEADER_BYTES};

use crate::codec::{VOTE_BYTES, decode_vote, encode_vote};
use crate::config::{TypeConfig, entry_id, log_id};
use crate::entry::{decode_payload, encode_body};

pub(crate) const VOTE: u8 = 1;
pub(crate) const PRE_VOTE: u8 = 2;
pub(crate) const APPEND: u8 = 3;
pub(crate) const TRANSFER: u8 = 4;
pub(crate) const READ_INDEX: u8 = 5;

/// A message without bodies.
fn message(kind: u8, head: BytesMut) -> Message {
    Message { kind, head: head.freeze(), bodies: Vec::new() }
}

pub(crate) fn encode_vote_request(kind: u8, request: &VoteRequest<TypeConfig>) -> Message {
    let mut head = BytesMut::new();
    put_vote(&mut head, &request.vote);
    put_log_id(&mut head, request.last_log_id.as_ref());
    head.put_u8(u8::from(request.leadership_transfer));
    message(kind, head)
}

pub(crate) fn decode_vote_request(mut head: Bytes) -> io::Result<VoteRequest<TypeConfig>> {
    let (vote, last_log_id) = (get_vote(&mut head)?, get_log_id(&mut head)?);
    let leadership_transfer = get_bool(&mut head)?;
    // Who asks for votes has not been elected yet.
    if vote.committed {
        return Err(malformed());
    }
    ended(head, VoteRequest { vote, last_log_id, leadership_transfer })
}

pub(crate) fn encode_vote_response(kind: u8, response: &VoteResponse<TypeConfig>) -> Message {
    let mut head = BytesMut::new();
    put_vote(&mut head, &response.vote);
    head.put_u8(u8::from(response.vote_granted));
    put_log_id(&mut head, response.last_log_id.as_ref());
    message(kind, head)
}

pub(crate) fn decode_vote_response(mut head: Bytes) -> io::Result<VoteResponse<TypeConfig>> {
    let (vote, is_granted) = (get_vote(&mut head)?, get_bool(&mut head)?);
    let last_log_id = get_log_id(&mut head)?;
    ended(head, VoteResponse::new(vote, last_log_id, is_granted))
}

pub(crate) fn encode_append(request: AppendEntriesRequest<TypeConfig>) -> Message {
    let mut head = BytesMut::new();
    put_vote(&mut head, &request.vote);
    put_log_id(&mut head, request.prev_log_id.as_ref());
    put_log_id(&mut head, request.leader_commit.as_ref());
    let first = next_index(request.prev_log_id.as_ref());
    let mut bodies = Vec::with_capacity(request.entries.len());
    for (offset, entry) in request.entries.into_iter().enumerate() {
        let id = entry_id(&entry.log_id());
        assert_eq!(Some(id.index), index_at(first, offset), "entries follow each other");
        let (kind, body) = encode_body(&entry.payload);
        head.put_u8(kind);
        head.put_u64_le(id.term);
        bodies.push(body);
    }
    Message { kind: APPEND, head: head.freeze(), bodies }
}

/// `bodies` stand behind the space of a frame's header.
pub(crate) fn decode_append(mut head: Bytes, bodies: Vec<Bytes>) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let vote = get_vote(&mut head)?;
    // Only who was elected sends entries.
    if !vote.committed {
        return Err(malformed());
    }
    let (prev_log_id, leader_commit) = (get_log_id(&mut head)?, get_log_id(&mut head)?);
    let first = next_index(prev_log_id.as_ref());
    let mut entries = Vec::with_capacity(bodies.len());
    let mut last_term = prev_log_id.as_ref().map_or(0, |id| entry_id(id).term);
    for (offset, frame) in bodies.into_iter().enumerate() {
        let kind = head.try_get_u8().map_err(|_| malformed())?;
        let term = get_u64(&mut head)?;
        let body_bytes = frame.len().checked_sub(FRAME_HEADER_BYTES).ok_or_else(malformed)?;
        let index = index_at(first, offset).ok_or_else(malformed)?;
        if term < last_term {
            return Err(malformed());
        }
        last_term = term;
        // It has asked for room by then.
        let payload = decode_payload(kind, frame, body_bytes, Claim::Reserve)?;
        entries.push(EntryOf::<TypeConfig>::new(log_id(EntryId { index, term }), payload));
    }
    ended(head, AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn encode_append_response(response: &AppendEntriesResponse<TypeConfig>) -> Message {
    let mut head = BytesMut::new();
    match response {
        AppendEntriesResponse::Success => head.put_u8(0),
        AppendEntriesResponse::PartialSuccess(upto) => {
            head.put_u8(1);
            put_log_id(&mut head, upto.as_ref());
        }
        AppendEntriesResponse::Conflict => head.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            head.put_u8(3);
            put_vote(&mut head, vote);
        }
    }
    message(APPEND, head)
}

pub(crate) fn decode_append_response(mut head: Bytes) -> io::Result<AppendEntriesResponse<TypeConfig>> {
    let response = match head.try_get_u8() {
        Ok(0) => AppendEntriesResponse::Success,
        Ok(1) => AppendEntriesResponse::PartialSuccess(get_log_id(&mut head)?),
        Ok(2) => AppendEntriesResponse::Conflict,
        Ok(3) => AppendEntriesResponse::HigherVote(get_vote(&mut head)?),
        _ => return Err(malformed()),
    };
    ended(head, response)
}

pub(crate) fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Message {
    let mut head = BytesMut::new();
    put_vote(&mut head, request.from_leader());
    head.put_u64_le(*request.to_node_id());
    put_log_id(&mut head, request.last_log_id());
    message(TRANSFER, head)
}

pub(crate) fn decode_transfer(mut head: Bytes) -> io::Result<TransferLeaderRequest<TypeConfig>> {
    let (vote, to) = (get_vote(&mut head)?, get_u64(&mut head)?);
    let last_log_id = get_log_id(&mut head)?;
    ended(head, TransferLeaderRequest::new(vote, to, last_log_id))
}

pub(crate) fn encode_transfer_response(response: &TransferLeaderResponse<TypeConfig>) -> Message {
    let mut head = BytesMut::new();
    match response {
        Ok(()) => head.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            head.put_u8(1);
            put_vote(&mut head, expected);
            put_vote(&mut head, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            head.put_u8(2);
            put_log_id(&mut head, expected.as_ref());
            put_log_id(&mut head, actual.as_ref());
        }
    }
    message(TRANSFER, head)
}

pub(crate) fn decode_transfer_response(mut head: Bytes) -> io::Result<TransferLeaderResponse<TypeConfig>> {
    let response = match head.try_get_u8() {
        Ok(0) => Ok(()),
        Ok(1) => Err(TransferLeaderError::VoteChanged { expected: get_vote(&mut head)?, actual: get_vote(&mut head)? }),
        Ok(2) => {
            let (expected, actual) = (get_log_id(&mut head)?, get_log_id(&mut head)?);
            Err(TransferLeaderError::LogNotFlushed { expected, actual })
        }
        _ => return Err(malformed()),
    };
    ended(head, response)
}

pub(crate) fn read_index_request() -> Message {
    message(READ_INDEX, BytesMut::new())
}

/// The index up to which a reader must have applied; none where the replica does not lead.
pub(crate) fn encode_read_index(index: Option<u64>) -> Message {
    let mut head = BytesMut::new();
    head.put_u8(u8::from(index.is_some()));
    head.put_u64_le(index.unwrap_or(0));
    message(READ_INDEX, head)
}

pub(crate) fn decode_read_index(mut head: Bytes) -> io::Result<Option<u64>> {
    let (is_given, index) = (get_bool(&mut head)?, get_u64(&mut head)?);
    ended(head, is_given.then_some(index))
}

/// The index behind the entry before; none where there can be no more.
fn next_index(prev: Option<&LogIdOf<TypeConfig>>) -> Option<u64> {
    prev.map_or(Some(0), |id| id.index.checked_add(1))
}

fn index_at(first: Option<u64>, offset: usize) -> Option<u64> {
    first?.checked_add(offset as u64)
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &VoteOf<TypeConfig>) {
    out.put_slice(&encode_vote(vote));
}

pub(crate) fn get_vote(head: &mut Bytes) -> io::Result<VoteOf<TypeConfig>> {
    let rest = head.len().checked_sub(VOTE_BYTES).ok_or_else(malformed)?;
    let vote = decode_vote(&head[..VOTE_BYTES])?;
    if vote.leader_id.voted_for == 0 {
        return Err(malformed());
    }
    *head = head.slice(head.len() - rest..);
    Ok(vote)
}

fn put_log_id(out: &mut BytesMut, id: Option<&LogIdOf<TypeConfig>>) {
    let at = id.map_or(EntryId { index: 0, term: 0 }, entry_id);
    out.put_u8(u8::from(id.is_some()));
    out.put_u64_le(at.term);
    out.put_u64_le(at.index);
}

fn get_log_id(head: &mut Bytes) -> io::Result<Option<LogIdOf<TypeConfig>>> {
    let is_given = get_bool(head)?;
    let (term, index) = (get_u64(head)?, get_u64(head)?);
    Ok(is_given.then(|| log_id(EntryId { index, term })))
}

pub(crate) fn get_u64(head: &mut Bytes) -> io::Result<u64> {
    head.try_get_u64_le().map_err(|_| malformed())
}

pub(crate) fn get_bool(head: &mut Bytes) -> io::Result<bool> {
    match head.try_get_u8() {
        Ok(0) => Ok(false),
        Ok(1) => Ok(true),
        _ => Err(malformed()),
    }
}

/// `value`, if nothing is left of what it was read from.
pub(crate) fn ended<T>(head: Bytes, value: T) -> io::Result<T> {
    if head.is_empty() { Ok(value) } else { Err(malformed()) }
}

pub(crate) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message between replicas that no version of weir wrote")
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use openraft::vote::leader_id_std::LeaderId;
    use weir_storage::Arena;

    use super::*;
    use crate::config::Batch;

    const ID: EntryId = EntryId { index: 41, term: 6 };

    fn vote() -> VoteOf<TypeConfig> {
        VoteOf::<TypeConfig> { leader_id: LeaderId { term: 7, voted_for: 3 }, committed: true }
    }

    fn candidate() -> VoteOf<TypeConfig> {
        VoteOf::<TypeConfig> { committed: false, ..vote() }
    }

    fn frame(body: &[u8]) -> Bytes {
        let mut buf = Arena::new(body.len()).into_buf();
        buf.put_slice(body);
        Arena::seal(buf)
    }

    fn append() -> AppendEntriesRequest<TypeConfig> {
        let batch = Batch::Loaded { frame: frame(b"batch"), body_bytes: 5, claim: Claim::Spare, ticket: None };
        let nodes = std::collections::BTreeMap::from([(1, openraft::EmptyNode {})]);
        let membership = openraft::Membership::new(vec![[1].into()], nodes).expect("a membership");
        let payloads = [EntryPayload::Blank, EntryPayload::Normal(batch), EntryPayload::Membership(membership)];
        let entries = (ID.index + 1..)
            .zip(payloads)
            .map(|(index, payload)| EntryOf::<TypeConfig>::new(log_id(EntryId { index, term: 7 }), payload));
        AppendEntriesRequest {
            vote: vote(),
            prev_log_id: Some(log_id(ID)),
            entries: entries.collect(),
            leader_commit: Some(log_id(EntryId { index: 40, term: 5 })),
        }
    }

    #[test]
    fn entries_arrive_as_they_were_sent() {
        let sent = append();
        let message = encode_append(sent.clone());
        let bodies: Vec<Bytes> = message.bodies.iter().map(|body| frame(body)).collect();
        let arrived = decode_append(message.head.clone(), bodies.clone()).expect("it is whole");
        assert_eq!((arrived.vote, arrived.prev_log_id), (sent.vote, sent.prev_log_id));
        assert_eq!((arrived.leader_commit, arrived.entries.len()), (sent.leader_commit, 3));
        for (arrived, sent) in arrived.entries.iter().zip(&sent.entries) {
            assert_eq!(arrived.log_id(), sent.log_id());
            assert_eq!(encode_body(&arrived.payload), encode_body(&sent.payload));
        }
        for cut in 0..message.head.len() {
            assert!(decode_append(message.head.slice(..cut), bodies.clone()).is_err(), "{cut}");
        }
        assert!(decode_append(message.head.clone(), bodies[..2].to_vec()).is_err(), "an entry has no body");
        assert!(decode_append(message.head, [bodies, vec![frame(b"")]].concat()).is_err(), "a body has no entry");
    }

    #[test]
    fn entries_whose_terms_fall_or_whose_indices_end_are_refused() {
        let falling = AppendEntriesRequest { prev_log_id: Some(log_id(EntryId { index: 41, term: 8 })), ..append() };
        let last = AppendEntriesRequest { entries: Vec::new(), ..falling.clone() };
        let message = encode_append(falling);
        let bodies: Vec<Bytes> = message.bodies.iter().map(|body| frame(body)).collect();
        assert!(decode_append(message.head.clone(), bodies.clone()).is_err());
        // The same entries behind the last index that there can be.
        let end = EntryId { index: u64::MAX, term: 1 };
        let mut head =
            BytesMut::from(&encode_append(AppendEntriesRequest { prev_log_id: Some(log_id(end)), ..last }).head[..]);
        for _ in 0..2 {
            head.put_u8(crate::entry::KIND_BLANK);
            head.put_u64_le(7);
        }
        assert!(decode_append(head.freeze(), bodies[..2].to_vec()).is_err());
    }

    #[test]
    fn votes_of_nobody_and_in_the_wrong_place_are_refused() {
        let elected = VoteRequest { vote: vote(), last_log_id: None, leadership_transfer: false };
        assert!(decode_vote_request(encode_vote_request(VOTE, &elected).head).is_err());
        let mut nobody = candidate();
        nobody.leader_id.voted_for = 0;
        let nobody = VoteRequest { vote: nobody, ..elected };
        assert!(decode_vote_request(encode_vote_request(VOTE, &nobody).head).is_err());
        let candidates = AppendEntriesRequest { vote: candidate(), ..append() };
        let message = encode_append(candidates);
        let bodies = message.bodies.iter().map(|body| frame(body)).collect();
        assert!(decode_append(message.head, bodies).is_err());
    }

    /// Every message is read back as it was written, and no part of one is taken for a message.
    fn assert_reads_back<T: PartialEq + std::fmt::Debug>(
        sent: &T,
        message: Message,
        decode: impl Fn(Bytes) -> io::Result<T>,
    ) {
        assert_eq!(decode(message.head.clone()).expect("it is whole"), *sent);
        for cut in 0..message.head.len() {
            assert!(decode(message.head.slice(..cut)).is_err(), "{sent:?} {cut}");
        }
        assert!(decode([&message.head[..], b"x"].concat().into()).is_err(), "{sent:?} and more");
    }

    #[test]
    fn messages_read_back_as_written() {
        for last_log_id in [None, Some(log_id(ID))] {
            let request = VoteRequest { vote: candidate(), last_log_id, leadership_transfer: last_log_id.is_some() };
            assert_reads_back(&request, encode_vote_request(PRE_VOTE, &request), decode_vote_request);
            let response = VoteResponse::new(vote(), last_log_id, last_log_id.is_none());
            assert_reads_back(&response, encode_vote_response(VOTE, &response), decode_vote_response);
            let transfer = TransferLeaderRequest::new(vote(), 3, last_log_id);
            assert_reads_back(&transfer, encode_transfer(&transfer), decode_transfer);
            let appended = AppendEntriesResponse::PartialSuccess(last_log_id);
            assert_reads_back(&appended, encode_append_response(&appended), decode_append_response);
            let refused = Err(TransferLeaderError::LogNotFlushed { expected: last_log_id, actual: None });
            assert_reads_back(&refused, encode_transfer_response(&refused), decode_transfer_response);
        }
        for appended in
            [AppendEntriesResponse::Success, AppendEntriesResponse::Conflict, AppendEntriesResponse::HigherVote(vote())]
        {
            assert_reads_back(&appended, encode_append_response(&appended), decode_append_response);
        }
        let changed =
            Err(TransferLeaderError::VoteChanged { expected: vote(), actual: VoteOf::<TypeConfig>::new(9, 1) });
        for transferred in [Ok(()), changed] {
            assert_reads_back(&transferred, encode_transfer_response(&transferred), decode_transfer_response);
        }
        for index in [None, Some(0), Some(u64::MAX)] {
            assert_reads_back(&index, encode_read_index(index), decode_read_index);
        }
    }
}
