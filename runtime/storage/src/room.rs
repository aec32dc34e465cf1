//! Room in a log: asked for before anything is proposed, and promised to one at a time.

use crate::entry::{Claim, FullCause, Room};
use crate::wal::Wal;

/// Room for one frame, promised until this is dropped.
pub struct Ticket {
    wal: Wal,
    bytes: u64,
}

impl Ticket {
    /// How long the frame may be, header and body.
    pub fn frame_bytes_max(&self) -> usize {
        self.bytes as usize
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.wal.queue_mut().drop_promise(self.bytes) {
            self.wal.shared.room.notify_waiters();
        }
    }
}

impl Wal {
    /// Whether a frame of `frame_bytes` (header and body) could be written now, the reserve left alone.
    pub fn room(&self, frame_bytes: usize) -> Room {
        self.queue_mut().room(frame_bytes, Claim::Spare)
    }

    /// Promises room for a frame of `frame_bytes` (header and body), until the ticket is dropped: when it is written, or
    /// will not be. It is appended with [`Claim::Reserve`] then. Frames that come without asking wait in the queue until
    /// there is a segment for them, and so does everything behind them. `claim` says whether the reserve counts as room: for
    /// what must get into a full log so that it can be emptied.
    ///
    /// # Errors
    /// What [`Wal::room`] says, when that is not [`Room::Free`].
    pub fn reserve(&self, frame_bytes: usize, claim: Claim) -> Result<Ticket, Room> {
        let mut queue = self.queue_mut();
        match queue.room(frame_bytes, claim) {
            Room::Free => Ok(Ticket { wal: self.clone(), bytes: queue.promise(frame_bytes) }),
            none => Err(none),
        }
    }

    /// Why what waits to be written cannot be, if space is what it lacks. Nothing is acknowledged until there is some.
    pub fn blocked(&self) -> Option<FullCause> {
        self.queue().blocked()
    }

    /// Waits until a segment is ready, or making one was refused, or the log has ended. Ask [`Wal::room`] again then.
    pub async fn room_changed(&self) {
        self.shared.room.notified().await;
    }
}
