//! `weir recover` and `weir restore`: a new node out of what is in a store, where the one before it is lost.
//!
//! Of each group the newest snapshot is taken that is whole in the store. Its chunks are where they were (`recover`), or are
//! copied to the new node (`restore`). What only the logs had is lost; [`weir_stream::Remainder`] says of each stream what
//! that means.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use weir_cold::claim;
use weir_cold::{ChunkName, ChunkStore, Flaw, LocalStore, Manifest, StoreError, read_written, survey, verify};
use weir_raft::{install, read_snapshot};
use weir_shard::{Entropy as _, Topology};
use weir_storage::{EntryId, SnapshotReader, Wal, WalConfig, WriteMode};
use weir_stream::{Chunk, Group, Remainder, join_buckets, join_forks};
use weir_types::GroupId;

use crate::config::{ColdConfig, Config};
use crate::exit::Exit;
use crate::node::{DataDir, LOCK_FILE, Node, NodeError};
use crate::output::{Output, Progress};
use crate::place;
use crate::recover_error::RecoverError;
use crate::seams::SystemEntropy;

/// What is to be done.
pub(crate) struct Order {
    /// Where snapshots and chunks are: `s3://bucket/prefix` or `file:///folder`.
    pub(crate) from: String,
    /// The new node's directory: not there, or empty.
    pub(crate) data_dir: PathBuf,
    /// What becomes of the chunks.
    pub(crate) mode: Mode,
    /// How to print what becomes of each stream.
    pub(crate) output: Output,
}

/// Where the new node's chunks are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Where they were: the store becomes the new node's.
    InPlace {
        /// The node that it belongs to is stopped for good.
        take_over: bool,
    },
    /// In its own folder.
    Copy,
}

/// What became of a stream, as a line of JSON.
#[derive(Serialize)]
struct StreamLine<'a> {
    stream: &'a str,
    bytes: u64,
    lost_bytes: u64,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// Closed, and all of it is there.
    Whole,
    /// All is there that the snapshot knows of; something may have come later.
    Open,
    /// Its end is lost.
    Cut,
}

/// What became of all streams.
#[derive(Default)]
struct Summary {
    whole: u64,
    open: u64,
    cut: u64,
    bytes: u64,
    lost_bytes: u64,
}

/// Does what `order` says.
///
/// # Errors
/// [`Exit`] says why there is no new node; what is in the data directory by then is of no use.
pub(crate) fn run(config: &Config, order: &Order) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    let runtime = runtime.map_err(|source| Exit::System { doing: "start the main thread's runtime", source })?;
    runtime.block_on(recover(config, order))
}

async fn recover(config: &Config, order: &Order) -> Result<(), Exit> {
    let from = order.from.as_str();
    let is_copy = order.mode == Mode::Copy;
    let store = place::open(from, &config.cold, is_copy)?;
    check_empty(&order.data_dir, from, is_copy)?;
    let failed = |source| RecoverError::Store { from: from.to_string(), source };
    let owner = claim::owner(&*store).await.map_err(failed)?;
    if let Some(owner) = owner.filter(|_| order.mode == Mode::InPlace { take_over: false }) {
        return Err(RecoverError::Owned { from: from.to_string(), owner }.into());
    }
    let (mut groups, chosen) = read_groups(&*store, from).await?;
    let count = chosen.values().map(|manifest| manifest.groups).max().unwrap_or(0);
    let mut summary = Summary::default();
    forget_logs(&mut groups, order.output, &mut summary)?;
    join_buckets(&mut groups, count);

    let fresh = Node::new(|| SystemEntropy.u64(), config.shards(), count, None);
    let data_dir = DataDir::open(&order.data_dir)?;
    let lasts: BTreeMap<GroupId, EntryId> = chosen
        .iter()
        .map(|(group, Manifest { name, .. })| (*group, EntryId { term: name.term, index: name.index }))
        .collect();
    if is_copy {
        data_dir.begin_restore(from)?;
        copy_chunks(&*store, from, &data_dir, &groups, fresh.id).await?;
        data_dir.set_cold_url(ColdConfig::LOCAL)?;
    }
    data_dir.form_wals(&fresh)?;
    install_all(config, &data_dir, &fresh, groups, &lasts).await?;
    if !is_copy {
        take_over(&*store, fresh.id, &chosen).await.map_err(failed)?;
        data_dir.set_cold_url(from)?;
    }
    data_dir.finish(&fresh)?;
    data_dir.end_restore()?;
    summary.print(order, count, chosen.len())
}

