//! Makes a chunk: packs of streams become an object in the cold tier, and then the state says so.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use weir_cold::{ChunkBuilder, ChunkName, Cold, PackIn};
use weir_storage::Claim;
use weir_stream::{ChunkId, Command, EncodedParts, KeyRef, Part, Reply};
use weir_types::{Incarnation, StreamKey};

use crate::core::Core;
use crate::message::ShardError;
use crate::upkeep::sweeper::Garbage;
use crate::write::job::LocalGroup;

/// Bytes that become one chunk, about.
pub(crate) const CHUNK_BYTES: u64 = 16 << 20;
/// Bytes of the parts in a chunk's command, about: it must fit any segment.
pub(crate) const PARTS_BYTES_MAX: usize = 512 << 10;
/// What a part takes in the command besides its stream's name, at most.
pub(crate) const PART_BYTES: usize = 48;
/// How long a chunk's command may wait for its outcome.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may keep the turn meanwhile: longer than a command takes that can be committed. Another one waits for a majority, and perhaps
/// for a snapshot that a node needs to be a part of it.
const TURN_MAX: Duration = Duration::from_millis(500);

/// Makes the chunks of a group, one after the other: apply wants their numbers to rise.
pub(crate) struct Maker {
    core: Rc<Core>,
    group: Rc<LocalGroup>,
    cold: Cold,
    /// What the names of this life's chunks have in common. Those of two nodes differ in their term, too.
    nonce: u32,
    /// Chunks that will never be part of the state.
    garbage: Garbage,
    /// The highest number that a chunk was given here, whatever became of it.
    last_number: Mutex<u32>,
}

/// Bytes of one stream that go into a chunk.
pub(crate) struct Piece {
    pub(crate) key: StreamKey,
    pub(crate) incarnation: Incarnation,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// In order, all of these bytes.
    pub(crate) packs: Vec<PackIn>,
}

/// A chunk that streams name now.
pub(crate) struct Made {
    /// Its size.
    pub(crate) bytes: u64,
    /// How many of its pieces are named.
    pub(crate) pieces: u32,
}

impl Maker {
    pub(crate) fn new(core: Rc<Core>, group: Rc<LocalGroup>, cold: Cold, nonce: u32, garbage: Garbage) -> Maker {
        Maker { core, group, cold, nonce, garbage, last_number: Mutex::new(0) }
    }

    /// Makes a chunk of `pieces`, about `bytes` long, and has their streams name it. `claim` says what its command may take of the
    /// log: one that empties the log must get into a full one.
    ///
    /// # Errors
    /// The store or the log takes nothing now. The bytes are where they were, or, with [`ShardError::Unknown`] and
    /// [`ShardError::LogFailed`], perhaps in the chunk.
    pub(crate) async fn make(&self, bytes: u64, pieces: Vec<Piece>, claim: Claim) -> Result<Made, ShardError> {
        let group = &self.group;
        // Only the leader's chunks become part of the state.
        drop(group.leading()?);
        let term = group.reign().ok_or(ShardError::Unavailable)?;
        let mut last_number = self.last_number.lock().await;
        // A log that cannot even be told of the chunk is not given one again and again.
        drop(group.reserve(PARTS_BYTES_MAX, claim)?);
        *last_number = (*last_number).max(group.applied().chunk_number_last()) + 1;
        let id = ChunkId { term, number: *last_number, nonce: self.nonce };
        let name = group.chunk_name(id);
        let built = tokio::task::spawn_blocking(move || build(name, bytes, &pieces));
        let (chunk, crc, times, parts) = built.await.map_err(|_| ShardError::Unavailable)?;
        let bytes = chunk.len() as u64;
        // It may be there all the same.
        self.cold.put(name, chunk).await.inspect_err(|_| self.garbage.borrow_mut().push(name.into()))?;
        let command = Command::Flush { chunk: id, bytes, crc, times, parts: EncodedParts::of(&parts) };
        let turn = self.core.upkeep.lock().await;
        let mut outcome = pin!(group.command_until(&command, Instant::now() + COMMAND_DEADLINE));
        let answer = match timeout(TURN_MAX, &mut outcome).await {
            Ok(answer) => answer,
            Err(_) => {
                drop(turn);
                outcome.await
            }
        };
        let error = match answer {
            Ok(Reply::Flushed { parts }) => {
                tracing::debug!(group = group.id.0, chunk = name.object(), bytes, parts, "chunk put");
                return Ok(Made { bytes, pieces: parts });
            }
            // Another leader's term has begun.
            Ok(Reply::Refused(refusal)) => refusal.into(),
            Ok(reply) => unreachable!("a flush is not answered with {reply:?}"),
            // It may be in the log, and part of the state yet.
            Err(error @ (ShardError::Unknown | ShardError::LogFailed)) => return Err(error),
            Err(error) => error,
        };
        self.garbage.borrow_mut().push(name.into());
        Err(error)
    }
}

/// The chunk, its checksum, when the first and the last of its bytes were appended, and its parts as the command carries them.
pub(crate) fn build(name: ChunkName, bytes: u64, pieces: &[Piece]) -> (Bytes, u32, (u64, u64), Vec<u8>) {
    let mut builder = ChunkBuilder::new(name, bytes as usize);
    let parts: Vec<Part<'_>> = pieces
        .iter()
        .map(|piece| Part {
            key: KeyRef::from(&piece.key),
            incarnation: piece.incarnation,
            range: piece.start..piece.end,
            at: builder.part(piece.key.as_str(), piece.incarnation, piece.start, &piece.packs),
        })
        .collect();
    let encoded = Part::encode(&parts);
    let (chunk, crc) = builder.finish();
    let times = || pieces.iter().flat_map(|piece| &piece.packs).map(|pack| pack.time_ms);
    let times = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    (chunk, crc, times, encoded)
}
