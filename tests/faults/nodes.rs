//! The nodes: a process on each host, with a small disk of its own.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weir_testkit::{Connection, Random, Request, Server, Setup};

use crate::network::{self, HOSTS, Network};

/// A disk's size, in bytes.
const DISK_BYTES: &str = "400m";
/// Groups of a new cluster.
const GROUPS: usize = 3;
/// How long a node may take to be ready, or to find that it cannot be.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The code of a node that has found damage.
const DAMAGED: Option<i32> = Some(6);

/// The nodes of a cluster.
pub(crate) struct Nodes {
    setups: Vec<Setup>,
    /// `None` for one that does not run.
    servers: Vec<Option<Server>>,
    disks: Vec<PathBuf>,
}

impl Nodes {
    /// Starts a new cluster.
    pub(crate) fn start() -> Nodes {
        let disks: Vec<PathBuf> = (0..HOSTS).map(|host| format!("/run/disk{host}").into()).collect();
        for disk in &disks {
            fs::create_dir(disk).expect("a folder");
            let path = disk.to_str().expect("a name");
            network::run("mount", &["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs", path]);
        }
        let setups = (0..HOSTS).map(|host| {
            let runner = Network::runner(host);
            let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"))
                .run_by(&runner.each_ref().map(String::as_str))
                .listen(network::address(host, 4437))
                .admin_listen(network::address(host, 4438))
                .data_dir_at(&disks[host].join("data"))
                .args(&["--node-id", &(host + 1).to_string(), "--cluster-id", "faults", "--shards", "2", "--insecure"])
                .args(&["--cluster-listen", &network::address(host, 4439).to_string()])
                .env("WEIR_CLUSTER_SECRET", "what only its nodes know")
                .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 17)
                .env("WEIR_WAL_SEGMENT_BYTES", 4 << 20)
                .env("WEIR_WAL_BUDGET_BYTES", 192 << 20);
            for other in (0..HOSTS).filter(|other| *other != host) {
                setup = setup.args(&["--peer", &format!("{}={}", other + 1, network::address(other, 4439))]);
            }
            setup
        });
        let setups: Vec<Setup> = setups.collect();
        let servers = setups.iter().map(|setup| Some(setup.spawn())).collect();
        Nodes { setups, servers, disks }
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.servers[node].take().expect("it runs").kill();
    }

    /// Ends a node as an operator does.
    pub(crate) fn stop(&mut self, node: usize) {
        let exit = self.servers[node].take().expect("it runs").stop();
        assert_eq!(exit.code, Some(0), "node {node} was asked to end; its log:\n{}", exit.log);
    }

    pub(crate) fn restart(&mut self, node: usize) {
        assert!(self.servers[node].is_none(), "it was ended");
        self.servers[node] = Some(self.setups[node].spawn());
    }

    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        self.servers[node].as_ref().expect("it runs").signal(signal);
    }

    /// Fills a node's disk, until what is returned is dropped.
    pub(crate) fn fill_disk(&self, node: usize) -> Ballast {
        let path = self.disks[node].join("ballast");
        let mut file = File::create(&path).expect("a file");
        let block = vec![7; 1 << 16];
        while file.write_all(&block).is_ok() {}
        Ballast(path)
    }

    /// Ends a node, flips a bit on its disk and starts it again. A node that finds that is given its disk back as it was. Whether it
    /// found it.
    pub(crate) fn flip(&mut self, node: usize, random: &mut Random) -> bool {
        self.kill(node);
        let files = files(&self.disks[node].join("data"));
        let path = &files[random.below(files.len() as u64) as usize];
        let bytes = fs::metadata(path).expect("it is there").len();
        let (place, bit) = (random.below(bytes.max(1)), 1 << random.below(8));
        flip(path, place, bit);
        self.restart(node);
        let server = self.servers[node].as_mut().expect("it was started");
        let begun = Instant::now();
        loop {
            if !server.is_running() {
                let exit = server.wait_exit();
                assert_eq!(exit.code, DAMAGED, "a bit of {} was flipped; the log:\n{}", path.display(), exit.log);
                flip(path, place, bit);
                self.servers[node] = Some(self.setups[node].spawn());
                return true;
            }
            if is_ready(server) {
                return false;
            }
            assert!(
                begun.elapsed() < READY_WITHIN,
                "node {node} is neither ready nor ended:\n{}",
                self.setups[node].log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that all nodes run.
    pub(crate) fn check_running(&mut self) {
        for (node, server) in self.servers.iter_mut().enumerate() {
            let server = server.as_mut().expect("it was started");
            assert!(server.is_running(), "node {node} has ended by itself: {:?}", server.wait_exit());
        }
    }

    /// Whether every node has applied what any of them had applied when this was asked first.
    pub(crate) fn wait_caught_up(&self) {
        let applied = |node: usize| -> Option<Vec<f64>> {
            let server = self.servers[node].as_ref()?;
            let mut connection = Connection::open_within(server.admin(), Duration::from_secs(2)).ok()?;
            let text = connection.send(&Request::get("/metrics")).ok()?.text();
            let lines = text.lines().filter(|line| line.starts_with("weir_group_applied_index{"));
            let applied: Vec<f64> = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
            (applied.len() == GROUPS).then_some(applied)
        };
        let begun = Instant::now();
        let mut wanted: Option<Vec<f64>> = None;
        loop {
            let now: Option<Vec<Vec<f64>>> = (0..HOSTS).map(applied).collect();
            if let Some(now) = now {
                let most = |group: usize| now.iter().map(|of| of[group]).fold(0.0, f64::max);
                let wanted = wanted.get_or_insert_with(|| (0..GROUPS).map(most).collect());
                if now.iter().all(|of| of.iter().zip(wanted.iter()).all(|(now, wanted)| now >= wanted)) {
                    return;
                }
            }
            assert!(begun.elapsed() < READY_WITHIN, "the nodes do not catch up:\n{}", self.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ends of all nodes' logs.
    pub(crate) fn logs(&self) -> String {
        let end = |setup: &Setup| {
            let log = setup.log();
            let from = log.len().saturating_sub(4 << 10);
            log.get(from..).unwrap_or_default().to_owned()
        };
        self.setups.iter().map(end).collect::<Vec<_>>().join("\n--\n")
    }
}

/// A file that fills a disk, until it is dropped.
pub(crate) struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn is_ready(server: &Server) -> bool {
    let answer = Connection::open_within(server.admin(), Duration::from_secs(2))
        .and_then(|mut connection| connection.send(&Request::get("/readyz")));
    answer.is_ok_and(|response| response.status == 200)
}

/// Segments and snapshots.
fn files(data: &PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(data).expect("it is there").map(|entry| entry.expect("an entry").path()) {
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-")) {
            found.extend(fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("an entry").path()));
        }
    }
    found.sort();
    found
}

fn flip(path: &PathBuf, place: u64, bit: u8) {
    let mut file = File::options().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.seek(SeekFrom::Start(place)).expect("a place in it");
    file.read_exact(&mut byte).expect("a byte");
    file.seek(SeekFrom::Start(place)).expect("a place in it");
    file.write_all(&[byte[0] ^ bit]).expect("it takes it");
}
