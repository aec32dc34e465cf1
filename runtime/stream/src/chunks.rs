//! Chunks: the immutable objects in the cold tier that hold bytes of this group's streams, and how much of each is still
//! named.
//!
//! A chunk is put before it is proposed. So an object that the table does not name is one that is not committed yet, or
//! never will be, or was named once. Apply refuses the chunks of a term that is not the entry's own: when a leader has
//! applied an entry of its own term, no chunk of an earlier term can come any more, and what the table does not name of
//! those is garbage.

use std::collections::BTreeMap;

use crate::codec::{CodecError, Reader};
use crate::sink::Sink;

/// The highest number of a chunk in a snapshot: the next ones must have some, too.
const NUMBER_MAX: u32 = u32::MAX / 2;
/// The largest object: places in it have 32 bits.
const OBJECT_BYTES_MAX: u64 = u32::MAX as u64;

/// What a chunk takes in the table, about: a place in a tree that is three quarters full.
const CHUNK_MEMORY_BYTES: usize = 104;

/// One chunk of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The term of the leader that made it.
    pub term: u64,
    /// Chunks are numbered as they are proposed, from 1 on; no two that are committed have the same.
    pub number: u32,
    /// Drawn at random by the process that made it, so that no object is ever put twice with other bytes.
    pub nonce: u32,
}

/// An object in the cold tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its name.
    pub id: ChunkId,
    /// The size of the object.
    pub bytes: u64,
    /// CRC32C of the object.
    pub crc: u32,
    /// When the first and the last of its bytes were appended, in milliseconds since 1970.
    pub times: (u64, u64),
    /// Stored bytes in it that streams named when it was new.
    pub named_bytes: u64,
    /// Stored bytes in it that a stream still names.
    pub live_bytes: u64,
}

/// All chunks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkTotals {
    /// How many there are.
    pub chunks: u64,
    /// Bytes of the objects.
    pub bytes: u64,
    /// Stored bytes in them that a stream still names.
    pub live_bytes: u64,
}

/// The chunks of a group that some stream names.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    by_number: BTreeMap<u32, Chunk>,
    /// Of all of them.
    totals: ChunkTotals,
    last_number: u32,
    /// The entry that is being applied.
    entry: u64,
    /// The last entry with which a chunk has come or gone; `None` when that was before the snapshot that this began with.
    changed: Option<u64>,
    /// Chunks that nothing names any more, since somebody asked, and the entry that they went with.
    gone: Vec<(ChunkId, u64)>,
}

impl Chunks {
    /// What changes from now on changes with this entry.
    pub(crate) fn begin_entry(&mut self, index: u64) {
        self.entry = index;
    }

    /// Takes in a chunk that nothing names yet; false when another one has its number.
    pub(crate) fn insert(&mut self, chunk: Chunk) -> bool {
        if chunk.id.number <= self.last_number {
            return false;
        }
        self.last_number = chunk.id.number;
        self.changed = Some(self.entry);
        self.totals.chunks += 1;
        self.totals.bytes += chunk.bytes;
        self.totals.live_bytes += chunk.live_bytes;
        self.by_number.insert(chunk.id.number, chunk);
        true
    }

