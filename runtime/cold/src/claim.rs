//! Whose a store is: an object in it says so, so that two clusters never take one another's chunks for garbage.
//!
//! A node that is alone puts its own number there. The nodes of a cluster have one number together, which the first of them draws: the
//! others find it. So nodes that have the same number have the same store, and two clusters that are called the same have
//! not. Beside it each of them puts a *seat*, which says on which disk it is: whoever comes as the same node with another disk is of
//! another cluster, or has lost its logs.

use std::time::Duration;

use crate::name::ChunkName;
use crate::store::{ChunkStore, StoreError};

/// What the object is called.
const OBJECT: &str = "weir-cluster";
/// What the names of seats begin with.
const SEAT: &str = "weir-node-";
/// More than it has.
const BYTES_MAX: u64 = 4096;

/// Why a store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another cluster uses it.
    #[error("another cluster's chunks are there: its object {OBJECT} says {0:?}")]
    Taken(String),
    /// A node of this number has used it, on another disk.
    #[error(
        "node {node} of a cluster of this name has used it before, and had disk {disk}: the store is another cluster's, or this \
         node has lost its logs"
    )]
    Seated {
        /// The number.
        node: u64,
        /// What the node had.
        disk: String,
    },
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

/// A node of a cluster, which claims a store for it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The cluster, as people know it: one line.
    pub cluster: &'a str,
    /// The node's number in it.
    pub node: u64,
    /// What its disk is known by.
    pub disk: u128,
    /// What it was known by while it was alone, if it was: its store becomes the cluster's.
    pub alone: u64,
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

/// What such an object of a node that is alone says.
pub(crate) fn mark_of(node: u64) -> String {
    format!("{node:016x}\n")
}

/// What it says of a cluster that has this number.
pub(crate) fn mark_of_cluster(number: u64, cluster: &str) -> String {
    format!("{number:016x} {cluster}\n")
}

/// Makes the store the node's, whose ever it was.
///
/// # Errors
/// Whatever the store says.
pub async fn take_over(store: &dyn ChunkStore, node: u64) -> Result<(), StoreError> {
    store.put(OBJECT, mark_of(node).into()).await?;
    for (object, _) in store.list().await? {
        if object.starts_with(SEAT) {
            store.delete(&object).await?;
        }
    }
    Ok(())
}

/// Makes sure that `store` is the node's: says so in it when it is nobody's yet, and was not ours before. Who claims it at
/// the same time is noticed when both put within `race` of each other.
///
/// # Errors
/// [`ClaimError`], and then nothing of it may be used.
pub async fn claim(store: &dyn ChunkStore, node: u64, was_ours: bool, race: Duration) -> Result<(), ClaimError> {
    let ours = mark_of(node);
    let found = match mark_in(store, OBJECT).await? {
        Some(found) => found,
        None if was_ours => return Err(ClaimError::Lost),
        None => put_first(store, &ours, race).await?,
    };
    if found == ours { Ok(()) } else { Err(ClaimError::Taken(found.trim_end().to_string())) }
}

/// As [`claim`], for a node of a cluster: gives the number that the cluster has there, which is `known` when the node has been told it
/// before, and `drawn` when nobody has claimed the store yet.
///
/// # Errors
/// [`ClaimError`], and then nothing of it may be used.
pub async fn claim_for_cluster(
    store: &dyn ChunkStore,
    member: Member<'_>,
    known: Option<u64>,
    drawn: u64,
    race: Duration,
) -> Result<u64, ClaimError> {
    let Member { cluster, node, disk, alone } = member;
    let found = match mark_in(store, OBJECT).await? {
        Some(found) if known.is_none() && found == mark_of(alone) => {
            // Nobody else puts anything there.
            let ours = mark_of_cluster(drawn, cluster);
            store.put(OBJECT, ours.clone().into()).await?;
            ours
        }
        Some(found) => found,
        None if known.is_some() => return Err(ClaimError::Lost),
        None => put_first(store, &mark_of_cluster(drawn, cluster), race).await?,
    };
    let number = number_in(&found, cluster);
    let number = number.filter(|number| known.is_none_or(|known| known == *number));
    let number = number.ok_or_else(|| ClaimError::Taken(found.trim_end().to_string()))?;
    let (seat, ours) = (format!("{SEAT}{node}"), format!("{disk:032x}\n"));
    let mut seated = mark_in(store, &seat).await?;
    if seated.is_none() {
        store.put(&seat, ours.clone().into()).await?;
        tokio::time::sleep(race).await;
        seated = mark_in(store, &seat).await?;
    }
    match seated {
        Some(seated) if seated == ours => Ok(number),
        Some(other) => Err(ClaimError::Seated { node, disk: other.trim_end().to_string() }),
        None => Err(StoreError::Missing(seat).into()),
    }
}

/// The number that a cluster has in a store; `None` where nobody, or somebody else, has claimed it.
///
/// # Errors
/// Whatever the store says.
pub async fn number_of(store: &dyn ChunkStore, cluster: &str) -> Result<Option<u64>, StoreError> {
    Ok(mark_in(store, OBJECT).await?.and_then(|mark| number_in(&mark, cluster)))
}

fn number_in(mark: &str, cluster: &str) -> Option<u64> {
    let number = mark.split_once(' ').and_then(|(number, _)| u64::from_str_radix(number, 16).ok())?;
    (mark_of_cluster(number, cluster) == mark).then_some(number)
}

/// Whether the store's object still says `mark`.
///
/// # Errors
/// [`ClaimError`] when it does not, or the store does not say.
pub(crate) async fn confirm(store: &dyn ChunkStore, mark: &str) -> Result<(), ClaimError> {
    match mark_in(store, OBJECT).await? {
        None => Err(ClaimError::Lost),
        Some(found) if found == mark => Ok(()),
        Some(found) => Err(ClaimError::Taken(found.trim_end().to_string())),
    }
}

/// Says in a store that is nobody's whose it is; gives what it says when everybody has who does so at the same time.
async fn put_first(store: &dyn ChunkStore, mark: &str, race: Duration) -> Result<String, ClaimError> {
    let objects = store.list().await?;
    if objects.iter().any(|(object, _)| ChunkName::parse(object).is_some()) {
        return Err(ClaimError::Unmarked);
    }
    store.put(OBJECT, mark.to_string().into()).await?;
    // Who has put last has it. Not every store can put only what is not there.
    tokio::time::sleep(race).await;
    Ok(mark_in(store, OBJECT).await?.ok_or_else(|| StoreError::Missing(OBJECT.to_string()))?)
}
