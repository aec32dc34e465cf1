//! Snapshots: a group's state as of one entry, in one file beside its log. What is in them is their owner's business.
//!
//! ```text
//! file     [header][section]...[end]
//! header   [magic 8][log id u64][group u16][term u64][index u64][crc32c u32]
//! section  [len u32][crc32c u32]  then `len` bytes; the checksum is over the section's number, from 0 on, and the bytes
//! entry    a section whose `len` has its highest bit set: a frame as the log has them, of an entry that the log does not have
//! end      a section without bytes
//! ```
//! All numbers are little-endian. A file has its name only when it is whole and durable, and then takes the place of the
//! one before it; so there is one per group at most, and whatever it lacks or has too much is damage.
//!
//! A snapshot that came from another node is received into a file of its own. It takes the other's place only when its owner
//! wants it, and is removed when the log is opened before that. It *carries* the entries that its state names; so the log
//! may end before it, where the power was cut before the log could be told. One that is taken so that the log may go carries them,
//! too. Only such snapshots have the second version.

use std::fmt::Display;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use weir_types::GroupId;

use crate::carried::{self, Carried};
use crate::disk::{Disk, DiskFile, NewFile};
use crate::entry::EntryId;
use crate::error::WalError;
use crate::segment::SegmentFile;

/// The first bytes of every snapshot; the last of them is the format's version.
const MAGIC: [u8; 8] = *b"WEIRSNP\x01";
/// Those of one that carries entries.
const MAGIC_CARRYING: [u8; 8] = *b"WEIRSNP\x02";
const HEADER_BYTES: usize = 8 + 8 + 2 + 8 + 8 + 4;
const SECTION_HEAD_BYTES: usize = 8;
/// The longest section: more is read as damage before there is memory for it.
pub const SECTION_BYTES_MAX: usize = 1 << 30;
/// In the length of a section that is an entry.
const ENTRY_BIT: u32 = 1 << 31;

/// What the name of a snapshot ends with that was received and has not taken the current one's place.
pub(crate) const RECEIVED_SUFFIX: &str = ".received";

/// The snapshots of a log's groups. Every call of it, and of what it gives, blocks on the disk, and may be made from any
/// thread.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    log_id: u64,
}

/// A snapshot that is being written.
pub struct SnapshotWriter {
    file: Box<dyn NewFile>,
    group: GroupId,
    carries: bool,
    sections: u64,
    bytes: u64,
}

/// A snapshot that is being read.
pub struct SnapshotReader {
    file: Arc<SegmentFile>,
    last: EntryId,
    carries: bool,
    carried: Carried,
    position: u64,
    sections: u64,
}

impl Snapshots {
    pub(crate) fn new(disk: Arc<dyn Disk>, log_id: u64) -> Snapshots {
        Snapshots { disk, log_id }
    }

