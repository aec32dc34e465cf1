//! A store that new chunks go to, and the directory that they went to before.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{ChunkStore, LocalStore, StoreError};

/// Objects in one of two stores. What is in the old one stays there until it is deleted, or put again.
pub struct MovedStore {
    /// Where objects were put.
    pub old: LocalStore,
    /// Where they are put.
    pub new: Arc<dyn ChunkStore>,
}

impl ChunkStore for MovedStore {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            self.new.put(object, bytes).await?;
            // It would be read first.
            self.old.delete(object).await
        }
        .boxed()
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        async move {
            match self.old.get(object, range.clone()).await {
                Err(StoreError::Missing(_)) => self.new.get(object, range).await,
                read => read,
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            self.old.delete(object).await?;
            self.new.delete(object).await
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        async move {
            let mut names = self.old.list().await?;
            names.extend(self.new.list().await?);
            Ok(names)
        }
        .boxed()
    }
}
