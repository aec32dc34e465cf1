//! The nodes: a process on each host, with a small disk of its own, and a bucket that all have.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weir_testkit::{Connection, Random, Request, S3, Server, Setup};

use crate::network::{self, HOSTS, Network};

/// A disk's size, in bytes.
const DISK_BYTES: &str = "400m";
/// Groups of a new cluster.
pub(crate) const GROUPS: usize = 3;
/// How long a node may take to be ready, or to find that it cannot be.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a cluster may take to come to rest after its nodes have changed.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// The code of a node that has found damage.
const DAMAGED: Option<i32> = Some(6);

/// The nodes of a cluster.
pub(crate) struct Nodes {
    s3_endpoint: String,
    setups: Vec<Setup>,
    /// `None` for one that does not run.
    servers: Vec<Option<Server>>,
    disks: Vec<Disk>,
    /// The number of the node on each host, which never comes back.
    numbers: Vec<u64>,
}

/// A file system in memory, behind a program that can be stopped: whoever writes meanwhile waits.
struct Disk {
    memory: PathBuf,
    path: PathBuf,
    program: Child,
}

impl Disk {
    fn new(host: usize) -> Disk {
        let (memory, path) = (format!("/run/memory{host}"), format!("/run/disk{host}"));
        for folder in [&memory, &path] {
            fs::create_dir(folder).expect("a folder");
        }
        network::run("mount", &["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs", &memory]);
        let program = Command::new("bindfs").args(["-f", "--multithreaded", &memory, &path]).spawn();
        let program = program.unwrap_or_else(|e| panic!("bindfs cannot be run: {e}"));
        let begun = Instant::now();
        while !fs::read_to_string("/proc/mounts").expect("it is there").contains(&path) {
            assert!(begun.elapsed() < READY_WITHIN, "bindfs does not mount {path}");
            thread::sleep(Duration::from_millis(5));
        }
        Disk { memory: memory.into(), path: path.into(), program }
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Nodes {
    /// Starts a new cluster, which moves bytes to `s3` soon.
    pub(crate) fn start(s3: &S3) -> Nodes {
        let disks: Vec<Disk> = (0..HOSTS).map(Disk::new).collect();
        let setups = disks.iter().enumerate().map(|(host, disk)| {
            let mut setup = setup(host, host as u64 + 1, disk, &s3.endpoint());
            for other in (0..HOSTS).filter(|other| *other != host) {
                setup = setup.args(&["--peer", &format!("{}={}", other + 1, network::address(other, 4439))]);
            }
            setup
        });
        let setups: Vec<Setup> = setups.collect();
        let servers = setups.iter().map(|setup| Some(setup.spawn())).collect();
        Nodes { s3_endpoint: s3.endpoint(), setups, servers, disks, numbers: (1..=HOSTS as u64).collect() }
    }

    /// Has the others remove a host's node for ever, which is dead, and take in a new one in its place, with an empty disk.
    pub(crate) fn replace(&mut self, host: usize) {
        let (other, new) = ((host + 1) % HOSTS, self.numbers.iter().max().expect("there are nodes") + 1);
        self.order(other, &["remove", &self.numbers[host].to_string()]);
        fs::remove_dir_all(self.disks[host].data()).expect("the disk of a node");
        let (address, asked) = (network::address(host, 4439).to_string(), network::address(other, 4439).to_string());
        self.numbers[host] = new;
        self.setups[host] = setup(host, new, &self.disks[host], &self.s3_endpoint).args(&["--join", &asked]);
        self.restart(host);
        self.order(other, &["add", &new.to_string(), &address]);
        let begun = Instant::now();
        loop {
            let said = cluster(other, &["status", "--json"]);
            let status: Value = said.as_deref().map_or(Value::Null, |said| serde_json::from_str(said).expect("JSON"));
            let there = status["nodes"].as_array().into_iter().flatten().filter_map(|node| node["node"].as_u64());
            if status["is_settled"] == true && there.eq(sorted(&self.numbers)) {
                return;
            }
            assert!(begun.elapsed() < SETTLED_WITHIN, "it does not come to rest: {status:#}\n{}", self.logs());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Has another node lead a group, if it is in the state for that.
    pub(crate) fn transfer(&self, asked: usize, group: usize, to: usize) {
        let _ = cluster(asked, &["transfer", &group.to_string(), &self.numbers[to].to_string()]);
    }

    /// Asks a node to change the cluster, until it does.
    fn order(&self, asked: usize, args: &[&str]) {
        let begun = Instant::now();
        while let Err(said) = cluster(asked, args) {
            assert!(begun.elapsed() < READY_WITHIN, "weir cluster {args:?}: {said}\n{}", self.logs());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The host that leads a group, if some host says so.
    pub(crate) fn leader(&self, group: usize) -> Option<usize> {
        let line = format!("weir_group_leading{{group=\"{group}\"}} 1");
        (0..HOSTS).find(|host| self.metrics(*host).is_some_and(|text| text.lines().any(|of| of == line)))
    }

    /// What a host says of itself to Prometheus.
    fn metrics(&self, host: usize) -> Option<String> {
        let server = self.servers[host].as_ref()?;
        let mut connection = Connection::open_within(server.admin(), Duration::from_secs(2)).ok()?;
        Some(connection.send(&Request::get("/metrics")).ok()?.text())
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

    /// Stops what does the work of a node's disk, or has it go on.
    pub(crate) fn signal_disk(&self, node: usize, signal: Signal) {
        let pid = Pid::from_raw(self.disks[node].program.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// Fills a node's disk, until what is returned is dropped.
    pub(crate) fn fill_disk(&self, node: usize) -> Ballast {
        let path = self.disks[node].memory.join("ballast");
        let mut file = File::create(&path).expect("a file");
        let block = vec![7; 1 << 16];
        while file.write_all(&block).is_ok() {}
        Ballast(path)
    }

    /// Ends a node, flips a bit on its disk and starts it again. A node that finds that is given its disk back as it was. Whether it
    /// found it.
    pub(crate) fn flip(&mut self, node: usize, random: &mut Random) -> bool {
        self.kill(node);
        let files = files(&self.disks[node].data());
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
            let text = self.metrics(node)?;
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

/// How a host's node is started, without the others.
fn setup(host: usize, number: u64, disk: &Disk, s3_endpoint: &str) -> Setup {
    let runner = Network::runner(host);
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .run_by(&runner.each_ref().map(String::as_str))
        .listen(network::address(host, 4437))
        .admin_listen(network::address(host, 4438))
        .data_dir_at(&disk.data())
        .args(&["--node-id", &number.to_string(), "--cluster-id", "faults", "--shards", "2", "--insecure"])
        .args(&["--cluster-listen", &network::address(host, 4439).to_string()])
        .env("WEIR_CLUSTER_SECRET", "what only its nodes know")
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 17)
        .env("WEIR_WAL_SEGMENT_BYTES", 4 << 20)
        .env("WEIR_WAL_BUDGET_BYTES", 192 << 20)
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("WEIR_COLD_URL", "s3://weir/faults")
        .env("WEIR_COLD_ENDPOINT", s3_endpoint)
        .env("WEIR_COLD_ALLOW_HTTP", true)
        .env("WEIR_COLD_FLUSH_AGE_MS", 1000)
}

/// Runs `weir cluster`, asking a host; what it prints, or why it fails.
fn cluster(asked: usize, args: &[&str]) -> Result<String, String> {
    let admin = format!("http://{}", network::address(asked, 4438));
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let ran = command.arg("cluster").args(args).args(["--admin", &admin]).output().expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    // A status that has something to tell is one, too.
    if ran.status.success() || !said.is_empty() {
        return Ok(said);
    }
    Err(String::from_utf8_lossy(&ran.stderr).into_owned())
}

fn sorted(numbers: &[u64]) -> Vec<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted
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
fn files(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(data).expect("it is there").map(|entry| entry.expect("an entry").path()) {
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-")) {
            found.extend(fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("an entry").path()));
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, place: u64, bit: u8) {
    let mut file = File::options().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.seek(SeekFrom::Start(place)).expect("a place in it");
    file.read_exact(&mut byte).expect("a byte");
    file.seek(SeekFrom::Start(place)).expect("a place in it");
    file.write_all(&[byte[0] ^ bit]).expect("it takes it");
}
