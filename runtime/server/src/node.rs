//! The node: its data directory, the lock that keeps others out, and the few facts fixed when it was formed.
//!
//! ```text
//! <data_dir>/lock        held with flock for the life of the process
//! <data_dir>/node.toml   format, node id, number of groups, identity of each WAL, the cluster and its nodes, checksum
//! <data_dir>/wal-<k>/    one folder per WAL, see weir-storage
//! <data_dir>/modules/    what was uploaded and its machine code, see weir-wasm
//! <data_dir>/cold/       chunks of the cold tier, where it is a folder, see weir-cold
//! <data_dir>/cold.url    where the cold tier is, once it is this node's
//! <data_dir>/cold.number the number that the cluster has there, where it has several nodes
//! <data_dir>/peers       the cluster's nodes: where they are, the disks that they had when they were met first, who was removed
//! <data_dir>/restore     where the node is being restored from, until it is whole
//! ```
//!
//! `node.toml` is written last, so that it is there only when all the WALs are: a formed node that misses one, or finds
//! another in its place, has lost data and is refused, never formed anew. The file is refused too unless it is byte for byte
//! as it was written. The folder of modules comes to be when it is missed. The path is resolved
//! once; everything below works on the open directory.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use weir_types::limits::FORMAT_LEVEL;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, File, OpenOptions};
use serde::{Deserialize, Serialize};
use weir_cluster::{DiskId, Known, List, NodeId};
use weir_storage::{RealDisk, Wal, WalError};

/// Version of the data directory's layout, and of everything that no format of its own below it guards.
const FORMAT: u32 = 2;

/// The number of a node that is alone, in its groups; it keeps it as the first of a cluster.
const NUMBER_ALONE: u64 = 1;

/// Groups of a new cluster.
const CLUSTER_GROUPS: u16 = 3;

pub(crate) const LOCK_FILE: &str = "lock";
const NODE_FILE: &str = "node.toml";
const MODULES_FOLDER: &str = "modules";
const COLD_FOLDER: &str = "cold";
const COLD_URL_FILE: &str = "cold.url";
const COLD_NUMBER_FILE: &str = "cold.number";
const RESTORE_FILE: &str = "restore";
const PEERS_FILE: &str = "peers";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// Another process uses it.
    #[error("the data directory {} is in use by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It, or something in it, cannot be created, read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// What cannot be used.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `node.toml` is not as we write it.
    #[error("{NODE_FILE} in the data directory {} is not valid: {reason}", path.display())]
    Invalid {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It was formed by another version of the program.
    #[error("the data directory {} has format {found}, this program reads format {FORMAT}", path.display())]
    OtherFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It belongs to a cluster all of whose nodes had a later version.
    #[error(
        "the data directory {} is of a cluster at format level {found}, and this program knows {FORMAT_LEVEL}: start it with a later version",
        path.display()
    )]
    OtherLevel {
        /// The directory.
        path: PathBuf,
        /// The cluster's level.
        found: u16,
    },
    /// The log in a WAL's folder is not the one that `node.toml` names.
    #[error("{folder} in the data directory {} cannot be used", path.display())]
    Wal {
        /// The directory.
        path: PathBuf,
        /// The WAL's folder in it.
        folder: String,
        /// What is there instead.
        #[source]
        source: WalError,
    },
    /// There are WALs without `node.toml`, or fewer than it says.
    #[error("the data directory {} is incomplete: {reason}", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// It is part of another cluster than is asked for, or of none.
    #[error(
        "the data directory {} belongs to {formed}, and cannot be used as {asked}: start it as what it is, or another with a \
         new directory",
        path.display()
    )]
    ClusterDiffers {
        /// The directory.
        path: PathBuf,
        /// What it was formed as.
        formed: String,
        /// What was asked for.
        asked: String,
    },
    /// Another number of groups is asked for than the node was formed with.
    #[error(
        "the node in {} was formed with {formed} groups and cannot have {asked}: their number is final, \
         start it without --groups",
        path.display()
    )]
    GroupsDiffer {
        /// The directory.
        path: PathBuf,
        /// What it has.
        formed: u16,
        /// What was asked for.
        asked: u16,
    },
}

