//! Snapshots in the store, beside the chunks that they name: what a node is built from again when all else of it is lost.
//!
//! A snapshot's file is put in *pieces*, and then a *manifest* that says what they are, so whatever a manifest names is
//! there:
//!
//! ```text
//! weir-snapshot 1
//! cluster 4f6c2d9e8a1b3c05
//! groups 4
//! pieces 2
//! 8388608 1a2b3c4d              bytes and CRC32C of each
//! 41210 99aabbcc
//! checksum 5e6f7a8b             CRC32C of the object's name and of all lines before this one
//! ```
//! The names of the objects say the rest: group, entry, and a number drawn at random, so that no name is ever used twice. A
//! manifest is read only if it is, byte by byte, as it was written.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use weir_types::GroupId;

use crate::cold::Cold;
use crate::error::ColdError;
use crate::store::{ChunkStore, StoreError};
use crate::verify::Flaw;

/// The longest piece, in bytes.
pub const PIECE_BYTES_MAX: usize = 8 << 20;
/// The longest manifest: enough for a snapshot of a terabyte.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
const VERSION: &str = "weir-snapshot 1";

/// Which snapshot. The greater of two of one group is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// Its group.
    pub group: GroupId,
    /// The term of the entry that it is as of.
    pub term: u64,
    /// The index of that entry.
    pub index: u64,
    /// Drawn at random.
    pub nonce: u32,
}

/// What a snapshot consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which it is.
    pub name: SnapshotName,
    /// The cluster whose it is.
    pub cluster: u64,
    /// How many groups that has.
    pub groups: u16,
    /// What its file was cut into.
    pub pieces: Vec<SnapshotPiece>,
}

/// A piece of a snapshot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPiece {
    /// Its length.
    pub bytes: u64,
    /// CRC32C of it.
    pub crc: u32,
}

/// What there is of a group's snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Those of which every piece is there with its length, the newest first.
    pub snapshots: Vec<Manifest>,
    /// All objects of snapshots, manifests first.
    objects: Vec<String>,
}

impl Survey {
    /// All objects that are not part of the newest snapshot, manifests first.
    pub fn others(&self) -> Vec<String> {
        let newest = self.snapshots.first().map_or_else(Vec::new, Manifest::objects);
        self.objects.iter().filter(|object| !newest.contains(object)).cloned().collect()
    }
}

impl SnapshotName {
    /// The manifest: `00003-00000000000000000007-00000000000000001234-1f2e3d4c.snapshot`.
    pub fn manifest(self) -> String {
        format!("{}.snapshot", self.stem())
    }

    /// Piece number `piece`, counted from 0: `00003-00000000000000000007-00000000000000001234-1f2e3d4c-00000.piece`.
    pub fn piece(self, piece: usize) -> String {
        format!("{}-{piece:05}.piece", self.stem())
    }

    /// The snapshot that an object is the manifest of.
    pub fn of_manifest(object: &str) -> Option<SnapshotName> {
        let name = SnapshotName::parse(object.strip_suffix(".snapshot")?)?;
        (name.manifest() == object).then_some(name)
    }

    /// The snapshot that an object is a piece of.
    pub fn of_piece(object: &str) -> Option<SnapshotName> {
        let (stem, piece) = object.strip_suffix(".piece")?.rsplit_once('-')?;
        let name = SnapshotName::parse(stem)?;
        (name.piece(piece.parse().ok()?) == object).then_some(name)
    }

    /// The snapshot that an object is the manifest or a piece of.
    pub fn of_object(object: &str) -> Option<SnapshotName> {
        SnapshotName::of_manifest(object).or_else(|| SnapshotName::of_piece(object))
    }

    /// Whether an object is the manifest of some snapshot.
    pub fn is_manifest(object: &str) -> bool {
        SnapshotName::of_manifest(object).is_some()
    }

    fn stem(self) -> String {
        format!("{:05}-{:020}-{:020}-{:08x}", self.group.0, self.term, self.index, self.nonce)
    }

    fn parse(stem: &str) -> Option<SnapshotName> {
        let mut fields = stem.split('-');
        let mut next = || fields.next();
        Some(SnapshotName {
            group: GroupId(next()?.parse().ok()?),
            term: next()?.parse().ok()?,
            index: next()?.parse().ok()?,
            nonce: u32::from_str_radix(next()?, 16).ok()?,
        })
    }
}

impl Manifest {
    /// As it is put.
    fn text(&self) -> String {
        let Manifest { name, cluster, groups, pieces } = self;
        let mut text = format!("{VERSION}\ncluster {cluster:016x}\ngroups {groups}\npieces {}\n", pieces.len());
        for SnapshotPiece { bytes, crc } in pieces {
            writeln!(text, "{bytes} {crc:08x}").expect("memory takes it");
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(name.manifest().as_bytes()), text.as_bytes());
        writeln!(text, "checksum {crc:08x}").expect("memory takes it");
        text
    }

