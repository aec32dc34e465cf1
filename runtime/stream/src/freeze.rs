//! A freeze under way: which slots are not written down yet, and what has been written and not taken. See [`crate::snapshot`].

use bytes::BytesMut;
use weir_types::limits::SLOTS;

use crate::sink::Sink;
use crate::stream::Stream;

pub(crate) const KIND_HEAD: u8 = 1;
pub(crate) const KIND_SLOT: u8 = 2;

const WORD_BITS: usize = u64::BITS as usize;

/// A freeze under way.
#[derive(Debug)]
pub(crate) struct Freeze {
    /// A bit for each slot that is not written yet.
    pending: Box<[u64; SLOTS / WORD_BITS]>,
    /// The word of the first slot that may be pending.
    next: usize,
    pub(crate) out: BytesMut,
}

impl Freeze {
    pub(crate) fn new(head: impl FnOnce(&mut BytesMut)) -> Freeze {
        let mut out = BytesMut::new();
        out.u8(KIND_HEAD);
        head(&mut out);
        Freeze { pending: Box::new([u64::MAX; SLOTS / WORD_BITS]), next: 0, out }
    }

    /// Writes a slot's `streams` unless that was done before.
    pub(crate) fn put_slot<'a>(&mut self, slot: usize, streams: impl ExactSizeIterator<Item = &'a Stream>) {
        let (word, bit) = (slot / WORD_BITS, 1 << (slot % WORD_BITS));
        if self.pending[word] & bit == 0 {
            return;
        }
        self.pending[word] &= !bit;
        if streams.len() == 0 {
            return;
        }
        self.out.u8(KIND_SLOT);
        self.out.u16(u16::try_from(slot).expect("slots are numbered with 16 bits"));
        self.out.u32(u32::try_from(streams.len()).expect("a slot has fewer than 2^32 streams"));
        let mut type_before = None;
        for stream in streams {
            stream.put(&mut self.out, type_before);
            type_before = Some(&stream.content_type);
        }
    }

    /// A slot that is pending.
    pub(crate) fn next_slot(&mut self) -> Option<usize> {
        while *self.pending.get(self.next)? == 0 {
            self.next += 1;
        }
        Some(self.next * WORD_BITS + self.pending[self.next].trailing_zeros() as usize)
    }
}
