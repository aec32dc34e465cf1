//! A group's whole state as bytes, piece by piece, while commands go on being applied.
//!
//! ```text
//! snapshot  pages one after another: [kind u8][body], the first is the head
//! head      see `head`
//! slot      [slot u16][streams u32], then each stream, see `Stream::put`; a slot may have several such pages
//! ```
//! *Freezing* writes down the head and notes that everything else is pending. Whoever changes a stream that is pending first
//! writes it as it was, as a page of its own ([`Slots`](crate::slots::Slots) sees to that), and [`Group::take_frozen`] writes the others,
//! slot by slot, a few at a time. So what comes out is the state as of one log index, and nobody waits for it. Frozen pages that
//! nobody takes are as large as the state at most, and counted with it.
//!
//! *Thawing* makes a group of them. What can be computed is not written: counts of streams, of named log entries, of live
//! bytes. The bytes are not trusted: whatever they are, the result is an error or a group that can be gone on with. So nothing in
//! it is later than the head, no number is near where it would overflow, what one part says of another is so, and nothing takes
//! memory that its bytes do not account for.

mod forks;
mod recover;

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
pub use forks::join_forks;
pub use recover::{ForkLeft, Remainder, join_buckets};

use crate::chunks::Chunk;
use crate::codec::{CodecError, Reader};
use crate::extents::ChunkBytes;
use crate::freeze::{KIND_HEAD, KIND_SLOT};
use crate::group::Group;
use crate::head;
use crate::key::KeyRef;
use crate::sink::Sink;
use crate::stream::Stream;

/// Log entries that may be needed for reads: a terabyte of them. A count is kept for each, so it must not be anything.
const HOT_ENTRIES_MAX: u64 = 1 << 28;

impl Group {
    /// Begins to write down the state as it is now, in pieces of `piece_bytes`; ends another freeze that is under way. What deleted
    /// and trimmed streams named of chunks is given back before, all of it: who wants no long step [reaps](Group::reap) first.
    pub fn freeze(&mut self, piece_bytes: usize) {
        // The head says how much of each chunk streams name.
        while self.reap_runs() {}
        let mut head = BytesMut::new();
        head.u8(KIND_HEAD);
        head::put(self, &mut head);
        self.slots.begin_freeze(head, piece_bytes);
    }

    /// The next pages of the snapshot: a piece, and as much more as its last page has; `None` when there is no more. The head is
    /// in the first.
    pub fn take_frozen(&mut self) -> Option<Bytes> {
        let pages = self.slots.take_frozen();
        if pages.is_none() {
            self.slots.freeze = None;
        }
        pages.map(BytesMut::freeze)
    }

    /// Ends a freeze that is under way.
    pub fn end_freeze(&mut self) {
        self.slots.freeze = None;
    }
}

/// A group in the making, out of a snapshot's pages.
#[derive(Debug, Default)]
pub struct Thaw {
    group: Group,
    /// What the head says, for comparison; `None` before the head.
    told: Option<head::Told>,
    /// The streams that are wanted; all without it.
    wanted: Option<BTreeSet<Box<str>>>,
}

impl Thaw {
    /// A thaw of a part: the streams that are `wanted`, and everything that is no stream. See [`Group::apply_to`].
    pub fn only(wanted: BTreeSet<Box<str>>) -> Thaw {
        Thaw { wanted: Some(wanted), ..Thaw::default() }
    }

    /// Takes in whole pages, as [`Group::take_frozen`] gave them out, in any sizes and in their order.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that are no such pages. The thaw cannot be gone on with.
    pub fn take(&mut self, pages: &[u8]) -> Result<(), CodecError> {
        let mut reader = Reader::new(pages);
        while !reader.is_empty() {
            match (reader.u8("page kind")?, &self.told) {
                (KIND_HEAD, None) => self.told = Some(head::read(&mut self.group, &mut reader)?),
                (KIND_SLOT, Some(_)) => self.take_slot(&mut reader)?,
                _ => return Err(CodecError::Field("page kind")),
            }
        }
        Ok(())
    }

    fn take_slot(&mut self, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        const WHAT: &str = "slot";
        let slot = usize::from(reader.u16(WHAT)?);
        let group = &mut self.group;
        let applied = group.applied.ok_or(CodecError::Field(WHAT))?;
        let mut type_before = None;
        for _ in 0..reader.u32(WHAT)? {
            let mut is_known = true;
            let key = Reader::clone(reader).long(WHAT)?;
            let is_wanted = self.wanted.as_ref().is_none_or(|wanted| wanted.contains(key));
            let (types, hotlog) = (&mut group.content_types, &mut group.hotlog);
            let stream = Stream::read(
                reader,
                group.time_ms,
                type_before.as_deref(),
                |text| if is_wanted { types.intern(text) } else { text.into() },
                |index, bytes| {
                    if index > applied || applied - index >= HOT_ENTRIES_MAX {
                        is_known = false;
                    } else if is_wanted {
                        hotlog.take(index, bytes);
                    }
                },
            )?;
            if !is_wanted {
                type_before = Some(stream.content_type);
                continue;
            }
            let text = stream.key.clone();
            let key = KeyRef::parse(&text)?;
            if !is_known
                || key.slot().index() != slot
                || group.slots.get(key).is_some()
                || !group.buckets.contains_key(key.bucket())
            {
                return Err(CodecError::Field(WHAT));
            }
            for ChunkBytes { chunk, bytes } in stream.extents.chunks(stream.held(), stream.tail) {
                if !group.chunks.try_take(chunk, bytes) {
                    return Err(CodecError::Field(WHAT));
                }
            }
            type_before = Some(stream.content_type.clone());
            group.count_in(&stream);
            group.note_unsettled(&stream);
            group.find_pending(&stream);
            group.slots.insert(key, stream);
        }
        Ok(())
    }

    /// The chunks that streams name, once the first page is in.
    pub fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.group.chunks()
    }

    /// The group, or a part of it, when all pages are in.
    ///
    /// # Errors
    /// [`CodecError`] when the head says that there must be more, or something else.
    pub fn finish(self) -> Result<Group, CodecError> {
        let told = self.told.ok_or(CodecError::Truncated("snapshot"))?;
        if self.wanted.is_some() {
            return Ok(self.group);
        }
        if told == head::Told::of(&self.group) { Ok(self.group) } else { Err(CodecError::Field("snapshot")) }
    }
}
