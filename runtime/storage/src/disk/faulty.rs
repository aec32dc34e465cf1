//! A disk in memory that fails on command, for tests of what is above it.
//!
//! Operations are everything that changes the disk: durable writes, and making, renaming, removing and replacing files.
//! They are counted from 1, so that a test can cut the power at any of them. What a power cut does:
//!
//! - The write that it hits is torn: any subset of its 512-byte sectors is on the disk, whatever their order. So is every
//!   write that another thread has begun and that has not returned.
//! - A rename or removal that it hits has happened or not; a file in the making is left partial.
//! - Everything after it fails; [`FaultyDisk::crash`] gives the disk as it is found when the power is back.
//!
//! Several disks may have the [same power](FaultyDisk::beside), and so may whatever else a test has.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_types::bugs::{self, Bug};

use super::memory::{MemoryDisk, MemoryFile};
use super::{Disk, DiskFile, NewFile, PARTIAL_SUFFIX, assert_aligned};

/// What a disk writes as a whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// A disk that fails on command. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<Inner>,
}

struct Inner {
    disk: MemoryDisk,
    /// What has the same power has the same state.
    state: Arc<Mutex<State>>,
}

struct State {
    plan: Plan,
    random: Random,
    operations: u64,
    has_power: bool,
    history: Vec<DurableWrite>,
    /// Writes that have begun and not returned, by operation.
    begun: BTreeMap<u64, Begun>,
    /// Writes that a killed process had begun: they can be read, and are not on the disk yet.
    unsynced: Vec<Begun>,
    reads: Reads,
}

/// Reads of a disk so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reads {
    /// How many there were.
    pub count: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// Bytes of the longest.
    pub longest_bytes: u64,
}

#[derive(Default)]
struct Plan {
    cut_power_at: Option<u64>,
    refuse_write_at: Option<u64>,
    fail_sync_at: Option<u64>,
    is_full: bool,
    write_delay: Duration,
}

struct Begun {
    name: String,
    file: Arc<MemoryFile>,
    position: usize,
    bytes: Vec<u8>,
    /// Whether the page cache takes it for written: its sync has failed, and no other one writes it.
    is_clean: bool,
}

impl Begun {
    /// Copies the sectors that are `kept` from `bytes` to the file.
    fn write(&self, mut keeps: impl FnMut(usize) -> bool) {
        let mut content = self.file.content();
        for (i, sector) in self.bytes.chunks(SECTOR_BYTES).enumerate().filter(|(i, _)| keeps(*i)) {
            let at = self.position + i * SECTOR_BYTES;
            content[at..at + sector.len()].copy_from_slice(sector);
        }
    }
}

/// One call of [`DiskFile::write_durable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableWrite {
    /// The file's name when it was opened.
    pub name: String,
    /// Where the write began.
    pub position: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// SplitMix64: a test needs a seed more than it needs good numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// What an operation is to do.
enum Fate {
    Proceed,
    /// The power is cut during it.
    Torn,
}

impl FaultyDisk {
    /// An empty disk of `cap_bytes` that does nothing wrong yet. `seed` decides what a power cut tears.
    pub fn new(cap_bytes: u64, seed: u64) -> FaultyDisk {
        FaultyDisk::with(MemoryDisk::new(cap_bytes), seed)
    }

    fn with(disk: MemoryDisk, seed: u64) -> FaultyDisk {
        let state = State {
            plan: Plan::default(),
            random: Random(seed),
            operations: 0,
            has_power: true,
            history: Vec::new(),
            begun: BTreeMap::new(),
            unsynced: Vec::new(),
            reads: Reads::default(),
        };
        FaultyDisk { inner: Arc::new(Inner { disk, state: Arc::new(Mutex::new(state)) }) }
    }

