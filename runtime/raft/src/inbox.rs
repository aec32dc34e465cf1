//! What a replica has of a snapshot that another node sends: one at a time, in a file of its own.

use std::io;

use openraft::alias::VoteOf;
use tokio::time::Instant;
use weir_storage::{EntryId, SnapshotWriter};

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
    /// Whatever the disk says: it cannot be gone on with.
    pub(crate) fn add(&mut self, parts: &[Part]) -> io::Result<()> {
        for part in parts {
            match part {
                Part::Section(bytes) => self.writer.section(bytes)?,
                Part::Entry(id, kind, body) => self.writer.entry(*id, *kind, body)?,
            }
            self.sum.add(part);
        }
        Ok(())
    }
}
