//! The time that this thread has had of a core. Unlike the time of the machine it does not pass while others run, so what a
//! guest is charged and ended for is its own doing, however busy the machine is.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread since it began. A system call: some 200 ns.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