    /// Another empty disk that has the same power: operations of all are counted together, and whatever befalls one of them by
    /// its number. Their process is not to be [killed](FaultyDisk::kill).
    pub fn beside(&self, cap_bytes: u64) -> FaultyDisk {
        let (disk, state) = (MemoryDisk::new(cap_bytes), self.inner.state.clone());
        FaultyDisk { inner: Arc::new(Inner { disk, state }) }
    }

    /// Operations so far, power cut included.
    pub fn operations(&self) -> u64 {
        self.inner.state().operations
    }

    /// Whether the power is on.
    pub fn has_power(&self) -> bool {
        self.inner.state().has_power
    }

    /// Cuts the power during the `operation`th operation, or the next one if that is over.
    pub fn cut_power_at(&self, operation: u64) {
        self.inner.state().plan.cut_power_at = Some(operation);
    }

    /// Cuts the power now.
    pub fn cut_power(&self) {
        self.inner.state().lose_power();
    }

    /// Does something that needs the power, unless that has gone. It cannot go meanwhile.
    pub fn while_powered<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let state = self.inner.state();
        state.has_power.then(work)
    }

    /// Answers the `operation`th operation, if it is a durable write, with an I/O error; nothing of it is written.
    pub fn refuse_write_at(&self, operation: u64) {
        self.inner.state().plan.refuse_write_at = Some(operation);
    }

    /// Answers the `operation`th operation, if it is a durable write, with an I/O error; all of it can be read afterwards, as out
    /// of a page cache, and what the disk has of it is known when the power was cut.
    pub fn fail_sync_at(&self, operation: u64) {
        self.inner.state().plan.fail_sync_at = Some(operation);
    }

    /// Whether there is space for new files.
    pub fn set_full(&self, is_full: bool) {
        self.inner.state().plan.is_full = is_full;
    }

    /// How much longer than memory every durable write takes.
    pub fn set_write_delay(&self, delay: Duration) {
        self.inner.state().plan.write_delay = delay;
    }

    /// Inverts bit `bit` of the byte at `position`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is no such file.
    pub fn flip_bit(&self, name: &str, position: u64, bit: u8) -> io::Result<()> {
        self.inner.disk.file(name)?.content()[position as usize] ^= 1 << bit;
        Ok(())
    }

    /// All durable writes that were asked for, in order, also those that failed.
    pub fn history(&self) -> Vec<DurableWrite> {
        self.inner.state().history.clone()
    }

    /// Cuts the power now, if it was not, and gives the disk as it is found afterwards; this one stays without power.
    pub fn crash(&self) -> FaultyDisk {
        let mut state = self.inner.state();
        state.lose_power();
        let seed = state.random.next();
        FaultyDisk::with(self.inner.disk.deep_clone(), seed)
    }

    /// Kills the process that uses the disk, as one that writes through a page cache: what it had begun to write is all
    /// there to be read, and gets to the disk only when it is synced. Gives the disk as the next process finds it; this one
    /// does nothing any more.
    pub fn kill(&self) -> FaultyDisk {
        let mut state = self.inner.state();
        state.has_power = false;
        let killed = FaultyDisk::with(self.inner.disk.deep_clone(), state.random.next());
        for before in std::mem::take(&mut state.unsynced) {
            let Ok(file) = killed.inner.disk.file(&before.name) else { continue };
            killed.inner.state().unsynced.push(Begun { file, ..before });
        }
        for (_, begun) in std::mem::take(&mut state.begun) {
            // The file may have been renamed since, but not while it was written.
            let Ok(file) = killed.inner.disk.file(&begun.name) else { continue };
            let before = file.content()[begun.position..begun.position + begun.bytes.len()].to_vec();
            let begun = Begun { file, ..begun };
            begun.write(|_| true);
            killed.inner.state().unsynced.push(Begun { bytes: before, ..begun });
        }
        killed
    }

    /// A disk with the same bytes that shares nothing with this one, which goes on.
    pub fn copy(&self) -> FaultyDisk {
        let seed = self.inner.state().random.next();
        FaultyDisk::with(self.inner.disk.deep_clone(), seed)
    }

    /// What was read so far.
    pub fn reads(&self) -> Reads {
        self.inner.state().reads
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts an operation and says what becomes of it.
    fn begin(&mut self) -> io::Result<Fate> {
        if !self.has_power {
            return Err(no_power());
        }
        self.operations += 1;
        let is_cut = self.plan.cut_power_at.is_some_and(|operation| operation <= self.operations);
        Ok(if is_cut { Fate::Torn } else { Fate::Proceed })
    }

    fn lose_power(&mut self) {
        self.has_power = false;
        for (_, begun) in std::mem::take(&mut self.begun) {
            let tear = Tear::draw(&mut self.random, begun.bytes.len() / SECTOR_BYTES);
            begun.write(|sector| tear.keeps(sector, &mut self.random));
        }
        // These hold what was there before the write: the sectors that did not get to the disk fall back to it.
        for before in std::mem::take(&mut self.unsynced) {
            let tear = Tear::draw(&mut self.random, before.bytes.len() / SECTOR_BYTES);
            before.write(|sector| !tear.keeps(sector, &mut self.random));
        }
    }
}