    /// Begins a snapshot of `group` as of its entry `last`.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn begin(&self, group: GroupId, last: EntryId) -> io::Result<SnapshotWriter> {
        self.begin_as(&name(group), group, last, false)
    }

    /// As [`Snapshots::begin`], one that carries entries.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn begin_carrying(&self, group: GroupId, last: EntryId) -> io::Result<SnapshotWriter> {
        self.begin_as(&name(group), group, last, true)
    }

    /// As [`Snapshots::begin_carrying`], one that came from another node: finished, it is not the current one yet. One at a
    /// time.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn begin_received(&self, group: GroupId, last: EntryId) -> io::Result<SnapshotWriter> {
        self.begin_as(&received_name(group), group, last, true)
    }

    /// Begins to read the snapshot that was received.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when its header is damaged, [`WalError::Io`] from the disk, also when there is none.
    pub fn received(&self, group: GroupId) -> Result<SnapshotReader, WalError> {
        let name = received_name(group);
        let file = self.disk.open(&name).map_err(|source| WalError::io(&name, source))?;
        SnapshotReader::begin(file, name).map(|(reader, _, _)| reader)
    }

    /// Makes the snapshot that was received the group's current one, durably. What is being read of either goes on.
    ///
    /// # Errors
    /// Whatever the disk says; the one before it is the current one then, or this one.
    pub fn promote(&self, group: GroupId) -> io::Result<()> {
        self.disk.rename(&received_name(group), &name(group))
    }

    /// Removes the snapshot that was received, if there is one.
    ///
    /// # Errors
    /// Whatever the disk says. It is removed when the log is opened.
    pub fn forget_received(&self, group: GroupId) -> io::Result<()> {
        match self.disk.remove(&received_name(group)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn begin_as(&self, name: &str, group: GroupId, last: EntryId, carries: bool) -> io::Result<SnapshotWriter> {
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_slice(if carries { &MAGIC_CARRYING } else { &MAGIC });
        header.put_u64_le(self.log_id);
        header.put_u16_le(group.0);
        header.put_u64_le(last.term);
        header.put_u64_le(last.index);
        header.put_u32_le(crc32c::crc32c(&header));
        let mut file = self.disk.begin(name)?;
        file.write(&header)?;
        Ok(SnapshotWriter { file, group, carries, sections: 0, bytes: HEADER_BYTES as u64 })
    }

    /// Begins to read the group's current snapshot, if it has one. It stays what it is when another takes its place.
    ///
    /// # Errors
    /// As for any snapshot that is opened.
    pub fn current(&self, group: GroupId) -> Result<Option<SnapshotReader>, WalError> {
        self.open(group, None, Some(EntryId { index: u64::MAX, term: u64::MAX }))
    }

    /// Begins to read the group's snapshot, if it has one. Its log goes on behind `purged`, up to `last`.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when it is damaged, is not there though the log needs it, or is as of an entry that the log no
    /// longer or not yet has; [`WalError::Foreign`] when it is another log's or group's, [`WalError::Format`] when it is
    /// another version's, [`WalError::Io`] from the disk.
    pub(crate) fn open(
        &self,
        group: GroupId,
        purged: Option<EntryId>,
        last: Option<EntryId>,
    ) -> Result<Option<SnapshotReader>, WalError> {
        let name = name(group);
        let file = match self.disk.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match purged {
                    None => Ok(None),
                    Some(purged) => {
                        let reason =
                            format!("the snapshot is missing, and the log begins behind entry {}", purged.index);
                        Err(WalError::corrupt(&name, 0, reason))
                    }
                };
            }
            Err(error) => return Err(WalError::io(&name, error)),
        };
        let (reader, log_id, of_group) = SnapshotReader::begin(file, name)?;
        if (log_id, of_group) != (self.log_id, group) {
            let reason = format!(
                "the snapshot is of group {of_group} of the log {log_id:016x}, and group {group} of {:016x} belongs here",
                self.log_id
            );
            return Err(WalError::foreign(reader.name(), 0, reason));
        }
        if let Some(purged) = purged
            && reader.last.index < purged.index
        {
            let (at, begin) = (reader.last.index, purged.index);
            let reason = format!("the snapshot is as of entry {at}, and the log begins behind entry {begin}");
            return Err(WalError::corrupt(reader.name(), 0, reason));
        }
        // What a snapshot is as of was durable before it. To go on without would give up the entries that hold its bytes, unless it
        // carries them.
        if !reader.carries && last.is_none_or(|last| reader.last.index > last.index) {
            let (at, end) = (reader.last.index, last.map_or(0, |last| last.index));
            let reason =
                format!("the snapshot is as of entry {at}, and the log ends with entry {end}: its end is lost");
            return Err(WalError::corrupt(reader.name(), 0, reason));
        }
        Ok(Some(reader))
    }
}

