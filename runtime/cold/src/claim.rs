//! Whose a store is: an object in it says so, so that two clusters never take one another's chunks for garbage.

use std::time::Duration;

use crate::name::ChunkName;
use crate::store::{ChunkStore, StoreError};

/// What the object is called.
const OBJECT: &str = "weir-cluster";
/// More than it has.
const BYTES_MAX: u64 = 4096;

/// Why a store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another cluster uses it.
    #[error("another cluster's chunks are there: its object {OBJECT} says {0:?}")]
    Taken(String),
    /// There are chunks, and nothing says whose.
    #[error("there are chunks, but no object {OBJECT} that says whose")]
    Unmarked,
    /// It was ours, and now it is empty.
    #[error("this node has used it before, and now it is another one: its object {OBJECT} is missing")]
    Lost,
    /// It refuses, or does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whose the store is, as its object says; `None` when nothing does.
///
/// # Errors
/// Whatever the store says.
pub async fn owner(store: &dyn ChunkStore) -> Result<Option<String>, StoreError> {
    Ok(mark_in(store, OBJECT).await?.map(|mark| mark.trim_end().to_string()))
}

/// What an object that says whose something is says; `None` when there is none.
pub(crate) async fn mark_in(store: &dyn ChunkStore, object: &str) -> Result<Option<String>, StoreError> {
    match store.get(object, 0..BYTES_MAX).await {
        Err(StoreError::Missing(_)) => Ok(None),
        found => Ok(Some(String::from_utf8_lossy(&found?).into_owned())),
    }
}

/// What such an object of the cluster's says.
pub(crate) fn mark_of(cluster: u64) -> String {
    format!("{cluster:016x}\n")
}

/// Makes the store the cluster's, whose ever it was.
///
/// # Errors
/// Whatever the store says.
pub async fn take_over(store: &dyn ChunkStore, cluster: u64) -> Result<(), StoreError> {
    store.put(OBJECT, mark_of(cluster).into()).await
}

/// Makes sure that `store` is the cluster's: says so in it when it is nobody's yet, and was not ours before. Who claims it at
/// the same time is noticed when both put within `race` of each other.
///
/// # Errors
/// [`ClaimError`], and then nothing of it may be used.
pub async fn claim(store: &dyn ChunkStore, cluster: u64, was_ours: bool, race: Duration) -> Result<(), ClaimError> {
    let ours = mark_of(cluster);
    let found = match mark_in(store, OBJECT).await? {
        Some(found) => found,
        None if was_ours => return Err(ClaimError::Lost),
        None => {
            let objects = store.list().await?;
            if objects.iter().any(|(object, _)| ChunkName::parse(object).is_some()) {
                return Err(ClaimError::Unmarked);
            }
            store.put(OBJECT, ours.clone().into()).await?;
            // Who has put last has it. Not every store can put only what is not there.
            tokio::time::sleep(race).await;
            mark_in(store, OBJECT).await?.ok_or_else(|| StoreError::Missing(OBJECT.to_string()))?
        }
    };
    if found == ours { Ok(()) } else { Err(ClaimError::Taken(found.trim_end().to_string())) }
}
