//! The copier of a group: puts its snapshots into the store, behind the chunks that they name, so that a node that is lost
//! can be built again from the store alone.
//!
//! What a stored snapshot names must be there. So a chunk that goes from the state stays in the store until a snapshot is
//! there that names it no longer, and no older one is: that snapshot is the group's [`Anchor`]. Where chunks are in the data
//! directory, their anchor is the snapshot there.
//!
//! With several voters, the leader does this, and a leader that was replaced and does not know it may do it at the same time. They
//! know nothing of each other but what is in the store, and agree by one rule: *an object of a snapshot is deleted only by who
//! knows of a whole one that is of a later entry.* All snapshots of a group are of one history, so the one of the latest entry of
//! all that were ever whole is never deleted: what a leader has once seen whole, or put, is there, or a later one is. A chunk that
//! has gone from the state with an entry is deleted only by who knows of a whole snapshot that is of that entry or a later one. So no
//! chunk is missing that the latest whole snapshot names, and whoever begins with the store begins with that one. What a leader
//! has put of a snapshot of which it did not put the manifest, no other can take for whole: it deletes that at once.
//!
//! All this waits for the store alone: snapshots are taken and the log is purged whatever becomes of it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use weir_cold::{Cold, Manifest, PIECE_BYTES_MAX, SnapshotName, SnapshotPiece};
use weir_storage::SnapshotReader;
use weir_types::GroupId;

use crate::core::Core;
use crate::message::ShardError;
use crate::stats::add;
use crate::write::job::LocalGroup;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long it waits after something that the store or the disk has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often it is told that nothing can be stored yet.
const TELL_EVERY: Duration = Duration::from_secs(3600);
/// Bytes of snapshots that are written each second, at most, only because chunks came and went.
const SNAPSHOT_BYTES_PER_SECOND: u64 = 1 << 20;

/// The snapshot that a node without its log would go on from.
#[derive(Default)]
pub(crate) struct Anchor {
    /// The entry that it is as of.
    index: Cell<Option<u64>>,
    /// The entry that the next one must have.
    wanted: Cell<Option<u64>>,
    /// Chunks that wait for it, to be deleted, and the entry that the last of them went with.
    waiting: Cell<u64>,
    waiting_for: Cell<Option<u64>>,
}

impl Anchor {
    /// Whether no snapshot needs what went from the state with entry `gone`; `None` for what was never in it.
    pub(crate) fn is_behind(&self, gone: Option<u64>) -> bool {
        gone <= self.index.get()
    }

    /// Notes how many chunks wait for the next one, to be deleted, and the entry that the last of them went with.
    pub(crate) fn set_waiting(&self, chunks: usize, last: Option<u64>) {
        self.waiting.set(chunks as u64);
        self.waiting_for.set(last);
    }

    /// Whether a newer snapshot is wanted than one as of `taken`.
    pub(crate) fn wants_newer_than(&self, taken: Option<u64>) -> bool {
        self.wanted.get() > taken
    }
}

struct Copier {
    core: Rc<Core>,
    group: Rc<LocalGroup>,
    cold: Cold,
    anchor: Rc<Anchor>,
    /// The newest snapshot that is in the store: its entry, and its objects.
    stored: Option<u64>,
    current: Vec<String>,
    /// Objects in the store that are not part of it, manifests first.
    old: Vec<String>,
    /// Pieces of one that has no manifest and gets none.
    scraps: Vec<String>,
    /// The term in which the store was looked at: others change it in other terms.
    surveyed: Option<u64>,
    /// Whether, when somebody looked last, the state named chunks that are not in the store that new ones go to; and the
    /// entry that a snapshot must have to name none.
    has_left_behind: bool,
    not_before: Option<u64>,
    /// Since when a snapshot waits for that, or when somebody was told last.
    withheld_since: Option<Instant>,
    /// Whether the snapshot on the disk is to be copied next.
    is_due: bool,
    /// Since when there is something that the anchor does not know of.
    changed_since: Option<Instant>,
}