/// Refuses a directory with anything in it, unless it is that of an unfinished restore from the same place.
fn check_empty(path: &Path, from: &str, is_copy: bool) -> Result<(), Exit> {
    let failed = |source| NodeError::Io { path: path.to_path_buf(), source };
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    if is_copy && DataDir::open(path)?.unfinished_restore()?.as_deref() == Some(from) {
        return Ok(());
    }
    let names: io::Result<Vec<_>> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    // The lock is what a command leaves that was refused.
    match names.map_err(failed)?.into_iter().find(|name| name != LOCK_FILE) {
        None => Ok(()),
        Some(found) => Err(RecoverError::NotEmpty { path: path.to_path_buf(), found }.into()),
    }
}

/// The state of every group, out of its newest snapshot that is whole, and that snapshot's manifest.
async fn read_groups(
    store: &dyn ChunkStore,
    from: &str,
) -> Result<(BTreeMap<GroupId, Group>, BTreeMap<GroupId, Manifest>), RecoverError> {
    let failed = |source| RecoverError::Store { from: from.to_string(), source };
    let (mut groups, mut chosen) = (BTreeMap::new(), BTreeMap::new());
    for (group, survey) in survey(store).await.map_err(failed)? {
        for manifest in survey.snapshots {
            match read_file(store, &manifest).await.map_err(failed)? {
                Ok(file) => {
                    let read = SnapshotReader::of_bytes(group, file).and_then(read_snapshot);
                    let (_, state) = read.map_err(|source| RecoverError::Snapshot { group, source })?;
                    groups.insert(group, state);
                    chosen.insert(group, manifest);
                    break;
                }
                Err(flaw) => eprintln!("weir: the snapshot {} is damaged: {flaw}", manifest.name.manifest()),
            }
        }
    }
    if chosen.is_empty() { Err(RecoverError::NoSnapshot(from.to_string())) } else { Ok((groups, chosen)) }
}

/// The whole file of a snapshot, or what is wrong with one of its pieces.
async fn read_file(store: &dyn ChunkStore, manifest: &Manifest) -> Result<Result<Bytes, Flaw>, StoreError> {
    let mut file = Vec::new();
    for piece in 0..manifest.pieces.len() {
        match manifest.read(store, piece).await? {
            Ok(piece) => file.extend_from_slice(&piece),
            Err(flaw) => return Ok(Err(flaw)),
        }
    }
    Ok(Ok(file.into()))
}

/// Gives up what the log had, and counts and prints what is left.
fn forget_logs(groups: &mut BTreeMap<GroupId, Group>, output: Output, summary: &mut Summary) -> Result<(), Exit> {
    let mut lines = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let random = || SystemEntropy.u64();
    let mut told = |Remainder { key, bytes, lost_bytes, is_final }: Remainder<'_>| {
        let fate = match (lost_bytes, is_final) {
            (0, true) => Fate::Whole,
            (0, false) => Fate::Open,
            _ => Fate::Cut,
        };
        summary.count(fate, bytes, lost_bytes);
        if output == Output::Json && written.is_ok() {
            let line = StreamLine { stream: key, bytes, lost_bytes, fate };
            written = writeln!(lines, "{}", serde_json::to_string(&line).expect("plain values can be written"));
        }
    };
    let mut forks = Vec::new();
    for group in groups.values_mut() {
        forks.extend(group.forget_log(random, &mut told));
    }
    join_forks(groups, forks, random, &mut told);
    written.and_then(|()| lines.flush()).map_err(Exit::Output)
}

