//! One durable write: what is written where.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::DiskFile;

/// One durable write.
pub(crate) struct DurableWrite {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) position: u64,
    pub(crate) parts: Vec<Bytes>,
}

impl DurableWrite {
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Writes; returns how long that took.
    pub(crate) fn carry_out(&self) -> io::Result<Duration> {
        let slices: Vec<IoSlice<'_>> = self.parts.iter().map(|part| IoSlice::new(part)).collect();
        let begun = Instant::now();
        self.file.write_durable(self.position, &slices)?;
        Ok(begun.elapsed())
    }
}
