//! A freeze under way: what is not written down yet, and what has been written and not taken. See [`crate::snapshot`].

use std::collections::VecDeque;

use bytes::BytesMut;
use weir_types::limits::SLOTS;

use crate::sink::Sink;
use crate::stream::Stream;

pub(crate) const KIND_HEAD: u8 = 1;
pub(crate) const KIND_SLOT: u8 = 2;

/// A freeze under way.
#[derive(Debug)]
pub(crate) struct Freeze {
    /// Marks the streams that are written down already, or are younger.
    number: u32,
    /// The first slot that is not written yet.
    next_slot: usize,
    /// Pieces of whole pages; all but the last are full.
    pieces: VecDeque<BytesMut>,
    /// Of all pieces.
    bytes: usize,
    /// A piece is full when it has so many bytes, or more.
    piece_bytes: usize,
}

impl Freeze {
    /// A freeze that is the `number`th of its group, with the page of its head.
    pub(crate) fn new(number: u32, head: BytesMut, piece_bytes: usize) -> Freeze {
        Freeze { number, next_slot: 0, bytes: head.len(), pieces: [head].into(), piece_bytes }
    }

    /// Writes a stream that is about to change or to go, unless that was done before.
    pub(crate) fn put_stream(&mut self, slot: usize, stream: &mut Stream) {
        if slot >= self.next_slot && stream.frozen != self.number {
            stream.frozen = self.number;
            self.put_slot(slot, std::iter::once(&*stream));
        }
    }

    /// Marks a stream that has just come to be: it is none of what is written down.
    pub(crate) fn pass_over(&self, stream: &mut Stream) {
        stream.frozen = self.number;
    }

    /// Writes what is left to be written of slots until a piece is full; `streams_of` says what is in a slot.
    pub(crate) fn put_slots<'a, I: Iterator<Item = &'a Stream>>(&mut self, streams_of: impl Fn(usize) -> I) {
        while self.pieces.front().is_none_or(|piece| piece.len() < self.piece_bytes) && self.next_slot < SLOTS {
            let number = self.number;
            let mut left = streams_of(self.next_slot).filter(|stream| stream.frozen != number).peekable();
            if left.peek().is_some() {
                self.put_slot(self.next_slot, left);
            }
            self.next_slot += 1;
        }
    }

    /// The next piece; `None` when there is no more.
    pub(crate) fn take(&mut self) -> Option<BytesMut> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        Some(piece)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn put_slot<'a>(&mut self, slot: usize, streams: impl Iterator<Item = &'a Stream>) {
        self.put_page(|out| {
            out.u8(KIND_SLOT);
            out.u16(u16::try_from(slot).expect("slots are numbered with 16 bits"));
            let count_at = out.len();
            out.u32(0);
            let (mut count, mut type_before) = (0u32, None);
            for stream in streams {
                stream.put(out, type_before);
                type_before = Some(&stream.content_type);
                count += 1;
            }
            out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        });
    }

    fn put_page(&mut self, put: impl FnOnce(&mut BytesMut)) {
        if self.pieces.back().is_none_or(|piece| piece.len() >= self.piece_bytes) {
            self.pieces.push_back(BytesMut::new());
        }
        let piece = self.pieces.back_mut().expect("there is one");
        let before = piece.len();
        put(piece);
        self.bytes += piece.len() - before;
    }
}