    /// Reads what [`Manifest::text`] wrote; `None` for anything else.
    fn parse(name: SnapshotName, text: &str) -> Option<Manifest> {
        let mut lines = text.lines();
        let mut field = |key: &str| lines.next()?.strip_prefix(key);
        field(VERSION)?;
        let cluster = u64::from_str_radix(field("cluster ")?, 16).ok()?;
        let groups = field("groups ")?.parse().ok()?;
        let count: usize = field("pieces ")?.parse().ok()?;
        let pieces = lines.take(count).map(|line| {
            let (bytes, crc) = line.split_once(' ')?;
            Some(SnapshotPiece { bytes: bytes.parse().ok()?, crc: u32::from_str_radix(crc, 16).ok()? })
        });
        let manifest = Manifest { name, cluster, groups, pieces: pieces.collect::<Option<_>>()? };
        (manifest.text() == text).then_some(manifest)
    }

    /// The names of all its objects.
    pub fn objects(&self) -> Vec<String> {
        let pieces = (0..self.pieces.len()).map(|piece| self.name.piece(piece));
        std::iter::once(self.name.manifest()).chain(pieces).collect()
    }

    /// Whether every piece is among `objects`, with its length.
    fn is_whole(&self, objects: &BTreeMap<String, u64>) -> bool {
        let has =
            |(number, piece): (usize, &SnapshotPiece)| objects.get(&self.name.piece(number)) == Some(&piece.bytes);
        self.pieces.iter().enumerate().all(has)
    }

    /// Reads piece number `piece` of the snapshot's file, or says what is wrong with it.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn read(&self, store: &dyn ChunkStore, piece: usize) -> Result<Result<Bytes, Flaw>, StoreError> {
        let SnapshotPiece { bytes: written, crc } = self.pieces[piece];
        let read = match store.get(&self.name.piece(piece), 0..written + 1).await {
            Err(StoreError::Missing(_)) => return Ok(Err(Flaw::Missing)),
            read => read?,
        };
        Ok(Flaw::of(&read, written, crc).map_or(Ok(read), Err))
    }
}

/// Looks at what there is of snapshots in a store, group by group.
///
/// # Errors
/// Whatever the store says.
pub async fn survey(store: &dyn ChunkStore) -> Result<BTreeMap<GroupId, Survey>, StoreError> {
    survey_of(store, |_| true).await
}

/// As [`survey`], of the groups that are wanted: the manifests of others are not read.
async fn survey_of(
    store: &dyn ChunkStore,
    is_wanted: impl Fn(GroupId) -> bool,
) -> Result<BTreeMap<GroupId, Survey>, StoreError> {
    let objects: BTreeMap<String, u64> = store.list().await?.into_iter().collect();
    let mut surveys: BTreeMap<GroupId, Survey> = BTreeMap::new();
    let names = objects.keys().filter_map(|object| SnapshotName::of_manifest(object));
    let mut names: Vec<SnapshotName> = names.filter(|name| is_wanted(name.group)).collect();
    names.sort_unstable();
    for name in names.into_iter().rev() {
        let survey = surveys.entry(name.group).or_default();
        survey.objects.push(name.manifest());
        survey.snapshots.extend(read_manifest(store, name).await?.filter(|manifest| manifest.is_whole(&objects)));
    }
    // Manifests go before their pieces.
    for object in objects.into_keys() {
        if let Some(name) = SnapshotName::of_piece(&object).filter(|name| is_wanted(name.group)) {
            surveys.entry(name.group).or_default().objects.push(object);
        }
    }
    Ok(surveys)
}

/// A manifest that is as it was written; `None` for another one, or if it went meanwhile.
async fn read_manifest(store: &dyn ChunkStore, name: SnapshotName) -> Result<Option<Manifest>, StoreError> {
    match store.get(&name.manifest(), 0..MANIFEST_BYTES_MAX).await {
        Err(StoreError::Missing(_)) => Ok(None),
        read => Ok(std::str::from_utf8(&read?).ok().and_then(|text| Manifest::parse(name, text))),
    }
}

impl Cold {
    /// What there is of the group's snapshots.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn snapshots(&self, group: GroupId) -> Result<Survey, ColdError> {
        self.run(move |inner| async move {
            let mut surveys = survey_of(&*inner.store, |of| of == group).await?;
            Ok(surveys.remove(&group).unwrap_or_default())
        })
        .await
    }

    /// Puts a piece of a snapshot's file; it is durable then.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn put_piece(&self, name: SnapshotName, piece: usize, bytes: Bytes) -> Result<(), ColdError> {
        assert!(bytes.len() <= PIECE_BYTES_MAX, "pieces are cut");
        self.run(move |inner| async move { Ok(inner.store.put(&name.piece(piece), bytes).await?) }).await
    }

    /// Puts a manifest, of which all pieces are there.
    ///
    /// # Errors
    /// Whatever the store says. It may be there all the same, or come to be there later.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<(), ColdError> {
        let (object, text) = (manifest.name.manifest(), BytesMut::from(manifest.text().as_bytes()).freeze());
        self.run(move |inner| async move { Ok(inner.store.put(&object, text).await?) }).await
    }

    /// Deletes an object of a snapshot, if it is there.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn delete_snapshot_object(&self, object: &str) -> Result<(), ColdError> {
        let object = object.to_string();
        self.run(move |inner| async move { Ok(inner.store.delete(&object).await?) }).await
    }
}