/// Keeps the group's anchor. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>, cold: Cold, anchor: Rc<Anchor>) {
    let keeps_snapshots = cold.keeps_snapshots();
    let (current, old, scraps) = Default::default();
    let mut copier = Copier {
        core,
        group,
        cold,
        anchor,
        stored: None,
        current,
        old,
        scraps,
        surveyed: None,
        has_left_behind: true,
        not_before: None,
        withheld_since: None,
        is_due: false,
        changed_since: None,
    };
    while !copier.group.has_failed() {
        tokio::time::sleep(LOOK_EVERY).await;
        if !keeps_snapshots {
            copier.want();
            copier.anchor.index.set(copier.group.replica.snapshot_index());
            continue;
        }
        let Some(term) = copier.group.reign().filter(|_| copier.group.leading().is_ok()) else {
            // Whoever leads puts snapshots there, and takes away older ones.
            copier.changed_since = None;
            continue;
        };
        copier.want();
        if let Err(error) = copier.step(term).await {
            copier.note_failure(&error);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

impl Copier {
    /// Does what there is to do, where this node leads in this term.
    async fn step(&mut self, term: u64) -> Result<(), ShardError> {
        if self.surveyed != Some(term) {
            self.anchor.index.set(None);
            let survey = self.cold.snapshots(self.group.id).await?;
            self.old = survey.others();
            let newest = survey.snapshots.first();
            self.stored = newest.map(|newest| newest.name.index);
            self.current = newest.map_or_else(Vec::new, Manifest::objects);
            self.surveyed = Some(term);
        }
        let taken = self.group.replica.snapshot_index();
        if self.stored.is_none() && self.core.is_alone() {
            // Nobody can begin with what is not there, so only this node's own snapshot needs what is gone.
            self.anchor.index.set(taken);
        }
        self.is_due = taken > self.stored && self.is_all_in_store(taken);
        let copied = if self.is_due { self.copy().await } else { Ok(()) };
        self.is_due &= copied.is_err();
        self.tidy().await.and(copied)
    }

    /// Whether a snapshot as of `taken` names only chunks that are where new ones go to.
    fn is_all_in_store(&mut self, taken: Option<u64>) -> bool {
        if !self.cold.has_left_behind() {
            return true;
        }
        if !self.has_left_behind {
            return taken >= self.not_before;
        }
        let state = self.group.applied();
        let has = state.chunks().any(|chunk| self.cold.is_left_behind(self.group.chunk_name(chunk.id)));
        self.not_before = state.applied();
        self.has_left_behind = has;
        let since = *self.withheld_since.get_or_insert_with(Instant::now);
        if has && since.elapsed() >= TELL_EVERY {
            self.withheld_since = None;
            let group = self.group.id.0;
            tracing::warn!(group, "no snapshot goes to the bucket while there are chunks in the folder of before");
        }
        !has && taken >= self.not_before
    }

    /// Puts the snapshot that is on the disk.
    async fn copy(&mut self) -> Result<(), ShardError> {
        let _turn = self.core.copying.lock().await;
        let group = self.group.id;
        let Some(file) = current(&self.group).await? else { return Ok(()) };
        let bytes = file.bytes();
        let name = name(&self.core, group, &file);
        // They are of no use unless the manifest comes to be there.
        self.scraps.extend((0..bytes.div_ceil(PIECE_BYTES_MAX as u64)).map(|piece| name.piece(piece as usize)));
        let manifest = put_pieces(&self.core, &self.cold, name, file).await?;
        // It may be there even if the store says that it is not.
        self.old.insert(0, name.manifest());
        self.old.append(&mut self.scraps);
        self.cold.put_manifest(&manifest).await?;
        let objects = manifest.objects();
        self.old.retain(|object| !objects.contains(object));
        // Manifests first.
        self.old.splice(0..0, std::mem::replace(&mut self.current, objects));
        self.old.sort_by_key(|object| !SnapshotName::is_manifest(object));
        self.stored = Some(name.index);
        add(&self.core.stats.snapshots_stored, 1);
        tracing::debug!(group = group.0, index = name.index, bytes, "snapshot stored");
        Ok(())
    }

    /// Deletes what is not part of the newest snapshot, as far as it may go. When that is the only one that has a manifest, it is
    /// the anchor.
    async fn tidy(&mut self) -> Result<(), ShardError> {
        while let Some(object) = self.scraps.last() {
            self.cold.delete_snapshot_object(object).await?;
            self.scraps.pop();
        }
        let mut kept = 0;
        while let Some(object) = self.old.get(kept) {
            if !self.may_go(object) {
                kept += 1;
                continue;
            }
            if !SnapshotName::is_manifest(object) {
                self.anchor.index.set(self.stored);
            }
            self.cold.delete_snapshot_object(object).await?;
            self.old.remove(kept);
        }
        if self.stored.is_some() {
            self.anchor.index.set(self.stored);
        }
        Ok(())
    }

    /// Whether nobody can rely on an object that is not part of the newest snapshot: where others may put some, it must be of an
    /// earlier entry.
    fn may_go(&self, object: &str) -> bool {
        self.core.is_alone() || SnapshotName::of_object(object).map(|name| name.index) < self.stored
    }

    /// Wants a snapshot when there is something that the anchor does not know of, and has been for so long that it is time:
    /// in a store that is to outlive the node anything, else chunks that have come or gone.
    fn want(&mut self) {
        let changed = {
            let state = self.group.applied();
            if self.cold.keeps_snapshots() { state.applied() } else { state.chunks_changed() }
        };
        let changed = changed.max(self.anchor.waiting_for.get());
        if changed <= self.anchor.index.get() {
            self.changed_since = None;
            return;
        }
        let least = Duration::from_secs(self.group.replica.snapshot_bytes() / SNAPSHOT_BYTES_PER_SECOND);
        let since = *self.changed_since.get_or_insert_with(Instant::now);
        let is_time =
            since.elapsed() >= least && (since.elapsed() >= self.core.config.flush_age || self.is_half_garbage());
        // One that is there is copied before there is another.
        if is_time && !self.is_due {
            self.anchor.wanted.set(changed);
            self.changed_since = None;
        }
    }

    /// Whether as many chunks wait to be deleted as there are others.
    fn is_half_garbage(&self) -> bool {
        let waiting = self.anchor.waiting.get();
        waiting > 0 && waiting >= self.group.applied().chunks_totals().chunks
    }

    fn note_failure(&self, error: &ShardError) {
        if !self.group.has_failed() {
            add(&self.core.stats.snapshots_unstored, 1);
            let group = self.group.id.0;
            tracing::warn!(group, ?error, "no snapshot can be stored: chunks that are of no use stay until one is");
        }
    }
}

/// The group's snapshot that is on the disk.
pub(crate) async fn current(group: &LocalGroup) -> Result<Option<SnapshotReader>, ShardError> {
    let (snapshots, id) = (group.wal.snapshots(), group.id);
    blocking(move || snapshots.current(id)).await
}

/// A name that no snapshot has had.
pub(crate) fn name(core: &Core, group: GroupId, file: &SnapshotReader) -> SnapshotName {
    let last = file.last();
    SnapshotName { group, term: last.term, index: last.index, nonce: core.entropy.u64() as u32 }
}

/// Puts a snapshot's file in pieces; gives the manifest, which is to be put when they are there.
pub(crate) async fn put_pieces(
    core: &Core,
    cold: &Cold,
    name: SnapshotName,
    mut file: SnapshotReader,
) -> Result<Manifest, ShardError> {
    let (mut pieces, mut position) = (Vec::new(), 0);
    while position < file.bytes() {
        let (read, piece, crc) = blocking(move || read_piece(file, position)).await?;
        file = read;
        position += piece.len() as u64;
        pieces.push(SnapshotPiece { bytes: piece.len() as u64, crc });
        cold.put_piece(name, pieces.len() - 1, piece).await?;
    }
    let cluster = core.cold.as_ref().and_then(Cold::owner).unwrap_or(core.config.node_id);
    Ok(Manifest { name, cluster, groups: core.topology.groups, pieces })
}

/// The piece of a snapshot's file that begins at `position`, and its CRC32C. Blocks.
fn read_piece(file: SnapshotReader, position: u64) -> Result<(SnapshotReader, Bytes, u32), weir_storage::WalError> {
    let bytes = (file.bytes() - position).min(PIECE_BYTES_MAX as u64);
    let mut piece = BytesMut::zeroed(bytes as usize);
    file.read_raw(position, &mut piece)?;
    let crc = crc32c::crc32c(&piece);
    Ok((file, piece.freeze(), crc))
}

/// Does something that blocks on the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, weir_storage::WalError> + Send + 'static,
) -> Result<T, ShardError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| ShardError::Unavailable)?;
    done.map_err(|error| ShardError::Corrupt(error.to_string().into()))
}
