//! What a shard holds of the cold tier.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use weir_types::{GroupId, Incarnation};

use crate::error::ColdError;
use crate::index::{self, HEAD_BYTES, PackAt};
use crate::name::ChunkName;
use crate::store::{ChunkStore, CountedStore, StoreError, StoreStats};
use crate::verify::{Flaw, verify};

/// What is read from the store, and kept, at once.
const BLOCK_BYTES: u64 = 1 << 20;
/// Chunks that are put at a time, by all shards: more would only share the line, and all of them take too long on a thin one.
const PUTS_MAX: usize = 4;
/// Blocks that are got from the store at a time, for all shards: while they come, nobody counts them.
const READS_MAX: usize = 32;
/// Chunks that are verified at a time.
const VERIFIED_AT_ONCE: usize = 4;

/// The cold tier of a node. Clones are the same; every call may be made on any thread, and does its work on the runtime that
/// it was made with.
#[derive(Clone)]
pub struct Cold {
    inner: Arc<Inner>,
    runtime: Handle,
    keeps_snapshots: bool,
    owner: Option<u64>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<CountedStore>,
    /// Blocks of objects, by object and number. Who waits for the same one waits for one read of it.
    blocks: Cache<(ChunkName, u32), Bytes>,
    /// Blocks that were there when they were asked for.
    hits: AtomicU64,
    /// Chunks in a store that new ones do not go to.
    left_behind: BTreeSet<ChunkName>,
    reads: Semaphore,
    puts: Semaphore,
    merging: Semaphore,
    /// For who verifies a chunk: what is read for it takes memory, and the store's time.
    pub(crate) verifying: Semaphore,
}

/// What the node has asked of its cold tier since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColdStats {
    /// What the store was asked.
    pub store: StoreStats,
    /// Blocks that were read from memory, where they had been kept. The others were got from the store.
    pub cache_hits: u64,
    /// Bytes that are kept.
    pub cache_bytes: u64,
}

/// Bytes of a stream in a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRef {
    /// The chunk.
    pub chunk: ChunkName,
    /// The part's place in it: what [`ChunkBuilder::part`](crate::ChunkBuilder::part) has said.
    pub at: u32,
    /// The life of the stream that they are of.
    pub incarnation: Incarnation,
    /// Their positions, not empty.
    pub range: Range<u64>,
}

/// How much is read at once; one pack in any case.
#[derive(Clone, Copy, Debug)]
pub struct ReadMax {
    /// Bytes of the stream.
    pub bytes: usize,
    /// Packs.
    pub packs: usize,
}

/// Packs of a stream, one behind the other.
#[derive(Clone, Debug)]
pub struct ColdPacks {
    /// Where they are; places are in [`ColdPacks::bytes`].
    pub packs: Vec<PackAt>,
    /// All of them.
    pub bytes: Bytes,
}

impl Cold {
    /// A cold tier on `store`, which keeps up to `cache_bytes` of it in memory. Some chunks may be `left_behind` where new
    /// ones do not go to.
    pub fn new(
        store: Arc<dyn ChunkStore>,
        cache_bytes: u64,
        runtime: Handle,
        left_behind: BTreeSet<ChunkName>,
    ) -> Cold {
        let weigh = |_: &_, block: &Bytes| u32::try_from(block.len()).unwrap_or(u32::MAX);
        let blocks = Cache::builder().max_capacity(cache_bytes).weigher(weigh).build();
        let store = Arc::new(CountedStore::new(store));
        Cold {
            inner: Arc::new(Inner {
                store,
                blocks,
                hits: AtomicU64::new(0),
                left_behind,
                reads: Semaphore::new(READS_MAX),
                puts: Semaphore::new(PUTS_MAX),
                merging: Semaphore::new(1),
                verifying: Semaphore::new(VERIFIED_AT_ONCE),
            }),
            runtime,
            keeps_snapshots: false,
            owner: None,
        }
    }

    /// The same, which belongs to a cluster of several nodes: the number that they have claimed the store with.
    #[must_use]
    pub fn owned_by(self, cluster: u64) -> Cold {
        Cold { owner: Some(cluster), ..self }
    }

    /// The number that a cluster of several nodes has claimed the store with; none where the store is one node's.
    pub fn owner(&self) -> Option<u64> {
        self.owner
    }

    /// The same, on a store that outlives the node: snapshots go there, too.
    #[must_use]
    pub fn keeping_snapshots(self) -> Cold {
        Cold { keeps_snapshots: true, ..self }
    }

    /// Whether snapshots go to the store, too.
    pub fn keeps_snapshots(&self) -> bool {
        self.keeps_snapshots
    }

