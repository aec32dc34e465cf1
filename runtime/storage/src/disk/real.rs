//! A directory of the machine, reached only through the handle it was opened with.
//!
//! A file has two descriptors. Writes go through one opened with `O_DIRECT | O_DSYNC` where the file system allows: one
//! system call makes a write durable, without the page cache (`append-costs.md`: 32 thousand instructions per sync where
//! `fdatasync` takes 55). Elsewhere they are buffered and followed by `fdatasync`. Reads go through a second, buffered
//! descriptor, so that they may have any alignment. Linux drops the pages that a direct write covers, so that the two
//! agree for all that is read after the write has returned.
//!
//! Where the file system is known to make such a write durable also when the kernel does it by itself (`io_uring`), it may.
//! The kernel then goes on when the process has been killed, so whoever opens the directory next waits: a write under way
//! holds its file, one that has not begun the process's descriptors until it is given up, and the file a lock.
//!
//! That a write never runs out of space is the file system's promise for bytes that were written before. One that copies
//! on every write (btrfs, ZFS) does not give it: when such a disk is full, the log ends as at any failed write.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};
use rustix::fs::{
    Advice, FallocateFlags, FlockOperation, FsWord, OFlags, fadvise, fallocate, flock, fstatfs, fstatvfs,
};
use rustix::io::{Errno, pread, pwritev, retry_on_intr};

use super::{Disk, DiskFile, NewFile, PARTIAL_SUFFIX, PARTS_MAX, assert_aligned};
use crate::block::{block_buf, zero_block};

/// `O_DSYNC` as most Linux architectures number it (`asm-generic/fcntl.h`). `OFlags::DSYNC` of rustix 1.1 is `O_SYNC`,
/// which makes the file's times durable too: a journal commit for every write.
const O_DSYNC: OFlags = OFlags::from_bits_retain(0o10000);
/// What `fstatfs` says of a file system in memory (`statfs(2)`).
const TMPFS_MAGIC: FsWord = 0x0102_1994;
/// What it says of ext4 and XFS, which sync a direct write that the kernel does by itself before it says that it is done. FUSE
/// does not, nor do some kernels' Btrfs.
const RING_MAGIC: [FsWord; 2] = [0xef53, 0x5846_5342];
/// How long a start waits for the writes of the process before it.
const WRITES_END_WITHIN: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes that are read and written again at a time.
const SETTLE_BYTES: usize = 1 << 20;
/// Bytes that are written at a time while a file is filled: so few that a write of the log that comes behind them is hardly later.
const FILL_BYTES: usize = 256 << 10;
/// Bytes that are written and synced at a time through the page cache while a file is made: few, so that the log's own writes
/// never queue behind many.
const SYNC_BYTES: usize = 2 << 20;

/// A directory behind a handle.
pub struct RealDisk {
    dir: Dir,
}

/// An open file: see the module for the two descriptors.
struct RealFile {
    writes: File,
    reads: File,
    bytes: u64,
    is_direct: bool,
    /// Whether the kernel may write by itself; then `writes` holds a shared lock.
    is_for_ring: bool,
}

impl RealDisk {
    /// The files of `dir`. Waits for the writes that a killed process has left to the kernel.
    ///
    /// # Errors
    /// Whatever reading the directory says; [`io::ErrorKind::TimedOut`] when such a write does not end for a minute.
    pub fn new(dir: Dir) -> io::Result<RealDisk> {
        let disk = RealDisk { dir };
        if RING_MAGIC.contains(&fstatfs(disk.dir.open(".")?)?.f_type) {
            for name in disk.list()? {
                // What cannot be opened is met again by whoever needs it.
                if let Ok(file) = disk.dir.open(&name) {
                    wait_for_writes(&file, &name)?;
                }
            }
        }
        Ok(disk)
    }

    /// Makes new, renamed and removed names durable.
    fn sync_dir(&self) -> io::Result<()> {
        // The directory is opened again because its own handle may be one that only names it (`O_PATH`).
        self.dir.open(".")?.sync_all()
    }

