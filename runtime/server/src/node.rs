//! The node: its data directory, the lock that keeps others out, and the few facts fixed when it was formed.
//!
//! ```text
//! <data_dir>/lock        held with flock for the life of the process
//! <data_dir>/node.toml   format, node id, numbers of WALs and groups
//! <data_dir>/wal-<k>/    one folder per WAL, see weir-storage
//! <data_dir>/modules/    what was uploaded and its machine code, see weir-wasm
//! ```
//!
//! `node.toml` is written last, so that it is there only when all the WALs' folders are: a formed node that misses one has
//! lost data and is refused, never formed anew. The folder of modules comes to be when it is missed. The path is resolved
//! once; everything below works on the open directory.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, File, OpenOptions};
use serde::{Deserialize, Serialize};

/// Version of the data directory's layout, and of everything that no format of its own below it guards.
const FORMAT: u32 = 1;

const LOCK_FILE: &str = "lock";
const NODE_FILE: &str = "node.toml";
const NODE_FILE_NEW: &str = "node.toml.new";
const MODULES_FOLDER: &str = "modules";

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
    /// There are WALs without `node.toml`, or fewer than it says.
    #[error("the data directory {} is incomplete: {reason}", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Drawn at random.
    pub(crate) id: u64,
    /// Its WALs.
    pub(crate) wals: u16,
    /// Its groups.
    pub(crate) groups: u16,
}

impl Node {
    /// A new node with these many shards; `groups` 0 means one per WAL.
    pub(crate) fn new(id: u64, shards: u16, groups: u16) -> Node {
        assert!(shards > 0, "a node has a shard");
        // One WAL per shard that there is now; it stays when the number of shards changes.
        let wals = shards;
        Node { id, wals, groups: if groups == 0 { wals } else { groups } }
    }
}

/// `node.toml` as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format: u32,
    /// 16 hexadecimal digits: TOML's integers are signed.
    node_id: String,
    wals: u16,
    groups: u16,
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
        let node = match self.dir.read_to_string(NODE_FILE) {
            Ok(text) => self.parse(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.form(fresh)?;
                fresh
            }
            Err(error) => return Err(self.failed(NODE_FILE, error)),
        };
        if groups != 0 && groups != node.groups {
            return Err(NodeError::GroupsDiffer { path: self.path.clone(), formed: node.groups, asked: groups });
        }
        Ok(node)
    }

    /// The folder of each of the node's WALs.
    ///
    /// # Errors
    /// [`NodeError::Incomplete`] when one is missing, [`NodeError::Io`] when it cannot be opened.
    pub(crate) fn wal_dirs(&self, node: Node) -> Result<Vec<Dir>, NodeError> {
        let open = |wal| match self.dir.open_dir(wal_folder(wal)) {
            Ok(dir) => Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NodeError::Incomplete {
                path: self.path.clone(),
                reason: format!("{} is missing, and the data in it with it", wal_folder(wal)),
            }),
            Err(error) => Err(self.failed(&wal_folder(wal), error)),
        };
        (0..node.wals).map(open).collect()
    }

    /// The folder of uploaded modules, made (readable by its owner alone) if need be.
    ///
    /// # Errors
    /// [`NodeError::Io`].
    pub(crate) fn modules_dir(&self) -> Result<Dir, NodeError> {
        let open = || {
            match self.dir.create_dir_with(MODULES_FOLDER, DirBuilder::new().mode(0o700)) {
                // Else a crash could take the folder, and with it a module that has been announced.
                Ok(()) => self.sync()?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            self.dir.open_dir(MODULES_FOLDER)
        };
        open().map_err(|error| self.modules_failed(error))
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
        let id = u64::from_str_radix(&file.node_id, 16)
            .map_err(|_| invalid(format!("node_id {:?} is not hexadecimal", file.node_id)))?;
        if file.wals == 0 || file.groups == 0 {
            return Err(invalid("a node has at least one WAL and one group".to_string()));
        }
        Ok(Node { id, wals: file.wals, groups: file.groups })
    }

    fn form(&self, node: Node) -> Result<(), NodeError> {
        for wal in 0..node.wals {
            self.form_wal_folder(&wal_folder(wal))?;
        }
        let file =
            NodeFile { format: FORMAT, node_id: format!("{:016x}", node.id), wals: node.wals, groups: node.groups };
        let text = toml::to_string(&file).expect("four plain values can be written as TOML");
        let write = || {
            let mut file = self.dir.create(NODE_FILE_NEW)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            self.dir.rename(NODE_FILE_NEW, &self.dir, NODE_FILE)?;
            // Makes the folders durable too, which were made before it.
            self.sync()
        };
        write().map_err(|error| self.failed(NODE_FILE, error))
    }

    fn form_wal_folder(&self, folder: &str) -> Result<(), NodeError> {
        match self.dir.create_dir(folder) {
            Ok(()) => Ok(()),
            // Left by a forming that did not end. With anything in it, it is the log of a node whose file is lost.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut entries = self.dir.read_dir(folder).map_err(|e| self.failed(folder, e))?;
                if entries.next().is_none() {
                    return Ok(());
                }
                let reason = format!("{folder} is there and not empty, but {NODE_FILE} is missing");
                Err(NodeError::Incomplete { path: self.path.clone(), reason })
            }
            Err(error) => Err(self.failed(folder, error)),
        }
    }

    /// Makes the directory's own entries durable.
    fn sync(&self) -> io::Result<()> {
        self.dir.open(".")?.sync_all()
    }

    fn failed(&self, what: &str, source: io::Error) -> NodeError {
        NodeError::Io { path: self.path.join(what), source }
    }
}

