//! What opening a WAL or reading from it may fail with.

use std::io;

/// Why a log cannot be used, or an entry not be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused.
    #[error("{file}: {source}")]
    Io {
        /// The file's name in the WAL's directory; empty for the directory itself.
        file: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// What is there is not what was written, below something that was durable: it must not be cut off or served.
    #[error("{file} is damaged at byte {position}: {reason}")]
    Corrupt {
        /// The file's name in the WAL's directory.
        file: String,
        /// Where the damaged frame begins, in bytes.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// What is there is not the log that belongs here, or none.
    #[error("{file} at byte {position}: {reason}")]
    Foreign {
        /// The file's name in the WAL's directory.
        file: String,
        /// Where it says so, in bytes.
        position: u64,
        /// What is there instead.
        reason: String,
    },
    /// Written by another version of this format, or configured with sizes that cannot work.
    #[error("{file}: {reason}")]
    Format {
        /// The file's name in the WAL's directory; empty for the configuration.
        file: String,
        /// What does not fit.
        reason: String,
    },
}

impl WalError {
    pub(crate) fn io(file: &str, source: io::Error) -> WalError {
        WalError::Io { file: file.to_string(), source }
    }

    pub(crate) fn corrupt(file: &str, position: u64, reason: impl Into<String>) -> WalError {
        WalError::Corrupt { file: file.to_string(), position, reason: reason.into() }
    }

    pub(crate) fn foreign(file: &str, position: u64, reason: impl Into<String>) -> WalError {
        WalError::Foreign { file: file.to_string(), position, reason: reason.into() }
    }
}

/// Damage that is found while serving is an [`io::ErrorKind::InvalidData`] that names file and position.
impl From<WalError> for io::Error {
    fn from(error: WalError) -> io::Error {
        match &error {
            WalError::Io { source, .. } => io::Error::new(source.kind(), error),
            WalError::Corrupt { .. } | WalError::Foreign { .. } | WalError::Format { .. } => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
        }
    }
}
