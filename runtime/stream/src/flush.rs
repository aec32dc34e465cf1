//! Flush: bytes of streams that are in a chunk of the cold tier now. Some leave the log, some leave other chunks.
//!
//! The chunk is there before the command is proposed, so apply touches no store. What the command says is said by positions;
//! a part that no longer fits (its stream is gone, or has another life) stays where it is, and is garbage in the chunk.

use crate::chunks::Chunk;
use crate::extents::{ChunkBytes, Freed};
use crate::group::{At, Group, Outcome, recount};
use crate::key::KeyRef;
use crate::part::{EncodedParts, Part};
use crate::reply::{Refusal, Reply};

impl Group {
    pub(crate) fn flush(&mut self, at: &At, chunk: Chunk, parts: EncodedParts<'_>) -> Outcome {
        let number = chunk.id.number;
        if chunk.id.term != at.term || !self.chunks.insert(chunk) {
            return Outcome::refused(Refusal::Stale);
        }
        let mut pinned = Vec::new();
        let moved = parts.decode().filter(|part| self.flush_part(number, part, &mut pinned)).count();
        self.chunks.end_new(number);
        self.chunks.forget_if_dead(number);
        for key in pinned {
            self.give_up_gap(key);
        }
        Outcome::unchanged(Reply::Flushed { parts: moved as u32 })
    }

    /// Moves a part; false when it does not fit. Notes it if the stream has forks.
    fn flush_part<'a>(&mut self, number: u32, part: &Part<'a>, pinned: &mut Vec<KeyRef<'a>>) -> bool {
        let Some(stream) = self.slots.get_mut(part.key).filter(|stream| stream.incarnation() == part.incarnation)
        else {
            return false;
        };
        let before_bytes = stream.memory_bytes();
        let (chunks, hotlog, base) = (&mut self.chunks, &mut self.hotlog, stream.held());
        let retained = (base, stream.tail);
        let moved = stream.extents.move_to_chunk(&part.range, retained, number, part.at, |freed| match freed {
            Freed::Entry(index, bytes) => hotlog.release(index, bytes),
            Freed::Chunk(ChunkBytes { chunk, bytes }) => {
                chunks.release(chunk, bytes);
                // Not its own: bytes that were moved before in the same command may be moved again.
                if chunk != number {
                    chunks.forget_if_dead(chunk);
                }
            }
        });
        if moved {
            chunks.take(number, part.range.end - part.range.start.max(base));
        }
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        if moved && stream.forks() > 0 {
            pinned.push(part.key);
        }
        moved
    }
}