    /// Writes a file under another name and renames it when it is whole; after an error neither is there.
    fn write_whole(&self, name: &str, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let partial = format!("{name}{PARTIAL_SUFFIX}");
        let write_and_sync = || {
            let mut options = OpenOptions::new();
            let file = self.dir.open_with(&partial, options.write(true).create(true).truncate(true))?;
            write(&file)?;
            file.sync_all()?;
            self.dir.rename(&partial, &self.dir, name)
        };
        if let Err(error) = write_and_sync() {
            // The first error is the one to report; a partial file that stays is removed when the WAL is opened.
            drop(self.dir.remove_file(&partial));
            return Err(error);
        }
        self.sync_dir()
    }

    /// The file past the page cache, with further `flags`.
    fn open_direct(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let flags = (OFlags::DIRECT | flags).bits() as i32;
        let file = self.dir.open_with(name, options.read(true).write(true).custom_flags(flags))?;
        // In memory there is no disk to be waited for, and the page cache is the shortest way.
        if fstatfs(&file)?.f_type == TMPFS_MAGIC {
            return Err(io::Error::from(Errno::OPNOTSUPP));
        }
        // Some file systems take the flag and refuse the reads and writes, so one read is tried.
        let mut block = zero_block();
        retry_on_intr(|| pread(&file, &mut block[..], 0))?;
        Ok(file)
    }

    /// Writes zeros to all of a file, past the page cache.
    fn fill_direct(&self, name: &str, file: &File, bytes: u64) -> io::Result<()> {
        let direct = self.open_direct(name, OFlags::empty())?;
        // All of its space in one change of the file system's own tables.
        fallocate(file, FallocateFlags::empty(), 0, bytes)?;
        let mut zeros = block_buf(FILL_BYTES);
        zeros.resize(FILL_BYTES, 0);
        write_zeros(&direct, bytes, &zeros, |_| Ok(()))?;
        direct.sync_data()
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.dir.entries()? {
            // Names that are not UTF-8 are not ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create_filled(&self, name: &str, bytes: u64) -> io::Result<()> {
        let made = self.write_whole(name, |file| {
            // Found out by writing, it would leave no space to anybody else for a while, again and again.
            let disk = fstatvfs(file)?;
            if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            match self.fill_direct(&format!("{name}{PARTIAL_SUFFIX}"), file, bytes) {
                // Of a file without bytes, some file systems find only now that they refuse to write it so.
                Err(error) if is_refusal_of_direct(&error) => fill_through_cache(file, bytes),
                filled => filled,
            }
        });
        if made.is_err() {
            // It may have its name already, when only the directory could not be synced.
            drop(self.dir.remove_file(name));
        }
        made
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let reads = self.dir.open(name)?;
        let bytes = reads.metadata()?.len();
        let (writes, is_direct, is_for_ring) = match self.open_direct(name, O_DSYNC) {
            Ok(file) => {
                let is_for_ring = RING_MAGIC.contains(&fstatfs(&file)?.f_type)
                    && retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockShared)).is_ok();
                (file, true, is_for_ring)
            }
            Err(error) if is_refusal_of_direct(&error) => {
                let mut options = OpenOptions::new();
                (self.dir.open_with(name, options.read(true).write(true))?, false, false)
            }
            Err(error) => return Err(error),
        };
        Ok(Arc::new(RealFile { writes, reads, bytes, is_direct, is_for_ring }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove_file(name)?;
        self.sync_dir()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, &self.dir, to)?;
        self.sync_dir()
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_dir()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.dir.read(name)
    }

    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write_whole(name, |file| write_parts(file, 0, &[IoSlice::new(bytes)]))
    }

    fn begin(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        let dir = self.dir.try_clone()?;
        let partial = format!("{name}{PARTIAL_SUFFIX}");
        let file = dir.open_with(&partial, OpenOptions::new().write(true).create(true).truncate(true))?;
        let name = name.to_string();
        Ok(Box::new(NewRealFile { disk: RealDisk { dir }, file, name, partial, bytes: 0, synced_bytes: 0 }))
    }
}

/// A file that has no name yet.
struct NewRealFile {
    disk: RealDisk,
    file: File,
    name: String,
    partial: String,
    bytes: u64,
    synced_bytes: u64,
}

