//! What chunks are called.

use weir_types::GroupId;

/// Which chunk: what its object is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName {
    /// Its group.
    pub group: GroupId,
    /// The term of the leader that made it.
    pub term: u64,
    /// Its number in the group.
    pub number: u32,
    /// What the process that made it has drawn at random, so that no name is ever used twice.
    pub nonce: u32,
}

impl ChunkName {
    /// The object's name: `00003-00000000000000000007-0000000042-1f2e3d4c.chunk`.
    pub fn object(self) -> String {
        format!("{:05}-{:020}-{:010}-{:08x}.chunk", self.group.0, self.term, self.number, self.nonce)
    }

    /// The chunk that an object of this name is.
    pub fn parse(object: &str) -> Option<ChunkName> {
        let mut fields = object.strip_suffix(".chunk")?.split('-');
        let mut next = || fields.next();
        let name = ChunkName {
            group: GroupId(next()?.parse().ok()?),
            term: next()?.parse().ok()?,
            number: next()?.parse().ok()?,
            nonce: u32::from_str_radix(next()?, 16).ok()?,
        };
        // Only as we write it: anything else is somebody else's.
        (name.object() == object).then_some(name)
    }

    /// The checksum of what is said of a place in this chunk, so that it means nothing in another one.
    pub(crate) fn seed(self) -> u32 {
        let mut name = [0; 18];
        name[..2].copy_from_slice(&self.group.0.to_le_bytes());
        name[2..10].copy_from_slice(&self.term.to_le_bytes());
        name[10..14].copy_from_slice(&self.number.to_le_bytes());
        name[14..].copy_from_slice(&self.nonce.to_le_bytes());
        crc32c::crc32c(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_only_as_they_are_written() {
        let name = ChunkName { group: GroupId(3), term: u64::MAX, number: 42, nonce: 0xbeef };
        assert_eq!(ChunkName::parse(&name.object()), Some(name));
        for other in [
            "",
            "x.chunk",
            "3-1-1.chunk",
            "00003-00000000000000000007-0000000042.chunk",
            "00003-00000000000000000007-0000000042-0000beef.chunk.partial",
        ] {
            assert_eq!(ChunkName::parse(other), None, "{other}");
        }
    }
}
