//! Where modules are kept: a flat directory of whole files, in one form on disk and one in memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

/// What the name of a file in the making ends with. A crash may leave one; it holds nothing.
const PARTIAL_SUFFIX: &str = ".partial";

/// Files by flat names, read and written whole. All methods may block and may be called from any thread.
pub trait ModuleStore: Send + Sync + 'static {
    /// Reads a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none of this name.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Replaces a file, durably: after a crash it holds either the old or the new bytes. Only its owner may read it.
    ///
    /// # Errors
    /// After any error the old bytes are still there.
    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// The names of all files.
    ///
    /// # Errors
    /// Whatever reading the directory says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Bytes of all files together.
    ///
    /// # Errors
    /// Whatever reading the directory says.
    fn bytes(&self) -> io::Result<u64>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none of this name.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A directory of the machine, reached only through the handle it was opened with.
pub struct FileStore {
    dir: Dir,
    /// Held while a file is written: two uploads of the same bytes would share a partial file.
    writing: Mutex<()>,
}

impl FileStore {
    /// The files of `dir`. What a crash left half-written is removed.
    ///
    /// # Errors
    /// Whatever reading the directory says.
    pub fn new(dir: Dir) -> io::Result<FileStore> {
        let store = FileStore { dir, writing: Mutex::default() };
        for entry in store.dir.entries()? {
            if let Ok(name) = entry?.file_name().into_string()
                && name.ends_with(PARTIAL_SUFFIX)
            {
                store.dir.remove_file(&name)?;
            }
        }
        Ok(store)
    }

    /// Makes new and removed names durable.
    fn sync_dir(&self) -> io::Result<()> {
        // The directory is opened again because its own handle may be one that only names it (`O_PATH`).
        self.dir.open(".")?.sync_all()
    }
}

impl ModuleStore for FileStore {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.dir.read(name)
    }

    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let _turn = lock(&self.writing);
        let partial = format!("{name}{PARTIAL_SUFFIX}");
        let write_and_sync = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = self.dir.open_with(&partial, options)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            self.dir.rename(&partial, &self.dir, name)
        };
        if let Err(error) = write_and_sync() {
            // The first error is the one to report; a partial file that stays is removed at the next start.
            drop(self.dir.remove_file(&partial));
            return Err(error);
        }
        self.sync_dir()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.dir.entries()? {
            // Names that are not UTF-8 are not ours.
            names.extend(entry?.file_name().into_string().ok().filter(|name| !name.ends_with(PARTIAL_SUFFIX)));
        }
        Ok(names)
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in self.dir.entries()? {
            match entry?.metadata() {
                Ok(metadata) => bytes += metadata.len(),
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove_file(name)?;
        self.sync_dir()
    }
}

/// A directory in memory: nothing survives the process.
#[derive(Default)]
pub struct MemoryStore {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl ModuleStore for MemoryStore {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        lock(&self.files).get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        lock(&self.files).insert(name.to_string(), bytes.to_vec());
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.files).keys().cloned().collect())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.files).values().map(|bytes| bytes.len() as u64).sum())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.files).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; were it so, what they guard would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(store: &dyn ModuleStore) {
        assert_eq!(store.read("a").expect_err("there is nothing yet").kind(), io::ErrorKind::NotFound);
        store.write_atomic("a", b"one").expect("a file can be written");
        store.write_atomic("a", b"two").expect("a file can be replaced");
        assert_eq!(store.read("a").expect("it is there"), b"two");
        assert_eq!(store.list().expect("the directory can be read"), ["a"]);
        assert_eq!(store.bytes().expect("the directory can be read"), 3);
        store.remove("a").expect("it is there");
        assert_eq!(store.remove("a").expect_err("it is gone").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn both_stores_keep_whole_files() {
        check(&MemoryStore::default());
        let folder = tempfile::tempdir().expect("there is a folder for tests");
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).expect("it can be opened");
        dir.write("b.partial", b"half").expect("it can be written to");
        check(&FileStore::new(dir).expect("it can be read"));
    }
}
