//! Hellos as bytes: what two nodes say to each other before the first frame.
//!
//! ```text
//! dialer                          acceptor
//!   hello ------------------------>        who I am, whom I mean, what the connection is for, a nonce
//!         <------------------------ hello  the same
//!   proof ------------------------>        that I have the secret; empty where there is none
//!         <------------------------ proof
//!   ready ------------------------>        empty; frames follow
//! ```
//!
//! In the place of each, a *refusal* may come: a sentence, and then nothing more. The acceptor shows nothing to a dialer
//! that has not shown that it has the secret, and both ask their embedder about the other ([`crate::identity::Admission`])
//! only after that. Under TLS all of this is within TLS, and proofs are empty.
//!
//! Each of them is a record. All numbers are little endian.
//!
//! ```text
//!  0 magic "WLK" and version      4 what (u8), 0 (u8)      6 bytes that follow (u16, at most 512)
//! ```
//!
//! A hello has 88 bytes behind that. Refusals are UTF-8. The header, and refusals, are the same in all versions.
//!
//! ```text
//!  0 whether a secret is wanted (u8)     8 cluster (u128)     40 node (u64)      56 nonce (32 bytes)
//!  1 lane (u8), its number (u16)        24 disk (u128)        48 node that is meant (u64), 0 if unknown
//!  4 format level (u16), 0 (u16)
//! ```

use bytes::{Buf, BufMut};
use weir_types::{GroupId, ShardId};

use crate::identity::{ClusterId, DiskId, Hello, Identity, Lane, NodeId};

/// The version of everything that nodes say to each other: hellos and frames.
pub const VERSION: u8 = 2;

/// Bytes of a record before what is in it.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// The most that is in one.
pub(crate) const RECORD_BYTES_MAX: usize = 512;
/// What is in a hello.
pub(crate) const HELLO_BYTES: usize = 88;
pub(crate) const NONCE_BYTES: usize = 32;

/// What each begins with.
pub(crate) const MAGIC: [u8; 3] = *b"WLK";
/// The first byte of an alert and of a handshake in TLS.
const TLS_RECORDS: [u8; 2] = [21, 22];

const _: () = assert!(HELLO_BYTES == 8 + 2 * 16 + 2 * 8 + NONCE_BYTES && HELLO_BYTES <= RECORD_BYTES_MAX);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Hello = 1,
    Proof = 2,
    Ready = 3,
    Refusal = 4,
}

/// The header of a record, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordHeader {
    /// One of this version, or a refusal of any, with at most [`RECORD_BYTES_MAX`] bytes.
    Known { kind: RecordKind, bytes: usize },
    /// One of another version.
    OtherVersion(u8),
    /// The other side speaks TLS.
    Tls,
    /// Something else.
    Malformed,
}

/// A record, header and all.
pub(crate) fn record(kind: RecordKind, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() <= RECORD_BYTES_MAX, "a record is short");
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + bytes.len());
    record.put_slice(&MAGIC);
    record.put_u8(VERSION);
    record.put_u8(kind as u8);
    record.put_u8(0);
    record.put_u16_le(bytes.len() as u16);
    assert_eq!(record.len(), RECORD_HEADER_BYTES, "the fixed fields");
    record.put_slice(bytes);
    record
}

/// What the header of a record says.
pub(crate) fn record_header(header: &[u8; RECORD_HEADER_BYTES]) -> RecordHeader {
    let &[m0, m1, m2, version, kind, _, low, high] = header;
    if [m0, m1, m2] != MAGIC {
        return if TLS_RECORDS.contains(&m0) { RecordHeader::Tls } else { RecordHeader::Malformed };
    }
    let bytes = usize::from(u16::from_le_bytes([low, high]));
    let kinds = [RecordKind::Hello, RecordKind::Proof, RecordKind::Ready, RecordKind::Refusal];
    match kinds.into_iter().find(|&known| known as u8 == kind) {
        Some(kind) if bytes <= RECORD_BYTES_MAX && (version == VERSION || kind == RecordKind::Refusal) => {
            RecordHeader::Known { kind, bytes }
        }
        _ if version != VERSION => RecordHeader::OtherVersion(version),
        _ => RecordHeader::Malformed,
    }
}

/// A hello with what only the two that say hello need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) hello: Hello,
    pub(crate) wants_secret: bool,
    pub(crate) nonce: [u8; NONCE_BYTES],
}