    /// The chunk of a number that a stream names.
    pub(crate) fn get(&self, number: u32) -> Option<&Chunk> {
        self.by_number.get(&number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.by_number.values()
    }

    pub(crate) fn totals(&self) -> ChunkTotals {
        self.totals
    }

    pub(crate) fn last_number(&self) -> u32 {
        self.last_number
    }

    /// Bytes of a chunk are named from now on.
    pub(crate) fn take(&mut self, number: u32, bytes: u64) {
        self.by_number.get_mut(&number).expect("a chunk is in the table before it is named").live_bytes += bytes;
        self.totals.live_bytes += bytes;
    }

    /// As [`Chunks::take`], for who does not know whether the chunk is there; false when it is not, or so many bytes cannot be
    /// in it.
    pub(crate) fn try_take(&mut self, number: u32, bytes: u64) -> bool {
        let Some(chunk) = self.by_number.get_mut(&number) else { return false };
        let Some(live_bytes) = chunk.live_bytes.checked_add(bytes).filter(|live| *live <= chunk.named_bytes) else {
            return false;
        };
        chunk.live_bytes = live_bytes;
        self.totals.live_bytes += bytes;
        true
    }

    /// All is named of a new chunk that ever will be.
    pub(crate) fn end_new(&mut self, number: u32) {
        let chunk = self.by_number.get_mut(&number).expect("it was taken in by the same command");
        chunk.named_bytes = chunk.live_bytes;
    }

    /// Bytes of a chunk are named no longer; a chunk without any is forgotten by [`Chunks::forget_if_dead`].
    pub(crate) fn release(&mut self, number: u32, bytes: u64) {
        let chunk = self.by_number.get_mut(&number).expect("a chunk is in the table while it is named");
        assert!(chunk.live_bytes >= bytes, "what is named is counted");
        chunk.live_bytes -= bytes;
        self.totals.live_bytes -= bytes;
    }

    /// Takes a chunk out of the table if nothing names it.
    pub(crate) fn forget_if_dead(&mut self, number: u32) {
        if let Some(chunk) = self.by_number.get(&number)
            && chunk.live_bytes == 0
        {
            self.gone.push((chunk.id, self.entry));
            self.changed = Some(self.entry);
            self.totals.chunks -= 1;
            self.totals.bytes -= chunk.bytes;
            self.by_number.remove(&number);
        }
    }

    pub(crate) fn changed(&self) -> Option<u64> {
        self.changed
    }

    pub(crate) fn take_gone(&mut self) -> Vec<(ChunkId, u64)> {
        std::mem::take(&mut self.gone)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.by_number.len() * CHUNK_MEMORY_BYTES + self.gone.len() * size_of::<(ChunkId, u64)>()
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.u32(self.last_number);
        sink.varint(self.by_number.len() as u64);
        for Chunk { id, bytes, crc, times, named_bytes, live_bytes } in self.by_number.values() {
            sink.varint(id.term);
            sink.varint(id.number.into());
            sink.u32(id.nonce);
            sink.varint(*bytes);
            sink.u32(*crc);
            sink.u64(times.0);
            sink.u64(times.1);
            sink.varint(*named_bytes);
            sink.varint(*live_bytes);
        }
    }

    /// Reads what [`Chunks::put`] wrote, of a group whose time is `time_ms`.
    pub(crate) fn read(reader: &mut Reader<'_>, time_ms: u64) -> Result<Chunks, CodecError> {
        const WHAT: &str = "chunk";
        let last_number = reader.u32(WHAT)?;
        if last_number > NUMBER_MAX {
            return Err(CodecError::Field(WHAT));
        }
        let mut chunks = Chunks::default();
        for _ in 0..reader.varint(WHAT)? {
            let id = ChunkId { term: reader.varint(WHAT)?, number: reader.varint_u32(WHAT)?, nonce: reader.u32(WHAT)? };
            let (bytes, crc) = (reader.varint(WHAT)?, reader.u32(WHAT)?);
            let times = (reader.u64(WHAT)?, reader.u64(WHAT)?);
            let (named_bytes, live_bytes) = (reader.varint(WHAT)?, reader.varint(WHAT)?);
            let chunk = Chunk { id, bytes, crc, times, named_bytes, live_bytes };
            let has_bytes = live_bytes > 0 && live_bytes <= named_bytes && named_bytes <= bytes;
            let is_past = times.0 <= times.1 && times.1 <= time_ms;
            if id.number > last_number || !has_bytes || bytes > OBJECT_BYTES_MAX || !is_past || !chunks.insert(chunk) {
                return Err(CodecError::Field(WHAT));
            }
        }
        chunks.last_number = last_number;
        chunks.changed = None;
        Ok(chunks)
    }

    /// Sets what is named of every chunk to nothing, and gives back what it was.
    pub(crate) fn count_anew(&mut self) -> Vec<u64> {
        self.totals.live_bytes = 0;
        self.by_number.values_mut().map(|chunk| std::mem::take(&mut chunk.live_bytes)).collect()
    }
}
