//! Snapshots of a replica: its state as of one entry, so that a restart need not apply the log before it, and the log may go.
//!
//! openraft never waits for one: [`write`] puts the state into a file while entries go on being applied, and openraft hears of it
//! when it is durable. A file's first section says which membership was in force; then come the pages of
//! [`Group::freeze`](weir_stream::Group::freeze). What another node has sent is such a file, too, and carries the entries that its
//! pages name.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::StoredMembership;
use openraft::alias::{SnapshotMetaOf, StoredMembershipOf};
use weir_storage::{Carried, EntryId, EntryRef, SnapshotReader, SnapshotWriter, Snapshots, Wal, WalError, WalReader};
use weir_stream::{Chunk, Group, Piece, Thaw};
use weir_types::GroupId;
use weir_types::limits::SLOTS;

use crate::blocking::blocking;
use crate::codec::{decode_membership, encode_membership};
use crate::config::{TypeConfig, entry_id, log_id};
use crate::entry::KIND_BATCH;
use crate::local::State;

/// The pieces that the state is written in: each keeps the shard's thread for less than a millisecond.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of the log that may go with a snapshot to another node without anybody trying to have fewer of them.
const LIGHT_BYTES: u64 = 16 << 20;
/// Entries that are looked up in one turn: less than a millisecond.
const ENTRIES_PER_TURN: usize = 1024;
/// The highest term and index that a snapshot may be as of: nobody counts so far, and others follow.
const COUNT_MAX: u64 = i64::MAX as u64;

/// A snapshot that is durable, the current one.
#[derive(Clone)]
pub(crate) struct Taken {
    pub(crate) meta: SnapshotMetaOf<TypeConfig>,
    /// Its file, also when it has lost its name to another one.
    pub(crate) file: Arc<SnapshotReader>,
    /// The entries whose bytes it names, in order; perhaps some more.
    pub(crate) hot: Arc<[u64]>,
    /// Whether it can be sent as it is: what goes with it is little, or cannot be less.
    pub(crate) is_light: bool,
}

impl Taken {
    /// The snapshot with the state `group`.
    pub(crate) fn new(meta: SnapshotMetaOf<TypeConfig>, file: SnapshotReader, group: &Group) -> Taken {
        let (hot, is_light) = (group.hot_indices().collect(), group.hot_bytes() <= LIGHT_BYTES);
        Taken { meta, file: Arc::new(file), hot, is_light }
    }
}

/// What a replica begins with, or was sent.
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMetaOf<TypeConfig>,
    pub(crate) group: Group,
    /// Read to its end.
    pub(crate) file: SnapshotReader,
}

impl Snapshot {
    /// Reads the group's snapshot, if it has one. Blocks.
    ///
    /// # Errors
    /// [`WalError`] when it cannot be read, or is not the one that the log goes on from.
    pub(crate) fn load(wal: &Wal, group: GroupId) -> Result<Option<Snapshot>, WalError> {
        let Some(file) = wal.open_snapshot(group)? else { return Ok(None) };
        let snapshot = Snapshot::read(file, Thaw::default())?;
        let Snapshot { group: state, file, .. } = &snapshot;
        if wal.last(group).is_none_or(|last| last.index < file.last().index) {
            // It was made the current one, and the power was cut before the log was told.
            let has = |index| file.carried().entry(index).or_else(|| wal.entry(group, index)).is_some();
            if let Some(index) = state.hot_indices().find(|&index| !has(index)) {
                let reason = format!("it needs entry {index}, which the log does not have: its end is lost");
                return Err(file.damaged(reason));
            }
        }
        Ok(Some(snapshot))
    }

    /// Reads a snapshot that another node has sent. Blocks.
    ///
    /// # Errors
    /// [`WalError`] when it is damaged, or does not carry all that it names.
    pub(crate) fn receive(file: SnapshotReader) -> Result<Snapshot, WalError> {
        let snapshot = Snapshot::read(file, Thaw::default())?;
        let Snapshot { group, file, .. } = &snapshot;
        for stream in (0..SLOTS).flat_map(|slot| group.slot(slot)) {
            for piece in stream.pieces_from(0) {
                let Piece::Hot(extent) = piece else { continue };
                let entry = file.carried().entry(extent.index).filter(|entry| entry.kind == KIND_BATCH);
                let body_bytes = entry.map(|entry| entry.body_bytes() as u64);
                let end = u64::from(extent.pos) + u64::from(extent.len);
                if body_bytes.is_none_or(|body_bytes| end > body_bytes) || extent.end - extent.start > extent.len.into()
                {
                    return Err(
                        file.damaged(format!("it names bytes of entry {} that it does not carry", extent.index))
                    );
                }
            }
        }
        Ok(snapshot)
    }

