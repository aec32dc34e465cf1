//! Ends what a child process works on when nobody wants it any more: its client has gone, or the server ends.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use crate::store::lock;

/// What tells the jobs of one asker to stop. Clones are the same.
#[derive(Clone, Default)]
pub struct Stop(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_stopped: bool,
    /// Of the jobs that run; those that have ended hear nothing any more.
    running: Vec<Sender<Event>>,
}

/// What the thread that waits for a child hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The child has said all that it will say.
    Ended,
    /// Nobody waits for it.
    Stopped,
}

impl Stop {
    /// Tells all jobs, and those that begin later.
    pub fn stop(&self) {
        let mut state = lock(&self.0);
        state.is_stopped = true;
        for running in state.running.drain(..) {
            // A job that has just ended does not listen.
            let _ = running.send(Event::Stopped);
        }
    }

    /// Whether jobs were told to stop.
    pub fn is_stopped(&self) -> bool {
        lock(&self.0).is_stopped
    }

    /// Has `listener` told when it is time, which may be at once.
    pub(crate) fn tell(&self, listener: Sender<Event>) {
        let mut state = lock(&self.0);
        if state.is_stopped {
            let _ = listener.send(Event::Stopped);
        } else {
            state.running.push(listener);
        }
    }
}

/// Stops its jobs when it is dropped: what an asker holds while it waits.
pub struct StopOnDrop(pub(crate) Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