/// What is fixed when a node is formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Drawn at random, never 0.
    pub(crate) id: u64,
    /// Its number in its groups, and among the nodes of its cluster.
    pub(crate) number: u64,
    /// Its groups.
    pub(crate) groups: u16,
    /// The identity of each of its WALs, drawn at random.
    pub(crate) wal_ids: Vec<u64>,
    /// The cluster that it is one of several nodes of.
    pub(crate) cluster: Option<Membership>,
}

/// A cluster as it was when it was formed, or the node became one of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// What it is called.
    pub(crate) id: String,
    /// The numbers of those that have formed its groups, this one's too; nobody where it was taken in later.
    pub(crate) founders: BTreeSet<u64>,
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.founders.is_empty() {
            return write!(f, "cluster {:?}, which it has joined", self.id);
        }
        let founders: Vec<String> = self.founders.iter().map(u64::to_string).collect();
        write!(f, "cluster {:?} of nodes {}", self.id, founders.join(", "))
    }
}

impl Node {
    /// A new node with these many shards; `groups` 0 means one per WAL, or three in a cluster. `random` draws its identities; the
    /// number of a node of a cluster is given.
    pub(crate) fn new(
        random: impl Fn() -> u64,
        shards: u16,
        groups: u16,
        cluster: Option<(NodeId, Membership)>,
    ) -> Node {
        assert!(shards > 0, "a node has a shard");
        // One WAL per shard that there is now; it stays when the number of shards changes.
        let wals = shards;
        let (id, number, cluster) = match cluster {
            Some((number, membership)) => (number.get(), number.get(), Some(membership)),
            None => (random() | 1, NUMBER_ALONE, None),
        };
        let groups_default = if cluster.is_some() { CLUSTER_GROUPS } else { wals };
        Node {
            id,
            number,
            cluster,
            groups: if groups == 0 { groups_default } else { groups },
            wal_ids: (0..wals).map(|_| random()).collect(),
        }
    }

    /// What its disk is known by: drawn when the logs were formed, and in each of them.
    pub(crate) fn disk(&self) -> u128 {
        self.wal_ids.first().copied().map_or(0, u128::from)
    }

    /// What it is to others.
    fn standing(&self) -> String {
        match &self.cluster {
            None => "a node that is alone".to_string(),
            Some(cluster) => format!("node {} in {cluster}", self.number),
        }
    }

    /// The number of its WALs.
    pub(crate) fn wals(&self) -> u16 {
        self.wal_ids.len() as u16
    }

    /// `node.toml`, as it is written and nothing else.
    fn to_toml(&self) -> String {
        let hex = |id: u64| format!("{id:016x}");
        let file = NodeFile {
            format: FORMAT,
            node_id: hex(self.id),
            number: Some(self.number).filter(|number| *number != self.id),
            groups: self.groups,
            wal_ids: self.wal_ids.iter().copied().map(hex).collect(),
            cluster: self.cluster.as_ref().map(|cluster| cluster.id.clone()),
            founders: self.cluster.as_ref().map(|cluster| cluster.founders.iter().copied().collect()),
            checksum: None,
        };
        let text = toml::to_string(&file).expect("plain values can be written as TOML");
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum = \"{checksum:08x}\"\n")
    }
}

/// `node.toml` as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format: u32,
    /// 16 hexadecimal digits: TOML's integers are signed.
    node_id: String,
    /// Where it is another: those formed before clusters grew have their id in their groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    groups: u16,
    wal_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    /// The cluster's nodes when it was formed.
    #[serde(skip_serializing_if = "Option::is_none")]
    founders: Option<Vec<u64>>,
    /// CRC-32C of the bytes before this line.
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// Only the format, to tell another version's file before its other keys are judged.
#[derive(Debug, Deserialize)]
struct FormatOnly {
    format: u32,
}

/// An open and locked data directory. The lock is released when this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    dir: Dir,
    _lock: File,
}

