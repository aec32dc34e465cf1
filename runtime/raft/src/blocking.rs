//! What waits for the disk, beside the shard's thread.

use std::io;

use weir_storage::Wal;

/// Does `work`, which blocks, on another thread; on this one where everything is simulated. It is done to its end also when nobody
/// waits for it any more.
///
/// # Errors
/// What `work` says.
pub(crate) fn blocking<T: Send + 'static, W: FnOnce() -> io::Result<T> + Send + 'static>(
    wal: &Wal,
    work: W,
) -> impl Future<Output = io::Result<T>> + Send + use<T, W> {
    let is_simulated = wal.is_simulated();
    async move {
        if is_simulated {
            return work();
        }
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}
