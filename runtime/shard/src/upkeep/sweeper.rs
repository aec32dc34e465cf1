//! The sweeper of a group: deletes chunks from the cold tier that nothing names.
//!
//! A chunk is garbage when the last stream that named it names it no longer, or when it never became part of the state: the
//! process ended before, or the log refused its command. The first kind the state tells, the second the flusher, and what earlier
//! lives have left is found by looking at what is there. With one voter nobody else puts chunks, and no life uses another's
//! names, so whatever is of another life and is not named is garbage. With several, the leader looks when it begins to lead, and
//! takes for garbage what is of a term before its own: it has applied an entry of its own term, and apply refuses a chunk in an
//! entry of another term than the chunk's, so of those none can be committed any more. What a replica notes of chunks that went while
//! it did not lead, it forgets: whoever begins to lead finds them.
//!
//! A leader that was replaced and does not know it deletes only what is garbage for ever: what was let go by a committed entry,
//! or can never be committed.
//!
//! What the state has named once stays until the group's [`Anchor`] names it no longer: who has nothing but that begins with
//! it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use weir_cold::{ChunkName, Cold, ColdError};

use crate::core::Core;
use crate::stats::add;
use crate::upkeep::copier::Anchor;
use crate::write::job::LocalGroup;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it waits after something that the store has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Chunks that are being deleted at a time.
const DELETES_MAX: usize = 8;

/// Chunks that are to be deleted.
pub(crate) type Garbage = Rc<RefCell<Vec<Gone>>>;

/// A chunk that is to be deleted.
pub(crate) struct Gone {
    chunk: ChunkName,
    /// The entry that it went from the state with, or a later one; `None` if it was never part of that.
    entry: Option<u64>,
}

/// What keeps a group's chunks from being deleted, until it is dropped.
pub(crate) struct Hold<'a>(&'a LocalGroup);

impl Hold<'_> {
    pub(crate) fn new(group: &LocalGroup) -> Hold<'_> {
        group.holds.set(group.holds.get() + 1);
        Hold(group)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.holds.set(self.0.holds.get() - 1);
    }
}

impl From<ChunkName> for Gone {
    /// One that was never part of the state.
    fn from(chunk: ChunkName) -> Gone {
        Gone { chunk, entry: None }
    }
}

/// Sweeps behind a group whose chunks of this life have `nonce`. Runs for the shard's life.
pub(crate) async fn run(
    core: Rc<Core>,
    group: Rc<LocalGroup>,
    cold: Cold,
    nonce: u32,
    garbage: Garbage,
    anchor: Rc<Anchor>,
) {
    while !group.has_failed() {
        let Some(term) = group.reign() else {
            if !core.is_alone() {
                drop(group.take_gone_chunks());
                garbage.borrow_mut().clear();
                anchor.set_waiting(0, None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let reigns = || group.reign() == Some(term) && !group.has_failed();
        let is_earlier = |chunk: ChunkName| if core.is_alone() { chunk.nonce != nonce } else { chunk.term < term };
        let find = async {
            while let Err(error) = find(&core, &group, &cold, is_earlier, &garbage).await {
                tracing::warn!(group = group.id.0, %error, "the cold tier's chunks cannot be listed: what is garbage stays");
                tokio::time::sleep(AGAIN_AFTER).await;
                if !reigns() {
                    return;
                }
            }
        };
        tokio::join!(find, delete(&group, &cold, &garbage, &anchor, reigns));
    }
}

/// Deletes what is garbage, as it becomes so, while this replica `reigns`.
async fn delete(group: &LocalGroup, cold: &Cold, garbage: &Garbage, anchor: &Anchor, reigns: impl Fn() -> bool) {
    while reigns() {
        tokio::time::sleep(LOOK_EVERY).await;
        if group.leading().is_err() {
            continue;
        }
        let gone = group.take_gone_chunks();
        let gone = gone.into_iter().map(|(id, entry)| Gone { chunk: group.chunk_name(id), entry: Some(entry) });
        garbage.borrow_mut().extend(gone);
        let (chunks, kept): (Vec<_>, Vec<_>) =
            garbage.take().into_iter().partition(|gone| anchor.is_behind(gone.entry) && group.holds.get() == 0);
        anchor.set_waiting(kept.len(), kept.iter().filter_map(|gone| gone.entry).max());
        garbage.borrow_mut().extend(kept);
        let delete = |gone: Gone| async move { cold.delete(gone.chunk).await.map_err(|error| (gone, error)) };
        let refused: Vec<_> = iter(chunks).map(delete).buffer_unordered(DELETES_MAX).collect().await;
        let refused: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
        if let Some((gone, error)) = refused.first() {
            let (chunk, chunks) = (gone.chunk.object(), refused.len());
            tracing::warn!(group = group.id.0, chunk, chunks, %error, "chunks cannot be deleted: they stay for now");
            garbage.borrow_mut().extend(refused.into_iter().map(|(gone, _)| gone));
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// Finds what `is_earlier` and nothing names, and says what is named and not whole in the store. This replica leads in a term that it
/// has applied an entry of: what is earlier was put before, or is garbage.
async fn find(
    core: &Core,
    group: &LocalGroup,
    cold: &Cold,
    is_earlier: impl Fn(ChunkName) -> bool,
    garbage: &Garbage,
) -> Result<(), ColdError> {
    let mut found: BTreeMap<ChunkName, u64> = cold.chunks(group.id).await?.into_iter().collect();
    let state = group.applied();
    let mut missing = 0u64;
    for chunk in state.chunks() {
        let name = group.chunk_name(chunk.id);
        // Others may have been put since it was looked.
        if is_earlier(name) && found.remove(&name) != Some(chunk.bytes) {
            missing += 1;
            group.note_damaged(name);
        }
    }
    // A stored snapshot of before may name it.
    let entry = state.applied();
    let found = found.into_keys().filter(|chunk| is_earlier(*chunk));
    garbage.borrow_mut().extend(found.map(|chunk| Gone { chunk, entry }));
    if missing > 0 {
        add(&core.stats.cold_damaged, missing);
        let group = group.id.0;
        tracing::error!(group, missing, "chunks are missing from the cold tier, or too short: they are not served");
    }
    Ok(())
}
