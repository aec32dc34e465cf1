//! The servers under test.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tempfile::TempDir;
use weir_testkit::{Connection, Request, ports};

use crate::cli::Common;
use crate::spec::{ServerSource, ServerSpec};

const READY_WITHIN: Duration = Duration::from_secs(120);

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
    /// Subscribers that never read.
    pub(crate) stalled: usize,
    /// The process, where it was started here.
    process: Option<Process>,
}

/// A started process: ended when this is dropped, before its directory goes.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Program and arguments.
    words: Vec<String>,
    /// Holds `data/` and `log`.
    home: TempDir,
}

impl Target {
    /// Starts the server, or finds the one that runs, and waits until it answers.
    ///
    /// # Errors
    /// A sentence: no such program, no such address, or no answer in time.
    pub(crate) fn start(spec: &ServerSpec, dir: Option<&Path>) -> Result<Target, String> {
        let mut target = match &spec.source {
            ServerSource::Running { url, pid } => Target::running(spec, url, *pid)?,
            ServerSource::Started { command, root } => Target::started(spec, command, root, dir)?,
        };
        let any = Request::head(&format!("{}/bench-ready", target.root));
        // Any answer but "not yet" will do: the stream does not exist.
        target.wait_for(&any, Duration::from_millis(20), |status| status < 500)?;
        if let Some(path) = &spec.prepare {
            let response = Connection::open(target.address).and_then(|mut c| c.send(&Request::put(path)));
            let response = response.map_err(|e| format!("PUT {path}: {e}"))?;
            // A server that runs already may have it.
            if !matches!(response.status, 200 | 201 | 204 | 409) {
                return Err(format!("PUT {path} gave {} {}", response.status, response.text()));
            }
        }
        Ok(target)
    }

    /// All servers of the command line, at once.
    ///
    /// # Errors
    /// As [`Target::start`].
    pub(crate) fn start_all(common: &Common) -> Result<Vec<Target>, String> {
        let start = |spec| Target::start(spec, common.dir.as_deref());
        common.servers.iter().map(start).collect()
    }

    /// Kills the process, which loses what it had not written, and starts it again on its data.
    ///
    /// # Errors
    /// A sentence when the server was not started here, or does not start.
    pub(crate) fn crash_and_start_again(&mut self) -> Result<Instant, String> {
        let process = self.process.as_mut().ok_or("only a server with cmd= can be restarted")?;
        process.end();
        let begun = Instant::now();
        process.child = spawn(&process.words, &process.home)?;
        self.pid = process.child.id();
        Ok(begun)
    }

    /// Sends `request` every `interval` until its status is `wanted`.
    ///
    /// # Errors
    /// A sentence: the process has ended, or it has not answered so for two minutes.
    pub(crate) fn wait_for(
        &mut self,
        request: &Request,
        interval: Duration,
        wanted: impl Fn(u16) -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(process) = &mut self.process
                && let Ok(Some(status)) = process.child.try_wait()
            {
                let log = std::fs::read_to_string(process.home.path().join("log"));
                return Err(format!("the server ended ({status}): {}", log.unwrap_or_default()));
            }
            let answer = Connection::open(self.address).and_then(|mut connection| connection.send(request));
            if answer.is_ok_and(|response| wanted(response.status)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("no answer from {} within {READY_WITHIN:?}", self.address));
            }
            thread::sleep(interval);
        }
    }

    fn running(spec: &ServerSpec, url: &str, pid: u32) -> Result<Target, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} does not begin with http://"))?;
        let (host, root) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = host.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.ok_or_else(|| format!("{host} is no host:port"))?;
        Ok(Target::new(spec, address, root, pid, None))
    }

    fn started(spec: &ServerSpec, command: &str, root: &str, dir: Option<&Path>) -> Result<Target, String> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("weir-bench-");
        let home = dir.map_or_else(|| builder.tempdir(), |dir| builder.tempdir_in(dir));
        let home = home.map_err(|e| format!("no directory for {}: {e}", spec.name))?;
        let (address, admin) = (ports::free(), ports::free());
        let words: Vec<String> = command
            .replace("{port}", &address.port().to_string())
            .replace("{admin_port}", &admin.port().to_string())
            .replace("{dir}", &home.path().join("data").to_string_lossy())
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let child = spawn(&words, &home)?;
        Ok(Target::new(spec, address, root, child.id(), Some(Process { child, words, home })))
    }

    fn new(spec: &ServerSpec, address: SocketAddr, root: &str, pid: u32, process: Option<Process>) -> Target {
        Target {
            name: spec.name.clone(),
            address,
            root: root.trim_end_matches('/').to_owned(),
            pid,
            trouble: spec.trouble.clone(),
            stalled: spec.stalled,
            process,
        }
    }
}

impl Process {
    fn end(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that does not block, with a receive buffer of that many bytes or of the kernel's choice.
///
/// # Errors
/// A sentence when the server cannot be connected to.
pub(crate) fn connect(address: SocketAddr, receive_buffer: Option<usize>) -> Result<TcpStream, String> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let connect = || -> std::io::Result<TcpStream> {
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if let Some(bytes) = receive_buffer {
            // Before it connects: a window that was offered once is not taken back.
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
        }
        rustix::net::connect(&socket, &address)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    connect().map_err(|e| format!("cannot connect to {address}: {e}"))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(words: &[String], home: &TempDir) -> Result<Child, String> {
    let (program, args) = words.split_first().ok_or("an empty command")?;
    let log = std::fs::File::create(home.path().join("log")).map_err(|e| format!("no log: {e}"))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(|e| format!("{program} does not start: {e}"))
}
