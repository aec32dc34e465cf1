//! From apply to the live readers: what a committed batch has changed is told here, before anybody is answered.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;
use weir_raft::Observer;
use weir_stream::{Change, Outcome, Pack, packs};

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
            let (closed, removed) = (false, false);
            let advance = match outcome.change {
                Change::Advanced { start, end, packs_pos, packs_end, closed, .. } => {
                    let payloads = payloads(batch, packs_pos as usize..packs_end as usize, (end - start) as usize);
                    Advance { incarnation, start, end, payloads, closed, removed }
                }
                _ => Advance { incarnation, start: 0, end: 0, payloads: SmallVec::new(), closed, removed: true },
            };
            self.feeds.announce(&advance);
        }
    }
}

/// The payloads of a command's packs, `bytes` together. A small part of a batch is copied: shared, it would keep the whole
/// batch in memory.
fn payloads(batch: &Bytes, range: Range<usize>, bytes: usize) -> SmallVec<[Bytes; 1]> {
    let is_copied = bytes * 4 < batch.len();
    let mut pos = range.start;
    let payload = |pack: &[u8]| {
        pos += pack.len();
        let bytes = Pack::read(pack).expect("apply has read the command").payload().len();
        let payload = batch.slice(pos - bytes..pos);
        if is_copied { Bytes::copy_from_slice(&payload) } else { payload }
    };
    packs(&batch[range]).map(|pack| pack.expect("apply has read the command")).map(payload).collect()
}