impl SnapshotWriter {
    /// Adds a section, which is not empty.
    ///
    /// # Errors
    /// Whatever the disk says. The snapshot cannot be gone on with.
    pub fn section(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(!bytes.is_empty(), "a section without bytes is the end");
        assert!(bytes.len() <= SECTION_BYTES_MAX, "sections are pieces");
        self.put(bytes, 0)
    }

    /// Adds an entry that the snapshot carries. They come in the order of their indices.
    ///
    /// # Errors
    /// Whatever the disk says. The snapshot cannot be gone on with.
    pub fn entry(&mut self, id: EntryId, kind: u8, body: &[u8]) -> io::Result<()> {
        assert!(self.carries, "it was begun as one that carries entries");
        let frame = carried::frame(self.group, id, kind, body);
        assert!(frame.len() <= SECTION_BYTES_MAX, "an entry fits into a segment");
        self.put(&frame, ENTRY_BIT)
    }

    /// Makes the snapshot durable, and the group's current one if it was not received; returns its size.
    ///
    /// # Errors
    /// Whatever the disk says; the one before it is there then, or this one.
    pub fn finish(mut self) -> io::Result<u64> {
        self.put(&[], 0)?;
        self.file.finish()?;
        Ok(self.bytes)
    }

    fn put(&mut self, bytes: &[u8], bit: u32) -> io::Result<()> {
        let mut head = BytesMut::with_capacity(SECTION_HEAD_BYTES);
        head.put_u32_le(bytes.len() as u32 | bit);
        head.put_u32_le(section_crc(self.sections, bit, bytes));
        self.file.write(&head)?;
        if !bytes.is_empty() {
            self.file.write(bytes)?;
        }
        self.sections += 1;
        self.bytes += (SECTION_HEAD_BYTES + bytes.len()) as u64;
        Ok(())
    }
}

impl SnapshotReader {
    /// Begins to read a snapshot of `group` that is in memory, and was any log's.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when its header is damaged, [`WalError::Foreign`] when it is another group's,
    /// [`WalError::Format`] when it is another version's.
    pub fn of_bytes(group: GroupId, bytes: Bytes) -> Result<SnapshotReader, WalError> {
        let (reader, _, of_group) = SnapshotReader::begin(Arc::new(InMemory(bytes)), name(group))?;
        if of_group != group {
            let reason = format!("the snapshot is of group {of_group}, and group {group} belongs here");
            return Err(WalError::foreign(reader.name(), 0, reason));
        }
        Ok(reader)
    }

    /// Reads the header; also gives the log and the group that the snapshot is of.
    fn begin(file: Arc<dyn DiskFile>, name: String) -> Result<(SnapshotReader, u64, GroupId), WalError> {
        let file = Arc::new(SegmentFile { name, salt: carried::SALT, file });
        let header = read(&file, 0, HEADER_BYTES)?;
        let mut fields = &header[..];
        let mut magic = [0; MAGIC.len()];
        fields.copy_to_slice(&mut magic);
        if magic[..7] != MAGIC[..7]
            || crc32c::crc32c(&header[..HEADER_BYTES - 4]) != (&header[HEADER_BYTES - 4..]).get_u32_le()
        {
            return Err(WalError::corrupt(&file.name, 0, "the snapshot's header is damaged"));
        }
        let carries = magic == MAGIC_CARRYING;
        if magic != MAGIC && !carries {
            let reason = format!("snapshot format {} is not known to this version", magic[7]);
            return Err(WalError::Format { file: file.name.clone(), reason });
        }
        let (log_id, group) = (fields.get_u64_le(), GroupId(fields.get_u16_le()));
        let last = EntryId { term: fields.get_u64_le(), index: fields.get_u64_le() };
        let carried = Carried::new(file.clone(), group);
        let reader = SnapshotReader { file, last, carries, carried, position: HEADER_BYTES as u64, sections: 0 };
        Ok((reader, log_id, group))
    }

    fn name(&self) -> &str {
        &self.file.name
    }

