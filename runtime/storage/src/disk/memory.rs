//! A directory in memory: nothing survives the process, everything else is as on a disk.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, NewFile, assert_aligned};

/// Files in memory, of limited size together. Clones are the same directory.
#[derive(Clone)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<String, Arc<MemoryFile>>>>,
    cap_bytes: u64,
}

/// One file; it lives as long as a handle of it does, named or not.
pub(crate) struct MemoryFile {
    content: Mutex<Vec<u8>>,
    bytes: u64,
}

impl MemoryDisk {
    /// An empty directory whose files may have `cap_bytes` together.
    pub fn new(cap_bytes: u64) -> MemoryDisk {
        MemoryDisk { files: Arc::default(), cap_bytes }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<MemoryFile>>> {
        lock(&self.files)
    }

    /// The file of this name.
    pub(crate) fn file(&self, name: &str) -> io::Result<Arc<MemoryFile>> {
        self.files().get(name).cloned().ok_or_else(|| not_found(name))
    }

    /// A directory with the same bytes that shares nothing with this one.
    pub(super) fn deep_clone(&self) -> MemoryDisk {
        let files = self.files();
        let copies = files.iter().map(|(name, file)| (name.clone(), Arc::new(MemoryFile::new(file.content().clone()))));
        MemoryDisk { files: Arc::new(Mutex::new(copies.collect())), cap_bytes: self.cap_bytes }
    }

    /// Puts a file in place of whatever has the name, if the cap allows.
    pub(super) fn put(&self, name: &str, content: impl FnOnce() -> Vec<u8>, bytes: u64) -> io::Result<()> {
        let mut files = self.files();
        let others: u64 = files.iter().filter(|(other, _)| *other != name).map(|(_, file)| file.bytes).sum();
        if others.saturating_add(bytes) > self.cap_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        files.insert(name.to_string(), Arc::new(MemoryFile::new(content())));
        Ok(())
    }
}

impl MemoryFile {
    fn new(content: Vec<u8>) -> MemoryFile {
        let bytes = content.len() as u64;
        MemoryFile { content: Mutex::new(content), bytes }
    }

    /// The file's bytes, to read or change in place; its size stays.
    pub(crate) fn content(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.content)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; were it so, the bytes would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create_filled(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.put(name, || vec![0; bytes as usize], bytes)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(name)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(drop).ok_or_else(|| not_found(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or_else(|| not_found(from))?;
        files.insert(to.to_string(), file);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.file(name)?.content().clone())
    }

    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(name, || bytes.to_vec(), bytes.len() as u64)
    }

    fn begin(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(NewMemoryFile { disk: self.clone(), name: name.to_string(), content: Vec::new() }))
    }
}

struct NewMemoryFile {
    disk: MemoryDisk,
    name: String,
    content: Vec<u8>,
}

impl NewFile for NewMemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let NewMemoryFile { disk, name, content } = *self;
        let bytes = content.len() as u64;
        disk.put(&name, || content, bytes)
    }
}

impl DiskFile for MemoryFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write_durable(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        assert_aligned(self.bytes, position, parts);
        let mut content = self.content();
        let mut at = position as usize;
        for part in parts {
            content[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(())
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        let content = self.content();
        let from = content.get(position as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn settle(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}
