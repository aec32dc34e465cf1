//! The mark: a small file beside the segments that says whose log this is and how far it certainly goes.
//!
//! A log alone cannot tell whether its end is missing: an emptied folder looks like a new log, and a newest segment that
//! is gone, or an older copy of itself, looks like a torn end. So a second place keeps the sequence number of a frame
//! that was durable and the segment that it is in. It is written
//!
//! - when the log is formed, with the log's identity, before anything names the log;
//! - with the first unit of every segment, before anyone hears that the unit is durable;
//! - about a second after whatever was written since, and when the log is stopped.
//!
//! What was written since the mark is the only part of a log whose loss can be taken for a torn end.
//!
//! ```text
//! two blocks, written in turn, so that one of them is whole at any time; the greater number counts
//!  0 magic "WEIRMRK" and version     24 sequence number of a durable frame
//!  8 identity of the log             32 crc32c of the bytes before
//! 16 number of the frame's segment
//! ```

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BLOCK_BYTES, Unsealed, seal, unseal};
use crate::disk::{Disk, DiskFile, PARTIAL_SUFFIX};
use crate::durable_write::DurableWrite;
use crate::error::WalError;

/// The file's name.
pub(crate) const MARK_FILE: &str = "mark";
/// Bytes that a log takes on disk beside its segments.
pub const MARK_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// The first bytes of every block; the last of them is the format's version.
const MAGIC: [u8; 8] = *b"WEIRMRK\x01";

/// What the mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The log's identity: random, and never that of another log.
    pub(crate) log_id: u64,
    /// Number of the newest segment that has anything in it; 0 for none.
    pub(crate) segment: u32,
    /// Sequence number of a frame that was durable; 0 for none.
    pub(crate) seq: u64,
}

/// What a block of the file is.
enum Parsed {
    Mark(Mark),
    OtherVersion(u8),
    Zeros,
    Nothing,
}

impl Mark {
    fn to_block(self) -> Bytes {
        seal(MAGIC, [self.log_id, self.segment.into(), self.seq])
    }

    fn parse(block: &[u8]) -> Parsed {
        if block.iter().all(|&byte| byte == 0) {
            return Parsed::Zeros;
        }
        match unseal(MAGIC, block) {
            Unsealed::Numbers([log_id, segment, seq]) => match segment.try_into() {
                Ok(segment) => Parsed::Mark(Mark { log_id, segment, seq }),
                Err(_) => Parsed::Nothing,
            },
            Unsealed::OtherVersion(version) => Parsed::OtherVersion(version),
            Unsealed::Nothing => Parsed::Nothing,
        }
    }

    /// Writes the mark of a log that has nothing in it yet. `disk` holds nothing, or what a forming has left that did not
    /// end.
    ///
    /// # Errors
    /// [`WalError::Foreign`] when there is anything else.
    pub(crate) fn form(disk: &dyn Disk, log_id: u64) -> Result<(), WalError> {
        let failed = |source| WalError::io(MARK_FILE, source);
        for name in disk.list().map_err(|source| WalError::io("", source))? {
            let is_left = name.ends_with(PARTIAL_SUFFIX)
                || (name == MARK_FILE && MarkFile::open(disk)?.is_some_and(|(_, mark)| mark.seq == 0));
            if !is_left {
                return Err(WalError::foreign(&name, 0, "it is in the way of a new log"));
            }
        }
        let mut bytes = Mark { log_id, segment: 0, seq: 0 }.to_block().to_vec();
        bytes.resize(MARK_BYTES as usize, 0);
        disk.write_atomic(MARK_FILE, &bytes).map_err(failed)
    }

    /// Checks that the log in `disk` is `log_id`.
    ///
    /// # Errors
    /// [`WalError::Foreign`] when it is another one, or none.
    pub(crate) fn check(disk: &dyn Disk, log_id: u64) -> Result<(), WalError> {
        let found = MarkFile::require(disk)?.1.log_id;
        if found == log_id {
            return Ok(());
        }
        let reason = format!("this is the log {found:016x}, and {log_id:016x} belongs here");
        Err(WalError::foreign(MARK_FILE, 8, reason))
    }
}

/// The open file of a mark.
pub(crate) struct MarkFile {
    file: Arc<dyn DiskFile>,
    /// Which block is written next.
    next: u64,
}

