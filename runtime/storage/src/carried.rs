//! Entries that a snapshot carries: those before it whose bytes its state names and that the log behind it does not have. They are
//! read where they lie, in the snapshot's file, for as long as they are needed; the next snapshot carries what is left of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_types::GroupId;

use crate::entry::{EntryBody, EntryId, EntryPlace, EntryRef};
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::segment::SegmentFile;

/// Their frames are in no segment, and belong to no life of one.
pub(crate) const SALT: u64 = 0;

/// The entries that one snapshot carries. Cheap to clone.
#[derive(Clone)]
pub struct Carried {
    file: Arc<SegmentFile>,
    group: GroupId,
    /// By index.
    entries: Arc<BTreeMap<u64, Lying>>,
    /// Those before it are left.
    floor: u64,
}

#[derive(Clone, Copy)]
struct Lying {
    term: u64,
    kind: u8,
    body_bytes: u32,
    position: u64,
}

impl Carried {
    pub(crate) fn new(file: Arc<SegmentFile>, group: GroupId) -> Carried {
        Carried { file, group, entries: Arc::default(), floor: 0 }
    }

    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Adds the entry whose frame lies at `position`; `None` when that is no frame of an entry up to `last` that follows those
    /// before it.
    pub(crate) fn add(&mut self, frame: &[u8], position: u64, last: EntryId) -> Option<()> {
        let header = FrameHeader::parse(frame).filter(|header| header.frame_bytes() == frame.len())?;
        let follows = self
            .entries
            .last_key_value()
            .is_none_or(|(&index, before)| index < header.index && before.term <= header.term);
        let is_entry = FrameHeader::is_intact(frame)
            && header.kind == FrameKind::Entry
            && (header.salt, header.group) == (SALT, self.group)
            && header.index <= last.index
            && header.term <= last.term;
        if !(is_entry && follows) {
            return None;
        }
        let (term, kind, body_bytes) = (header.term, header.entry_kind, header.body_bytes);
        let entries = Arc::make_mut(&mut self.entries);
        entries.insert(header.index, Lying { term, kind, body_bytes, position });
        Some(())
    }

    /// The entry at `index`, if it is among them.
    pub fn entry(&self, index: u64) -> Option<EntryRef> {
        let entry = self.entries.get(&index).filter(|_| index >= self.floor);
        let &Lying { term, kind, body_bytes, position } = entry?;
        let (segment, group, id) = (self.file.clone(), self.group, EntryId { index, term });
        Some(EntryRef { id, kind, body: EntryBody::Stored(EntryPlace { segment, position, body_bytes, group, id }) })
    }

    /// The highest index of all of them.
    pub fn last(&self) -> Option<u64> {
        self.entries.range(self.floor..).next_back().map(|(&index, _)| index)
    }

    /// The indices of all of them, in order.
    pub fn indices(&self) -> impl Iterator<Item = u64> {
        self.entries.range(self.floor..).map(|(&index, _)| index)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.indices().next().is_none()
    }

    /// Leaves those before `floor`.
    pub(crate) fn leave_before(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }
}

/// The frame of an entry as a snapshot carries it.
pub(crate) fn frame(group: GroupId, id: EntryId, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_BYTES + body.len()];
    frame[FRAME_HEADER_BYTES..].copy_from_slice(body);
    let header = FrameHeader {
        body_bytes: body.len() as u32,
        kind: FrameKind::Entry,
        entry_kind: kind,
        group,
        term: id.term,
        index: id.index,
        seq: 0,
        unit_first_seq: 0,
        salt: SALT,
    };
    header.seal(&mut frame);
    frame
}
