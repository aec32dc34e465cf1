//! openraft's log on our WAL. All groups of a WAL share it; each has its own indices.
//!
//! `append` returns when the entries can be read; they are durable when the callback fires, which the WAL's writer does
//! after its one durable write. Votes and entries go through the same queue, so their order on disk is the order asked
//! for (openraft, `io_ordering.md`).

use std::fmt;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::oneshot;
use weir_storage::{Claim, Done, EntryBody, EntryPlace, EntryRef, Wal, WalReader};
use weir_types::GroupId;
use weir_types::bugs::{self, Bug};

use crate::blocking::blocking;
use crate::codec::{decode_vote, encode_vote};
use crate::config::{Batch, TypeConfig, entry_id, log_id};
use crate::entry::{KIND_BATCH, KIND_BLANK, decode_payload, encode_frame};
use send_wrapper::SendWrapper;

/// Bytes of entries that are in memory at a time while old ones are read back, or go to another node.
const READ_BYTES_MAX: usize = 2 << 20;

/// Whether an entry of this kind has a batch of commands in it.
pub fn is_batch(kind: u8) -> bool {
    kind == KIND_BATCH
}

/// One group's log.
#[derive(Clone)]
pub(crate) struct LogStore {
    group: GroupId,
    wal: SendWrapper<Wal>,
    reader: WalReader,
}

impl LogStore {
    pub(crate) fn new(group: GroupId, wal: SendWrapper<Wal>) -> LogStore {
        let reader = wal.reader();
        LogStore { group, wal, reader }
    }

    /// The indices of `range` that the log holds.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let wal = &self.wal;
        let first = wal.first_index(self.group);
        let after_last = wal.last(self.group).map_or(first, |last| last.index + 1);
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index + 1,
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        start.max(first)..end.min(after_last)
    }

    /// Reads entries from the start of `range`: all of it, or as many as fit [`READ_BYTES_MAX`], at least one.
    async fn read(&self, range: Range<u64>) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let mut entries = Vec::new();
        let mut stored = Vec::new();
        let mut bytes = 0;
        assert!(!range.is_empty(), "there is something to read");
        for index in range {
            let entry = self.wal.entry(self.group, index).ok_or_else(|| missing(self.group, index))?;
            assert_eq!(entry.id.index, index, "the log gives what it is asked for");
            match &entry.body {
                // Keeps the order: what is in memory follows what was read back, never the other way round.
                EntryBody::Cached(..) if !stored.is_empty() => break,
                EntryBody::Cached(frame, body_bytes) => {
                    bytes += body_bytes;
                    entries.push(decode_entry(&entry, frame.clone(), *body_bytes)?);
                }
                EntryBody::Stored(place) if entries.is_empty() => {
                    bytes += place.body_bytes();
                    stored.push(entry);
                }
                EntryBody::Stored(_) => break,
            }
            if bytes >= READ_BYTES_MAX {
                break;
            }
        }
        if stored.is_empty() {
            return Ok(entries);
        }
        let reader = self.reader.clone();
        blocking(&self.wal, move || stored.iter().map(|entry| read_back(&reader, entry)).collect()).await
    }
}

fn missing(group: GroupId, index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("group {group} has no entry {index}"))
}

fn read_back(reader: &WalReader, entry: &EntryRef) -> io::Result<EntryOf<TypeConfig>> {
    let EntryBody::Stored(place) = &entry.body else { unreachable!("only stored entries are read back") };
    let place: &EntryPlace = place;
    let frame = reader.read_frame(place).map_err(io::Error::other)?;
    decode_entry(entry, frame, place.body_bytes())
}

fn decode_entry(entry: &EntryRef, frame: Bytes, body_bytes: usize) -> io::Result<EntryOf<TypeConfig>> {
    let payload = decode_payload(entry.kind, frame, body_bytes, Claim::Spare)?;
    Ok(EntryOf::<TypeConfig>::new(log_id(entry.id), payload))
}

/// A callback and the future that waits for it.
fn durable() -> (Done, impl Future<Output = io::Result<()>>) {
    let (sender, receiver) = oneshot::channel();
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    (done, async { receiver.await.unwrap_or_else(|_| Err(io::Error::other("the WAL has stopped"))) })
}

#[cfg(test)]
mod tests;

impl RaftLogReader<TypeConfig> for LogStore {
    /// Batches that are not in memory are not read, only named: openraft looks for ids and memberships here.
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<EntryOf<TypeConfig>>, io::Error>
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let range = self.clamp(&range);
        let mut entries = Vec::new();
        for index in range {
            let entry = self.wal.entry(self.group, index).ok_or_else(|| missing(self.group, index))?;
            let payload = match (entry.kind, &entry.body) {
                (KIND_BLANK, _) => EntryPayload::Blank,
                (KIND_BATCH, EntryBody::Stored(place)) => EntryPayload::Normal(Batch::Stored(place.clone())),
                _ => {
                    entries.extend(self.read(index..index + 1).await?);
                    continue;
                }
            };
            entries.push(EntryOf::<TypeConfig>::new(log_id(entry.id), payload));
        }
        Ok(entries)
    }

    /// Yields entries as they are asked for, so that a restart does not hold its whole log in memory.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<EntryOf<TypeConfig>, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let range = self.clamp(&range);
        let log = self.clone();
        stream::try_unfold(range, move |range| {
            let log = log.clone();
            async move {
                if range.is_empty() {
                    return Ok::<_, io::Error>(None);
                }
                let entries = log.read(range.clone()).await?;
                let rest = range.start + entries.len() as u64..range.end;
                Ok(Some((stream::iter(entries).map(Ok), rest)))
            }
        })
        .try_flatten()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<EntryOf<TypeConfig>>, io::Error> {
        let range = self.clamp(&(start..end));
        // What does not follow the entry before it is of no use to who gets it: a part was purged, and a snapshot goes instead.
        if range.is_empty() || range.start != start { Ok(Vec::new()) } else { self.read(range).await }
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        let vote = self.wal.vote(self.group);
        vote.map(|bytes| decode_vote(&bytes)).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let wal = &self.wal;
        let purged = wal.purged(self.group).map(log_id);
        let last = wal.last(self.group).map(log_id).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        if bugs::has(Bug::ForgottenVote) {
            return Ok(());
        }
        let (done, written) = durable();
        self.wal.save_vote(self.group, &encode_vote(vote), done);
        written.await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let wal = &self.wal;
        let mut callback = Some(callback);
        let mut entries = entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            let id = entry_id(&entry.log_id());
            assert!(id.index >= wal.first_index(self.group), "what is purged is not written again");
            let (kind, frame, claim) = encode_frame(entry.payload);
            // Frames become durable in order, so the last one's completion stands for all.
            let done: Done = match entries.peek() {
                Some(_) => Box::new(|_| ()),
                None => {
                    let callback = callback.take().expect("there is one last entry");
                    Box::new(move |result| callback.io_completed(result))
                }
            };
            wal.append(self.group, id, kind, frame, claim, done);
        }
        if let Some(callback) = callback {
            callback.io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_kept: Option<LogIdOf<TypeConfig>>) -> Result<(), io::Error> {
        if bugs::has(Bug::LostTruncate) {
            return Ok(());
        }
        let (done, written) = durable();
        self.wal.truncate_after(self.group, last_kept.as_ref().map(entry_id), done);
        written.await
    }

    async fn purge(&mut self, upto: LogIdOf<TypeConfig>) -> Result<(), io::Error> {
        let (done, written) = durable();
        self.wal.purge(self.group, entry_id(&upto), done);
        written.await
    }
}
