//! Objects in memory, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::{ChunkStore, StoreError};

/// Objects in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryStore {
    /// All objects, to look at and to change behind the server's back.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore for MemoryStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.objects().insert(object.to_string(), bytes);
        ready(Ok(())).boxed()
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let read = match self.objects().get(object) {
            None => Err(StoreError::Missing(object.to_string())),
            Some(bytes) => {
                let end = range.end.min(bytes.len() as u64);
                Ok(bytes.slice(range.start.min(end) as usize..end as usize))
            }
        };
        ready(read).boxed()
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.objects().remove(object);
        ready(Ok(())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        let names = self.objects().iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
        ready(Ok(names)).boxed()
    }
}
