//! What the shards must not take for themselves: the clock, randomness, the disks, and the engine for modules.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weir_cold::Cold;
use weir_shard::{Clock, Entropy, Nodes, Seams};
use weir_storage::{Disk, MARK_BYTES, MemoryDisk, Wal};
use weir_wasm::{ChildProcess, FileStore, Host, HostConfig, HostError, MemoryStore, ModuleStore};

use crate::builtins::BUILTINS;
use crate::config::{ModulesConfig, Sizes, size};
use crate::exit::Exit;
use crate::node::{DataDir, Node};
use crate::turns;

/// The machine's clocks.
#[derive(Debug)]
struct SystemClock {
    started: Instant,
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is wrong, but no reason to die: group time never goes backwards anyway.
        since_1970.map_or(0, |since| since.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The operating system's random numbers.
#[derive(Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn u64(&self) -> u64 {
        getrandom::u64().expect("the operating system has random numbers")
    }
}

/// The seams of a server: real clocks and randomness, one disk per WAL and a store for modules, in `data_dir` or, without
/// one, in memory.
///
/// # Errors
/// [`Exit::Node`] when a folder cannot be used, [`Exit::Engine`] when modules cannot be run on this machine.
pub(crate) fn seams(
    data_dir: Option<&DataDir>,
    node: &Node,
    sizes: Sizes,
    cold: Option<Cold>,
    modules: &ModulesConfig,
    shards: u16,
    nodes: Option<Nodes>,
) -> Result<Seams, Exit> {
    let disks: Vec<Arc<dyn Disk>> = match data_dir {
        Some(data_dir) => {
            let disks = data_dir.wal_disks(node)?;
            disks.into_iter().map(|disk| Arc::new(disk) as Arc<dyn Disk>).collect()
        }
        None => node.wal_ids.iter().map(|&log_id| memory_disk(log_id, sizes)).collect(),
    };
    Ok(Seams {
        clock: Arc::new(SystemClock { started: Instant::now() }),
        entropy: Arc::new(SystemEntropy),
        disks,
        cold,
        hooks: None,
        modules: host(data_dir, modules, shards.into())?,
        builtins: Arc::new(BUILTINS),
        nodes,
        turn: turns::begin,
    })
}

/// A disk in memory with a log formed in it, and space for that and for snapshots of its groups.
fn memory_disk(log_id: u64, sizes: Sizes) -> Arc<dyn Disk> {
    let disk = MemoryDisk::new(sizes.budget_bytes_per_wal + MARK_BYTES + sizes.index_bytes_per_wal);
    Wal::form(&disk, log_id).expect("an empty disk in memory takes a mark");
    Arc::new(disk)
}

/// The node's modules, none of them loaded yet.
fn host(data_dir: Option<&DataDir>, modules: &ModulesConfig, shards: usize) -> Result<Host, Exit> {
    let store: Arc<dyn ModuleStore> = match data_dir {
        Some(data_dir) => {
            let files = FileStore::new(data_dir.modules_dir()?);
            Arc::new(files.map_err(|error| data_dir.modules_failed(error))?)
        }
        None => Arc::new(MemoryStore::default()),
    };
    let compiler = ChildProcess { program: vec![own_program()?.into()] };
    Host::new(store, Arc::new(compiler), host_config(modules, shards)).map_err(|error| match (error, data_dir) {
        (HostError::Io(source), Some(data_dir)) => data_dir.modules_failed(source).into(),
        (error, _) => error.into(),
    })
}

fn host_config(modules: &ModulesConfig, shards: usize) -> HostConfig {
    HostConfig {
        memory_bytes_max: size(modules.memory_bytes_max),
        module_bytes_max: size(modules.module_bytes_max),
        compile_timeout: Duration::from_millis(modules.compile_timeout_ms),
        store_bytes_max: modules.store_bytes_max,
        call_timeout: Duration::from_millis(modules.call_timeout_ms),
        guest_bytes_max: size(modules.guest_bytes_max),
        lanes: shards,
        calls_waiting_max: size(modules.calls_waiting_max),
        ..HostConfig::default()
    }
}

/// What to start for this very program once more.
fn own_program() -> Result<PathBuf, Exit> {
    // Whatever has meanwhile been put in the binary's place on disk: another version's code would not be ours.
    const RUNNING: &str = "/proc/self/exe";
    if cfg!(target_os = "linux") && std::fs::read_link(RUNNING).is_ok() {
        return Ok(RUNNING.into());
    }
    std::env::current_exe().map_err(|source| Exit::System { doing: "find the server's own program", source })
}
