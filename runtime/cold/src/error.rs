//! Why cold bytes cannot be had.

use crate::store::StoreError;

/// Why cold bytes cannot be had, or not be put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColdError {
    /// What is there is not what was written, or is gone: it is never served.
    #[error("the chunk {chunk} is damaged at byte {position}: {reason}")]
    Damaged {
        /// The object's name.
        chunk: String,
        /// Where, in bytes.
        position: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The store does not answer, or refuses. It may work again later.
    #[error("the cold tier cannot be used: {0}")]
    Unavailable(#[from] StoreError),
}
