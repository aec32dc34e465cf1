//! How commands print.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;

/// How a command prints what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Sentences.
    Text,
    /// One JSON object per line.
    Json,
}

/// How far a command is, on a terminal: one line that is written over and over. Who cannot see it misses nothing.
pub(crate) struct Progress {
    is_shown: bool,
}

impl Progress {
    /// Shown if it `is_wanted` and somebody may be looking.
    pub(crate) fn new(is_wanted: bool) -> Progress {
        Progress { is_shown: is_wanted && io::stderr().is_terminal() }
    }

    /// So many chunks of all are done, and so much of all the work.
    pub(crate) fn show(&self, percent: u64, chunks: u64, chunks_all: u64) {
        self.write(&format!("{:3} %  {chunks} of {chunks_all} chunks", percent.min(100)));
    }

    /// Makes room for what is printed for good.
    pub(crate) fn clear(&self) {
        self.write("");
    }

    fn write(&self, text: &str) {
        if self.is_shown {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        }
    }
}
