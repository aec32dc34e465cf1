//! Inspecting and compiling in a child process, so that a module which takes all memory, stack or time, or trips a parser or the
//! compiler, ends only that.
//!
//! The child is the server's own binary, started as `<program> module-child inspect` or `compile`: the module comes in on
//! standard input, its roles or its machine code go out on standard output, and why there are none on standard error. Before it
//! reads a byte it limits itself. The parent kills it when its time is over, or when it is [told](crate::stop) that nobody waits;
//! the kernel does when the parent is gone. It inherits no environment, so no secret is in its memory.
//!
//! What it says is data: the parent checks roles and cleans sentences, as it would if they came from the module itself.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weir_types::Role;

use crate::compile::{self, CompileError, Compiler};
use crate::config::CompileLimits;
use crate::inspect::cut;
use crate::stop::{Event, Stop};

/// The argument by which a program knows that it is the child.
pub const CHILD_ARGUMENT: &str = "module-child";
const MEMORY_ENV: &str = "WEIR_CHILD_MEMORY_BYTES_MAX";
const CPU_ENV: &str = "WEIR_CHILD_CPU_SECONDS_MAX";
const GUEST_ENV: &str = "WEIR_CHILD_GUEST_BYTES_MAX";

/// Exit code of a child that has found the module at fault and said why.
const EXIT_REFUSED: u8 = 65;
/// Bytes of the child's words that are kept.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// Bytes of a list of roles, and more.
const ROLES_BYTES_MAX: u64 = 1 << 10;
/// Machine code is 3 to 5 times its module (`wasm-costs.md`, section 6), and up to 42 times for one that is made for it.
const ARTIFACT_BYTES_FACTOR: u64 = 32;
const ARTIFACT_BYTES_MIN: u64 = 16 << 20;
/// Stack of the thread that parses and compiles. What needs more ends the child.
const STACK_BYTES: usize = 8 << 20;
/// Addresses that an instance takes besides its memory: each memory reserves 4 GiB, and it may have eight of them.
const INSTANCE_ADDRESSES: u64 = 40 << 30;
/// What a process takes to end after it has closed its pipes.
const ENDING: Duration = Duration::from_millis(1);
/// What the allocator takes at once, in KiB.
const ALLOCATOR_RESERVE_KIB: &str = "65536";
/// By how much the child stands back behind the shards.
const NICE: i32 = 5;

/// What a child is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Inspect,
    Compile,
}

impl Job {
    const ALL: [Job; 2] = [Job::Inspect, Job::Compile];

    /// Its argument, and what it is called in sentences.
    fn as_str(self) -> &'static str {
        match self {
            Job::Inspect => "inspect",
            Job::Compile => "compile",
        }
    }
}

/// Inspects and compiles in a child process, started anew for each module.
#[derive(Clone, Debug)]
pub struct ChildProcess {
    /// What to run, and the arguments before `module-child`. At least the program; it calls [`module_child`].
    pub program: Vec<OsString>,
}

impl Compiler for ChildProcess {
    fn inspect(&self, wasm: &[u8], limits: &CompileLimits, stop: &Stop) -> Result<Vec<Role>, CompileError> {
        let said = self.run(Job::Inspect, wasm, limits, stop, ROLES_BYTES_MAX)?;
        read_roles(&said).ok_or_else(|| CompileError::Died {
            doing: Job::Inspect.as_str(),
            status: "it named no roles".to_string(),
            memory_bytes_max: limits.memory_bytes_max,
        })
    }

    fn compile(&self, wasm: &[u8], limits: &CompileLimits, stop: &Stop) -> Result<Vec<u8>, CompileError> {
        let artifact_bytes_max = (wasm.len() as u64) * ARTIFACT_BYTES_FACTOR + ARTIFACT_BYTES_MIN;
        self.run(Job::Compile, wasm, limits, stop, artifact_bytes_max)
    }
}

