//! Compiling in a child process, so that a module which takes all memory or all time, or trips the compiler, ends only
//! that.
//!
//! The child is the server's own binary, started as `<program> compile-module`: the module comes in on standard input,
//! machine code goes out on standard output, and why there is none on standard error. Before it reads a byte it limits
//! itself; the parent kills it when its time is over. It inherits no environment, so no secret is in its memory.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::compile::{CompileError, Compiler, InProcess};
use crate::config::CompileLimits;
use crate::inspect::cut;

/// The argument by which a program knows that it is the compiler.
pub const COMPILE_ARGUMENT: &str = "compile-module";
const MEMORY_ENV: &str = "WEIR_COMPILE_MEMORY_BYTES_MAX";
const CPU_ENV: &str = "WEIR_COMPILE_CPU_SECONDS_MAX";

/// Exit code of a child that has found the module at fault and said why.
const EXIT_REFUSED: u8 = 65;
/// Bytes of the child's words that are kept.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// Machine code is 3 to 5 times its module (`wasm-costs.md`, section 6).
const ARTIFACT_BYTES_FACTOR: u64 = 32;
const ARTIFACT_BYTES_MIN: u64 = 16 << 20;
/// How often the parent looks whether the child has ended.
const POLL: Duration = Duration::from_millis(2);
/// By how much the child stands back behind the shards.
const NICE: i32 = 5;

/// Compiles in a child process, started anew for each module.
#[derive(Clone, Debug)]
pub struct ChildProcess {
    /// What to run, and the arguments before `compile-module`. At least the program; it calls [`compile_child`].
    pub program: Vec<OsString>,
}

impl Compiler for ChildProcess {
    fn compile(&self, wasm: &[u8], limits: &CompileLimits) -> Result<Vec<u8>, CompileError> {
        let mut child = self.start(limits).map_err(CompileError::Io)?;
        let artifact_bytes_max = (wasm.len() as u64) * ARTIFACT_BYTES_FACTOR + ARTIFACT_BYTES_MIN;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        // A pipe holds little, so all three are served at once. A child that is killed closes its ends.
        let (ended, artifact, words) = thread::scope(|scope| {
            scope.spawn(move || {
                let mut stdin = stdin;
                // A child that ends early has its reason on standard error.
                let _ = stdin.write_all(wasm);
            });
            let artifact = scope.spawn(move || read(stdout, artifact_bytes_max));
            let words = scope.spawn(move || read(stderr, WORDS_BYTES_MAX as u64));
            let ended = wait_or_kill(&mut child, limits.timeout);
            (ended, artifact.join(), words.join())
        });
        let joined = "a reader of a pipe does not panic";
        let (artifact, words) = (artifact.expect(joined), words.expect(joined).unwrap_or_default());
        let words = String::from_utf8_lossy(&words);
        let words = cut(words.trim(), WORDS_BYTES_MAX);
        match ended.map_err(CompileError::Io)? {
            None => Err(CompileError::TimedOut(limits.timeout)),
            Some(status) if status.success() => artifact.map_err(CompileError::Io),
            Some(status) if status.code() == Some(EXIT_REFUSED.into()) => Err(CompileError::Refused(words.to_string())),
            Some(status) => {
                let status = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
                Err(CompileError::Died { status, memory_bytes_max: limits.memory_bytes_max })
            }
        }
    }
}

impl ChildProcess {
    fn start(&self, limits: &CompileLimits) -> io::Result<Child> {
        let (program, arguments) = self.program.split_first().expect("there is a program to run");
        Command::new(program)
            .args(arguments)
            .arg(COMPILE_ARGUMENT)
            .env_clear()
            .env(MEMORY_ENV, limits.memory_bytes_max.to_string())
            // The time of one thread, so it strikes after the timeout, and only if the parent is no longer there to.
            .env(CPU_ENV, (limits.timeout.as_secs() + 2).to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Reads all, which is an error beyond `bytes_max`. The rest is read and thrown away, lest the writer wait for ever.
fn read(mut from: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut from).take(bytes_max).read_to_end(&mut bytes)?;
    match io::copy(&mut from, &mut io::sink())? {
        0 => Ok(bytes),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "the machine code is too large")),
    }
}

/// Waits for the child to end by itself; `None` when it had to be killed.
fn wait_or_kill(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < timeout {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// What `weir compile-module` runs: limits the process, compiles standard input to standard output.
pub fn compile_child() -> ExitCode {
    if let Err(error) = limit_self() {
        eprintln!("cannot limit the compiler: {error}");
        return ExitCode::FAILURE;
    }
    let mut wasm = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut wasm) {
        eprintln!("cannot read the module: {error}");
        return ExitCode::FAILURE;
    }
    // The limits are those of this process already.
    let limits = CompileLimits { timeout: Duration::MAX, memory_bytes_max: u64::MAX };
    match InProcess.compile(&wasm, &limits) {
        Ok(artifact) => match io::stdout().lock().write_all(&artifact) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot hand over the machine code: {error}");
                ExitCode::FAILURE
            }
        },
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

/// Takes from this process what a compiler does not need.
fn limit_self() -> io::Result<()> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    if let Some(memory_bytes_max) = number(MEMORY_ENV) {
        limit(Resource::As, memory_bytes_max)?;
    }
    if let Some(cpu_seconds_max) = number(CPU_ENV) {
        limit(Resource::Cpu, cpu_seconds_max)?;
    }
    // Its only output is a pipe; and a module is no reason to leave its memory on the disk.
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    // It ends with the thread that waits for it.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::process::nice(NICE)?;
    Ok(())
}
