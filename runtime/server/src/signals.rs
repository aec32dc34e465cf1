//! Signals: those that ask the process to end (SIGTERM, SIGINT), and the one that asks nothing of it (SIGHUP).

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// How long a signal that asks for the end is the same request as the first: who signals a process and its group, as
/// `timeout` and terminals do, sends two.
const REPEAT_MAX: Duration = Duration::from_secs(1);

/// The signals that ask the process to end.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// When it was first asked.
    asked: Option<Instant>,
}

impl Signals {
    /// Takes the signals from here on. SIGHUP is told in the log and changes nothing: without a word it would end the process
    /// when its terminal closes, or whoever wants it to read its configuration again sends one.
    ///
    /// # Errors
    /// [`Exit::System`].
    pub(crate) fn new() -> Result<Signals, Exit> {
        let on = |kind| signal(kind).map_err(|source| Exit::System { doing: "listen for signals", source });
        let mut hangup = on(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP changes nothing: the configuration is read at the start");
            }
        });
        Ok(Signals { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())?, asked: None })
    }

    /// Waits until the process is asked to end.
    pub(crate) async fn asked(&mut self) {
        self.next().await;
        self.asked = Some(Instant::now());
    }

    /// Waits until it is asked once more, which it has been before.
    pub(crate) async fn asked_again(&mut self) {
        let first = self.asked.expect("it was asked once");
        loop {
            self.next().await;
            if first.elapsed() >= REPEAT_MAX {
                return;
            }
            tracing::info!("asked to stop twice within a second, which counts once");
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