    /// Reads a snapshot to its end, into `thaw`. Blocks.
    ///
    /// # Errors
    /// [`WalError`] when it is damaged.
    fn read(mut reader: SnapshotReader, mut thaw: Thaw) -> Result<Snapshot, WalError> {
        let Some(first) = reader.section()? else { return Err(reader.damaged("it is empty")) };
        let last_membership = decode_stored_membership(&first).map_err(|error| reader.damaged(error))?;
        while let Some(pages) = reader.section()? {
            thaw.take(&pages).map_err(|error| reader.damaged(error))?;
        }
        let group = thaw.finish().map_err(|error| reader.damaged(error))?;
        let EntryId { term, index } = reader.last();
        if group.applied().is_none_or(|applied| applied > index) {
            return Err(reader.damaged("its state is of another entry"));
        }
        if term.max(index) > COUNT_MAX {
            return Err(reader.damaged("there can be no such entry"));
        }
        let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: Some(log_id(reader.last())), last_membership };
        Ok(Snapshot { meta, group, file: reader })
    }
}

/// Reads a group's state out of a snapshot, and with it the entry that it is as of. Blocks.
///
/// # Errors
/// [`WalError`] when it is damaged.
pub fn read_snapshot(reader: SnapshotReader) -> Result<(EntryId, Group), WalError> {
    let last = reader.last();
    Snapshot::read(reader, Thaw::default()).map(|snapshot| (last, snapshot.group))
}

/// As [`read_snapshot`], but only the streams that are `wanted`, for [`Group::apply_to`]. Blocks.
///
/// # Errors
/// [`WalError`] when it is damaged.
pub fn read_streams(reader: SnapshotReader, wanted: BTreeSet<Box<str>>) -> Result<Group, WalError> {
    Snapshot::read(reader, Thaw::only(wanted)).map(|snapshot| snapshot.group)
}

/// The chunks that a snapshot names, and the snapshot again, whose file can be read still. Blocks.
///
/// # Errors
/// [`WalError`] when its beginning is damaged.
pub fn snapshot_chunks(mut reader: SnapshotReader) -> Result<(SnapshotReader, Vec<Chunk>), WalError> {
    let mut thaw = Thaw::default();
    // The membership, and then the head, which is in the first of the pieces.
    for is_state in [false, true] {
        let Some(section) = reader.section()? else { return Err(reader.damaged("it ends too early")) };
        if is_state {
            thaw.take(&section).map_err(|error| reader.damaged(error))?;
        }
    }
    let chunks = thaw.chunks().copied().collect();
    Ok((reader, chunks))
}

/// Which entries a snapshot carries that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Those that the snapshot before it carries and that are still needed.
    Rest,
    /// All that it names: the log is needed for none of them any more.
    All,
}

