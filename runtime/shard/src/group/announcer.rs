//! From apply to the live readers: what a committed batch has changed is told here, before anybody is answered.

use bytes::Bytes;
use weir_raft::Observer;
use weir_stream::{Change, Outcome};

use crate::live::feeds::Feeds;
use crate::message::Advance;

/// Tells the feeds what apply has done.
pub(crate) struct Announcer {
    pub(crate) feeds: Feeds,
}

impl Observer for Announcer {
    fn applied(&mut self, _index: u64, batch: &Bytes, outcomes: &[Outcome]) {
        if self.feeds.is_empty() {
            return;
        }
        for outcome in outcomes {
            let incarnation = match outcome.change {
                Change::Advanced { incarnation, .. } | Change::Removed { incarnation } => incarnation,
                Change::None | Change::Created { .. } => continue,
            };
            if !self.feeds.is_followed(incarnation) {
                continue;
            }
            let advance = match outcome.change {
                Change::Advanced { start, end, frame_pos, frame_len, closed, .. } => {
                    let frame_end = frame_pos as usize + frame_len as usize;
                    let payload = payload(batch, frame_end - (end - start) as usize, frame_end);
                    Advance { incarnation, start, end, payload, closed, removed: false }
                }
                _ => Advance { incarnation, start: 0, end: 0, payload: Bytes::new(), closed: false, removed: true },
            };
            self.feeds.announce(&advance);
        }
    }
}

/// A command's payload. A small part of a batch is copied: shared, it would keep the whole batch in memory.
fn payload(batch: &Bytes, start: usize, end: usize) -> Bytes {
    if (end - start) * 4 < batch.len() { Bytes::copy_from_slice(&batch[start..end]) } else { batch.slice(start..end) }
}
