//! Sending a snapshot to a replica that lacks what the log no longer has.
//!
//! What goes first is what the log may give up soon: the entries whose bytes the snapshot names. Until they are sent, the log keeps
//! them ([`Progress::held_from`]). If it has given up some already, the snapshot is of no use to another node, and a newer one is
//! wanted; also if it is many bytes, for whoever takes the newer one may have moved them to the cold tier before. Parts go one parcel at a time, not faster than [`BYTES_PER_SECOND`]: neither the disk nor the links are to be felt by
//! those who append.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::VoteOf;
use send_wrapper::SendWrapper;
use tokio::time::{Instant, sleep};
use weir_cluster::frame::FRAME_BYTES_MAX;
use weir_cluster::{CallError, Message};
use weir_storage::{SnapshotReader, Wal};
use weir_types::GroupId;

use crate::blocking::blocking;
use crate::config::{TypeConfig, entry_id};
use crate::local::Local;
use crate::parcel::{Parcel, Part, Receipt, Sum, decode_receipt, encode_parcel};
use crate::progress::{HELD_MAX, Progress};
use crate::snapshot::Taken;

/// A parcel is full when it has so many bytes, or so many parts.
const PARCEL_BYTES: usize = 512 << 10;
const PARCEL_PARTS: usize = 256;
/// Bytes of one part, at most, so that it fits a message behind others. An entry has less. A section is one slot's streams, which may
/// be large: it is cut.
const PART_BYTES_MAX: usize = FRAME_BYTES_MAX - PARCEL_BYTES - (2 << 20);
/// How fast snapshots go to one node.
const BYTES_PER_SECOND: u64 = 32 << 20;
/// How often it is asked whether a snapshot was taken over, and looked whether there is another one.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long it is waited before a snapshot is sent again that was of no use to the other node.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a snapshot has not arrived.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShipError {
    #[error("the log no longer has entry {index}, which the snapshot needs: a newer one is awaited")]
    Outdated { index: u64 },
    #[error("much of the log goes with the snapshot: a newer one is awaited")]
    Heavy,
    #[error("it did not arrive as it was sent, and is sent again")]
    Lost,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the answer cannot be understood")]
    Answer(#[source] io::Error),
    #[error("it cannot be read here")]
    Read(#[from] io::Error),
}

impl ShipError {
    /// Whether nothing is wrong with the other node: another snapshot can be sent at once.
    pub(crate) fn is_of_snapshot(&self) -> bool {
        matches!(self, ShipError::Outdated { .. } | ShipError::Heavy)
    }
}

/// A snapshot that can be sent.
pub(crate) struct Shipment {
    group: GroupId,
    taken: Taken,
    wal: SendWrapper<Wal>,
    progress: Local<Progress>,
}

/// One that is on its way: its parts so far.
struct Sending<A> {
    vote: VoteOf<TypeConfig>,
    ask: A,
    sum: Sum,
    /// Not sent yet.
    parts: Vec<Part>,
    bytes: usize,
}

/// Notes that a node is being sent a snapshot, until this is dropped.
struct Noted {
    node: u64,
    progress: Local<Progress>,
}

impl Noted {
    fn new(node: u64, progress: Local<Progress>) -> Noted {
        progress.borrow_mut().sending_to.insert(node);
        Noted { node, progress }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.progress.borrow_mut().sending_to.remove(&self.node);
    }
}

impl Shipment {
    pub(crate) fn new(group: GroupId, taken: Taken, wal: SendWrapper<Wal>, progress: Local<Progress>) -> Shipment {
        Shipment { group, taken, wal, progress }
    }

    /// Sends it to `node`, by calls of `ask`; returns when it was taken over, or found not to be needed, with the vote of whoever says so.
    ///
    /// # Errors
    /// [`ShipError`]; it may be sent again.
    pub(crate) async fn send<F>(
        &self,
        node: u64,
        vote: VoteOf<TypeConfig>,
        ask: impl Fn(Message) -> F,
    ) -> Result<VoteOf<TypeConfig>, ShipError>
    where
        F: Future<Output = Result<Message, CallError>>,
    {
        let _noted = Noted::new(node, self.progress.clone());
        let mut sending = Sending { vote, ask, sum: Sum::default(), parts: Vec::new(), bytes: 0 };
        let sent = match self.send_parts(&mut sending).await {
            Ok(Some(vote)) => Ok(vote),
            Ok(None) => self.finish(&sending).await,
            Err(error) => Err(error),
        };
        match &sent {
            Err(error) if error.is_of_snapshot() => self.await_another().await,
            // Its disk may be full.
            Err(ShipError::Lost) => sleep(AGAIN_AFTER).await,
            _ => {}
        }
        sent
    }

    /// Wants another snapshot until there is one; what goes with it is to be there still when it is sent.
    async fn await_another(&self) {
        let begun = Instant::now();
        while self.want_another() {
            if begun.elapsed() < HELD_MAX {
                self.progress.borrow_mut().hold();
            }
            sleep(ASK_EVERY).await;
        }
        self.progress.borrow_mut().hold();
    }

    /// Wants another snapshot, unless there is one; says whether it does.
    fn want_another(&self) -> bool {
        let mut progress = self.progress.borrow_mut();
        // It may be as of the same entry.
        let is_current = progress.snapshot.as_ref().is_some_and(|taken| Arc::ptr_eq(&taken.file, &self.taken.file));
        progress.is_wanted |= is_current;
        is_current
    }

    /// An entry that the snapshot needs and the log no longer has.
    fn missing(&self) -> Option<u64> {
        let first = self.wal.first_index(self.group);
        let mut before = self.taken.hot.iter().copied().take_while(|&index| index < first);
        before.find(|&index| self.wal.entry(self.group, index).is_none())
    }

    async fn send_parts<F>(
        &self,
        sending: &mut Sending<impl Fn(Message) -> F>,
    ) -> Result<Option<VoteOf<TypeConfig>>, ShipError>
    where
        F: Future<Output = Result<Message, CallError>>,
    {
        if !self.taken.is_light {
            return Err(ShipError::Heavy);
        }
        if let Some(index) = self.missing() {
            return Err(ShipError::Outdated { index });
        }
        self.progress.borrow_mut().hold();
        let mut file = self.taken.file.again();
        let mut is_first = true;
        loop {
            let section;
            (file, section) = self.section(file).await?;
            let Some(section) = section else { break };
            for part in cut(section, PART_BYTES_MAX) {
                if let Some(vote) = self.add(sending, part).await? {
                    return Ok(Some(vote));
                }
            }
            // The first section says which membership there was. Entries come behind it.
            if std::mem::take(&mut is_first) {
                for &index in self.taken.hot.iter() {
                    let entry = self.wal.entry(self.group, index).ok_or(ShipError::Outdated { index })?;
                    let (id, kind, reader) = (entry.id, entry.kind, self.wal.reader());
                    let body = blocking(&self.wal, move || Ok(reader.body(&entry)?)).await?;
                    self.progress.borrow_mut().hold();
                    if let Some(vote) = self.add(sending, Part::Entry(id, kind, body)).await? {
                        return Ok(Some(vote));
                    }
                }
                self.progress.borrow_mut().release();
            }
        }
        self.flush(sending).await
    }

    async fn section(&self, mut file: SnapshotReader) -> Result<(SnapshotReader, Option<Bytes>), ShipError> {
        let read = move || {
            let section = file.section()?;
            Ok((file, section))
        };
        Ok(blocking(&self.wal, read).await?)
    }

    /// Adds a part, and sends a parcel if it is full. A vote is the end of it.
    async fn add<F>(
        &self,
        sending: &mut Sending<impl Fn(Message) -> F>,
        part: Part,
    ) -> Result<Option<VoteOf<TypeConfig>>, ShipError>
    where
        F: Future<Output = Result<Message, CallError>>,
    {
        let (Part::Section(bytes) | Part::Piece(bytes) | Part::Entry(_, _, bytes)) = &part;
        assert!(bytes.len() <= PART_BYTES_MAX, "sections are cut, and an entry was a message once");
        sending.bytes += bytes.len();
        sending.parts.push(part);
        if sending.bytes < PARCEL_BYTES && sending.parts.len() < PARCEL_PARTS {
            return Ok(None);
        }
        self.flush(sending).await
    }

    /// Sends the parts that were not sent yet.
    async fn flush<F>(
        &self,
        sending: &mut Sending<impl Fn(Message) -> F>,
    ) -> Result<Option<VoteOf<TypeConfig>>, ShipError>
    where
        F: Future<Output = Result<Message, CallError>>,
    {
        let before = sending.sum.parts;
        let (parts, bytes) = (std::mem::take(&mut sending.parts), std::mem::take(&mut sending.bytes));
        parts.iter().for_each(|part| sending.sum.add(part));
        if parts.is_empty() {
            return Ok(None);
        }
        match self.ask(sending, before, None, parts).await? {
            Receipt::GoOn => {}
            Receipt::Vote(vote) => return Ok(Some(vote)),
            Receipt::Wait | Receipt::BeginAgain => return Err(ShipError::Lost),
        }
        sleep(Duration::from_micros(bytes as u64 * 1_000_000 / BYTES_PER_SECOND)).await;
        Ok(None)
    }

    /// Says that all has been sent, until it was taken over.
    async fn finish<F>(&self, sending: &Sending<impl Fn(Message) -> F>) -> Result<VoteOf<TypeConfig>, ShipError>
    where
        F: Future<Output = Result<Message, CallError>>,
    {
        let sum = sending.sum;
        loop {
            match self.ask(sending, sum.parts, Some(sum), Vec::new()).await? {
                Receipt::Wait => sleep(ASK_EVERY).await,
                Receipt::Vote(vote) => return Ok(vote),
                Receipt::GoOn | Receipt::BeginAgain => return Err(ShipError::Lost),
            }
        }
    }

    async fn ask<F>(
        &self,
        sending: &Sending<impl Fn(Message) -> F>,
        before: u64,
        sum: Option<Sum>,
        parts: Vec<Part>,
    ) -> Result<Receipt, ShipError>
    where
        F: Future<Output = Result<Message, CallError>>,
    {
        let last = self.taken.meta.last_log_id.as_ref().map(entry_id).expect("a snapshot is as of an entry");
        let parcel = Parcel { vote: sending.vote, last, before, sum, parts };
        let answer = (sending.ask)(encode_parcel(parcel)).await?;
        decode_receipt(answer.head).map_err(ShipError::Answer)
    }
}

/// A section in parts of at most `bytes_max`.
fn cut(mut section: Bytes, bytes_max: usize) -> impl Iterator<Item = Part> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        is_over = section.len() <= bytes_max;
        Some(if is_over {
            Part::Section(std::mem::take(&mut section))
        } else {
            Part::Piece(section.split_to(bytes_max))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_cut_where_it_is_longer_than_a_part() {
        let piece = |text: &'static str| Part::Piece(Bytes::from(text));
        let section = |text: &'static str| Part::Section(Bytes::from(text));
        let parts = |text: &'static str| cut(Bytes::from(text), 4).collect::<Vec<_>>();
        assert_eq!(parts("abc"), [section("abc")]);
        assert_eq!(parts("abcd"), [section("abcd")]);
        assert_eq!(parts("abcdefghij"), [piece("abcd"), piece("efgh"), section("ij")]);
        assert_eq!(parts("abcdefgh"), [piece("abcd"), section("efgh")]);
    }
}
