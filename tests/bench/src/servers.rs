//! The servers under test.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weir_testkit::{Connection, Request, ports};

use crate::cli::{ServerSource, ServerSpec};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A server that takes requests.
#[derive(Debug)]
pub(crate) struct Target {
    /// What the report calls it.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The path that stream names are appended to, without a slash at its end.
    pub(crate) root: String,
    /// Its process.
    pub(crate) pid: u32,
    /// The stream that gets requests beside the load, if one does.
    pub(crate) trouble: Option<String>,
    /// The process, where it was started here: ended with the target, before its directory goes.
    child: Option<Child>,
    _dir: Option<TempDir>,
}

impl Target {
    /// Starts the server, or finds the one that runs, and waits until it answers.
    ///
    /// # Errors
    /// A sentence: no such program, no such address, or no answer in time.
    pub(crate) fn start(spec: &ServerSpec, dir: Option<&Path>) -> Result<Target, String> {
        let mut target = match &spec.source {
            ServerSource::Running { url, pid } => Target::running(&spec.name, url, *pid)?,
            ServerSource::Started { command, root } => Target::started(&spec.name, command, root, dir)?,
        };
        target.trouble.clone_from(&spec.trouble);
        target.wait_ready()?;
        Ok(target)
    }

    /// Creates `count` streams with names of their own and gives back their paths.
    ///
    /// # Errors
    /// A sentence with the response that was not `201`.
    pub(crate) fn create_streams(&self, count: usize) -> Result<Vec<String>, String> {
        let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos());
        let paths: Vec<String> = (0..count).map(|i| format!("{}/bench-{nanoseconds}-{i}", self.root)).collect();
        let mut connection = Connection::open(self.address).map_err(|e| format!("{}: {e}", self.name))?;
        for path in &paths {
            let request = Request::put(path).header("Content-Type", "application/octet-stream");
            let response = connection.send(&request).map_err(|e| format!("{}: {e}", self.name))?;
            if response.status != 201 {
                return Err(format!("{}: PUT {path} gave {response:?}", self.name));
            }
        }
        Ok(paths)
    }

    fn running(name: &str, url: &str, pid: u32) -> Result<Target, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} does not begin with http://"))?;
        let (host, root) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = host.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.ok_or_else(|| format!("{host} is no host:port"))?;
        let root = root.trim_end_matches('/').to_owned();
        Ok(Target { name: name.to_owned(), address, root, pid, trouble: None, child: None, _dir: None })
    }

    fn started(name: &str, command: &str, root: &str, dir: Option<&Path>) -> Result<Target, String> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("weir-bench-");
        let home = dir.map_or_else(|| builder.tempdir(), |dir| builder.tempdir_in(dir));
        let home = home.map_err(|e| format!("no directory for {name}: {e}"))?;
        let (address, admin) = (ports::free(), ports::free());
        let data_dir = home.path().join("data");
        let words: Vec<String> = command
            .replace("{port}", &address.port().to_string())
            .replace("{admin_port}", &admin.port().to_string())
            .replace("{dir}", &data_dir.to_string_lossy())
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let (program, args) = words.split_first().ok_or_else(|| format!("{name} has an empty command"))?;
        let log = std::fs::File::create(home.path().join("log")).map_err(|e| format!("no log for {name}: {e}"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|e| format!("{program} does not start: {e}"))?;
        let (pid, root) = (child.id(), root.trim_end_matches('/').to_owned());
        Ok(Target { name: name.to_owned(), address, root, pid, trouble: None, child: Some(child), _dir: Some(home) })
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        let request = Request::head(&format!("{}/bench-ready", self.root));
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                let log = self._dir.as_ref().and_then(|dir| std::fs::read_to_string(dir.path().join("log")).ok());
                return Err(format!("{} ended ({status}): {}", self.name, log.unwrap_or_default()));
            }
            // Any answer but "not yet" will do: the stream does not exist.
            let answer = Connection::open(self.address).and_then(|mut connection| connection.send(&request));
            if answer.is_ok_and(|response| response.status < 500) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not answer at {}", self.name, self.address));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; then there is nothing left to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
