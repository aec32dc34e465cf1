//! A webhook's receiver: it does what it is told, and remembers what it was asked.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use weir_testkit::wait_until;

/// How long anything may take, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// All is done.
    Done,
    /// It was received.
    Accepted,
    /// Nothing, for as long as the other side waits.
    Silence,
    /// This status, with a `Location`.
    Status(u16, String),
}

#[derive(Default)]
struct State {
    /// What comes next, before what comes always.
    answers: VecDeque<Answer>,
    always: Option<Answer>,
    wakes: Vec<Value>,
}

/// A receiver on a port of its own, until the process ends.
#[derive(Clone)]
pub(crate) struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// One that answers so, until it is told otherwise.
    pub(crate) fn start(always: Answer) -> Receiver {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(Mutex::new(State { always: Some(always), ..State::default() }));
        let receiver = Receiver { port, state };
        let own = receiver.clone();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.serve(socket));
            }
        });
        receiver
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Says what the next one is answered.
    pub(crate) fn answer_next(&self, answer: Answer) {
        self.state.lock().expect("nobody has panicked").answers.push_back(answer);
    }

    /// Says what all others are answered.
    pub(crate) fn answer_always(&self, answer: Answer) {
        self.state.lock().expect("nobody has panicked").always = Some(answer);
    }

    /// All wakes that have come.
    pub(crate) fn wakes(&self) -> Vec<Value> {
        self.state.lock().expect("nobody has panicked").wakes.clone()
    }

    /// Waits until more than `before` wakes have come, and returns the next of them.
    pub(crate) fn wake_after(&self, before: usize) -> Value {
        wait_until("a wake has come", PATIENCE, || self.wakes().len() > before);
        self.wakes()[before].clone()
    }

    fn serve(&self, mut socket: TcpStream) {
        // Whoever was killed in the middle of its request has said nothing.
        let Some(body) = request(&mut socket) else { return };
        let answer = {
            let mut state = self.state.lock().expect("nobody has panicked");
            state.wakes.push(serde_json::from_slice(&body).expect("a wake is JSON"));
            state.answers.pop_front().or(state.always.clone()).expect("it was told")
        };
        let (status, location, body) = match answer {
            Answer::Done => (200, String::new(), r#"{"done":true}"#),
            Answer::Accepted => (202, String::new(), ""),
            Answer::Silence => return drop(socket.read(&mut [0; 16])),
            Answer::Status(status, location) => (status, format!("Location: {location}\r\n"), ""),
        };
        let head = format!("HTTP/1.1 {status} -\r\n{location}Content-Length: {}\r\n\r\n", body.len());
        // It may be gone by now.
        let _ = socket.write_all(format!("{head}{body}").as_bytes());
    }
}

/// A request's body; none if it breaks off.
fn request(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 8192];
        let read = socket.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
        if bytes.len() >= end + 4 + length {
            return Some(bytes[end + 4..end + 4 + length].to_vec());
        }
    }
}
