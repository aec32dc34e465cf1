//! The check of a shard's chunks: whether each that the state names is in the store as it was written.
//!
//! It runs while streams are written, merged and deleted. So what is found is said only of a chunk that is still named then:
//! the others may be gone from the store by right.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::sync::mpsc;
use weir_cold::{Cold, ColdError, Flaw};
use weir_stream::{Chunk, Piece};
use weir_types::limits::SLOTS;

use crate::core::Core;
use crate::message::{CheckNews, DamagedChunk};
use crate::stats::add;
use crate::upkeep::rebuilder::rebuild;
use crate::write::job::LocalGroup;

/// Chunks that this shard has verified at a time; of all shards, the tier itself lets only a few.
const AT_ONCE: usize = 4;
/// Runs that are looked at in one turn, about.
const RUNS_PER_TURN: usize = 16_384;
/// How long who asked may take no news before the check ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Verifies all chunks of the shard's groups, repairs what is damaged if it `repairs`, and tells `news`. Ends early when nobody
/// takes them.
pub(crate) async fn run(core: Rc<Core>, repairs: bool, news: mpsc::Sender<CheckNews>) {
    let groups = core.local_groups();
    let (mut chunks, mut bytes) = (0, 0);
    for group in groups.iter().filter(|group| group.reign().is_some()) {
        let totals = group.applied().chunks_totals();
        chunks += totals.chunks;
        bytes += totals.bytes;
    }
    let begun = tell(&news, CheckNews::Begun { chunks, bytes }).await;
    // Without a cold tier there are no chunks: the start has seen to that.
    if let (true, Some(cold)) = (begun, &core.cold) {
        for group in &groups {
            if !check_group(&core, group, cold, repairs, &news).await {
                return;
            }
        }
    }
    tell(&news, CheckNews::Ended).await;
}

/// Verifies the chunks of a group, if this node leads it: others may delete those that it still knows. False when nobody wants to
/// know.
async fn check_group(
    core: &Core,
    group: &LocalGroup,
    cold: &Cold,
    repairs: bool,
    news: &mpsc::Sender<CheckNews>,
) -> bool {
    let term = group.reign();
    let has_gone = || term.is_none() || group.reign() != term;
    if has_gone() {
        return tell(news, CheckNews::Elsewhere(group.id)).await;
    }
    let chunks: Vec<Chunk> = group.applied().chunks().copied().collect();
    let verify = |chunk: Chunk| async move {
        let name = group.chunk_name(chunk.id);
        // One that went while it waited for its turn is not read.
        let found = if group.has_chunk(name) { cold.verify(name, chunk.bytes, chunk.crc).await } else { Ok(None) };
        (chunk, found)
    };
    let mut verified = iter(chunks).map(verify).buffer_unordered(AT_ONCE);
    let mut streams = None;
    while let Some((chunk, found)) = verified.next().await {
        if has_gone() {
            return tell(news, CheckNews::Elsewhere(group.id)).await;
        }
        let told = match found {
            Ok(Some(flaw)) if group.has_chunk(group.chunk_name(chunk.id)) => {
                if streams.is_none() {
                    streams = Some(streams_by_chunk(group).await);
                }
                let streams = streams.as_ref().and_then(|streams| streams.get(&chunk.id.number)).copied();
                let found = damaged(core, group, &chunk, flaw, streams.unwrap_or(0));
                if repairs { repaired(core, group, cold, &chunk, found).await } else { CheckNews::Damaged(found) }
            }
            Err(error) if group.has_chunk(group.chunk_name(chunk.id)) => unread(group, &chunk, &error),
            Ok(_) | Err(_) => CheckNews::Whole { bytes: chunk.bytes },
        };
        if !tell(news, told).await {
            return false;
        }
    }
    true
}

/// Repairs a chunk that is damaged, if that can be.
async fn repaired(core: &Core, group: &LocalGroup, cold: &Cold, chunk: &Chunk, found: DamagedChunk) -> CheckNews {
    match rebuild(core, group, cold, chunk).await {
        Ok(()) => CheckNews::Repaired(found),
        Err(_) if !group.has_chunk(group.chunk_name(chunk.id)) => CheckNews::Whole { bytes: chunk.bytes },
        Err(error) => {
            let unrepaired = Some(error.to_string());
            tracing::error!(group = group.id.0, chunk = found.chunk, %error, "a damaged chunk cannot be repaired");
            CheckNews::Damaged(DamagedChunk { unrepaired, ..found })
        }
    }
}

fn damaged(core: &Core, group: &LocalGroup, chunk: &Chunk, flaw: Flaw, streams: u64) -> DamagedChunk {
    add(&core.stats.cold_damaged, 1);
    let (name, reason) = (group.chunk_name(chunk.id).object(), flaw.to_string());
    tracing::error!(group = group.id.0, chunk = name, reason, streams, "a check has found a chunk that is damaged");
    let stream_bytes = group.applied().chunk(chunk.id.number).map_or(0, |chunk| chunk.live_bytes);
    let (bytes, unrepaired) = (chunk.bytes, None);
    DamagedChunk { group: group.id, chunk: name, bytes, reason, streams, stream_bytes, unrepaired }
}

fn unread(group: &LocalGroup, chunk: &Chunk, error: &ColdError) -> CheckNews {
    let chunk_name = group.chunk_name(chunk.id).object();
    CheckNews::Unread { chunk: chunk_name, bytes: chunk.bytes, reason: error.to_string() }
}

/// By the number of a chunk, how many streams have bytes in it.
async fn streams_by_chunk(group: &LocalGroup) -> BTreeMap<u32, u64> {
    let mut streams = BTreeMap::new();
    let mut seen = 0;
    for slot in 0..SLOTS {
        if seen >= RUNS_PER_TURN {
            seen = 0;
            tokio::task::yield_now().await;
        }
        for stream in group.applied().slot(slot) {
            let runs = stream.pieces_from(0).take(stream.runs());
            let mut chunks: Vec<u32> = runs
                .filter_map(|piece| if let Piece::Cold { chunk, .. } = piece { Some(chunk) } else { None })
                .collect();
            seen += 1 + chunks.len();
            chunks.sort_unstable();
            chunks.dedup();
            chunks.into_iter().for_each(|chunk| *streams.entry(chunk).or_default() += 1);
        }
    }
    streams
}

/// Tells something; false when nobody takes it.
async fn tell(news: &mpsc::Sender<CheckNews>, told: CheckNews) -> bool {
    news.send_timeout(told, PATIENCE).await.is_ok()
}
