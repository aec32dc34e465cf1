//! What the kernel counts for a process: CPU time and memory from `/proc`, instructions through `perf stat`.
//!
//! Instructions per request are the figure to compare: they repeat within a few per cent on a machine where
//! microseconds move by a factor of two.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::report::Figure;

/// What a process spent over one interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    cpu: Duration,
    instructions: Option<Counted>,
    resident_bytes: u64,
}

impl Spent {
    /// Does `work` and gives what it came to, and what process `pid` spent meanwhile.
    ///
    /// # Errors
    /// A sentence: that of `work`, or that the process is gone.
    pub(crate) fn during<T>(
        pid: u32,
        perf: bool,
        work: impl FnOnce() -> Result<T, String>,
    ) -> Result<(T, Spent), String> {
        let mut instructions = if perf { Instructions::attach(pid) } else { None };
        let before = cpu_of(pid)?;
        if let Some(counting) = &mut instructions {
            counting.start();
        }
        let done = work()?;
        let instructions = instructions.and_then(Instructions::finish);
        let cpu = cpu_of(pid)?.saturating_sub(before);
        let resident_bytes = weir_testkit::server::resident_bytes(pid).ok_or_else(|| gone(pid))?;
        Ok((done, Spent { cpu, instructions, resident_bytes }))
    }

    /// CPU time per request, delivery or the like, of which there were `count`.
    pub(crate) fn cpu_us(&self, count: u64) -> Figure {
        Figure::new("CPU us", 2, self.cpu.as_secs_f64() * 1e6 / count as f64)
    }

    /// CPU time per second.
    pub(crate) fn cpu_ms_per_s(&self, elapsed: Duration) -> Figure {
        Figure::new("CPU ms/s", 0, self.cpu.as_secs_f64() * 1e3 / elapsed.as_secs_f64())
    }

    /// CPU time.
    pub(crate) fn cpu_ms(&self) -> Figure {
        Figure::new("CPU ms", 0, self.cpu.as_secs_f64() * 1e3)
    }

    /// Thousands of instructions for each of `count`, where perf counted them.
    pub(crate) fn instructions(&self, count: u64) -> [Figure; 3] {
        let ki = |of: fn(Counted) -> u64| self.instructions.map(|c| of(c) as f64 / 1e3 / count as f64);
        [
            Figure::new("Ki user", 1, ki(|c| c.user)),
            Figure::new("Ki kernel", 1, ki(|c| c.kernel)),
            Figure::new("Ki", 1, ki(|c| c.user + c.kernel)).compared(),
        ]
    }

    /// Resident memory at the end.
    pub(crate) fn resident(&self) -> Figure {
        Figure::new("RSS MiB", 0, self.resident_bytes as f64 / (1 << 20) as f64)
    }
}

/// User and system time of all threads of a process, ended ones included.
///
/// # Errors
/// A sentence when the process is gone.
fn cpu_of(pid: u32) -> Result<Duration, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| gone(pid))?;
    // The second field is the command in parentheses and may hold spaces; utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or_else(|| gone(pid))?.1.split_whitespace().collect();
    let times = fields.get(11..13).ok_or_else(|| gone(pid))?;
    let ticks: u64 = times.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn gone(pid: u32) -> String {
    format!("process {pid} is gone")
}

/// Instructions counted over one interval.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// In user mode.
    user: u64,
    /// In the kernel, on behalf of the process.
    kernel: u64,
}

/// A running `perf stat`, attached and switched on and off over a pair of named pipes, so that the interval is exactly
/// the one that requests are counted over.
#[derive(Debug)]
struct Instructions {
    perf: Child,
    control: File,
    acknowledged: BufReader<File>,
    _pipes: TempDir,
}

impl Instructions {
    /// Attaches to `pid` without counting yet; `None`, with a line on stderr, where perf is missing or not permitted.
    fn attach(pid: u32) -> Option<Instructions> {
        Instructions::try_attach(pid).map_err(|reason| eprintln!("no instruction counts: {reason}")).ok()
    }

    /// Starts to count.
    fn start(&mut self) {
        // A perf that has died answers nothing; `finish` then finds no counts, which the report shows.
        let _ = self.order("enable");
    }

    /// Stops and gives what was counted; `None`, with a line on stderr, when perf counted nothing.
    fn finish(self) -> Option<Counted> {
        self.try_finish().map_err(|reason| eprintln!("no instruction counts: {reason}")).ok()
    }

    fn try_finish(mut self) -> Result<Counted, String> {
        self.order("disable")?;
        // An interrupt is how `perf stat` is asked for its counts.
        rustix::process::kill_process(Pid::from_child(&self.perf), Signal::INT).map_err(|e| e.to_string())?;
        let mut text = String::new();
        if let Some(stderr) = &mut self.perf.stderr {
            stderr.read_to_string(&mut text).map_err(|e| e.to_string())?;
        }
        // With -x, lines are: count,unit,event,... where a virtual machine without hardware counters has
        // "<not supported>" for the count.
        let count = |event: &str| -> Result<u64, String> {
            let line = text.lines().find(|line| line.split(',').nth(2) == Some(event));
            let count = line.and_then(|line| line.split(',').next()).unwrap_or("nothing");
            count.parse().map_err(|_| format!("perf says {count} for {event}"))
        };
        Ok(Counted { user: count("instructions:u")?, kernel: count("instructions:k")? })
    }

    fn try_attach(pid: u32) -> Result<Instructions, String> {
        let pipes = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (control, acknowledge) = (pipes.path().join("control"), pipes.path().join("ack"));
        for pipe in [&control, &acknowledge] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(|e| e.to_string())?;
        }
        // Opened for reading and writing, a named pipe waits for no one to open its other end.
        let open = |path| File::options().read(true).write(true).open(path).map_err(|e| e.to_string());
        let (control_file, acknowledge_file) = (open(&control)?, open(&acknowledge)?);
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-e", "instructions:u,instructions:k", "-D", "-1", "-p", &pid.to_string()])
            .arg(format!("--control=fifo:{},{}", control.display(), acknowledge.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("perf does not start: {e}"))?;
        let acknowledged = BufReader::new(acknowledge_file);
        let mut counting = Instructions { perf, control: control_file, acknowledged, _pipes: pipes };
        counting.order("ping")?;
        Ok(counting)
    }

    /// Sends a command and waits until perf has carried it out.
    fn order(&mut self, command: &str) -> Result<(), String> {
        if let Ok(Some(status)) = self.perf.try_wait() {
            let mut reason = String::new();
            if let Some(stderr) = &mut self.perf.stderr {
                let _ = stderr.read_to_string(&mut reason);
            }
            return Err(format!("perf ended ({status}): {}", reason.trim()));
        }
        self.control.write_all(format!("{command}\n").as_bytes()).map_err(|e| e.to_string())?;
        let mut answer = String::new();
        self.acknowledged.read_line(&mut answer).map_err(|e| e.to_string())?;
        Ok(())
    }
}

impl Drop for Instructions {
    fn drop(&mut self) {
        // Ended already after `finish`.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}
