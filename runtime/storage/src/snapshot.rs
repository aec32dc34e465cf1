//! Snapshots: a group's state as of one entry, in one file beside its log. What is in them is their owner's business.
//!
//! ```text
//! file     [header][section]...[end]
//! header   [magic 8][log id u64][group u16][term u64][index u64][crc32c u32]
//! section  [len u32][crc32c u32]  then `len` bytes; the checksum is over the section's number, from 0 on, and the bytes
//! end      a section without bytes
//! ```
//! All numbers are little-endian. A file has its name only when it is whole and durable, and then takes the place of the
//! one before it; so there is one per group at most, and whatever it lacks or has too much is damage.

use std::fmt::Display;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use weir_types::GroupId;

use crate::disk::{Disk, DiskFile, NewFile};
use crate::entry::EntryId;
use crate::error::WalError;

/// The first bytes of every snapshot; the last of them is the format's version.
const MAGIC: [u8; 8] = *b"WEIRSNP\x01";
const HEADER_BYTES: usize = 8 + 8 + 2 + 8 + 8 + 4;
const SECTION_HEAD_BYTES: usize = 8;
/// The longest section: more is read as damage before there is memory for it.
const SECTION_BYTES_MAX: usize = 1 << 30;

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
    sections: u64,
    bytes: u64,
}

/// A snapshot that is being read.
pub struct SnapshotReader {
    file: Arc<dyn DiskFile>,
    name: String,
    last: EntryId,
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
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_slice(&MAGIC);
        header.put_u64_le(self.log_id);
        header.put_u16_le(group.0);
        header.put_u64_le(last.term);
        header.put_u64_le(last.index);
        header.put_u32_le(crc32c::crc32c(&header));
        let mut file = self.disk.begin(&name(group))?;
        file.write(&header)?;
        Ok(SnapshotWriter { file, sections: 0, bytes: HEADER_BYTES as u64 })
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
            return Err(WalError::foreign(&reader.name, 0, reason));
        }
        if let Some(purged) = purged
            && reader.last.index < purged.index
        {
            let (at, begin) = (reader.last.index, purged.index);
            let reason = format!("the snapshot is as of entry {at}, and the log begins behind entry {begin}");
            return Err(WalError::corrupt(&reader.name, 0, reason));
        }
        // What a snapshot is as of was durable before it. To go on without would give up the entries that hold its bytes.
        if last.is_none_or(|last| reader.last.index > last.index) {
            let (at, end) = (reader.last.index, last.map_or(0, |last| last.index));
            let reason =
                format!("the snapshot is as of entry {at}, and the log ends with entry {end}: its end is lost");
            return Err(WalError::corrupt(&reader.name, 0, reason));
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
        self.put(bytes)
    }

    /// Makes the snapshot the group's current one, durably; returns its size.
    ///
    /// # Errors
    /// Whatever the disk says; the one before it is there then, or this one.
    pub fn finish(mut self) -> io::Result<u64> {
        self.put(&[])?;
        self.file.finish()?;
        Ok(self.bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut head = BytesMut::with_capacity(SECTION_HEAD_BYTES);
        head.put_u32_le(bytes.len() as u32);
        head.put_u32_le(section_crc(self.sections, bytes));
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
            return Err(WalError::foreign(&reader.name, 0, reason));
        }
        Ok(reader)
    }

    /// Reads the header; also gives the log and the group that the snapshot is of.
    fn begin(file: Arc<dyn DiskFile>, name: String) -> Result<(SnapshotReader, u64, GroupId), WalError> {
        let mut reader = SnapshotReader { file, name, last: EntryId { index: 0, term: 0 }, position: 0, sections: 0 };
        let header = reader.read(HEADER_BYTES)?;
        let mut fields = &header[..];
        let mut magic = [0; MAGIC.len()];
        fields.copy_to_slice(&mut magic);
        if magic[..7] != MAGIC[..7]
            || crc32c::crc32c(&header[..HEADER_BYTES - 4]) != (&header[HEADER_BYTES - 4..]).get_u32_le()
        {
            return Err(WalError::corrupt(&reader.name, 0, "the snapshot's header is damaged"));
        }
        if magic != MAGIC {
            let reason = format!("snapshot format {} is not known to this version", magic[7]);
            return Err(WalError::Format { file: reader.name, reason });
        }
        let (log_id, group) = (fields.get_u64_le(), GroupId(fields.get_u16_le()));
        reader.last = EntryId { term: fields.get_u64_le(), index: fields.get_u64_le() };
        Ok((reader, log_id, group))
    }

    /// The entry that it is as of.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Fills `into` with bytes of its file from `position` on, as they are.
    ///
    /// # Errors
    /// [`WalError::Io`] from the disk, or beyond the file's end.
    pub fn read_raw(&self, position: u64, into: &mut [u8]) -> Result<(), WalError> {
        self.file.read_at(position, into).map_err(|source| WalError::io(&self.name, source))
    }

    /// The error for a snapshot whose bytes are as they were written, and make no sense to its owner.
    pub fn damaged(&self, reason: impl Display) -> WalError {
        WalError::corrupt(&self.name, self.position, format!("the snapshot makes no sense: {reason}"))
    }

    /// The next section; `None` at the end.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when it is not as it was written, [`WalError::Io`] from the disk.
    pub fn section(&mut self) -> Result<Option<Bytes>, WalError> {
        let begin = self.position;
        let head = self.read(SECTION_HEAD_BYTES)?;
        let (bytes, crc) = ((&head[..4]).get_u32_le() as usize, (&head[4..]).get_u32_le());
        let damaged = |reader: &SnapshotReader| {
            Err(WalError::corrupt(&reader.name, begin, "a section of the snapshot is damaged"))
        };
        if bytes > SECTION_BYTES_MAX {
            return damaged(self);
        }
        let body = self.read(bytes)?;
        if section_crc(self.sections, &body) != crc || (body.is_empty() && self.position != self.file.bytes()) {
            return damaged(self);
        }
        self.sections += 1;
        Ok((!body.is_empty()).then_some(body))
    }

    fn read(&mut self, bytes: usize) -> Result<Bytes, WalError> {
        if self.file.bytes() - self.position < bytes as u64 {
            return Err(WalError::corrupt(&self.name, self.position, "the snapshot ends too early"));
        }
        let mut buf = BytesMut::zeroed(bytes);
        self.file.read_at(self.position, &mut buf).map_err(|source| WalError::io(&self.name, source))?;
        self.position += bytes as u64;
        Ok(buf.freeze())
    }
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

