//! Durable writes through `io_uring`: the shard's thread hands a write to a worker of the kernel's and goes on, and its runtime
//! wakes it when the write is on disk.
//!
//! The kernel could begin a write on the thread that hands it over. That takes 25 us in a virtual machine, most of them for
//! telling the host, in which a shard with many clients serves nobody; a lone append waits equally long either way.
//!
//! The kernel reads a write's parts until it is done, whether or not anybody still waits. So the [`Ring`] keeps them, and
//! waits for the kernel when it is dropped. A process that is killed cannot wait: see [`RealDisk::new`](crate::RealDisk::new).

#![expect(unsafe_code, reason = "the kernel is given addresses: see SAFETY")]

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::disk::{PARTS_MAX, assert_aligned};
use crate::durable_write::DurableWrite;

/// Writes that a ring has room for; one is under way at a time.
const ENTRIES: u32 = 2;

/// One thread's ring, with room for one write.
pub(crate) struct Ring {
    ring: AsyncFd<IoUring>,
    under_way: Option<UnderWay>,
}

/// What the kernel reads, or has been asked to.
struct UnderWay {
    write: DurableWrite,
    /// The addresses of its parts.
    _slices: Vec<libc::iovec>,
    begun: Instant,
}

/// Why a ring has not written.
pub(crate) enum RingError {
    /// The kernel did not do it, or not all of it, and does nothing of it any more: it can be written in another way. The ring is
    /// not to be used again.
    GivenBack(DurableWrite, io::Error),
    /// Nothing is known of what was written.
    Failed(io::Error),
}

impl Ring {
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// When the kernel has no `io_uring`, or a policy keeps it from this process.
    pub(crate) fn start() -> io::Result<Ring> {
        let ring = IoUring::new(ENTRIES)?;
        // One worker is enough, of either kind. A kernel that knows no such limit has its own.
        let _ = ring.submitter().register_iowq_max_workers(&mut [1, 1]);
        // SAFETY: the descriptor is the ring's own, which keeps it open and the same for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Ring { ring, under_way: None })
    }

    /// Writes, one at a time; returns how long that took, as this thread saw it. The write's file has a
    /// [direct](crate::DiskFile::direct) descriptor.
    pub(crate) async fn write(&mut self, write: DurableWrite) -> Result<Duration, RingError> {
        self.submit(write)?;
        let result = loop {
            if let Some(entry) = self.ring.get_mut().completion().next() {
                break entry.result();
            }
            self.ring.readable_mut().await.map_err(RingError::Failed)?.clear_ready();
        };
        let UnderWay { write, begun, .. } = self.under_way.take().expect("a write was submitted");
        match usize::try_from(result) {
            Ok(written) if written == write.bytes() => Ok(begun.elapsed()),
            Ok(_) => Err(RingError::GivenBack(write, io::ErrorKind::WriteZero.into())),
            // The last one: there may be no worker to do it.
            Err(_) if [libc::EINTR, libc::EAGAIN, libc::ECANCELED].contains(&-result) => {
                Err(RingError::GivenBack(write, io::Error::from_raw_os_error(-result)))
            }
            Err(_) => Err(RingError::Failed(io::Error::from_raw_os_error(-result))),
        }
    }

    /// Hands a write to the kernel.
    fn submit(&mut self, write: DurableWrite) -> Result<(), RingError> {
        assert!(self.under_way.is_none(), "one write is under way at a time");
        assert!(write.parts.len() <= PARTS_MAX, "more parts than the kernel takes");
        assert_aligned(write.file.bytes(), write.position, &write.parts);
        let file = types::Fd(write.file.direct().expect("the file has a direct descriptor").as_raw_fd());
        let slice =
            |part: &bytes::Bytes| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        let slices: Vec<libc::iovec> = write.parts.iter().map(slice).collect();
        let entry = opcode::Writev::new(file, slices.as_ptr(), slices.len() as u32).offset(write.position).build();
        let entry = entry.flags(squeue::Flags::ASYNC);
        // SAFETY: the file, the parts and the list of their addresses are kept in `under_way`, unmoved on the heap and
        // unchanged, until the kernel has said that it is done; also when the ring is dropped. Where it has taken nothing,
        // it takes nothing later either, because nothing is submitted to this ring any more.
        let pushed = unsafe { self.ring.get_mut().submission().push(&entry) };
        let submitted = match pushed {
            Ok(()) => self.ring.get_ref().submit(),
            Err(full) => Err(io::Error::other(full)),
        };
        match submitted {
            Ok(1..) => {
                self.under_way = Some(UnderWay { write, _slices: slices, begun: Instant::now() });
                Ok(())
            }
            Ok(0) => Err(RingError::GivenBack(write, io::Error::other("io_uring took nothing"))),
            Err(error) => Err(RingError::GivenBack(write, error)),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let Some(under_way) = self.under_way.take() else { return };
        loop {
            match self.ring.get_ref().submit_and_wait(1) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The kernel may still read it, so it stays for as long as the process does.
                    std::mem::forget(under_way);
                    break;
                }
            }
        }
    }
}
