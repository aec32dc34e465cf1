//! What the kernel counts for a process: CPU time and memory from `/proc`, instructions through `perf stat`.
//!
//! Instructions per append are the figure to compare: they repeat within a few per cent on a machine where
//! microseconds move by a factor of two.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// CPU time and memory of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    /// User and system time of all its threads, ended ones included.
    pub(crate) cpu: Duration,
    /// Resident memory.
    pub(crate) resident_bytes: u64,
}

impl Counters {
    /// Reads them.
    ///
    /// # Errors
    /// A sentence when the process is gone.
    pub(crate) fn of(pid: u32) -> Result<Counters, String> {
        let gone = || format!("process {pid} is gone");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| gone())?;
        // The second field is the command in parentheses and may hold spaces; utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or_else(gone)?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11..13).ok_or_else(gone)?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
        let cpu = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        let resident_bytes = weir_testkit::server::resident_bytes(pid).ok_or_else(gone)?;
        Ok(Counters { cpu, resident_bytes })
    }
}

/// Instructions counted over one interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// In user mode.
    pub(crate) user: u64,
    /// In the kernel, on behalf of the process.
    pub(crate) kernel: u64,
}

/// A running `perf stat`, attached and switched on and off over a pair of named pipes, so that the interval is exactly
/// the one that appends are counted over.
#[derive(Debug)]
pub(crate) struct Instructions {
    perf: Child,
    control: File,
    acknowledged: BufReader<File>,
    _pipes: TempDir,
}

impl Instructions {
    /// Attaches to `pid` without counting yet; `None`, with a line on stderr, where perf is missing or not permitted.
    pub(crate) fn attach(pid: u32) -> Option<Instructions> {
        Instructions::try_attach(pid).map_err(|reason| eprintln!("no instruction counts: {reason}")).ok()
    }

    /// Starts to count.
    pub(crate) fn start(&mut self) {
        // A perf that has died answers nothing; `finish` then finds no counts, which the report shows.
        let _ = self.order("enable");
    }

    /// Stops and gives what was counted; `None`, with a line on stderr, when perf counted nothing.
    pub(crate) fn finish(self) -> Option<Counted> {
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
