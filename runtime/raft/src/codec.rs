//! Votes and memberships as bytes: versioned, little endian. A frame's checksum covers them, so here only the form is
//! checked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{Buf, BufMut, BytesMut};
use openraft::alias::VoteOf;
use openraft::vote::leader_id_std::LeaderId;
use openraft::{EmptyNode, Membership};

use crate::config::TypeConfig;

const VERSION: u8 = 1;

/// What a vote takes.
pub(crate) const VOTE_BYTES: usize = 18;

/// A vote: version, term, node voted for, whether a quorum granted it.
pub(crate) fn encode_vote(vote: &VoteOf<TypeConfig>) -> [u8; VOTE_BYTES] {
    let mut bytes = [0; VOTE_BYTES];
    let mut out = &mut bytes[..];
    out.put_u8(VERSION);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
    assert!(out.is_empty(), "every byte is written");
    bytes
}

/// # Errors
/// `InvalidData` for bytes that [`encode_vote`] did not write.
pub(crate) fn decode_vote(mut bytes: &[u8]) -> io::Result<VoteOf<TypeConfig>> {
    version(&mut bytes)?;
    let leader_id = LeaderId { term: u64_le(&mut bytes)?, voted_for: u64_le(&mut bytes)? };
    let committed = bytes.try_get_u8().map_err(|_| malformed())? != 0;
    Ok(VoteOf::<TypeConfig> { leader_id, committed })
}

/// A membership: version, the (joint) configurations as lists of voters, then every node. Four bytes behind a node are zero: where
/// nodes are is not a group's to know.
pub(crate) fn encode_membership(membership: &Membership<u64, EmptyNode>, out: &mut BytesMut) {
    out.put_u8(VERSION);
    let configs = membership.get_joint_config();
    assert!(!configs.is_empty() && configs.len() <= 2, "a membership is one configuration, or two that are joint");
    out.put_u32_le(configs.len() as u32);
    for voters in configs {
        out.put_u32_le(voters.len() as u32);
        voters.iter().for_each(|&voter| out.put_u64_le(voter));
    }
    out.put_u32_le(membership.nodes().count() as u32);
    for (&id, _) in membership.nodes() {
        out.put_u64_le(id);
        out.put_u32_le(0);
    }
}

/// # Errors
/// `InvalidData` for bytes that [`encode_membership`] did not write.
pub(crate) fn decode_membership(mut bytes: &[u8]) -> io::Result<Membership<u64, EmptyNode>> {
    version(&mut bytes)?;
    let mut configs = Vec::new();
    let configs_count = u32_le(&mut bytes)?;
    if !(1..=2).contains(&configs_count) {
        return Err(malformed());
    }
    for _ in 0..configs_count {
        let mut voters = BTreeSet::new();
        for _ in 0..u32_le(&mut bytes)? {
            voters.insert(node_id(&mut bytes)?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..u32_le(&mut bytes)? {
        let id = node_id(&mut bytes)?;
        if u32_le(&mut bytes)? != 0 {
            return Err(malformed());
        }
        nodes.insert(id, EmptyNode {});
    }
    Membership::new(configs, nodes).map_err(|_| malformed())
}

/// Never 0.
fn node_id(bytes: &mut &[u8]) -> io::Result<u64> {
    match u64_le(bytes)? {
        0 => Err(malformed()),
        id => Ok(id),
    }
}

fn version(bytes: &mut &[u8]) -> io::Result<()> {
    match bytes.try_get_u8() {
        Ok(VERSION) => Ok(()),
        _ => Err(malformed()),
    }
}

fn u32_le(bytes: &mut &[u8]) -> io::Result<u32> {
    bytes.try_get_u32_le().map_err(|_| malformed())
}

fn u64_le(bytes: &mut &[u8]) -> io::Result<u64> {
    bytes.try_get_u64_le().map_err(|_| malformed())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a vote or membership that no version of weir wrote")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_read_back_as_written() {
        let vote = VoteOf::<TypeConfig> { leader_id: LeaderId { term: 7, voted_for: u64::MAX }, committed: true };
        assert_eq!(decode_vote(&encode_vote(&vote)).expect("decodes"), vote);
        assert!(decode_vote(&encode_vote(&vote)[..VOTE_BYTES - 1]).is_err());
        assert!(decode_vote(&[9; VOTE_BYTES]).is_err());
    }

    #[test]
    fn memberships_read_back_as_written() {
        let nodes = BTreeMap::from([1, 2, 3].map(|id| (id, EmptyNode {})));
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        let membership = Membership::new(configs, nodes).expect("a valid membership");
        let mut bytes = BytesMut::new();
        encode_membership(&membership, &mut bytes);
        assert_eq!(decode_membership(&bytes).expect("decodes"), membership);
        for cut in 0..bytes.len() {
            assert!(decode_membership(&bytes[..cut]).is_err(), "{cut}");
        }
        for configs in [0u8, 3] {
            let mut other = bytes.to_vec();
            other[1] = configs;
            assert!(decode_membership(&other).is_err(), "{configs} configurations");
        }
    }
}
