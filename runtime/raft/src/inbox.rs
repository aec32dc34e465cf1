//! What a replica has of a snapshot that another node sends: one at a time, in a file of its own.

use std::io;

use bytes::BytesMut;
use openraft::alias::VoteOf;
use tokio::time::Instant;
use weir_storage::{EntryId, SECTION_BYTES_MAX, SnapshotWriter};

use crate::config::TypeConfig;
use crate::parcel::{Part, Receipt, Sum};

/// Which snapshot: the vote of the leader that sends it, and the entry that it is as of.
pub(crate) type Which = (VoteOf<TypeConfig>, EntryId);

/// What there is.
#[derive(Default)]
pub(crate) enum Inbox {
    /// Nothing, or nothing that can be gone on with.
    #[default]
    Empty,
    /// Its first parts.
    Open(Open),
    /// Parts of it are being written.
    Writing(Which),
    /// It is there, and being read and taken over.
    Whole(Which),
    /// It was taken over, or found not to be needed, as somebody with this vote says; or it is of no use.
    Done(Which, Option<VoteOf<TypeConfig>>),
}

/// The first parts of a snapshot. Dropped, it leaves nothing behind.
pub(crate) struct Open {
    pub(crate) which: Which,
    pub(crate) writer: SnapshotWriter,
    pub(crate) sum: Sum,
    /// Pieces of a section that goes on.
    pub(crate) begun: BytesMut,
    /// When something has come last.
    pub(crate) touched: Instant,
}

/// What is to be done with a parcel.
pub(crate) enum Task {
    /// It is known what to answer.
    Answer(Receipt),
    /// A file is to be begun.
    Begin,
    /// Its parts are to be added.
    GoOn(Open),
}

impl Inbox {
    /// Takes a parcel of `which` into hand, before which `before` parts have come. What is to be done then must be followed by
    /// [`Inbox::Open`] or another end.
    pub(crate) fn take(&mut self, which: Which, before: u64, is_empty: bool) -> Task {
        let begins = before == 0 && !is_empty;
        match std::mem::take(self) {
            Inbox::Open(open) if open.which == which && open.sum.parts == before && !begins => {
                *self = Inbox::Writing(which);
                Task::GoOn(open)
            }
            Inbox::Done(done, Some(vote)) if done == which => {
                *self = Inbox::Done(done, Some(vote));
                Task::Answer(Receipt::Vote(vote))
            }
            Inbox::Whole(whole) => {
                *self = Inbox::Whole(whole);
                Task::Answer(if whole == which && !begins { Receipt::Wait } else { Receipt::BeginAgain })
            }
            Inbox::Writing(writing) => {
                *self = Inbox::Writing(writing);
                Task::Answer(Receipt::BeginAgain)
            }
            // What there was is given up.
            Inbox::Empty | Inbox::Open(_) | Inbox::Done(..) if begins => {
                *self = Inbox::Writing(which);
                Task::Begin
            }
            Inbox::Empty | Inbox::Open(_) | Inbox::Done(..) => Task::Answer(Receipt::BeginAgain),
        }
    }
}

impl Open {
    /// Adds parts. Blocks.
    ///
    /// # Errors
    /// Whatever the disk says, and pieces that make no section: it cannot be gone on with.
    pub(crate) fn add(&mut self, parts: &[Part]) -> io::Result<()> {
        for part in parts {
            match part {
                Part::Section(bytes) if self.begun.is_empty() => self.writer.section(bytes)?,
                Part::Section(bytes) => {
                    self.begin(bytes)?;
                    self.writer.section(&std::mem::take(&mut self.begun))?;
                }
                Part::Piece(bytes) => self.begin(bytes)?,
                Part::Entry(id, kind, body) if self.begun.is_empty() => self.writer.entry(*id, *kind, body)?,
                Part::Entry(..) => return Err(io::Error::other("an entry came within a section")),
            }
            self.sum.add(part);
        }
        Ok(())
    }

    /// Adds a piece to the section that goes on.
    fn begin(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.begun.len() + piece.len() > SECTION_BYTES_MAX {
            return Err(io::Error::other("a section is longer than any is written"));
        }
        self.begun.extend_from_slice(piece);
        Ok(())
    }
}