fn section_crc(number: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::FaultyDisk;

    const GROUP: GroupId = GroupId(3);

    fn snapshots(disk: &FaultyDisk) -> Snapshots {
        Snapshots::new(Arc::new(disk.clone()), 7)
    }

    fn write(disk: &FaultyDisk, index: u64, sections: &[&[u8]]) -> io::Result<u64> {
        let mut writer = snapshots(disk).begin(GROUP, EntryId { index, term: 2 })?;
        sections.iter().try_for_each(|section| writer.section(section))?;
        writer.finish()
    }

    fn read(snapshots: &Snapshots) -> Result<Option<(u64, Vec<Bytes>)>, WalError> {
        let Some(mut reader) = snapshots.open(GROUP, None, Some(EntryId { index: 100, term: 2 }))? else {
            return Ok(None);
        };
        let mut sections = Vec::new();
        while let Some(section) = reader.section()? {
            sections.push(section);
        }
        Ok(Some((reader.last().index, sections)))
    }

    #[test]
    fn a_snapshot_reads_back_as_written_and_replaces_the_one_before() {
        let disk = FaultyDisk::new(1 << 20, 1);
        assert_eq!(read(&snapshots(&disk)).expect("there is none"), None);
        for (index, sections) in [(5, vec![&b"one"[..], b"two"]), (9, vec![&b"three"[..]])] {
            let bytes = write(&disk, index, &sections).expect("there is space");
            let (last, found) = read(&snapshots(&disk)).expect("as it was written").expect("it is there");
            assert_eq!((last, found), (index, sections.iter().map(|section| Bytes::from(section.to_vec())).collect()));
            assert_eq!(disk.list().expect("it can be listed"), [name(GROUP)]);
            assert_eq!(bytes, disk.open(&name(GROUP)).expect("it is there").bytes());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_lost_end_is_noticed() {
        let disk = FaultyDisk::new(1 << 20, 1);
        let bytes = write(&disk, 5, &[b"one", b"two"]).expect("there is space");
        let whole = disk.read(&name(GROUP)).expect("it is there");
        for bit in 0..bytes * 8 {
            let damaged = disk.copy();
            damaged.flip_bit(&name(GROUP), bit / 8, (bit % 8) as u8).expect("it is there");
            assert!(read(&snapshots(&damaged)).is_err(), "bit {bit}");
        }
        for kept in 0..whole.len() {
            disk.write_atomic(&name(GROUP), &whole[..kept]).expect("there is space");
            assert!(read(&snapshots(&disk)).is_err(), "{kept} bytes");
        }
        disk.write_atomic(&name(GROUP), &[&whole[..], b"x"].concat()).expect("there is space");
        assert!(read(&snapshots(&disk)).is_err(), "bytes follow");
    }

    #[test]
    fn sections_in_another_order_and_another_groups_snapshot_are_noticed() {
        let disk = FaultyDisk::new(1 << 20, 1);
        write(&disk, 5, &[b"one", b"two"]).expect("there is space");
        let mut bytes = disk.read(&name(GROUP)).expect("it is there");
        let section = SECTION_HEAD_BYTES + 3;
        bytes[HEADER_BYTES..HEADER_BYTES + 2 * section].rotate_left(section);
        disk.write_atomic(&name(GROUP), &bytes).expect("there is space");
        assert!(matches!(read(&snapshots(&disk)), Err(WalError::Corrupt { .. })));

        write(&disk, 5, &[b"one"]).expect("there is space");
        let other = Snapshots::new(Arc::new(disk.clone()), 8);
        assert!(matches!(read(&other), Err(WalError::Foreign { .. })));
        disk.rename(&name(GROUP), &name(GroupId(4))).expect("it is there");
        assert!(matches!(snapshots(&disk).open(GroupId(4), None, None), Err(WalError::Foreign { .. })));
    }

    #[test]
    fn a_power_cut_leaves_the_old_snapshot_or_the_new_one() {
        let mut seen = [false; 2];
        for seed in 0..8 {
            for operation in 1.. {
                let disk = FaultyDisk::new(1 << 20, seed);
                write(&disk, 5, &[b"old"]).expect("there is space");
                let before = disk.operations();
                disk.cut_power_at(before + operation);
                let written = write(&disk, 9, &[b"new", b"er"]);
                if disk.has_power() {
                    break;
                }
                written.expect_err("the power was cut");
                let (last, sections) = read(&snapshots(&disk.crash())).expect("a whole one").expect("one is there");
                seen[usize::from(last == 9)] = true;
                assert_eq!((last, sections.len()), if last == 9 { (9, 2) } else { (5, 1) });
            }
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn a_full_disk_leaves_the_old_snapshot() {
        let disk = FaultyDisk::new(1 << 20, 1);
        write(&disk, 5, &[b"old"]).expect("there is space");
        disk.set_full(true);
        let error = write(&disk, 9, &[b"new"]).expect_err("it is full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&snapshots(&disk)).expect("it is whole").expect("it is there").0, 5);
    }
}