impl MarkFile {
    /// The file and what it says; `None` when there is no such file.
    fn open(disk: &dyn Disk) -> Result<Option<(MarkFile, Mark)>, WalError> {
        let failed = |source| WalError::io(MARK_FILE, source);
        let file = match disk.open(MARK_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        if file.bytes() != MARK_BYTES {
            let reason = format!("the file has {} bytes instead of {MARK_BYTES}", file.bytes());
            return Err(WalError::corrupt(MARK_FILE, file.bytes().min(MARK_BYTES), reason));
        }
        // What a killed process has written may be in memory only, and is believed from here on.
        file.settle(0..MARK_BYTES).map_err(failed)?;
        let mut blocks = vec![0; MARK_BYTES as usize];
        file.read_at(0, &mut blocks).map_err(failed)?;
        let mut newest: Option<(u64, Mark)> = None;
        let mut unreadable = None;
        for (number, block) in (0..).zip(blocks.chunks_exact(BLOCK_BYTES)) {
            match Mark::parse(block) {
                Parsed::Mark(mark) if newest.is_none_or(|(_, other)| mark.seq > other.seq) => {
                    newest = Some((number, mark));
                }
                Parsed::Mark(_) | Parsed::Zeros => {}
                Parsed::OtherVersion(version) => {
                    let reason = format!("format {version} of a log's mark is not known to this version");
                    return Err(WalError::Format { file: MARK_FILE.to_string(), reason });
                }
                Parsed::Nothing => unreadable = Some(number * BLOCK_BYTES as u64),
            }
        }
        match (newest, unreadable) {
            (Some((number, mark)), None) => Ok(Some((MarkFile { file, next: 1 - number }, mark))),
            (_, at) => {
                // A sector is written whole or not at all, so no crash leaves this.
                Err(WalError::corrupt(MARK_FILE, at.unwrap_or(0), "the mark's checksum does not fit its bytes"))
            }
        }
    }

    /// As above, of a log that was formed.
    pub(crate) fn require(disk: &dyn Disk) -> Result<(MarkFile, Mark), WalError> {
        let missing = || WalError::foreign(MARK_FILE, 0, "the file is missing, and the log with it");
        MarkFile::open(disk)?.ok_or_else(missing)
    }

    /// The next write: it replaces the older of the two blocks.
    pub(crate) fn write(&mut self, mark: Mark) -> DurableWrite {
        let position = self.next * BLOCK_BYTES as u64;
        assert!(position < MARK_BYTES, "there are two blocks");
        self.next = 1 - self.next;
        DurableWrite { file: self.file.clone(), position, parts: vec![mark.to_block()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::MemoryDisk;

    /// The magic, three numbers and the checksum.
    const SEALED_BYTES: usize = 36;

    fn write(file: &mut MarkFile, mark: Mark) {
        file.write(mark).carry_out().expect("a good disk");
    }

    #[test]
    fn the_newer_of_two_blocks_counts() {
        let disk = MemoryDisk::new(1 << 20);
        Mark::form(&disk, 7).expect("an empty disk");
        for seq in 1..6 {
            let (mut file, _) = MarkFile::require(&disk).expect("formed");
            write(&mut file, Mark { log_id: 7, segment: 1, seq });
            let (_, mark) = MarkFile::require(&disk).expect("written");
            assert_eq!(mark, Mark { log_id: 7, segment: 1, seq });
        }
        assert!(Mark::check(&disk, 7).is_ok());
        let refused = Mark::check(&disk, 8).expect_err("another log").to_string();
        assert!(refused.contains("mark at byte 8: this is the log 0000000000000007"), "{refused}");
    }

    #[test]
    fn a_log_is_formed_only_where_there_is_none() {
        let disk = MemoryDisk::new(1 << 20);
        Mark::form(&disk, 7).expect("an empty disk");
        Mark::form(&disk, 8).expect("nothing was written since");
        let (mut file, mark) = MarkFile::require(&disk).expect("formed");
        assert_eq!(mark.log_id, 8);
        write(&mut file, Mark { log_id: 8, segment: 1, seq: 1 });
        assert!(matches!(Mark::form(&disk, 9), Err(WalError::Foreign { .. })));
        disk.remove(MARK_FILE).expect("there");
        assert!(matches!(Mark::check(&disk, 8), Err(WalError::Foreign { .. })));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let disk = MemoryDisk::new(1 << 20);
        Mark::form(&disk, 7).expect("an empty disk");
        let (mut file, _) = MarkFile::require(&disk).expect("formed");
        write(&mut file, Mark { log_id: 7, segment: 1, seq: 1 });
        for block in [0, BLOCK_BYTES] {
            for bit in 0..SEALED_BYTES * 8 {
                let byte = block + bit / 8;
                let flip = || disk.file(MARK_FILE).expect("there").content()[byte] ^= 1 << (bit % 8);
                flip();
                assert!(MarkFile::open(&disk).is_err(), "bit {bit} of the block at {block}");
                flip();
            }
        }
    }
}
