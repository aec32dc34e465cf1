//! What the process takes of the machine, for metrics. Only Linux says it.

/// Figures of this process, called as Prometheus's own clients call them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    /// CPU time of all its threads, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Memory that is not swapped out, in bytes.
    pub(crate) resident_bytes: u64,
    /// Address space, in bytes.
    pub(crate) virtual_bytes: u64,
    /// Open file descriptors.
    pub(crate) open_fds: usize,
    /// How many it may have; none for any number.
    pub(crate) max_fds: Option<u64>,
    /// Threads.
    pub(crate) threads: i64,
    /// When it began, in seconds since 1970.
    pub(crate) started_seconds: f64,
}

impl Process {
    /// The figures now, if the system tells them. Reads files of `/proc`, which are in memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn now() -> Option<Process> {
        use procfs::WithCurrentSystemInfo as _;
        use procfs::process::LimitValue;
        let me = procfs::process::Process::myself().ok()?;
        let stat = me.stat().ok()?;
        let ticks_per_second = procfs::ticks_per_second() as f64;
        let max_fds = match me.limits().ok()?.max_open_files.soft_limit {
            LimitValue::Value(max_fds) => Some(max_fds),
            LimitValue::Unlimited => None,
        };
        Some(Process {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks_per_second,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_fds: me.fd_count().ok()?,
            max_fds,
            threads: stat.num_threads,
            started_seconds: procfs::boot_time_secs().ok()? as f64 + stat.starttime as f64 / ticks_per_second,
        })
    }

    /// The figures now, if the system tells them.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn now() -> Option<Process> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_system_tells_what_this_process_takes() {
        let process = Process::now().expect("/proc is there");
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_fds > 2 && process.threads > 0 && process.cpu_seconds >= 0.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
        assert!((now - process.started_seconds).abs() < 3600.0, "it has just begun");
    }
}
