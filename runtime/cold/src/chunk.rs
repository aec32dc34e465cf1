//! The format of a chunk: an immutable object with packs of many streams of one group.
//!
//! ```text
//! chunk   [header][part]...[table][tail]
//! header  [magic 8][group u16][term u64][number u32][nonce u32][crc32c u32]
//! part    the packs of one stream, one behind the other, then their index
//! index   see `index`: it says which bytes of which stream the packs are, and where each lies
//! table   for each part [key length u16][key][incarnation u64][start][bytes][place of the index], the last three as numbers of
//!         seven bits a byte
//! tail    [parts u32][table bytes u32][crc32c u32 of the table and these][magic 8]
//! ```
//! Other numbers are little-endian. A reader of a stream needs only the index of its part; the table is for whoever goes
//! through all of it. The bytes follow from what is in the chunk, so that two replicas that build it agree.

use bytes::{BufMut, Bytes, BytesMut};
use weir_types::Incarnation;

use crate::index::{self, PackIn};
use crate::name::ChunkName;
use crate::stretches::Stretches;

/// The first bytes of every chunk, and the last; the last of them is the format's version.
const MAGIC: [u8; 8] = *b"WEIRCHK\x01";
/// The largest chunk: places in it have 32 bits.
pub const CHUNK_BYTES_MAX: u64 = u32::MAX as u64;

/// A chunk in the making, which takes its thread some milliseconds.
#[derive(Debug)]
pub struct ChunkBuilder {
    name: ChunkName,
    buf: BytesMut,
    table: BytesMut,
    parts: u32,
    stretches: Stretches,
}

impl ChunkBuilder {
    /// Begins a chunk, of about `bytes`.
    pub fn new(name: ChunkName, bytes: usize) -> ChunkBuilder {
        let mut buf = BytesMut::with_capacity(bytes + bytes / 16);
        buf.put_slice(&MAGIC);
        buf.put_u16_le(name.group.0);
        buf.put_u64_le(name.term);
        buf.put_u32_le(name.number);
        buf.put_u32_le(name.nonce);
        buf.put_u32_le(crc32c::crc32c(&buf));
        ChunkBuilder { name, buf, table: BytesMut::new(), parts: 0, stretches: Stretches::default() }
    }

    /// Adds a part: the bytes of the stream `key` from `start` on, one or more packs; returns its place in the chunk.
    pub fn part(&mut self, key: &str, incarnation: Incarnation, start: u64, packs: &[PackIn]) -> u32 {
        assert!(!packs.is_empty(), "a part has bytes");
        let begin = self.place();
        for pack in packs {
            self.buf.put_slice(&pack.bytes);
            self.stretches.worked(pack.bytes.len());
        }
        let at = self.place();
        index::put(&mut self.buf, self.name, (incarnation, start, begin), packs);
        let bytes: u64 = packs.iter().map(|pack| u64::from(pack.payload_bytes)).sum();
        self.table.put_u16_le(u16::try_from(key.len()).expect("keys are checked when a request arrives"));
        self.table.put_slice(key.as_bytes());
        self.table.put_u64_le(incarnation.0);
        for number in [start, bytes, at.into()] {
            index::put_varint(&mut self.table, number);
        }
        self.parts += 1;
        at
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.buf.len()
    }

    /// The chunk, and its CRC32C.
    pub fn finish(mut self) -> (Bytes, u32) {
        let table = self.buf.len();
        self.buf.put_slice(&self.table);
        self.buf.put_u32_le(self.parts);
        self.buf.put_u32_le(self.table.len() as u32);
        self.buf.put_u32_le(crc32c::crc32c_append(self.name.seed(), &self.buf[table..]));
        self.buf.put_slice(&MAGIC);
        assert!(self.buf.len() as u64 <= CHUNK_BYTES_MAX, "places have 32 bits");
        let crc = self.stretches.crc(&self.buf);
        (self.buf.freeze(), crc)
    }

    fn place(&self) -> u32 {
        u32::try_from(self.buf.len()).expect("a chunk is closed long before")
    }
}
