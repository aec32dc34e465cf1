//! The plain values that go into a WAL and come out of it.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use weir_types::GroupId;

use crate::segment::SegmentFile;

/// Called once a frame is on stable storage, or will never be. An error says nothing about what a restart will find.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One entry of a group's Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Its place in the group's order.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
}

/// An entry as it is found in the log.
#[derive(Clone, Debug)]
pub struct EntryRef {
    /// Which entry.
    pub id: EntryId,
    /// What the caller gave with it; the WAL does not interpret it.
    pub kind: u8,
    /// Where its bytes are.
    pub body: EntryBody,
}

impl EntryRef {
    /// Length of its body.
    pub fn body_bytes(&self) -> usize {
        match &self.body {
            EntryBody::Cached(_, body_bytes) => *body_bytes,
            EntryBody::Stored(place) => place.body_bytes(),
        }
    }
}

/// Where an entry's bytes are.
#[derive(Clone, Debug)]
pub enum EntryBody {
    /// In memory: the whole frame, and the body's length. The body begins after
    /// [`FRAME_HEADER_BYTES`](crate::FRAME_HEADER_BYTES); what follows it is padding.
    Cached(Bytes, usize),
    /// On disk, to be read with [`WalReader`](crate::WalReader).
    Stored(EntryPlace),
}

/// Where one entry lies on disk. While it is alive its segment is neither recycled nor removed.
#[derive(Clone)]
pub struct EntryPlace {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) position: u64,
    pub(crate) body_bytes: u32,
    pub(crate) group: GroupId,
    pub(crate) id: EntryId,
}

impl EntryPlace {
    /// Length of the entry's body.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes as usize
    }
}

impl fmt::Debug for EntryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryPlace({} @{}, {} bytes)", self.segment.name, self.position, self.body_bytes)
    }
}

/// Where the salts of segments come from: numbers that no earlier life of a file has had.
pub type Salts = Box<dyn Fn() -> u64>;

/// Sizes and manner of one WAL.
#[derive(Clone, Copy, Debug)]
pub struct WalConfig {
    /// Bytes of a new segment, a multiple of [`BLOCK_BYTES`](crate::BLOCK_BYTES). A frame must fit into one.
    pub segment_bytes: u64,
    /// What all segments together may take: at least three of them (the current one, a spare, the reserve).
    pub budget_bytes: u64,
    /// Bytes of applied entries that stay in memory. Unapplied ones stay whatever they take.
    pub cache_bytes: usize,
    /// Which thread writes.
    pub write: WriteMode,
}

/// Which thread writes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The kernel's, through `io_uring`, where the kernel and the file system allow it. Elsewhere the shard's while the disk answers
    /// in under about 100 us, a thread of its own otherwise.
    Auto,
    /// Always the shard's.
    Inline,
    /// Always a thread of its own.
    Thread,
    /// Always the shard's, as is everything else that waits for the disk: for simulations, where nothing may depend on how fast
    /// other threads are.
    Simulated,
}

/// Which segments an entry may be written into when space is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Any but the reserve: it waits until there is one.
    Spare,
    /// The reserve too: the log cannot go on without this entry, or room for it was promised.
    Reserve,
}

/// Whether the log has room for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It has; or the log has failed, and an append will say so.
    Free,
    /// A segment is being made ready: wait for [`Wal::room_changed`](crate::Wal::room_changed) and ask again.
    Preparing,
    /// It has none until space is found; asking again later is what to do.
    Full(FullCause),
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullCause {
    /// The disk has no space for another segment, or refuses to make one.
    Disk,
    /// The segments have reached [`WalConfig::budget_bytes`], or the frame is larger than any segment.
    Budget,
}

impl fmt::Display for FullCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FullCause::Disk => "the disk has no space for another segment",
            FullCause::Budget => "its segments have reached their budget",
        })
    }
}
