//! A backup of a shard's groups: all that they have now, in another store.
//!
//! Of several nodes, each makes that of the groups that it leads. Each group in turn moves its bytes from the log to chunks, takes a
//! snapshot, and copies the chunks that this names, and then the snapshot. No chunk is deleted meanwhile. What is appended while that
//! goes on may be in the backup, or be cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::sync::mpsc;
use weir_cold::{ChunkName, Cold};
use weir_raft::snapshot_chunks;
use weir_stream::Chunk;

use crate::core::Core;
use crate::message::{BackupNews, ShardError};
use crate::upkeep::copier::{blocking, current, name, put_pieces};
use crate::upkeep::sweeper::Hold;
use crate::write::job::LocalGroup;

/// How often it looks whether what it waits for has happened.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Chunks that this shard has copied at a time; of all shards, the tier itself lets only a few.
const AT_ONCE: usize = 4;
/// How long who asked may take no news before the backup ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a backup ends before it is made.
enum End {
    /// Nobody wants it any more.
    Left,
    /// Another node leads the group now, and may have deleted what is to be copied.
    Moved,
    Failed(ShardError),
}

impl<E: Into<ShardError>> From<E> for End {
    fn from(error: E) -> End {
        End::Failed(error.into())
    }
}

/// Copies the shard's groups to `to` and tells `news`. Ends early when nobody takes them.
pub(crate) async fn run(
    core: Rc<Core>,
    to: Cold,
    there: Arc<BTreeMap<ChunkName, u64>>,
    news: mpsc::Sender<BackupNews>,
) {
    for group in core.local_groups() {
        match back_up(&core, &group, &to, &there, &news).await {
            Ok(()) => {}
            Err(End::Left) => return,
            Err(End::Moved) => {
                let reason = format!("group {} is led by another node since it was begun: make it again", group.id);
                let _ = tell(&news, BackupNews::Failed(reason)).await;
                return;
            }
            Err(End::Failed(error)) => {
                tracing::warn!(group = group.id.0, ?error, "a backup could not be made");
                let _ = tell(&news, BackupNews::Failed(format!("group {}: {error:?}", group.id))).await;
                return;
            }
        }
    }
    let _ = tell(&news, BackupNews::Ended).await;
}

async fn back_up(
    core: &Core,
    group: &LocalGroup,
    to: &Cold,
    there: &BTreeMap<ChunkName, u64>,
    news: &mpsc::Sender<BackupNews>,
) -> Result<(), End> {
    let Some(applied) = group.applied().applied() else { return Ok(()) };
    let Some(term) = group.reign() else {
        let is_there = !to.snapshots(group.id).await?.snapshots.is_empty();
        return tell(news, BackupNews::Elsewhere { group: group.id, is_there }).await;
    };
    // Where there is no cold tier, bytes cannot leave the log, and are not in the backup.
    let cold = core.cold.as_ref().ok_or(ShardError::Unavailable)?;
    group.flush_upto.set(group.flush_upto.get().max(Some(applied)));
    wait(group, term, news, || group.applied().hot_floor().is_none_or(|floor| floor > applied)).await?;
    let _hold = Hold::new(group);
    let wanted = group.applied().applied();
    group.snapshot_wanted.set(group.snapshot_wanted.get().max(wanted));
    wait(group, term, news, || group.replica.snapshot_index() >= wanted).await?;
    let file = current(group).await?.ok_or(ShardError::Unavailable)?;
    let name = name(core, group.id, &file);
    let (file, chunks) = blocking(move || snapshot_chunks(file)).await?;
    match copy_chunks(cold, group, to, there, news, &chunks).await {
        Err(End::Failed(_)) if group.reign() != Some(term) => return Err(End::Moved),
        copied => copied?,
    }
    let manifest = put_pieces(core, to, name, file).await?;
    to.put_manifest(&manifest).await?;
    // What earlier backups have left: first the snapshots, and then the chunks that only they named.
    for object in to.snapshots(group.id).await?.others() {
        to.delete_snapshot_object(&object).await?;
    }
    let named: BTreeSet<ChunkName> = chunks.iter().map(|chunk| group.chunk_name(chunk.id)).collect();
    for chunk in there.keys().filter(|chunk| chunk.group == group.id && !named.contains(chunk)) {
        to.delete(*chunk).await?;
    }
    Ok(())
}

async fn copy_chunks(
    cold: &Cold,
    group: &LocalGroup,
    to: &Cold,
    there: &BTreeMap<ChunkName, u64>,
    news: &mpsc::Sender<BackupNews>,
    chunks: &[Chunk],
) -> Result<(), End> {
    let bytes = chunks.iter().map(|chunk| chunk.bytes).sum();
    tell(news, BackupNews::Begun { chunks: chunks.len() as u64, bytes }).await?;
    let copy = |chunk: &Chunk| {
        let (name, bytes, crc) = (group.chunk_name(chunk.id), chunk.bytes, chunk.crc);
        async move {
            let was_there = there.get(&name) == Some(&bytes);
            if !was_there {
                cold.copy(to, name, bytes, crc).await?;
            }
            Ok::<_, ShardError>(BackupNews::Chunk { bytes, was_there })
        }
    };
    let mut copies = iter(chunks).map(copy).buffer_unordered(AT_ONCE);
    while let Some(copied) = copies.next().await {
        tell(news, copied?).await?;
    }
    Ok(())
}

/// Waits until something is so, while this node leads the group in this term.
async fn wait(
    group: &LocalGroup,
    term: u64,
    news: &mpsc::Sender<BackupNews>,
    is_so: impl Fn() -> bool,
) -> Result<(), End> {
    while !is_so() {
        if group.has_failed() {
            return Err(ShardError::LogFailed.into());
        }
        if group.reign() != Some(term) {
            return Err(End::Moved);
        }
        if news.is_closed() {
            return Err(End::Left);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn tell(news: &mpsc::Sender<BackupNews>, told: BackupNews) -> Result<(), End> {
    news.send_timeout(told, PATIENCE).await.map_err(|_| End::Left)
}
