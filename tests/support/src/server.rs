//! `weir serve` as a child process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::http::{Client, Connection, Request};
use crate::ports;

/// A debug build with a busy machine under it: generous, since it only bounds a failure.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Lines of its log that a server leaves behind when its test fails.
const LAST_LINES: usize = 100;
const EXIT_WITHIN: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(5);
const EXIT_PORT_TAKEN: i32 = 3;

/// How to start a server: program, arguments, environment, data directory. Starting twice restarts it.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    /// What runs the program, if something does.
    runner: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Holds `data/` and the server's `log`; removed with the last clone.
    home: Arc<TempDir>,
    data_dir: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    /// What its flags call the listeners' host, if not by the address.
    host: Option<String>,
}

impl Setup {
    /// A server of the binary `program` (a test passes `env!("CARGO_BIN_EXE_weir")`) on a new, empty data directory.
    pub fn new(program: &str) -> Setup {
        let home = tempfile::Builder::new().prefix("weir-test-").tempdir().expect("a temporary directory");
        let data_dir = home.path().join("data");
        Setup {
            program: program.into(),
            runner: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            home: Arc::new(home),
            data_dir,
            listen: ports::free(),
            admin: ports::free(),
            host: None,
        }
    }

    /// Adds command-line arguments after `serve`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Setup {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Setup {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Uses `data_dir` in place of the temporary one.
    #[must_use]
    pub fn data_dir_at(mut self, data_dir: &Path) -> Setup {
        self.data_dir = data_dir.to_owned();
        self
    }

    /// The same setup on other ports, for a second process beside the first.
    #[must_use]
    pub fn on_other_ports(mut self) -> Setup {
        self.listen = ports::free();
        self.admin = ports::free();
        self
    }

    /// Has `runner` run the program: a command that becomes it.
    #[must_use]
    pub fn run_by(mut self, runner: &[&str]) -> Setup {
        self.runner = runner.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// Listens on `address` for operators instead of a free port.
    #[must_use]
    pub fn admin_listen(mut self, address: SocketAddr) -> Setup {
        self.admin = address;
        self
    }

    /// Listens on `address` instead of a free port.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Setup {
        self.listen = address;
        self
    }

    /// Gives `host` and the port to `--listen` and `--admin-listen` instead of the address.
    #[must_use]
    pub fn host(mut self, host: &str) -> Setup {
        self.host = Some(host.to_owned());
        self
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory of this setup's own, outside the data directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where its server's admin listener is, unless the port turns out to be taken.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Everything that this setup's servers have written to stderr and stdout.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the server and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it exits instead or is not ready in time; the message holds its log.
    #[track_caller]
    pub fn start(&mut self) -> Server {
        self.try_start().unwrap_or_else(|exit| panic!("the server ended instead of serving: {exit:?}"))
    }

    /// As [`Setup::start`], of a server that may refuse to.
    ///
    /// # Errors
    /// How it ended.
    ///
    /// # Panics
    /// When it is not ready in time.
    #[track_caller]
    pub fn try_start(&mut self) -> Result<Server, Exit> {
        let first = fs::metadata(self.log_path()).is_err();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut server = self.spawn();
            match server.wait_ready() {
                Ok(()) => return Ok(server),
                // Another test process may have been given the same port; a restart has to keep its own.
                Err(Some(exit)) if exit.code == Some(EXIT_PORT_TAKEN) && first && attempts < 10 => {
                    (self.listen, self.admin) = (ports::free(), ports::free());
                }
                Err(Some(exit)) => return Err(exit),
                Err(None) => panic!("the server is not ready after {READY_WITHIN:?}; its log:\n{}", self.log()),
            }
        }
    }

    /// Starts the server and waits for it to end by itself.
    ///
    /// # Panics
    /// When it is still running after 30 s.
    #[track_caller]
    pub fn run(&self) -> Exit {
        let mut server = self.spawn();
        server.wait_exit()
    }

    /// Starts the server and does not wait for it.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub fn spawn(&self) -> Server {
        let log_before = self.log().len();
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = match self.runner.split_first() {
            None => Command::new(&self.program),
            Some((runner, args)) => {
                let mut command = Command::new(runner);
                command.args(args).arg(&self.program);
                command
            }
        };
        let flag = |address: SocketAddr| match &self.host {
            Some(host) => format!("{host}:{}", address.port()),
            None => address.to_string(),
        };
        command.arg("serve").args(["--listen", &flag(self.listen), "--admin-listen", &flag(self.admin)]);
        command.arg("--data-dir").arg(&self.data_dir).args(&self.args);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR_")) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{} does not start: {e}", self.program.display()));
        Server { child, setup: self.clone(), log_before, exited: None }
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

/// How a server ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What this process wrote to stderr and stdout.
    pub log: String,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    setup: Setup,
    log_before: usize,
    exited: Option<ExitStatus>,
}

impl Server {
    /// The public listener.
    pub fn address(&self) -> SocketAddr {
        self.setup.listen
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.setup.admin
    }

    /// `http://host:port` of the public listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client of the public listener.
    pub fn client(&self) -> Client {
        Client::new(self.address())
    }

    /// A new connection to the public listener.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.address()).unwrap_or_else(|e| panic!("cannot connect: {e}; log:\n{}", self.setup.log()))
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid()).expect("the server is running")
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.poll_exit().is_none()
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the server is our child");
    }

    /// Kills it as `kill -9` does and waits until it is gone.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    #[track_caller]
    pub fn stop(mut self) -> Exit {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it is still running after 30 s.
    #[track_caller]
    pub fn wait_exit(&mut self) -> Exit {
        let deadline = Instant::now() + EXIT_WITHIN;
        loop {
            if let Some(status) = self.poll_exit() {
                let log = self.setup.log().split_off(self.log_before);
                return Exit { code: status.code(), log };
            }
            assert!(Instant::now() < deadline, "still running after {EXIT_WITHIN:?}; log:\n{}", self.setup.log());
            thread::sleep(POLL_EVERY);
        }
    }

    fn wait_ready(&mut self) -> Result<(), Option<Exit>> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            if self.poll_exit().is_some() {
                return Err(Some(self.wait_exit()));
            }
            let answer = Connection::open(self.admin()).and_then(|mut c| c.send(&Request::get("/readyz")));
            if answer.is_ok_and(|response| response.status == 200) {
                return Ok(());
            }
            thread::sleep(POLL_EVERY);
        }
        Err(None)
    }

    fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("the server is our child");
        }
        self.exited
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.setup.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("the last that the server at {} has written:\n{}", self.address(), last.join("\n"));
        }
        if self.poll_exit().is_none() {
            // Nothing to do about a failure here: the process is gone or about to be.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Resident memory of the process `pid` in bytes; `None` when it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