    /// What was asked of it so far.
    pub fn stats(&self) -> ColdStats {
        ColdStats {
            store: self.inner.store.stats(),
            cache_hits: self.inner.hits.load(Ordering::Relaxed),
            cache_bytes: self.inner.blocks.weighted_size(),
        }
    }

    /// Reads the packs that hold bytes of `part`: those that end within `max` bytes of its begin, and not more than `max` packs,
    /// or one. `is_whole` says whether a pack is as it was written. Ends when it is dropped.
    ///
    /// # Errors
    /// [`ColdError::Damaged`] when the chunk is not as it was written, [`ColdError::Unavailable`] when the store is not.
    pub async fn read(&self, part: PartRef, max: ReadMax, is_whole: fn(&[u8]) -> bool) -> Result<ColdPacks, ColdError> {
        self.run(move |inner| async move {
            // What is wrong here may be as it was written in the store: it is read from there once more.
            match inner.read_or_forget(&part, max, is_whole).await {
                Err(ColdError::Damaged { .. }) => inner.read_or_forget(&part, max, is_whole).await,
                read => read,
            }
        })
        .await
    }

    /// Says where the packs are that hold bytes of `part`, and when those were appended. Ends when it is dropped.
    ///
    /// # Errors
    /// As for [`Cold::read`].
    pub async fn index(&self, part: PartRef) -> Result<Vec<PackAt>, ColdError> {
        self.run(move |inner| async move { inner.index(&part, &part.range, usize::MAX).await }).await
    }

    /// Reads a chunk from the store again when it is asked for next: what was read was damaged.
    pub async fn forget(&self, chunk: ChunkName) {
        self.inner.forget(chunk).await;
    }

    /// Whether the chunk is to be moved to where new ones go, as its bytes are merged.
    pub fn is_left_behind(&self, chunk: ChunkName) -> bool {
        self.inner.left_behind.contains(&chunk)
    }

    /// Whether there are such chunks, or were when the node began.
    pub fn has_left_behind(&self) -> bool {
        !self.inner.left_behind.is_empty()
    }

    /// Puts a chunk; it is durable then.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn put(&self, name: ChunkName, bytes: Bytes) -> Result<(), ColdError> {
        self.run(move |inner| async move {
            let _turn = inner.puts.acquire().await.expect("it is never closed");
            Ok(inner.store.put(&name.object(), bytes).await?)
        })
        .await
    }

    /// A turn for who reads much of many chunks: one at a time, or they throw each other's blocks out of the cache. It lasts until
    /// it is dropped.
    pub async fn merging(&self) -> SemaphorePermit<'_> {
        self.inner.merging.acquire().await.expect("it is never closed")
    }

    /// Reads all of a chunk that was written with so many `bytes` and this CRC32C, and says what is wrong with it, if
    /// anything is. Past what is in memory: what the store has is asked for.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn verify(&self, name: ChunkName, bytes: u64, crc: u32) -> Result<Option<Flaw>, ColdError> {
        self.run(move |inner| async move {
            let _turn = inner.verifying.acquire().await.expect("nobody closes it");
            match verify(&*inner.store, &name.object(), bytes, crc).await? {
                None => Ok(None),
                // It may have been damaged on its way here.
                Some(_) => Ok(verify(&*inner.store, &name.object(), bytes, crc).await?),
            }
        })
        .await
    }

    /// Deletes a chunk, if it is there.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn delete(&self, name: ChunkName) -> Result<(), ColdError> {
        self.run(move |inner| async move { Ok(inner.store.delete(&name.object()).await?) }).await
    }

    /// All chunks of a group that are there, named by anybody or not, and their lengths in bytes.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn chunks(&self, group: GroupId) -> Result<Vec<(ChunkName, u64)>, ColdError> {
        self.run(move |inner| async move {
            let objects = inner.store.list().await?;
            let chunks = objects.iter().filter_map(|(object, bytes)| Some((ChunkName::parse(object)?, *bytes)));
            Ok(chunks.filter(|(name, _)| name.group == group).collect())
        })
        .await
    }

    /// Does something on the tier's own runtime, until that is done or nobody waits for it any more.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, ColdError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ColdError>> + Send + 'static,
    {
        let mut task = JoinSet::new();
        task.spawn_on(work(self.inner.clone()), &self.runtime);
        let done = task.join_next().await.expect("there is a task");
        done.unwrap_or_else(|_| Err(StoreError::Failed("it has ended".to_string()).into()))
    }
}