/// Writes the state as it is now, which is that of `meta`, and makes it the current snapshot when it is durable. Ends when `is_over`
/// says that another state takes this one's place. One at a time.
///
/// # Errors
/// Whatever the disk says. The snapshot before is there still, or this one is.
pub(crate) async fn write(
    wal: &Wal,
    group: GroupId,
    state: &State,
    meta: SnapshotMetaOf<TypeConfig>,
    carries: Carries,
    is_over: impl Fn() -> bool,
) -> io::Result<Taken> {
    let last = entry_id(meta.last_log_id.as_ref().expect("something was applied"));
    let first = encode_stored_membership(&meta.last_membership);
    let (snapshots, reader) = (wal.snapshots(), wal.reader());
    let (hot, is_light): (Arc<[u64]>, bool) = {
        let mut state = state.borrow_mut();
        state.freeze(PIECE_BYTES);
        wal.leave_carried(group, state.hot_floor().unwrap_or(u64::MAX));
        (state.hot_indices().collect(), state.hot_bytes() <= LIGHT_BYTES)
    };
    let carried = wal.carried(group);
    let all = if carries == Carries::All { Some(named(wal, group, &hot).await) } else { None };
    let begun = blocking(wal, move || begin(&snapshots, group, last, &first, all, carried, &reader)).await;
    let written = match begun {
        Ok(writer) => write_pages(wal, writer, state, is_over).await,
        Err(error) => Err(error),
    };
    state.borrow_mut().end_freeze();
    let (writer, snapshots) = (written?, wal.snapshots());
    let finish = move || {
        writer.finish()?;
        let mut file = snapshots.current(group)?.ok_or(io::ErrorKind::NotFound)?;
        // The membership, and then the first of the pieces, which comes behind the entries.
        for _ in 0..2 {
            file.section()?;
        }
        Ok(file)
    };
    let file = blocking(wal, finish).await?;
    if entry_id(meta.last_log_id.as_ref().expect("as above")) != file.last() {
        return Err(io::Error::other("another snapshot has taken its place"));
    }
    // Those that are still needed lie in this file from now on: the one before it has lost its name, and is to give back its space.
    wal.carry(group, file.carried().clone());
    Ok(Taken { meta, file: Arc::new(file), hot, is_light })
}

/// The entries that a state names. One that has not applied all that it had applied before its restart may name some that are gone.
async fn named(wal: &Wal, group: GroupId, hot: &[u64]) -> Vec<EntryRef> {
    let mut entries = Vec::new();
    for some in hot.chunks(ENTRIES_PER_TURN) {
        entries.extend(some.iter().filter_map(|&index| wal.entry(group, index)));
        tokio::task::yield_now().await;
    }
    entries
}

/// Begins a snapshot with what comes before its pages: it carries these entries, or those that the one before it carries.
fn begin(
    snapshots: &Snapshots,
    group: GroupId,
    last: EntryId,
    first: &[u8],
    entries: Option<Vec<EntryRef>>,
    carried: Option<Carried>,
    reader: &WalReader,
) -> io::Result<SnapshotWriter> {
    let rest = |carried: Carried| carried.indices().filter_map(|index| carried.entry(index)).collect();
    let Some(entries) = entries.or_else(|| carried.map(rest)) else {
        let mut writer = snapshots.begin(group, last)?;
        writer.section(first)?;
        return Ok(writer);
    };
    let mut writer = snapshots.begin_carrying(group, last)?;
    writer.section(first)?;
    for entry in entries {
        let body = reader.body(&entry)?;
        writer.entry(entry.id, entry.kind, &body)?;
    }
    Ok(writer)
}

async fn write_pages(
    wal: &Wal,
    mut writer: SnapshotWriter,
    state: &State,
    is_over: impl Fn() -> bool,
) -> io::Result<SnapshotWriter> {
    loop {
        if is_over() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "a snapshot of another node takes its place"));
        }
        let Some(pages) = state.borrow_mut().take_frozen() else { return Ok(writer) };
        let write = move || {
            writer.section(&pages)?;
            Ok(writer)
        };
        writer = blocking(wal, write).await?;
        tokio::task::yield_now().await;
    }
}

/// A membership behind the entry that it came with, if it came with one.
pub(crate) fn encode_stored_membership(stored: &StoredMembershipOf<TypeConfig>) -> Bytes {
    let mut buf = BytesMut::new();
    let id = stored.log_id().as_ref().map(entry_id);
    buf.put_u8(u8::from(id.is_some()));
    let id = id.unwrap_or(EntryId { index: 0, term: 0 });
    buf.put_u64_le(id.term);
    buf.put_u64_le(id.index);
    encode_membership(stored.membership(), &mut buf);
    buf.freeze()
}

fn decode_stored_membership(mut bytes: &[u8]) -> io::Result<StoredMembershipOf<TypeConfig>> {
    let mut head = bytes.split_off(..1 + 8 + 8).ok_or(io::ErrorKind::UnexpectedEof)?;
    let is_given = head.get_u8() != 0;
    let id = EntryId { term: head.get_u64_le(), index: head.get_u64_le() };
    Ok(StoredMembership::new(is_given.then(|| log_id(id)), decode_membership(bytes)?))
}