impl Greeting {
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let Hello { identity, meant, lane, level } = self.hello;
        let (lane, number) = match lane {
            Lane::Control(group) => (1, group.0),
            Lane::Data(group) => (2, group.0),
            Lane::Mail(shard) => (3, shard.0),
            Lane::Join => (4, 0),
        };
        let mut bytes = [0; HELLO_BYTES];
        let mut out = &mut bytes[..];
        out.put_u8(u8::from(self.wants_secret));
        out.put_u8(lane);
        out.put_u16_le(number);
        out.put_u16_le(level);
        out.put_u16_le(0);
        out.put_u128_le(identity.cluster.0);
        out.put_u128_le(identity.disk.0);
        out.put_u64_le(identity.node.get());
        out.put_u64_le(meant.map_or(0, NodeId::get));
        out.put_slice(&self.nonce);
        assert!(out.is_empty(), "every byte is written");
        bytes
    }

    /// None for what [`Greeting::encode`] did not write.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Greeting> {
        if bytes.len() != HELLO_BYTES {
            return None;
        }
        let wants_secret = match bytes.get_u8() {
            0 => false,
            1 => true,
            _ => return None,
        };
        let (lane, number) = (bytes.get_u8(), bytes.get_u16_le());
        let lane = match lane {
            1 => Lane::Control(GroupId(number)),
            2 => Lane::Data(GroupId(number)),
            3 => Lane::Mail(ShardId(number)),
            4 if number == 0 => Lane::Join,
            _ => return None,
        };
        let level = bytes.get_u16_le();
        if bytes.get_u16_le() != 0 {
            return None;
        }
        let cluster = ClusterId(bytes.get_u128_le());
        let disk = DiskId(bytes.get_u128_le());
        let node = NodeId::new(bytes.get_u64_le())?;
        let meant = NodeId::new(bytes.get_u64_le());
        if meant.is_none() && lane != Lane::Join {
            return None;
        }
        let nonce = *bytes.first_chunk()?;
        let hello = Hello { identity: Identity { cluster, node, disk }, meant, lane, level };
        Some(Greeting { hello, wants_secret, nonce })
    }
}

/// A sentence that came from elsewhere, or goes there: short, and nothing in it that a terminal or a log would act on.
pub(crate) fn tame(sentence: &str) -> String {
    let mut tamed = String::new();
    for character in sentence.chars() {
        let is_plain = !character.is_control() && !is_invisible(character);
        let character = if is_plain { character } else { '?' };
        if tamed.len() + character.len_utf8() > RECORD_BYTES_MAX {
            break;
        }
        tamed.push(character);
    }
    tamed
}

/// What changes how the text around it looks.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn greeting(lane: Lane) -> Greeting {
        let node = NodeId::new(u64::MAX).expect("not 0");
        let identity = Identity { cluster: ClusterId(1 << 127), node, disk: DiskId(7) };
        let hello = Hello { identity, meant: NodeId::new(2), lane, level: 0x0708 };
        Greeting { hello, wants_secret: true, nonce: [9; NONCE_BYTES] }
    }

    #[test]
    fn hellos_read_back_as_written() {
        let unaware = Hello { meant: None, ..greeting(Lane::Join).hello };
        let unaware = Greeting { hello: unaware, ..greeting(Lane::Join) };
        assert_eq!(Greeting::decode(&unaware.encode()), Some(unaware));
        for lane in [Lane::Control(GroupId(0)), Lane::Data(GroupId(258)), Lane::Mail(ShardId(u16::MAX))] {
            let greeting = greeting(lane);
            assert_eq!(Greeting::decode(&greeting.encode()), Some(greeting));
            for node_at in [40, 48] {
                let mut bytes = greeting.encode();
                bytes[node_at..node_at + 8].fill(0);
                assert_eq!(Greeting::decode(&bytes), None, "no node is 0");
            }
        }
    }

    #[test]
    fn a_refusal_of_another_version_is_understood() {
        let mut header: [u8; RECORD_HEADER_BYTES] =
            *record(RecordKind::Refusal, b"no").first_chunk().expect("a header");
        header[3] = 200;
        assert_eq!(record_header(&header), RecordHeader::Known { kind: RecordKind::Refusal, bytes: 2 });
        header[4] = RecordKind::Hello as u8;
        assert_eq!(record_header(&header), RecordHeader::OtherVersion(200));
        header[0] = 22;
        assert_eq!(record_header(&header), RecordHeader::Tls);
        header[0] = b'G';
        assert_eq!(record_header(&header), RecordHeader::Malformed);
    }

    #[test]
    fn sentences_are_tamed() {
        assert_eq!(tame("node 3 is „new“\n\x1b[31m\u{202e}"), "node 3 is „new“??[31m?");
        assert_eq!(tame(&"ä".repeat(1000)).len(), RECORD_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_hello_or_one_that_reads_back(bytes in prop::collection::vec(any::<u8>(), 80..96)) {
            if let Some(greeting) = Greeting::decode(&bytes) {
                prop_assert_eq!(&greeting.encode()[..], &bytes[..]);
            }
        }

        #[test]
        fn a_record_is_bounded_whatever_its_header_says(header in any::<[u8; RECORD_HEADER_BYTES]>(), ours in any::<bool>()) {
            let mut header = header;
            if ours {
                header[..3].copy_from_slice(&MAGIC);
            }
            if let RecordHeader::Known { bytes, .. } = record_header(&header) {
                prop_assert!(bytes <= RECORD_BYTES_MAX);
            }
        }
    }
}
