//! What one connection's requests and its socket know of each other: what runs, what is owed, what is blocked.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use send_wrapper::SendWrapper;

use crate::access::Access;
use crate::wakes::Wakes;

/// What is owed in HTTP/2 is noted from this size on. Of smaller parts a connection's windows and buffers hold little.
pub(crate) const OWED_BYTES_MIN: usize = 4 << 10;

/// At what pace a client that is waited for takes and sends, in bytes per second: more than pings and their answers are.
const BYTES_PER_S_MIN: usize = 4 << 10;

/// What a client that is waited for takes or sends in this time at least, in bytes.
pub(crate) fn paced_bytes_min(time: Duration) -> usize {
    (BYTES_PER_S_MIN as f64 * time.as_secs_f64()) as usize
}

/// What one connection's requests and its socket know of each other.
#[derive(Default)]
pub(crate) struct Activity {
    pub(crate) is_http2: bool,
    /// In HTTP/1.
    pub(crate) wakes: OnceCell<Wakes>,
    pub(crate) running: Cell<u32>,
    /// Bytes of responses that are ready and not sent, in HTTP/2.
    pub(crate) owed: Cell<usize>,
    /// Bytes of bodies that are coming in.
    incoming: Cell<usize>,
    /// Whether the socket took nothing of the last write; in HTTP/1.
    pub(crate) is_blocked: Cell<bool>,
    /// Whether a live read has begun that the socket does not know of.
    pub(crate) live_begun: Cell<bool>,
    /// Requests so far, to tell whether any began since the last tick.
    pub(crate) begun: Cell<u64>,
    /// Whether bytes came while no request ran: the next request's head.
    pub(crate) head_begun: Cell<bool>,
}

impl Activity {
    /// Of a new connection.
    pub(crate) fn new(is_http2: bool) -> Activity {
        Activity { is_http2, ..Activity::default() }
    }

    /// A live read begins.
    pub(crate) fn begin_live(&self) {
        self.live_begun.set(true);
    }

    /// Whether what is sent now would only be buffered.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// Notes that `bytes` are ready, until the last of them is dropped.
    pub(crate) fn owe(self: &Rc<Self>, bytes: Bytes) -> Bytes {
        if !self.is_http2 || bytes.len() < OWED_BYTES_MIN {
            return bytes;
        }
        let owed = Owed { activity: self.clone(), bytes: bytes.len() };
        self.owed.set(self.owed.get() + owed.bytes);
        // A connection's bytes stay on its thread.
        weir_shard::keep(bytes, SendWrapper::new(owed))
    }

    /// A body that comes in; nothing of it is there.
    pub(crate) fn begin_body(self: &Rc<Self>) -> Incoming {
        Incoming { activity: self.clone(), bytes: 0 }
    }

    /// A request begins: its head is complete.
    pub(crate) fn begin(self: &Rc<Self>) -> ActiveRequest {
        self.running.set(self.running.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.head_begun.set(false);
        ActiveRequest { activity: self.clone(), access: None }
    }
}

/// One part that is owed.
struct Owed {
    activity: Rc<Activity>,
    bytes: usize,
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.activity.owed.set(self.activity.owed.get() - self.bytes);
    }
}

/// What one body has of its connection's share, given back when dropped.
pub(crate) struct Incoming {
    activity: Rc<Activity>,
    bytes: usize,
}

impl Incoming {
    /// Counts `bytes` more, unless all bodies of the connection then have more than `share`. One alone may.
    pub(crate) fn grow(&mut self, bytes: usize, share: usize) -> bool {
        let all = self.activity.incoming.get();
        let fits = all == self.bytes || all + bytes <= share;
        if fits {
            self.activity.incoming.set(all + bytes);
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.activity.incoming.set(self.activity.incoming.get() - self.bytes);
    }
}

/// A request that is running; dropped when its response is sent.
pub(crate) struct ActiveRequest {
    activity: Rc<Activity>,
    /// Boxed, because it is there only where requests are logged.
    access: Option<Box<Access>>,
}

impl ActiveRequest {
    /// Has the request logged at its end.
    pub(crate) fn log(&mut self, access: Access) {
        self.access = Some(Box::new(access));
    }

    /// The request's line in the log, if it has one.
    pub(crate) fn access(&mut self) -> Option<&mut Access> {
        self.access.as_deref_mut()
    }

    /// See [`Activity::owe`].
    pub(crate) fn owe(&self, bytes: &mut Bytes) {
        *bytes = self.activity.owe(std::mem::take(bytes));
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.activity.running.set(self.activity.running.get() - 1);
    }
}
