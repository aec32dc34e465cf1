//! A backup: chunks and snapshots in another store, as a new node is restored from.
//!
//! An object says whose it is, so that one backup never replaces that of another cluster, and nothing of a store that is in
//! use.

use std::collections::BTreeMap;

use crate::claim;
use crate::cold::Cold;
use crate::error::ColdError;
use crate::name::ChunkName;
use crate::store::{ChunkStore, StoreError};
use crate::verify::read_written;

/// What the object is called.
const OBJECT: &str = "weir-backup";

/// Why a backup cannot go into a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It is a cold tier.
    #[error("it is the cold tier of the node {0}")]
    InUse(String),
    /// Another cluster's backup is there.
    #[error("the backup of another node is there: {0}")]
    Taken(String),
    /// It refuses, or does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes sure that backups of `cluster` may go into `store`, and says so in it; gives the chunks that are there, with their
/// lengths.
///
/// # Errors
/// [`BackupError`], and then nothing of it may be changed.
pub async fn begin_backup(store: &dyn ChunkStore, cluster: u64) -> Result<BTreeMap<ChunkName, u64>, BackupError> {
    if let Some(owner) = claim::owner(store).await? {
        return Err(BackupError::InUse(owner));
    }
    let ours = claim::mark_of(cluster);
    match claim::mark_in(store, OBJECT).await? {
        None => store.put(OBJECT, ours.into()).await?,
        Some(found) if found != ours => return Err(BackupError::Taken(found.trim_end().to_string())),
        Some(_) => {}
    }
    let objects = store.list().await?;
    Ok(objects.iter().filter_map(|(object, bytes)| Some((ChunkName::parse(object)?, *bytes))).collect())
}

impl Cold {
    /// Copies a chunk that was written with so many `bytes` and this CRC32C to another tier. A few at a time, of all who
    /// ask.
    ///
    /// # Errors
    /// [`ColdError::Damaged`] when it is not as it was written, and then nothing is copied; [`ColdError::Unavailable`] when
    /// one of the stores is not.
    pub async fn copy(&self, to: &Cold, name: ChunkName, bytes: u64, crc: u32) -> Result<(), ColdError> {
        let to = to.clone();
        self.run(move |inner| async move {
            let _turn = inner.verifying.acquire().await.expect("nobody closes it");
            let object = name.object();
            match read_written(&*inner.store, &object, bytes, crc).await? {
                Ok(chunk) => to.put(name, chunk).await,
                Err(_) => {
                    let (position, reason) = (0, "it is missing, too short, or its checksum is another one");
                    Err(ColdError::Damaged { chunk: object, position, reason })
                }
            }
        })
        .await
    }
}