impl Inner {
    /// Reads, and keeps nothing of a chunk that is damaged.
    async fn read_or_forget(
        &self,
        part: &PartRef,
        max: ReadMax,
        is_whole: fn(&[u8]) -> bool,
    ) -> Result<ColdPacks, ColdError> {
        let read = self.read(part, max, is_whole).await;
        if let Err(ColdError::Damaged { .. }) = &read {
            self.forget(part.chunk).await;
        }
        read
    }

    /// The first packs that hold bytes of `range`, at most so many, one in any case.
    async fn index(&self, part: &PartRef, range: &Range<u64>, packs_max: usize) -> Result<Vec<PackAt>, ColdError> {
        let PartRef { chunk, at, incarnation, .. } = *part;
        let damaged = |reason| ColdError::Damaged { chunk: chunk.object(), position: at.into(), reason };
        let begin = u64::from(at);
        let head = self.range(chunk, begin..begin + HEAD_BYTES as u64).await?;
        let head = head.first_chunk().expect("a range is whole");
        let (len, crc) = index::head(head).ok_or_else(|| damaged("there is no index"))?;
        let body = begin + HEAD_BYTES as u64;
        let body = self.range(chunk, body..body + len as u64).await?;
        let packs = index::packs(chunk, (&body, crc), incarnation, range, packs_max.max(1));
        packs.ok_or_else(|| damaged("the index is not that of these bytes"))
    }

    async fn read(&self, part: &PartRef, max: ReadMax, is_whole: fn(&[u8]) -> bool) -> Result<ColdPacks, ColdError> {
        let PartRef { chunk, at, ref range, .. } = *part;
        let damaged = |reason| ColdError::Damaged { chunk: chunk.object(), position: at.into(), reason };
        let end = range.end.min(range.start.saturating_add(max.bytes.max(1) as u64));
        let mut packs = self.index(part, &(range.start..end), max.packs).await?;
        // One pack in any case, and then whole ones that fit.
        if packs.len() > 1 && packs.last().is_some_and(|last| last.end > end) {
            packs.pop();
        }
        let (first, last) = packs.first().zip(packs.last()).expect("a range is not empty");
        let (begin, end) = (first.pos, last.pos + last.len);
        let bytes = self.range(chunk, begin.into()..end.into()).await?;
        for pack in &mut packs {
            pack.pos -= begin;
            if !is_whole(&bytes[pack.pos as usize..(pack.pos + pack.len) as usize]) {
                return Err(damaged("a pack is not as it was written"));
            }
        }
        Ok(ColdPacks { packs, bytes })
    }

    /// A range of a chunk, whole, out of blocks.
    async fn range(&self, chunk: ChunkName, range: Range<u64>) -> Result<Bytes, ColdError> {
        let missing = || ColdError::Damaged {
            chunk: chunk.object(),
            position: range.start,
            reason: "the chunk is missing or too short",
        };
        let numbers = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES).max(range.start / BLOCK_BYTES + 1);
        let blocks = futures_util::future::try_join_all(numbers.clone().map(|number| self.block(chunk, number as u32)));
        let blocks = blocks.await.map_err(|error| match error {
            StoreError::Missing(_) => missing(),
            failed => failed.into(),
        })?;
        let cut = |(number, block): (u64, &Bytes)| {
            let from = range.start.saturating_sub(number * BLOCK_BYTES).min(block.len() as u64);
            let upto = (range.end - number * BLOCK_BYTES).min(block.len() as u64);
            block.slice(from as usize..upto as usize)
        };
        // A copy: a page must not keep whole blocks in memory that nobody counts.
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        numbers.zip(&blocks).map(cut).for_each(|cut| bytes.extend_from_slice(&cut));
        let bytes = bytes.freeze();
        if bytes.len() as u64 == range.end - range.start { Ok(bytes) } else { Err(missing()) }
    }

    async fn forget(&self, chunk: ChunkName) {
        for (key, _) in &self.blocks {
            if key.0 == chunk {
                self.blocks.invalidate(&*key).await;
            }
        }
    }

    async fn block(&self, chunk: ChunkName, number: u32) -> Result<Bytes, StoreError> {
        let begin = u64::from(number) * BLOCK_BYTES;
        let (store, object) = (self.store.clone(), chunk.object());
        let read = async move {
            let _turn = self.reads.acquire().await.expect("it is never closed");
            store.get(&object, begin..begin + BLOCK_BYTES).await
        };
        let block = self.blocks.entry((chunk, number)).or_try_insert_with(read).await;
        let block = block.map_err(|error| StoreError::clone(&error))?;
        if block.is_fresh() {
            // Else others are thrown out only some time later.
            self.blocks.run_pending_tasks().await;
        } else {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(block.into_value())
    }
}