/// Copies every chunk that is named into the node's own folder, which becomes that of `node_id`. Those that are there are
/// left.
async fn copy_chunks(
    store: &dyn ChunkStore,
    from: &str,
    data_dir: &DataDir,
    groups: &BTreeMap<GroupId, Group>,
    node_id: u64,
) -> Result<(), Exit> {
    let local = LocalStore::new(data_dir.cold_dir()?).map_err(|error| data_dir.cold_failed(error))?;
    let local_failed = |error| data_dir.cold_failed(io::Error::other(error));
    let chunks: Vec<(GroupId, Chunk)> =
        groups.iter().flat_map(|(group, state)| state.chunks().map(|chunk| (*group, *chunk))).collect();
    let (progress, all) = (Progress::new(true), chunks.len() as u64);
    for (done, (group, Chunk { id, bytes, crc, .. })) in (0..).zip(chunks) {
        progress.show(done * 100 / all, done, all);
        let object = ChunkName { group, term: id.term, number: id.number, nonce: id.nonce }.object();
        if verify(&local, &object, bytes, crc).await.map_err(local_failed)?.is_none() {
            continue;
        }
        let read = read_written(store, &object, bytes, crc).await;
        let chunk = match read.map_err(|source| RecoverError::Store { from: from.to_string(), source })? {
            Ok(chunk) => chunk,
            Err(flaw) => return Err(RecoverError::Chunk { chunk: object, flaw }.into()),
        };
        local.put(&object, chunk).await.map_err(local_failed)?;
        if let Some(flaw) = verify(&local, &object, bytes, crc).await.map_err(local_failed)? {
            return Err(RecoverError::Chunk { chunk: object, flaw }.into());
        }
    }
    progress.clear();
    Ok(claim::take_over(&local, node_id).await.map_err(local_failed)?)
}

/// Has every group begin in the new node's logs.
async fn install_all(
    config: &Config,
    data_dir: &DataDir,
    node: &Node,
    mut groups: BTreeMap<GroupId, Group>,
    lasts: &BTreeMap<GroupId, EntryId>,
) -> Result<(), Exit> {
    let sizes = config.sizes(node.wals())?;
    let topology = Topology { shards: 1, wals: node.wals(), groups: node.groups };
    for (wal_id, disk) in (0..).map(weir_types::WalId).zip(data_dir.wal_disks(node)?) {
        let wal_config = WalConfig {
            segment_bytes: sizes.segment_bytes,
            budget_bytes: sizes.budget_bytes_per_wal,
            cache_bytes: 0,
            write: WriteMode::Auto,
        };
        let opened = Wal::open(Arc::new(disk), wal_config, Box::new(|| SystemEntropy.u64()));
        let wal = opened.map_err(|error| RecoverError::Log(io::Error::other(error)))?;
        tokio::task::spawn_local(wal.clone().run());
        for group in topology.groups().filter(|group| topology.wal_of(*group) == wal_id) {
            if let Some(state) = groups.remove(&group) {
                let last = lasts.get(&group).copied().unwrap_or(EntryId { term: 1, index: 1 });
                install(&wal, group, node.number, last, state).await.map_err(RecoverError::Log)?;
            }
        }
        wal.stop();
        wal.stopped().await;
    }
    Ok(())
}

/// Makes the store the new node's, and its snapshots those that were chosen.
async fn take_over(
    store: &dyn ChunkStore,
    node_id: u64,
    chosen: &BTreeMap<GroupId, Manifest>,
) -> Result<(), StoreError> {
    for (group, survey) in survey(store).await? {
        for manifest in survey.snapshots.iter().filter(|manifest| chosen.get(&group) != Some(*manifest)) {
            store.delete(&manifest.name.manifest()).await?;
        }
    }
    claim::take_over(store, node_id).await
}

impl Summary {
    fn count(&mut self, fate: Fate, bytes: u64, lost_bytes: u64) {
        match fate {
            Fate::Whole => self.whole += 1,
            Fate::Open => self.open += 1,
            Fate::Cut => self.cut += 1,
        }
        self.bytes += bytes;
        self.lost_bytes += lost_bytes;
    }

    fn print(&self, order: &Order, count: u16, found: usize) -> Result<(), Exit> {
        if order.output == Output::Json {
            return Ok(());
        }
        let Summary { whole, open, cut, bytes, lost_bytes } = self;
        let lost_groups = usize::from(count) - found;
        let mut text = format!(
            "{} streams, {} MiB: {whole} whole, {open} open (what came after the snapshot is lost), \
             {cut} cut by {lost_bytes} bytes\n",
            whole + open + cut,
            bytes >> 20,
        );
        if lost_groups > 0 {
            text += &format!("{lost_groups} of {count} groups had no snapshot: their streams are lost\n");
        }
        text += "Modules are not in the store: upload those that are bound again.\n";
        io::stdout().write_all(text.as_bytes()).map_err(Exit::Output)
    }
}