impl NewFile for NewRealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_parts(&self.file, self.bytes, &[IoSlice::new(bytes)])?;
        self.bytes += bytes.len() as u64;
        if self.bytes - self.synced_bytes >= SYNC_BYTES as u64 {
            self.file.sync_data()?;
            self.synced_bytes = self.bytes;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        // Nobody reads it soon. That it leaves the page cache is only a courtesy, so it may fail.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        self.disk.rename(&self.partial, &self.name)
    }
}

impl Drop for NewRealFile {
    fn drop(&mut self) {
        // One that was finished has this name no longer; and one that stays is removed when the log is opened.
        drop(self.disk.dir.remove_file(&self.partial));
    }
}

impl DiskFile for RealFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write_durable(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        assert_aligned(self.bytes, position, parts);
        write_parts(&self.writes, position, parts)?;
        // With `O_DSYNC` every write above was durable when it returned.
        if self.is_direct { Ok(()) } else { self.writes.sync_data() }
    }

    fn direct(&self) -> Option<BorrowedFd<'_>> {
        self.is_for_ring.then(|| self.writes.as_fd())
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let read = retry_on_intr(|| pread(&self.reads, &mut into[done..], position + done as u64))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += read;
        }
        Ok(())
    }

    fn settle(&self, range: Range<u64>) -> io::Result<()> {
        // Past the page cache there is nothing that can be read and is not on the disk.
        if !self.is_direct {
            let mut position = range.start;
            while position < range.end {
                let mut part = block_buf(SETTLE_BYTES);
                part.resize(SETTLE_BYTES.min((range.end - position) as usize), 0);
                self.read_at(position, &mut part)?;
                write_parts(&self.writes, position, &[IoSlice::new(&part)])?;
                position += part.len() as u64;
            }
        }
        self.writes.sync_data()
    }
}

/// Writes zeros to all of a file, synced as it goes.
fn fill_through_cache(file: &File, bytes: u64) -> io::Result<()> {
    write_zeros(file, bytes, &vec![0; SYNC_BYTES], File::sync_data)?;
    // Nobody reads these zeros soon. That they leave the page cache is only a courtesy, so it may fail.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Writes as many bytes of zeros to a file, as many as `zeros` at a time; `written` follows each time.
fn write_zeros(file: &File, bytes: u64, zeros: &[u8], written: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    for position in (0..bytes).step_by(zeros.len()) {
        let part = &zeros[..zeros.len().min((bytes - position) as usize)];
        write_parts(file, position, &[IoSlice::new(part)])?;
        written(file)?;
    }
    Ok(())
}

/// Waits until the kernel is done with the writes of a process that has ended.
fn wait_for_writes(file: &File, name: &str) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < WRITES_END_WITHIN => std::thread::sleep(LOOK_EVERY),
            Err(Errno::WOULDBLOCK) => {
                let reason = format!("the disk does not end a write to {name} that the server before this one began");
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            result => return Ok(result?),
        }
    }
}

/// How file systems refuse `O_DIRECT`: when the file is opened, or when it is read.
fn is_refusal_of_direct(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Writes all of `parts`, in as few system calls as the kernel takes.
fn write_parts(file: &File, mut position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
    for chunk in parts.chunks(PARTS_MAX) {
        let bytes: usize = chunk.iter().map(|part| part.len()).sum();
        let mut written = write_some(file, position, chunk)?;
        if written < bytes {
            let mut copies = chunk.to_vec();
            let mut rest = &mut copies[..];
            IoSlice::advance_slices(&mut rest, written);
            while !rest.is_empty() {
                let more = write_some(file, position + written as u64, rest)?;
                written += more;
                IoSlice::advance_slices(&mut rest, more);
            }
        }
        position += bytes as u64;
    }
    Ok(())
}

/// One system call: at least one byte, unless there is none to write.
fn write_some(file: impl AsFd, position: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    match retry_on_intr(|| pwritev(&file, parts, position))? {
        0 if parts.iter().any(|part| !part.is_empty()) => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}