impl ChildProcess {
    /// What a child says of `wasm`, at most `said_bytes_max` bytes.
    fn run(
        &self,
        job: Job,
        wasm: &[u8],
        limits: &CompileLimits,
        stop: &Stop,
        said_bytes_max: u64,
    ) -> Result<Vec<u8>, CompileError> {
        if stop.is_stopped() {
            return Err(CompileError::Stopped);
        }
        let mut child = self.start(job, limits).map_err(CompileError::Io)?;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let deadline = Instant::now() + limits.timeout;
        let (listener, events) = mpsc::channel();
        stop.tell(listener.clone());
        // A pipe holds little, so all three are served at once. A child that is killed closes its ends.
        let (event, ended, said, words) = thread::scope(|scope| {
            scope.spawn(move || {
                let mut stdin = stdin;
                // A child that ends early has its reason on standard error.
                let _ = stdin.write_all(wasm);
            });
            let said = scope.spawn(move || {
                let said = read(stdout, said_bytes_max);
                let _ = listener.send(Event::Ended);
                said
            });
            let words = scope.spawn(move || read(stderr, WORDS_BYTES_MAX as u64));
            let event = events.recv_timeout(limits.timeout).ok();
            if event != Some(Event::Ended) {
                // It is not waited for yet, so the number is still its own.
                let _ = child.kill();
            }
            (event, wait(&mut child, deadline), said.join(), words.join())
        });
        let joined = "a reader of a pipe does not panic";
        let (said, words) = (said.expect(joined), words.expect(joined).unwrap_or_default());
        let ended = ended.map_err(CompileError::Io)?;
        match event {
            None => Err(CompileError::TimedOut { doing: job.as_str(), timeout: limits.timeout }),
            Some(Event::Stopped) => Err(CompileError::Stopped),
            Some(Event::Ended) if ended.success() => said.map_err(CompileError::Io),
            Some(Event::Ended) => Err(failed(job, ended, &sentence(&words), limits)),
        }
    }

    fn start(&self, job: Job, limits: &CompileLimits) -> io::Result<Child> {
        let (program, arguments) = self.program.split_first().expect("there is a program to run");
        Command::new(program)
            .args(arguments)
            .args([CHILD_ARGUMENT, job.as_str()])
            .env_clear()
            // The server's allocator would take a gigabyte of addresses at its start, and use it up before it meets a limit.
            .env("MIMALLOC_ARENA_RESERVE", ALLOCATOR_RESERVE_KIB)
            .env(MEMORY_ENV, limits.memory_bytes_max.to_string())
            .env(GUEST_ENV, limits.guest_bytes_max.to_string())
            // The time of one thread, so it strikes after the timeout, and only if the parent is no longer there to.
            .env(CPU_ENV, (limits.timeout.as_secs() + 2).to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Waits for a child that is about to end: it was killed, or has said all. One that lives on is killed at its deadline.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    while Instant::now() < deadline {
        if let Some(ended) = child.try_wait()? {
            return Ok(ended);
        }
        thread::sleep(ENDING);
    }
    child.kill()?;
    child.wait()
}

/// Why a child has ended without success.
fn failed(job: Job, ended: ExitStatus, words: &str, limits: &CompileLimits) -> CompileError {
    if ended.code() == Some(EXIT_REFUSED.into()) && !words.is_empty() {
        return CompileError::Refused(words.to_string());
    }
    let status = if words.is_empty() { ended.to_string() } else { format!("{ended}: {words}") };
    CompileError::Died { doing: job.as_str(), status, memory_bytes_max: limits.memory_bytes_max }
}

/// Reads all, which is an error beyond `bytes_max`. The rest is read and thrown away, lest the writer wait for ever.
fn read(mut from: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut from).take(bytes_max).read_to_end(&mut bytes)?;
    match io::copy(&mut from, &mut io::sink())? {
        0 => Ok(bytes),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "the child says more than there can be to say")),
    }
}

/// The child's words as one line that may be shown and logged.
fn sentence(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    let words: Vec<&str> =
        words.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty()).collect();
    cut(&words.join(" "), WORDS_BYTES_MAX).to_string()
}

/// The roles that a child has named: one per line, at least one, none twice.
fn read_roles(said: &[u8]) -> Option<Vec<Role>> {
    let mut roles = Vec::new();
    for line in std::str::from_utf8(said).ok()?.lines() {
        let role = Role::ALL.into_iter().find(|role| role.as_str() == line)?;
        if roles.contains(&role) {
            return None;
        }
        roles.push(role);
    }
    if roles.is_empty() { None } else { Some(roles) }
}

