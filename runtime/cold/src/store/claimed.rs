//! A store that did not answer when the node began: it is made sure of before anything in it is changed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{ChunkStore, StoreError};
use crate::claim::{ClaimError, confirm, mark_of, mark_of_cluster};

/// A store that a cluster has claimed before, and that is perhaps another one by now.
pub struct ClaimedStore {
    store: Arc<dyn ChunkStore>,
    /// What its object is to say.
    mark: String,
    is_known: AtomicBool,
}

impl ClaimedStore {
    /// The store of a node that is alone, which nobody has asked yet whether it still is.
    pub fn new(store: Arc<dyn ChunkStore>, node: u64) -> ClaimedStore {
        ClaimedStore { store, mark: mark_of(node), is_known: AtomicBool::new(false) }
    }

    /// The same of a `cluster` that has this number there.
    pub fn of_cluster(store: Arc<dyn ChunkStore>, number: u64, cluster: &str) -> ClaimedStore {
        ClaimedStore { store, mark: mark_of_cluster(number, cluster), is_known: AtomicBool::new(false) }
    }

    /// The store, once it has said that it is the cluster's.
    async fn ours(&self) -> Result<&dyn ChunkStore, StoreError> {
        if !self.is_known.load(Ordering::Relaxed) {
            confirm(&*self.store, &self.mark).await.map_err(|error| match error {
                ClaimError::Store(error) => error,
                refused => StoreError::Denied(refused.to_string()),
            })?;
            self.is_known.store(true, Ordering::Relaxed);
        }
        Ok(&*self.store)
    }
}

impl ChunkStore for ClaimedStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.ours().await?.put(object, bytes).await }.boxed()
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        async move { self.ours().await?.get(object, range).await }.boxed()
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.ours().await?.delete(object).await }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        async move { self.ours().await?.list().await }.boxed()
    }
}