/// Which sectors of a write reach the disk. All are subsets that a real disk may leave; drawing each sector by itself
/// alone would almost never leave a whole frame behind a torn one.
enum Tear {
    Any,
    /// Each run of this many sectors by itself.
    Runs(usize, u64),
    AllBut(usize),
    From(usize),
    Before(usize),
}

impl Tear {
    fn draw(random: &mut Random, sectors: usize) -> Tear {
        let at = (random.next() % (sectors as u64 + 1)) as usize;
        match random.next() % 5 {
            0 => Tear::Any,
            1 => Tear::Runs(8, random.next()),
            2 => Tear::AllBut(at),
            3 => Tear::From(at),
            _ => Tear::Before(at),
        }
    }

    fn keeps(&self, sector: usize, random: &mut Random) -> bool {
        match *self {
            Tear::Any => random.coin(),
            Tear::Runs(sectors, seed) => Random(seed ^ (sector / sectors) as u64).coin(),
            Tear::AllBut(lost) => sector != lost,
            Tear::From(first) => sector >= first,
            Tear::Before(end) => sector < end,
        }
    }
}

fn no_power() -> io::Error {
    io::Error::other("the disk has no power")
}

impl Inner {
    /// A change of names: during a power cut it has happened or not.
    fn change(&self, change: impl FnOnce(&MemoryDisk) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        match state.begin()? {
            Fate::Proceed => change(&self.disk),
            Fate::Torn => {
                if state.random.coin() {
                    // The answer is lost in any case.
                    drop(change(&self.disk));
                }
                state.lose_power();
                Err(no_power())
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.disk.list()
    }

    fn create_filled(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.inner.state();
        match state.begin()? {
            Fate::Proceed if state.plan.is_full => Err(io::ErrorKind::StorageFull.into()),
            Fate::Proceed => self.inner.disk.create_filled(name, bytes),
            Fate::Torn => {
                // As the real disk does it: under another name until it is whole.
                let is_whole = state.random.coin();
                let left =
                    if is_whole { (name.to_string(), bytes) } else { (format!("{name}{PARTIAL_SUFFIX}"), bytes / 2) };
                drop(self.inner.disk.create_filled(&left.0, left.1));
                state.lose_power();
                Err(no_power())
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.inner.disk.file(name)?;
        Ok(Arc::new(FaultyFile { disk: self.inner.clone(), file, name: name.to_string() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.change(|disk| disk.remove(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.change(|disk| disk.rename(from, to))
    }

    fn sync(&self) -> io::Result<()> {
        if self.inner.state().has_power { Ok(()) } else { Err(no_power()) }
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.inner.disk.read(name)
    }

    fn write_atomic(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.inner.state().plan.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.change(|disk| disk.write_atomic(name, bytes))
    }

    fn begin(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        let file = NewFaultyFile { disk: self.inner.clone(), name: name.to_string(), content: Vec::new() };
        file.leave_partial()?;
        Ok(Box::new(file))
    }
}

/// Its writes are operations, and so is its end.
struct NewFaultyFile {
    disk: Arc<Inner>,
    name: String,
    content: Vec<u8>,
}

impl NewFaultyFile {
    /// Puts what there is of it on the disk under the name of a file in the making.
    fn leave_partial(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let fate = state.begin()?;
        if state.plan.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let kept = match fate {
            Fate::Proceed => self.content.len(),
            Fate::Torn => (state.random.next() % (self.content.len() as u64 + 1)) as usize,
        };
        self.disk.disk.write_atomic(&format!("{}{PARTIAL_SUFFIX}", self.name), &self.content[..kept])?;
        if let Fate::Torn = fate {
            state.lose_power();
            return Err(no_power());
        }
        Ok(())
    }
}

impl NewFile for NewFaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(bytes);
        self.leave_partial()
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.disk.change(|disk| disk.rename(&format!("{}{PARTIAL_SUFFIX}", self.name), &self.name))
    }
}

impl Drop for NewFaultyFile {
    fn drop(&mut self) {
        // One that was finished has it no longer; one that a power cut has hit stays.
        if self.disk.state().has_power {
            drop(self.disk.disk.remove(&format!("{}{PARTIAL_SUFFIX}", self.name)));
        }
    }
}

struct FaultyFile {
    disk: Arc<Inner>,
    file: Arc<MemoryFile>,
    name: String,
}

impl DiskFile for FaultyFile {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    fn write_durable(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes = assert_aligned(self.file.bytes(), position, parts);
        let (operation, delay) = {
            let mut state = self.disk.state();
            state.history.push(DurableWrite { name: self.name.clone(), position, bytes });
            let fate = state.begin()?;
            let operation = state.operations;
            if state.plan.refuse_write_at == Some(operation) {
                return Err(io::Error::other("the disk refuses the write"));
            }
            let begun = Begun {
                name: self.name.clone(),
                file: self.file.clone(),
                position: position as usize,
                bytes: concat(parts),
                is_clean: false,
            };
            if bugs::has(Bug::SkippedSync) || state.plan.fail_sync_at == Some(operation) {
                let before = self.file.content()[begun.position..begun.position + begun.bytes.len()].to_vec();
                begun.write(|_| true);
                state.unsynced.push(Begun { bytes: before, is_clean: true, ..begun });
                if bugs::has(Bug::SkippedSync) {
                    return Ok(());
                }
                return Err(io::Error::other("the disk has failed to sync"));
            }
            state.begun.insert(operation, begun);
            if let Fate::Torn = fate {
                state.lose_power();
                return Err(no_power());
            }
            (operation, state.plan.write_delay)
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut state = self.disk.state();
        // A power cut during the delay has taken the write away and torn it.
        state.begun.remove(&operation).ok_or_else(no_power)?;
        self.file.write_durable(position, parts)
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        {
            let mut state = self.disk.state();
            state.reads.count += 1;
            state.reads.bytes += into.len() as u64;
            state.reads.longest_bytes = state.reads.longest_bytes.max(into.len() as u64);
        }
        self.file.read_at(position, into)
    }

    fn settle(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.disk.state();
        if !state.has_power {
            return Err(no_power());
        }
        let is_settled = |begun: &Begun| {
            let (start, end) = (begun.position as u64, (begun.position + begun.bytes.len()) as u64);
            !begun.is_clean || (range.start <= start && end <= range.end)
        };
        state.unsynced.retain(|unsynced| !(Arc::ptr_eq(&unsynced.file, &self.file) && is_settled(unsynced)));
        Ok(())
    }
}

fn concat(parts: &[IoSlice<'_>]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}