impl DataDir {
    /// Opens the directory at `path`, creating it (readable by its owner alone) if need be, and locks it.
    ///
    /// # Errors
    /// [`NodeError::Locked`] or [`NodeError::Io`].
    pub(crate) fn open(path: &Path) -> Result<DataDir, NodeError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = |source| NodeError::Io { path: path.to_path_buf(), source };
        let lock_failed = |source| NodeError::Io { path: path.join(LOCK_FILE), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let dir = Dir::open_ambient_dir(path, cap_std::ambient_authority()).map_err(failed)?;
        let lock = dir.open_with(LOCK_FILE, OpenOptions::new().create(true).write(true)).map_err(lock_failed)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DataDir { path: path.to_path_buf(), dir, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(NodeError::Locked { path: path.to_path_buf() }),
            Err(errno) => Err(lock_failed(errno.into())),
        }
    }

    /// The node that was formed here, or else `fresh`, which is formed now. `groups` is what was asked for, 0 for
    /// whatever there is.
    ///
    /// # Errors
    /// Any [`NodeError`] but [`NodeError::Locked`].
    pub(crate) fn node(&self, fresh: Node, groups: u16) -> Result<Node, NodeError> {
        if let Some(url) = self.unfinished_restore()? {
            let reason = format!("its restore from {url} has not come to its end; run `weir restore` again");
            return Err(NodeError::Incomplete { path: self.path.clone(), reason });
        }
        let node = match self.dir.read_to_string(NODE_FILE) {
            Ok(text) => self.parse(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.form(&fresh)?;
                fresh.clone()
            }
            Err(error) => return Err(self.failed(NODE_FILE, error)),
        };
        let node = self.in_cluster(node, &fresh)?;
        if groups != 0 && groups != node.groups {
            return Err(NodeError::GroupsDiffer { path: self.path.clone(), formed: node.groups, asked: groups });
        }
        Ok(node)
    }

    /// The node that was formed here, if one was.
    ///
    /// # Errors
    /// As for [`DataDir::node`].
    pub(crate) fn formed(&self) -> Result<Option<Node>, NodeError> {
        match self.dir.read_to_string(NODE_FILE) {
            Ok(text) => self.parse(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(NODE_FILE, error)),
        }
    }

    /// The node as what is asked for, if it is that: one that is alone may become the first of a cluster.
    fn in_cluster(&self, mut node: Node, asked: &Node) -> Result<Node, NodeError> {
        let is_same =
            |membership: &Membership, other: &Membership| membership.id == other.id && node.number == asked.number;
        match (&node.cluster, &asked.cluster) {
            (None, None) => Ok(node),
            (Some(cluster), Some(other)) if is_same(cluster, other) => Ok(node),
            (None, Some(cluster)) if cluster.founders == BTreeSet::from([node.number]) => {
                node.cluster = Some(cluster.clone());
                self.finish(&node)?;
                Ok(node)
            }
            _ => {
                let (formed, asked) = (node.standing(), asked.standing());
                Err(NodeError::ClusterDiffers { path: self.path.clone(), formed, asked })
            }
        }
    }

