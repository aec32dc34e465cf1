//! Stores that are no node's cold tier: what a node is built from, and where backups go.

use std::sync::Arc;

use cap_std::fs::Dir;
use weir_cold::{ChunkStore, LocalStore, S3Store, StoreError};

use crate::config::ColdConfig;
use crate::recover_error::RecoverError;

/// What the URL of a folder begins with.
const FOLDER: &str = "file://";

/// The absolute path of a folder's URL.
pub(crate) fn folder(url: &str) -> Option<&str> {
    url.strip_prefix(FOLDER).filter(|folder| folder.starts_with('/'))
}

/// The store at `from`, with what the configuration says of how it is reached.
///
/// # Errors
/// [`RecoverError::Place`] and [`RecoverError::Store`].
pub(crate) fn open(from: &str, config: &ColdConfig, may_be_folder: bool) -> Result<Arc<dyn ChunkStore>, RecoverError> {
    let failed = |source| RecoverError::Store { from: from.to_string(), source };
    if let Some(location) = (ColdConfig { url: from.to_string(), ..config.clone() }).s3() {
        return Ok(Arc::new(S3Store::new(&location).map_err(failed)?));
    }
    let folder = folder(from).filter(|_| may_be_folder);
    let folder = folder.ok_or_else(|| RecoverError::Place(from.to_string()))?;
    let open = || LocalStore::new(Dir::open_ambient_dir(folder, cap_std::ambient_authority())?);
    Ok(Arc::new(open().map_err(|error| failed(StoreError::Failed(format!("{folder}: {error}"))))?))
}
