//! A directory of files, as the WAL needs it: few operations, each with its durability stated.
//!
//! Three forms: [`RealDisk`](real::RealDisk) on a directory handle, [`MemoryDisk`](memory::MemoryDisk) for servers without
//! a data directory and for tests, and [`FaultyDisk`](faulty::FaultyDisk), which tears, refuses and loses on command.

pub(crate) mod faulty;
pub(crate) mod memory;
pub(crate) mod real;

use std::io::{self, IoSlice};
use std::ops::{Deref, Range};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What the name of a file in the making ends with. A crash may leave one; it holds nothing.
pub(crate) const PARTIAL_SUFFIX: &str = ".partial";

/// Parts that the kernel takes in one write: Linux's `UIO_MAXIOV`.
pub(crate) const PARTS_MAX: usize = 1024;

/// One directory; names are flat. All methods may block and may be called from any thread.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files.
    ///
    /// # Errors
    /// Whatever reading the directory says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of `bytes` zeros; its bytes and its directory entry are durable on return.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when there is no space; after any error nothing is left behind.
    fn create_filled(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Opens a file for reading and durable writing. The handle stays good when the file is renamed or removed.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none of this name.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file, durably.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none of this name.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file, durably, in place of whatever has the new name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none of the old name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes all names durable. The methods above do so themselves; but a process that was killed in one of them may have
    /// left a name that can be seen and is not on stable storage.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn sync(&self) -> io::Result<()>;

    /// Reads a small file whole.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none of this name.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Replaces a small file whole, durably: after a crash it holds either the old or the new bytes.
    ///
    /// # Errors
    /// After any error the old bytes are still there.
    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Begins a file that is written piece by piece, and has its name when it is finished.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn begin(&self, name: &str) -> io::Result<Box<dyn NewFile>>;
}

/// A file in the making. One that is dropped leaves nothing behind, or what a crash leaves.
pub trait NewFile: Send {
    /// Adds `bytes` at its end.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when there is no space. The file cannot be gone on with.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes it durable, and gives it its name in place of whatever has it: after a crash the name has the old bytes or the
    /// new ones.
    ///
    /// # Errors
    /// Whatever the disk says; the old bytes may be there or the new ones.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// An open file of fixed size.
pub trait DiskFile: Send + Sync + 'static {
    /// Its size.
    fn bytes(&self) -> u64;

    /// Writes `parts`, one after the other, from `position` on, within the file: one durable write, on stable storage
    /// when this returns. Position, addresses and lengths are multiples of [`BLOCK_BYTES`](crate::BLOCK_BYTES).
    ///
    /// # Errors
    /// Any error leaves unknown which sectors were written; the file must not be written again.
    fn write_durable(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// A descriptor of the file for writes that are durable as soon as they are done, if it has one. What holds for
    /// [`DiskFile::write_durable`] holds for them.
    fn direct(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Fills `into` from `position` on. Any alignment.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] beyond the end.
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()>;

    /// Makes durable whatever can be read: what a killed process has written may not be yet. Where a sync has failed, another
    /// one may say that all is well and write nothing; so `range`, whole blocks, is written once more as it is.
    ///
    /// # Errors
    /// Whatever the disk says; the file must not be written again then.
    fn settle(&self, range: Range<u64>) -> io::Result<()>;
}

/// Asserts what [`DiskFile::write_durable`] asks of its callers, and returns the bytes to be written.
pub(crate) fn assert_aligned(file_bytes: u64, position: u64, parts: &[impl Deref<Target = [u8]>]) -> u64 {
    const BLOCK: usize = crate::block::BLOCK_BYTES;
    assert!(position.is_multiple_of(BLOCK as u64), "a durable write begins at a block");
    let mut bytes = 0;
    for part in parts {
        assert!(part.as_ptr().addr().is_multiple_of(BLOCK), "a part's address is that of a block");
        assert!(part.len().is_multiple_of(BLOCK), "a part is whole blocks");
        bytes += part.len() as u64;
    }
    assert!(position + bytes <= file_bytes, "files do not grow");
    bytes
}
