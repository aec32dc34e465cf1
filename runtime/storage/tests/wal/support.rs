//! A log with its writer on a runtime of its own, and short forms of what tests do with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::JoinHandle;
use weir_storage::{
    Arena, Claim, Disk, Done, DurableWrite, EntryBody, EntryId, FRAME_HEADER_BYTES, FaultyDisk, Wal, WalConfig,
    WalError, WriteMode,
};
use weir_types::GroupId;

/// Segments of 16 blocks, so that tests reach many.
pub(crate) const CONFIG: WalConfig =
    WalConfig { segment_bytes: 64 << 10, budget_bytes: 16 << 20, cache_bytes: 64 << 10, write: WriteMode::Inline };

/// The identity of every log here that has no other.
pub(crate) const LOG_ID: u64 = 7;

pub(crate) const A: GroupId = GroupId(1);
pub(crate) const B: GroupId = GroupId(2);

/// An open log whose writer runs whenever [`Log::run`] does.
pub(crate) struct Log {
    pub(crate) wal: Wal,
    runtime: LocalRuntime,
    writer: JoinHandle<()>,
}

impl Log {
    /// Opens the log in `disk`, which is formed first when there is nothing.
    pub(crate) fn open(disk: Arc<dyn Disk>, config: WalConfig) -> Result<Log, WalError> {
        if disk.list().expect("a list").is_empty() {
            Wal::form(&*disk, LOG_ID)?;
        }
        let runtime =
            Builder::new_current_thread().enable_time().build_local(LocalOptions::default()).expect("a runtime");
        let salts = Box::new(|| getrandom::u64().expect("the operating system has random numbers"));
        let wal = Wal::open(disk, config, salts)?;
        let writer = runtime.spawn_local(wal.clone().run());
        Ok(Log { wal, runtime, writer })
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs the writer until `is_reached`.
    pub(crate) fn until(&self, is_reached: impl Fn() -> bool) {
        self.run(async {
            while !is_reached() {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Appends after the last entry.
    pub(crate) fn append(&self, group: GroupId, term: u64, body: &[u8], done: Done) -> EntryId {
        let index = self.wal.last(group).map_or(0, |last| last.index + 1);
        let id = EntryId { index, term };
        self.wal.append(group, id, body.len() as u8, frame(body), Claim::Spare, done);
        id
    }

    /// Appends, and waits until it is durable.
    pub(crate) fn append_durably(&self, group: GroupId, term: u64, body: &[u8]) -> io::Result<EntryId> {
        let outcomes = Outcomes::default();
        let id = self.append(group, term, body, outcomes.done());
        self.until(|| outcomes.all() == 1);
        if outcomes.good() == 1 { Ok(id) } else { Err(io::Error::other("not written")) }
    }

    /// The body of an entry, from memory or disk.
    pub(crate) fn body(&self, group: GroupId, index: u64) -> Option<Vec<u8>> {
        let entry = self.wal.entry(group, index)?;
        let (frame, bytes) = match entry.body {
            EntryBody::Cached(frame, bytes) => (frame, bytes),
            EntryBody::Stored(place) => {
                let frame = self.wal.reader().read_frame(&place).expect("an undamaged entry");
                (frame, place.body_bytes())
            }
        };
        assert_eq!(entry.kind, bytes as u8);
        Some(frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + bytes].to_vec())
    }

    /// Ends the writer and lets go of the disk.
    pub(crate) fn stop(self) {
        self.wal.stop();
        self.runtime.block_on(self.writer).expect("the writer ends");
    }
}

pub(crate) fn frame(body: &[u8]) -> Bytes {
    let mut buf = Arena::new(body.len()).into_buf();
    buf.extend_from_slice(body);
    Arena::seal(buf)
}

/// The durable writes of a disk that were units of a log.
pub(crate) fn unit_writes(disk: &FaultyDisk) -> Vec<DurableWrite> {
    disk.history().into_iter().filter(|write| write.name.starts_with("wal-")).collect()
}

/// Counts what became of frames.
#[derive(Clone, Default)]
pub(crate) struct Outcomes {
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
}

impl Outcomes {
    pub(crate) fn done(&self) -> Done {
        let Outcomes { good, bad } = self.clone();
        Box::new(move |result| {
            let counter = if result.is_ok() { good } else { bad };
            counter.fetch_add(1, Ordering::SeqCst);
        })
    }

    pub(crate) fn good(&self) -> usize {
        self.good.load(Ordering::SeqCst)
    }

    pub(crate) fn bad(&self) -> usize {
        self.bad.load(Ordering::SeqCst)
    }

    pub(crate) fn all(&self) -> usize {
        self.good() + self.bad()
    }
}
