//! Trouble: requests to a misbehaving stream, sent beside a measured load. What they are answered is not looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weir_testkit::{Connection, Request};

use crate::servers::Target;

/// Connections, one request in flight on each.
const CONNECTIONS: usize = 4;

/// Trouble under way; it ends when this is dropped.
pub(crate) struct Trouble {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Trouble {
    /// Appends one JSON number after the other to the stream at `path`.
    pub(crate) fn begin(target: &Target, path: &str) -> Trouble {
        let over = Arc::new(AtomicBool::new(false));
        let begin = |_| {
            let (over, address) = (over.clone(), target.address);
            let request = Request::post(path).body("application/json", "1");
            thread::spawn(move || {
                while !over.load(Relaxed) {
                    let Ok(mut connection) = Connection::open(address) else {
                        thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    while !over.load(Relaxed) && connection.send(&request).is_ok() {}
                }
            })
        };
        Trouble { threads: (0..CONNECTIONS).map(begin).collect(), over }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // It only counts down to its end; a panic there has been printed.
            let _ = thread.join();
        }
    }
}
