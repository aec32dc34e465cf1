//! A store, and what was asked of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{ChunkStore, StoreError};

/// What was asked of a store since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Objects that were put, and their bytes.
    pub puts: u64,
    /// See [`StoreStats::puts`].
    pub put_bytes: u64,
    /// Ranges of objects that were read, and their bytes.
    pub gets: u64,
    /// See [`StoreStats::gets`].
    pub got_bytes: u64,
    /// Objects that were deleted.
    pub deletes: u64,
    /// What it refused, by [`StoreError::kind`] in the order of [`StoreError::KINDS`].
    pub errors: [u64; StoreError::KINDS.len()],
}

/// Counts what another store is asked.
pub(crate) struct CountedStore {
    store: Arc<dyn ChunkStore>,
    puts: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    got_bytes: AtomicU64,
    deletes: AtomicU64,
    errors: [AtomicU64; StoreError::KINDS.len()],
}

impl CountedStore {
    pub(crate) fn new(store: Arc<dyn ChunkStore>) -> CountedStore {
        CountedStore {
            store,
            puts: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            got_bytes: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            errors: Default::default(),
        }
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            puts: now(&self.puts),
            put_bytes: now(&self.put_bytes),
            gets: now(&self.gets),
            got_bytes: now(&self.got_bytes),
            deletes: now(&self.deletes),
            errors: self.errors.each_ref().map(now),
        }
    }

    /// Counts what came of something; `done` counts what went well.
    fn count<T>(&self, result: Result<T, StoreError>, done: impl FnOnce(&T)) -> Result<T, StoreError> {
        match &result {
            Ok(what) => done(what),
            Err(error) => add(&self.errors[error.kind()], 1),
        }
        result
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl ChunkStore for CountedStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let len = bytes.len() as u64;
        async move {
            self.count(self.store.put(object, bytes).await, |()| {
                add(&self.puts, 1);
                add(&self.put_bytes, len);
            })
        }
        .boxed()
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        async move {
            self.count(self.store.get(object, range).await, |bytes| {
                add(&self.gets, 1);
                add(&self.got_bytes, bytes.len() as u64);
            })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.count(self.store.delete(object).await, |()| add(&self.deletes, 1)) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        async move { self.count(self.store.list().await, |_| {}) }.boxed()
    }
}