/// What `weir module-child` runs: limits the process, then does with standard input what the next argument says.
pub fn module_child() -> ExitCode {
    let job = env::args().next_back().and_then(|name| Job::ALL.into_iter().find(|job| job.as_str() == name));
    let Some(job) = job else {
        eprintln!("nobody but the server starts this");
        return ExitCode::FAILURE;
    };
    if let Err(error) = limit_self() {
        eprintln!("cannot limit the process: {error}");
        return ExitCode::FAILURE;
    }
    // The stack of the first thread is as large as whoever has started the server likes it.
    let working = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || work(job));
    match working.map(thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // A panic has said so itself.
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("there can be no thread: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(job: Job) -> ExitCode {
    let mut wasm = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut wasm) {
        eprintln!("cannot read the module: {error}");
        return ExitCode::FAILURE;
    }
    let done = match job {
        Job::Inspect => compile::inspect(&wasm).map(|roles| {
            let lines: Vec<&str> = roles.into_iter().map(Role::as_str).collect();
            lines.join("\n").into_bytes()
        }),
        Job::Compile => {
            let guest_bytes_max = number(GUEST_ENV).and_then(|bytes| usize::try_from(bytes).ok());
            compile::compile(&wasm, guest_bytes_max.unwrap_or(usize::MAX), allow_instance)
        }
    };
    match done.map(|said| io::stdout().lock().write_all(&said)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("cannot hand over what was found: {error}");
            ExitCode::FAILURE
        }
        Err(CompileError::Refused(words)) => {
            eprintln!("{words}");
            ExitCode::from(EXIT_REFUSED)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Takes from this process what it does not need.
fn limit_self() -> io::Result<()> {
    let limit =
        |resource, current, maximum| setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) });
    if let Some(memory_bytes_max) = number(MEMORY_ENV) {
        // What can be written to, and all addresses. The instance that is tried last has more of these, and lets go of the
        // lower limit: see `allow_instance`.
        limit(Resource::Data, memory_bytes_max, memory_bytes_max)?;
        limit(Resource::As, memory_bytes_max, memory_bytes_max.saturating_add(INSTANCE_ADDRESSES))?;
    }
    if let Some(cpu_seconds_max) = number(CPU_ENV) {
        limit(Resource::Cpu, cpu_seconds_max, cpu_seconds_max)?;
    }
    // Its only output is a pipe; and a module is no reason to leave its memory on the disk. An instance's first memory is made
    // in a file without a name, for which `allow_instance` lets go of this.
    limit(Resource::Fsize, 0, number(GUEST_ENV).unwrap_or(0))?;
    limit(Resource::Core, 0, 0)?;
    // It ends with the thread that waits for it.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::process::nice(NICE)?;
    #[cfg(target_os = "linux")]
    confine_thread()?;
    Ok(())
}

/// Refuses this thread, and all that it starts, what compiling needs nothing of: files, sockets, other processes. A module that
/// takes over the compiler has what it was given, and not the server's files. Best effort: where the kernel filters no calls,
/// the limits have to do.
#[cfg(target_os = "linux")]
fn confine_thread() -> io::Result<()> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
    let Ok(arch) = TargetArch::try_from(env::consts::ARCH) else { return Ok(()) };
    let refused = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let rules = CALLS_REFUSED.iter().chain(OLD_CALLS_REFUSED).map(|&call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    match apply_filter(&program) {
        Ok(()) | Err(seccompiler::Error::Seccomp(_) | seccompiler::Error::Prctl(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What [`confine_thread`] refuses.
#[cfg(target_os = "linux")]
const CALLS_REFUSED: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_mount,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
];

/// The same by their older names, where there are such.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const OLD_CALLS_REFUSED: &[i64] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(all(target_os = "linux", not(target_arch = "x86_64")))]
const OLD_CALLS_REFUSED: &[i64] = &[];

/// Lets this process have the addresses that an instance reserves, and the file of its first memory. What memory it may write to
/// stays as it is.
fn allow_instance() {
    for resource in [Resource::As, Resource::Fsize] {
        let Rlimit { maximum, .. } = getrlimit(resource);
        // Where there is no limit, or none that may be lifted, there is nothing to do.
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_what_they_must_be_or_nothing() {
        assert_eq!(read_roles(b"validator\nsummary"), Some(vec![Role::Validator, Role::Summary]));
        for said in [&b""[..], b"\n", b"validator\nvalidator", b"admin", b"validator ", b"\xff"] {
            assert_eq!(read_roles(said), None, "{said:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_confined_thread_has_no_files_no_sockets_and_no_processes() {
        let confined = thread::spawn(|| {
            confine_thread().expect("it is confined");
            let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            assert!(std::fs::File::open("/proc/self/status").is_err_and(denied));
            assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err_and(denied));
            assert!(Command::new("/proc/self/exe").spawn().is_err_and(denied));
            thread::spawn(move || assert!(std::fs::read_dir("/").is_err_and(denied)))
                .join()
                .expect("as its threads are");
        });
        confined.join().expect("no thread panics");
        assert!(std::fs::File::open("/proc/self/status").is_ok(), "others are not");
    }

    #[test]
    fn words_are_one_line() {
        assert_eq!(sentence(b" a\x1b[2J\nb\r\n\tc\xff "), "a [2J b c\u{fffd}");
        assert_eq!(sentence(&[b'x'; 2 * WORDS_BYTES_MAX]).len(), WORDS_BYTES_MAX);
    }
}