    /// The folder of each of the node's WALs, with the log in it that was formed there.
    ///
    /// # Errors
    /// [`NodeError::Incomplete`] when one is missing, [`NodeError::Wal`] when another log is in it or none,
    /// [`NodeError::Io`] when it cannot be opened.
    pub(crate) fn wal_disks(&self, node: &Node) -> Result<Vec<RealDisk>, NodeError> {
        let open = |(wal, &log_id)| {
            let folder = wal_folder(wal);
            let disk = match self.dir.open_dir(&folder).and_then(RealDisk::new) {
                Ok(disk) => disk,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let reason = format!("{folder} is missing, and the data in it with it");
                    return Err(NodeError::Incomplete { path: self.path.clone(), reason });
                }
                Err(error) => return Err(self.failed(&folder, error)),
            };
            Wal::check(&disk, log_id).map_err(|source| self.wal_failed(folder, source))?;
            Ok(disk)
        };
        (0..).zip(&node.wal_ids).map(open).collect()
    }

    /// The folder of uploaded modules, made (readable by its owner alone) if need be.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn modules_dir(&self) -> Result<Dir, NodeError> {
        self.own_dir(MODULES_FOLDER).map_err(|error| self.modules_failed(error))
    }

    /// The folder of the cold tier, made (readable by its owner alone) if need be.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn cold_dir(&self) -> Result<Dir, NodeError> {
        self.own_dir(COLD_FOLDER).map_err(|error| self.cold_failed(error))
    }

    /// Where the node's cold tier is, as [`DataDir::set_cold_url`] was told; nothing when it never had one.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn cold_url(&self) -> Result<Option<String>, NodeError> {
        self.line_of(COLD_URL_FILE)
    }

    /// The cluster's nodes, as this one knew them last.
    ///
    /// # Errors
    /// [`NodeError::Io`], [`NodeError::OtherLevel`], or [`NodeError::Invalid`] for a file that this program did not write.
    pub(crate) fn peers(&self) -> Result<List, NodeError> {
        let text = match self.dir.read_to_string(PEERS_FILE) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(List::default()),
            Err(error) => return Err(self.failed(PEERS_FILE, error)),
        };
        let list = read_peers(&text).ok_or_else(|| {
            let reason = format!("{PEERS_FILE} is not a list of nodes and their disks");
            NodeError::Invalid { path: self.path.clone(), reason }
        })?;
        match list.level {
            0..=FORMAT_LEVEL => Ok(list),
            found => Err(NodeError::OtherLevel { path: self.path.clone(), found }),
        }
    }

    /// Notes them.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn set_peers(&self, peers: &List) -> Result<(), NodeError> {
        let line = |(node, Known { address, disk, is_removed }): (&NodeId, &Known)| {
            let disk = disk.map_or_else(|| "-".to_string(), |disk| disk.to_string());
            format!("{node} {disk} {} {address}\n", if *is_removed { "removed" } else { "there" })
        };
        let lines: String = peers.nodes.iter().map(line).collect();
        let text = format!("epoch {} {}\n{lines}", peers.epoch, peers.level);
        self.replace(PEERS_FILE, &text).map_err(|error| self.failed(PEERS_FILE, error))
    }

    /// What a file of one line says, if it is there.
    fn line_of(&self, file: &str) -> Result<Option<String>, NodeError> {
        match self.dir.read_to_string(file) {
            Ok(text) => Ok(Some(text.trim_end().to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(file, error)),
        }
    }

    /// The number that the node's cluster has in the cold tier, as [`DataDir::set_cold_number`] was told.
    ///
    /// # Errors
    /// [`NodeError::Io`], or [`NodeError::Invalid`] for a file that this program did not write.
    pub(crate) fn cold_number(&self) -> Result<Option<u64>, NodeError> {
        let number = |line: String| {
            u64::from_str_radix(&line, 16).map_err(|_| {
                let reason = format!("{COLD_NUMBER_FILE} is not a number");
                NodeError::Invalid { path: self.path.clone(), reason }
            })
        };
        self.line_of(COLD_NUMBER_FILE)?.map(number).transpose()
    }

    /// Notes the number that the node's cluster has in the cold tier.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn set_cold_number(&self, number: u64) -> Result<(), NodeError> {
        let line = format!("{number:016x}\n");
        self.replace(COLD_NUMBER_FILE, &line).map_err(|error| self.failed(COLD_NUMBER_FILE, error))
    }

    /// Notes where the node's cold tier is from now on.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn set_cold_url(&self, url: &str) -> Result<(), NodeError> {
        self.replace(COLD_URL_FILE, &format!("{url}\n")).map_err(|error| self.failed(COLD_URL_FILE, error))
    }

    /// Notes that the node is being restored from `url`; whatever an unfinished restore has left but chunks is removed.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn begin_restore(&self, url: &str) -> Result<(), NodeError> {
        self.replace(RESTORE_FILE, &format!("{url}\n")).map_err(|error| self.failed(RESTORE_FILE, error))?;
        let left = self.dir.entries().map_err(|error| self.failed(".", error))?;
        for entry in left {
            let name = entry.map_err(|error| self.failed(".", error))?.file_name().to_string_lossy().into_owned();
            let removed = match name.as_str() {
                NODE_FILE => self.dir.remove_file(&name),
                name if name.starts_with("wal-") => self.dir.remove_dir_all(name),
                _ => Ok(()),
            };
            removed.map_err(|error| self.failed(&name, error))?;
        }
        Ok(())
    }

    /// Where the node is being restored from, if that has not come to its end.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn unfinished_restore(&self) -> Result<Option<String>, NodeError> {
        self.line_of(RESTORE_FILE)
    }

    /// The node is restored.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn end_restore(&self) -> Result<(), NodeError> {
        match self.dir.remove_file(RESTORE_FILE).and_then(|()| self.sync()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(RESTORE_FILE, error)),
            _ => Ok(()),
        }
    }

    /// The error of the folder of the cold tier.
    pub(crate) fn cold_failed(&self, source: io::Error) -> NodeError {
        self.failed(COLD_FOLDER, source)
    }

    fn own_dir(&self, folder: &str) -> io::Result<Dir> {
        match self.dir.create_dir_with(folder, DirBuilder::new().mode(0o700)) {
            // Else a crash could take the folder, and with it what was announced to be in it.
            Ok(()) => self.sync()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.dir.open_dir(folder)
    }

    /// The error of the folder of uploaded modules.
    pub(crate) fn modules_failed(&self, source: io::Error) -> NodeError {
        self.failed(MODULES_FOLDER, source)
    }

    fn parse(&self, text: &str) -> Result<Node, NodeError> {
        let invalid = |reason: String| NodeError::Invalid { path: self.path.clone(), reason };
        let FormatOnly { format } = toml::from_str(text).map_err(|e| invalid(e.message().to_string()))?;
        if format != FORMAT {
            return Err(NodeError::OtherFormat { path: self.path.clone(), found: format });
        }
        let file: NodeFile = toml::from_str(text).map_err(|e| invalid(e.message().to_string()))?;
        let hex = |what: &str, id: &str| {
            u64::from_str_radix(id, 16).map_err(|_| invalid(format!("{what} {id:?} is not hexadecimal")))
        };
        let wal_ids = file.wal_ids.iter().map(|id| hex("the identity", id)).collect::<Result<_, _>>()?;
        let cluster = match (file.cluster, file.founders) {
            (Some(id), Some(founders)) => Some(Membership { id, founders: founders.into_iter().collect() }),
            _ => None,
        };
        let id = hex("node_id", &file.node_id)?;
        let node = Node { id, number: file.number.unwrap_or(id), groups: file.groups, wal_ids, cluster };
        if node.to_toml() != text {
            return Err(invalid("it was changed after the server wrote it: its checksum does not fit".to_string()));
        }
        if node.id == 0 || node.number == 0 || node.groups == 0 || node.wal_ids.is_empty() {
            return Err(invalid("a node has an id, and at least one WAL and one group".to_string()));
        }
        Ok(node)
    }

    /// Bytes of the file system that the directory is in: those that are free for this process, and all of them.
    pub(crate) fn disk_bytes(&self) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::fstatvfs(&self.dir)?;
        Ok((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
    }

    /// Makes an empty log in the folder of each of the node's WALs. The node is formed later.
    ///
    /// # Errors
    /// [`NodeError::Io`], or [`NodeError::Incomplete`] when there are logs already.
    pub(crate) fn form_wals(&self, node: &Node) -> Result<(), NodeError> {
        for (wal, &log_id) in (0..).zip(&node.wal_ids) {
            self.form_wal(&wal_folder(wal), log_id)?;
        }
        Ok(())
    }

    /// Forms a node whose logs are there, so that it can be served.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn finish(&self, node: &Node) -> Result<(), NodeError> {
        // Makes the folders durable too, which were made before it.
        self.replace(NODE_FILE, &node.to_toml()).map_err(|error| self.failed(NODE_FILE, error))
    }

    fn form(&self, node: &Node) -> Result<(), NodeError> {
        self.form_wals(node)?;
        self.finish(node)
    }

    /// Puts a file in place of what was there, durably.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let new = format!("{name}.new");
        let mut file = self.dir.create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        self.dir.rename(&new, &self.dir, name)?;
        self.sync()
    }

    fn form_wal(&self, folder: &str, log_id: u64) -> Result<(), NodeError> {
        let open = || {
            match self.dir.create_dir(folder) {
                // Left by a forming that did not end.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            RealDisk::new(self.dir.open_dir(folder)?)
        };
        let disk = open().map_err(|error| self.failed(folder, error))?;
        match Wal::form(&disk, log_id) {
            // With anything in it, it is the log of a node whose file is lost.
            Err(WalError::Foreign { file, .. }) => {
                let reason = format!("{folder} is there and not empty ({file}), but {NODE_FILE} is missing");
                Err(NodeError::Incomplete { path: self.path.clone(), reason })
            }
            formed => formed.map_err(|source| self.wal_failed(folder.to_string(), source)),
        }
    }

    fn wal_failed(&self, folder: String, source: WalError) -> NodeError {
        NodeError::Wal { path: self.path.clone(), folder, source }
    }

    /// Makes the directory's own entries durable.
    fn sync(&self) -> io::Result<()> {
        self.dir.open(".")?.sync_all()
    }

    fn failed(&self, what: &str, source: io::Error) -> NodeError {
        NodeError::Io { path: self.path.join(what), source }
    }
}

