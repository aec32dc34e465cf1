//! How commands print.

use clap::ValueEnum;

/// How a command prints what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Sentences.
    Text,
    /// One JSON object per line.
    Json,
}
