//! Which sockets are ready: epoll, edge-triggered, so that a socket is registered once and costs nothing while it is
//! quiet. After an edge a socket has to be read until a read comes back short.

use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{Timespec, epoll};

const EVENTS_MAX: usize = 256;

/// Sockets that are waited for.
pub(crate) struct Poll {
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// No sockets.
    ///
    /// # Errors
    /// A sentence when the process has too many open files.
    pub(crate) fn new() -> Result<Poll, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| format!("epoll: {e}"))?;
        Ok(Poll { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Waits for `socket` too, under the number `token`, until it is closed.
    ///
    /// # Errors
    /// A sentence when the kernel is out of memory.
    pub(crate) fn add(&self, socket: &TcpStream, token: usize) -> Result<(), String> {
        let data = epoll::EventData::new_u64(token as u64);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, data, flags).map_err(|e| format!("epoll: {e}"))
    }

    /// Waits until sockets are ready, at most for `timeout`, and gives their numbers.
    ///
    /// # Errors
    /// A sentence when epoll fails.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<impl Iterator<Item = usize> + '_, String> {
        let timeout = Timespec::try_from(timeout).map_err(|e| format!("a timeout too long: {e}"))?;
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout))
            .map_err(|e| format!("epoll: {e}"))?;
        Ok(self.events.drain(..).map(|event| event.data.u64() as usize))
    }
}