    /// The same snapshot, from its first section on.
    pub fn again(&self) -> SnapshotReader {
        let (file, last, carries) = (self.file.clone(), self.last, self.carries);
        let carried = Carried::new(file.clone(), self.carried.group());
        SnapshotReader { file, last, carries, carried, position: HEADER_BYTES as u64, sections: 0 }
    }

    /// The entries that were met among the sections read so far.
    pub fn carried(&self) -> &Carried {
        &self.carried
    }

    /// The entry that it is as of.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.file.file.bytes()
    }

    /// Fills `into` with bytes of its file from `position` on, as they are.
    ///
    /// # Errors
    /// [`WalError::Io`] from the disk, or beyond the file's end.
    pub fn read_raw(&self, position: u64, into: &mut [u8]) -> Result<(), WalError> {
        self.file.file.read_at(position, into).map_err(|source| WalError::io(self.name(), source))
    }

    /// The error for a snapshot whose bytes are as they were written, and make no sense to its owner.
    pub fn damaged(&self, reason: impl Display) -> WalError {
        WalError::corrupt(self.name(), self.position, format!("the snapshot makes no sense: {reason}"))
    }

    /// The next section that is no entry; `None` at the end. Entries in between are taken note of.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when it is not as it was written, [`WalError::Io`] from the disk.
    pub fn section(&mut self) -> Result<Option<Bytes>, WalError> {
        loop {
            let begin = self.position;
            let head = self.take(SECTION_HEAD_BYTES)?;
            let (len, crc) = ((&head[..4]).get_u32_le(), (&head[4..]).get_u32_le());
            let bit = if self.carries { len & ENTRY_BIT } else { 0 };
            let bytes = (len ^ bit) as usize;
            let damaged = || WalError::corrupt(&self.file.name, begin, "a section of the snapshot is damaged");
            if bytes > SECTION_BYTES_MAX {
                return Err(damaged());
            }
            let body = read(&self.file, self.position, bytes)?;
            let end = self.position + bytes as u64;
            if section_crc(self.sections, bit, &body) != crc || (body.is_empty() && (bit != 0 || end != self.bytes())) {
                return Err(damaged());
            }
            if bit != 0 && self.carried.add(&body, self.position, self.last).is_none() {
                return Err(damaged());
            }
            (self.position, self.sections) = (end, self.sections + 1);
            if bit == 0 {
                return Ok((!body.is_empty()).then_some(body));
            }
        }
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes, WalError> {
        let taken = read(&self.file, self.position, bytes)?;
        self.position += bytes as u64;
        Ok(taken)
    }
}

/// So many bytes of a snapshot's file.
fn read(file: &SegmentFile, position: u64, bytes: usize) -> Result<Bytes, WalError> {
    if file.file.bytes() - position < bytes as u64 {
        return Err(WalError::corrupt(&file.name, position, "the snapshot ends too early"));
    }
    let mut buf = BytesMut::zeroed(bytes);
    file.file.read_at(position, &mut buf).map_err(|source| WalError::io(&file.name, source))?;
    Ok(buf.freeze())
}

/// A snapshot's file that is in memory, to be read.
struct InMemory(Bytes);

impl DiskFile for InMemory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn write_durable(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        let begin = usize::try_from(position).unwrap_or(usize::MAX);
        let found = begin.checked_add(into.len()).and_then(|end| self.0.get(begin..end));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn settle(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

/// In the order of the groups when names are sorted.
fn name(group: GroupId) -> String {
    format!("group-{:05}.snapshot", group.0)
}

/// That of one under way from another node.
fn received_name(group: GroupId) -> String {
    format!("group-{:05}{RECEIVED_SUFFIX}", group.0)
}

fn section_crc(number: u64, bit: u32, bytes: &[u8]) -> u32 {
    let number = number | u64::from(bit) << 32;
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), bytes)
}

#[cfg(test)]
mod tests;