/// What [`DataDir::set_peers`] has written, or the lines of before: without a level, or only numbers and disks.
fn read_peers(text: &str) -> Option<List> {
    let mut list = List::default();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (first, second) = (words.next()?, words.next()?);
        if first == "epoch" {
            list.epoch = second.parse().ok()?;
            list.level = words.next().unwrap_or("0").parse().ok()?;
            continue;
        }
        let disk = match second {
            "-" => None,
            disk => Some(DiskId(u128::from_str_radix(disk, 16).ok()?)),
        };
        let is_removed = match words.next() {
            None | Some("there") => false,
            Some("removed") => true,
            Some(_) => return None,
        };
        let address = words.next().unwrap_or_default().to_string();
        list.nodes.insert(NodeId::new(first.parse().ok()?)?, Known { address, disk, is_removed });
    }
    Some(list)
}

/// The name of a WAL's folder.
pub(crate) fn wal_folder(wal: u16) -> String {
    format!("wal-{wal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Node {
        Node { id: 0xfeed, number: 1, groups: 3, wal_ids: vec![0xa0, 0xa1], cluster: None }
    }

    fn other(groups: u16) -> Node {
        Node::new(|| 7, 8, groups, None)
    }

    fn temporary() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("a/b");
        (root, path)
    }

    #[test]
    fn a_formed_node_stays_what_it_is() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        assert_eq!(dir.node(fresh(), 0).expect("formed"), fresh());
        drop(dir);
        let dir = DataDir::open(&path).expect("the lock is free again");
        assert_eq!(dir.node(other(0), 0).expect("read"), fresh());
        assert_eq!(dir.node(other(3), 3).expect("the same number of groups"), fresh());
        assert_eq!(dir.wal_disks(&fresh()).expect("all folders").len(), 2);
        let refused = dir.node(other(4), 4).expect_err("groups are final").to_string();
        assert!(refused.contains("formed with 3 groups and cannot have 4"), "{refused}");
    }

    #[test]
    fn a_new_node_has_a_wal_per_shard_and_a_group_per_wal() {
        let ids = std::cell::Cell::new(0);
        let random = || ids.replace(ids.get() + 1);
        let node = |id, groups, wal_ids| Node { id, number: 1, groups, wal_ids, cluster: None };
        assert_eq!(Node::new(random, 3, 0, None), node(1, 3, vec![1, 2, 3]));
        assert_eq!(Node::new(random, 1, 9, None), node(5, 9, vec![5]));
    }

    #[test]
    fn a_node_of_a_cluster_stays_one_and_the_same() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        let member = |number, id: &str, founders: &[u64]| {
            let membership = Membership { id: id.to_string(), founders: founders.iter().copied().collect() };
            Node::new(|| 7, 2, 0, Some((NodeId::new(number).expect("not 0"), membership)))
        };
        let node = dir.node(member(1, "c1", &[1, 2, 3]), 0).expect("formed");
        assert_eq!((node.id, node.groups), (1, CLUSTER_GROUPS));
        assert_eq!(dir.node(member(1, "c1", &[3, 2, 1]), 0).expect("read"), node);
        for asked in [member(2, "c1", &[1, 2, 3]), member(1, "c2", &[1, 2, 3]), other(0)] {
            let refused = dir.node(asked, 0).expect_err("another").to_string();
            assert!(refused.contains("belongs to node 1 in cluster \"c1\" of nodes 1, 2, 3, and cannot"), "{refused}");
        }
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        dir.node(fresh(), 0).expect("formed");
        let refused = dir.node(member(1, "c1", &[1, 2, 3]), 0).expect_err("it is alone").to_string();
        assert!(refused.contains("belongs to a node that is alone"), "{refused}");
        let node = dir.node(member(1, "c1", &[1]), 0).expect("it is the first of a cluster");
        let founders = [1].into();
        assert_eq!(node, Node { cluster: Some(Membership { id: "c1".to_string(), founders }), ..fresh() });
        assert_eq!(dir.node(member(1, "c1", &[]), 0).expect("it is one by now"), node);
        assert_eq!(dir.formed().expect("it is read"), Some(node));
        dir.node(other(0), 0).expect_err("it is alone no longer");
    }

    #[test]
    fn a_node_from_before_there_were_numbers_has_its_id_for_one() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        let old = Node { number: 0xfeed, ..fresh() };
        assert!(!old.to_toml().contains("number"), "it is written as it was then");
        dir.node(old.clone(), 0).expect("formed");
        assert_eq!(dir.node(other(0), 0).expect("read"), old);
    }

    #[test]
    fn the_other_nodes_are_noted() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        assert_eq!(dir.peers().expect("none yet"), List::default());
        let known = |address: &str, disk, is_removed| Known { address: address.into(), disk, is_removed };
        let node = |number| NodeId::new(number).expect("not 0");
        let nodes = [
            (node(2), known("b:1", Some(DiskId(u128::MAX)), false)),
            (node(3), known("", None, false)),
            (node(4), known("d:1", Some(DiskId(4)), true)),
        ];
        let peers = List { epoch: 9, level: FORMAT_LEVEL, nodes: nodes.into() };
        dir.set_peers(&peers).expect("they are written");
        assert_eq!(dir.peers().expect("read"), peers);
        std::fs::write(path.join(PEERS_FILE), format!("2 {}\n", DiskId(7))).expect("the file is written");
        let before = List { nodes: [(node(2), known("", Some(DiskId(7)), false))].into(), ..List::default() };
        assert_eq!(dir.peers().expect("as it was before nodes came and went"), before);
        let later = List { level: FORMAT_LEVEL + 1, ..peers };
        dir.set_peers(&later).expect("they are written");
        let refused = dir.peers().expect_err("of a later version").to_string();
        assert!(
            refused.ends_with("at format level 2, and this program knows 1: start it with a later version"),
            "{refused}"
        );
        for text in ["2 x\n", "0 7\n", "2 7 maybe a:1\n", "2\n", "epoch 1 x\n"] {
            std::fs::write(path.join(PEERS_FILE), text).expect("the file is written");
            assert!(dir.peers().expect_err("no list").to_string().contains("peers is not a list"));
        }
    }

    #[test]
    fn a_locked_directory_is_refused() {
        let (_root, path) = temporary();
        let _held = DataDir::open(&path).expect("a new directory");
        assert!(matches!(DataDir::open(&path), Err(NodeError::Locked { .. })));
    }

    #[test]
    fn a_file_of_another_format_or_none_of_ours_is_refused() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        let read = |text: &str| {
            std::fs::write(path.join(NODE_FILE), text).expect("the file is written");
            dir.node(fresh(), 0).expect_err("no node of ours").to_string()
        };
        assert!(read("format = 3\nshape = 'new'").contains("has format 3"));
        assert!(read("format = 2\nnode_id = 'x'\nwal_ids = ['1']\ngroups = 1").contains("not hexadecimal"));
        assert!(read("format = 2\nnode_id = '1'\nwal_ids = ['1']\ngroups = 1").contains("changed after"));
        assert!(read(&Node { groups: 0, ..fresh() }.to_toml()).contains("at least one"));
        assert!(read("format = 2\nnode_id = '1'\nwal_ids = ['1']\ngroups = 1\nmore = 1").contains("more"));
        assert!(read("{").contains("is not valid"));
    }

    #[test]
    fn every_changed_bit_of_the_file_is_noticed() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        let text = fresh().to_toml();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path.join(NODE_FILE), bytes).expect("the file is written");
            assert!(dir.node(fresh(), 0).is_err(), "bit {bit}");
        }
        std::fs::write(path.join(NODE_FILE), text).expect("the file is written");
        assert_eq!(dir.node(other(0), 0).expect("as it was"), fresh());
    }

    #[test]
    fn a_log_that_is_not_the_nodes_is_refused() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        dir.node(fresh(), 0).expect("formed");
        let refused = || dir.wal_disks(&fresh()).map(drop).expect_err("not the node's log");
        let swap = || {
            for (from, to) in [("wal-0", "x"), ("wal-1", "wal-0"), ("x", "wal-1")] {
                std::fs::rename(path.join(from), path.join(to)).expect("a folder");
            }
        };
        swap();
        let NodeError::Wal { folder, source, .. } = refused() else { panic!("the logs are swapped") };
        assert!(folder == "wal-0" && source.to_string().contains("mark at byte 8: this is the log 00000000000000a1"));
        swap();
        std::fs::remove_file(path.join("wal-1/mark")).expect("the mark");
        let NodeError::Wal { folder, source, .. } = refused() else { panic!("the folder is empty") };
        assert!(folder == "wal-1" && source.to_string().contains("mark at byte 0"), "{source}");
    }

    #[test]
    fn the_folder_of_modules_is_made_once_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        dir.modules_dir().expect("made").write("a", "module").expect("it can be written to");
        assert_eq!(dir.modules_dir().expect("opened").read("a").expect("it is there"), b"module");
        let mode = path.join(MODULES_FOLDER).metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::remove_dir_all(path.join(MODULES_FOLDER)).expect("it is lost");
        std::fs::write(path.join(MODULES_FOLDER), "a file").expect("a file in its place");
        let refused = dir.modules_dir().expect_err("a file is no folder").to_string();
        assert!(refused.starts_with("cannot use ") && refused.ends_with("a/b/modules"), "{refused}");
    }

    #[test]
    fn lost_parts_are_noticed_and_an_unfinished_forming_is_finished() {
        let (_root, path) = temporary();
        std::fs::create_dir_all(path.join("wal-0")).expect("a folder");
        let dir = DataDir::open(&path).expect("the directory");
        assert_eq!(dir.node(fresh(), 0).expect("an empty folder may be there"), fresh());
        std::fs::remove_file(path.join(NODE_FILE)).expect("as if the forming had not ended");
        assert_eq!(dir.node(fresh(), 0).expect("formed again"), fresh());
        std::fs::remove_dir_all(path.join("wal-1")).expect("a folder is lost");
        let refused = dir.wal_disks(&fresh()).map(drop).expect_err("a WAL is lost").to_string();
        assert!(refused.contains("wal-1 is missing"), "{refused}");
        std::fs::write(path.join("wal-0/x"), "x").expect("a log");
        std::fs::remove_file(path.join(NODE_FILE)).expect("the file is lost");
        let refused = dir.node(fresh(), 0).expect_err("the node's file is lost").to_string();
        assert!(refused.contains("wal-0 is there and not empty"), "{refused}");
    }
}