/// The name of a WAL's folder.
pub(crate) fn wal_folder(wal: u16) -> String {
    format!("wal-{wal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Node = Node { id: 0xfeed, wals: 2, groups: 3 };

    fn temporary() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("a/b");
        (root, path)
    }

    #[test]
    fn a_formed_node_stays_what_it_is() {
        let (_root, path) = temporary();
        let dir = DataDir::open(&path).expect("a new directory");
        assert_eq!(dir.node(FRESH, 0).expect("formed"), FRESH);
        drop(dir);
        let dir = DataDir::open(&path).expect("the lock is free again");
        assert_eq!(dir.node(Node::new(7, 8, 0), 0).expect("read"), FRESH);
        assert_eq!(dir.node(Node::new(7, 8, 3), 3).expect("the same number of groups"), FRESH);
        assert_eq!(dir.wal_dirs(FRESH).expect("all folders").len(), 2);
        let refused = dir.node(Node::new(7, 8, 4), 4).expect_err("groups are final").to_string();
        assert!(refused.contains("formed with 3 groups and cannot have 4"), "{refused}");
    }

    #[test]
    fn a_new_node_has_a_wal_per_shard_and_a_group_per_wal() {
        assert_eq!(Node::new(1, 4, 0), Node { id: 1, wals: 4, groups: 4 });
        assert_eq!(Node::new(1, 4, 9), Node { id: 1, wals: 4, groups: 9 });
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
            dir.node(FRESH, 0).expect_err("no node of ours").to_string()
        };
        assert!(read("format = 2\nshape = 'new'").contains("has format 2"));
        assert!(read("format = 1\nnode_id = 'x'\nwals = 1\ngroups = 1").contains("not hexadecimal"));
        assert!(read("format = 1\nnode_id = '1'\nwals = 0\ngroups = 1").contains("at least one"));
        assert!(read("format = 1\nnode_id = '1'\nwals = 1\ngroups = 1\nmore = 1").contains("more"));
        assert!(read("{").contains("is not valid"));
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
        assert_eq!(dir.node(FRESH, 0).expect("an empty folder may be there"), FRESH);
        std::fs::remove_dir(path.join("wal-1")).expect("a folder is lost");
        let refused = dir.wal_dirs(FRESH).expect_err("a WAL is lost").to_string();
        assert!(refused.contains("wal-1 is missing"), "{refused}");
        std::fs::write(path.join("wal-0/x"), "x").expect("a log");
        std::fs::remove_file(path.join(NODE_FILE)).expect("the file is lost");
        let refused = dir.node(FRESH, 0).expect_err("the node's file is lost").to_string();
        assert!(refused.contains("wal-0 is there and not empty"), "{refused}");
    }
}
