//! Objects as files of one directory, reached only through the handle it was opened with.

use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cap_std::fs::{Dir, OpenOptions};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{ChunkStore, StoreError};

/// What the name of a file in the making ends with. A crash may leave one; it holds nothing.
const PARTIAL_SUFFIX: &str = ".partial";

/// Bytes that are written and synced at a time: few, so that the log's writes, which may go to the same disk, never queue behind
/// many.
const SYNC_BYTES: usize = 512 << 10;

/// Files of a directory.
#[derive(Clone)]
pub struct LocalStore {
    dir: Arc<Dir>,
}

impl LocalStore {
    /// The files of `dir`. What a crash left half-written is removed.
    ///
    /// # Errors
    /// Whatever reading the directory says.
    pub fn new(dir: Dir) -> io::Result<LocalStore> {
        for entry in dir.entries()? {
            if let Ok(name) = entry?.file_name().into_string()
                && name.ends_with(PARTIAL_SUFFIX)
            {
                dir.remove_file(&name)?;
            }
        }
        Ok(LocalStore { dir: Arc::new(dir) })
    }

    /// Does something that blocks.
    fn blocking<T: Send + 'static>(
        &self,
        object: &str,
        work: impl FnOnce(&Dir, &str) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (dir, object) = (self.dir.clone(), object.to_string());
        async move {
            let name = object.clone();
            let done = tokio::task::spawn_blocking(move || work(&dir, &name)).await.map_err(io::Error::other);
            done.flatten().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::Missing(object),
                _ => StoreError::Failed(format!("{object}: {error}")),
            })
        }
        .boxed()
    }
}

impl ChunkStore for LocalStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(object, move |dir, object| {
            let partial = format!("{object}{PARTIAL_SUFFIX}");
            let write = || {
                let mut file = dir.open_with(&partial, OpenOptions::new().write(true).create(true).truncate(true))?;
                for part in bytes.chunks(SYNC_BYTES) {
                    file.write_all(part)?;
                    file.sync_data()?;
                }
                file.sync_all()?;
                dir.rename(&partial, dir, object)?;
                sync(dir)
            };
            write().inspect_err(|_| drop(dir.remove_file(&partial)))
        })
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.blocking(object, move |dir, object| {
            let file = dir.open(object)?.into_std();
            let end = range.end.min(file.metadata()?.len());
            let mut bytes = BytesMut::zeroed(end.saturating_sub(range.start) as usize);
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes.freeze())
        })
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(object, |dir, object| match dir.remove_file(object) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        self.blocking("", |dir, _| {
            let mut names = Vec::new();
            for entry in dir.entries()? {
                let entry = entry?;
                // Names that are not UTF-8 are not ours.
                let name = entry.file_name().into_string().ok().filter(|name| !name.ends_with(PARTIAL_SUFFIX));
                let bytes = match entry.metadata() {
                    // It was deleted meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    metadata => metadata?.len(),
                };
                names.extend(name.map(|name| (name, bytes)));
            }
            Ok(names)
        })
    }
}

/// Makes new names durable. The directory is opened again because its own handle may be one that only names it (`O_PATH`).
fn sync(dir: &Dir) -> io::Result<()> {
    dir.open(".")?.sync_all()
}
