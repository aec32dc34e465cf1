//! Snapshots of a replica: its state as of one entry, so that a restart need not apply the log before it, and the log may go.
//!
//! openraft never waits for one: [`write`] puts the state into a file while entries go on being applied, and openraft hears of it
//! when it is durable. A file's first section says which membership was in force; then come the pages of
//! [`Group::freeze`](weir_stream::Group::freeze).

use std::collections::BTreeSet;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::StoredMembership;
use openraft::alias::{SnapshotMetaOf, StoredMembershipOf};
use tokio::sync::mpsc;
use weir_storage::{EntryId, SnapshotReader, Snapshots, Wal, WalError};
use weir_stream::{Chunk, Group, Thaw};
use weir_types::GroupId;

use crate::codec::{decode_membership, encode_membership};
use crate::config::{TypeConfig, entry_id, log_id};
use crate::state_machine::State;

/// The pieces that the state is written in: each keeps the shard's thread for less than a millisecond.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that may wait for the disk.
const PIECES_MAX: usize = 4;
/// The highest term and index that a snapshot may be as of: nobody counts so far, and others follow.
const COUNT_MAX: u64 = i64::MAX as u64;

/// What a replica begins with.
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMetaOf<TypeConfig>,
    pub(crate) group: Group,
    /// The size of its file.
    pub(crate) bytes: u64,
}

impl Snapshot {
    /// Reads the group's snapshot, if it has one. Blocks.
    ///
    /// # Errors
    /// [`WalError`] when it cannot be read, or is not the one that the log goes on from.
    pub(crate) fn load(wal: &Wal, group: GroupId) -> Result<Option<Snapshot>, WalError> {
        wal.open_snapshot(group)?.map(|reader| Snapshot::read(reader, Thaw::default())).transpose()
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
        Ok(Snapshot { meta, group, bytes: reader.bytes() })
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

/// Writes the state as it is now, which is that of `meta`; returns the size of the file when it is durable.
///
/// # Errors
/// Whatever the disk says. The snapshot before is there still, or this one is.
pub(crate) async fn write(
    snapshots: Snapshots,
    group: GroupId,
    state: &State,
    meta: &SnapshotMetaOf<TypeConfig>,
) -> io::Result<u64> {
    let last = entry_id(meta.last_log_id.as_ref().expect("something was applied"));
    let first = encode_stored_membership(&meta.last_membership);
    state.borrow_mut().freeze(PIECE_BYTES);
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    let writing = tokio::task::spawn_blocking(move || write_file(&snapshots, group, last, &first, receiver));
    loop {
        let piece = state.borrow_mut().take_frozen();
        let is_end = piece.is_none();
        // When nobody takes it, writing has failed, and says why.
        if pieces.send(piece).await.is_err() || is_end {
            break;
        }
        tokio::task::yield_now().await;
    }
    state.borrow_mut().end_freeze();
    writing.await.map_err(io::Error::other)?
}

/// `None` among the pieces is the end; without it they are not whole.
fn write_file(
    snapshots: &Snapshots,
    group: GroupId,
    last: EntryId,
    first: &[u8],
    mut pieces: mpsc::Receiver<Option<Bytes>>,
) -> io::Result<u64> {
    let mut writer = snapshots.begin(group, last)?;
    writer.section(first)?;
    loop {
        match pieces.blocking_recv() {
            Some(Some(piece)) => writer.section(&piece)?,
            Some(None) => return writer.finish(),
            None => return Err(io::Error::new(io::ErrorKind::Interrupted, "the replica was stopped meanwhile")),
        }
    }
}

/// A membership behind the entry that it came with, if it came with one.
fn encode_stored_membership(stored: &StoredMembershipOf<TypeConfig>) -> Bytes {
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
