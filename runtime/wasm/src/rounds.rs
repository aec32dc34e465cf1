//! What both threads of a lane do all their life: take in their mail, serve whoever has work, rest.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::host::Host;

/// How long an instance may be idle.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(300);
/// How often idle instances are looked for.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A thread of a lane.
pub(crate) trait Worker {
    type Mail;

    /// A round begins: the time may be looked at.
    fn begin(&mut self);

    /// Takes a message in; whether there is anybody left who could send another.
    fn take(&mut self, message: Self::Mail) -> bool;

    /// Lets one binding have its turn; whether there was one with work.
    fn serve(&mut self) -> bool;

    /// There is no work and no mail: tidies up. Called at least every [`SWEEP_EVERY`] then.
    fn rest(&mut self);
}

/// Works until nobody is left who could ask.
pub(crate) fn run<W: Worker>(mut worker: W, host: &Host, mail: &Receiver<W::Mail>) {
    loop {
        let mut first = match mail.recv_timeout(SWEEP_EVERY) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut is_asked = true;
        host.with_epochs(|| {
            loop {
                worker.begin();
                while let Some(message) = first.take().or_else(|| mail.try_recv().ok()) {
                    is_asked &= worker.take(message);
                }
                if !is_asked || !worker.serve() {
                    break;
                }
            }
        });
        if !is_asked {
            return;
        }
        worker.rest();
    }
}
