//! An S3 server in memory with one bucket, and with what goes wrong between a server and its store.
//!
//! It does what the cold tier asks for: put, get (of a range, too), head, delete (one or several) and list, page by page. It checks
//! no signatures. One thread per connection; they end by themselves when the server is dropped.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::ports;

/// The bucket that is there.
pub const BUCKET: &str = "weir";

/// Keys on a page of a listing, fewer than S3 has so that a listing has pages.
const PAGE_KEYS: usize = 100;
/// How often a connection without a request looks whether the server is still there.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the listener looks for a connection.
const ACCEPT_EVERY: Duration = Duration::from_millis(2);
const TRICKLE_EVERY: Duration = Duration::from_millis(100);
const TRICKLE_BYTES: usize = 16;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A request waits this long before anything is done about it.
    Latency(Duration),
    /// A request is refused with this status and this code.
    Status(u16, &'static str),
    /// What is asked for is done, and the connection ends without an answer.
    LostReply,
    /// The answer to a get ends in the middle of the body.
    Truncated,
    /// A bit in the middle of what is read of a chunk is another one.
    WrongBytes,
    /// A chunk that is read is said not to be there.
    Missing,
    /// An answer takes 100 ms for every few bytes.
    Trickle,
    /// The connection is reset in place of an answer; nothing is done.
    Reset,
    /// Nobody listens, and all connections end.
    Away,
}

impl Fault {
    fn is_met_by(self, call: &Call) -> bool {
        match self {
            Fault::Truncated => call.method == "GET",
            Fault::WrongBytes | Fault::Missing => call.method == "GET" && call.path.ends_with(".chunk"),
            _ => true,
        }
    }
}

/// How often something was done. What a fault has refused does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct S3Counts {
    /// Objects put.
    pub puts: u64,
    /// Objects, or ranges of them, that were read.
    pub gets: u64,
    /// Objects deleted, there or not.
    pub deletes: u64,
    /// Pages listed.
    pub lists: u64,
    /// Requests that met a fault.
    pub faults: u64,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct S3 {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The access key id that is known; `None` knows everybody.
    key_id: Mutex<Option<String>>,
    /// The fault, and which of so many requests meets it.
    fault: Mutex<Option<(Fault, u64)>>,
    /// Requests that might have met a fault.
    turns: AtomicU64,
    counts: Mutex<S3Counts>,
    has_ended: AtomicBool,
}

impl S3 {
    /// A server on a free port. Its bucket [`BUCKET`] is empty.
    pub fn start() -> S3 {
        S3::start_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`S3::start`], at another address of this machine.
    pub fn start_at(ip: Ipv4Addr) -> S3 {
        let (address, listener) = loop {
            let address = SocketAddr::new(ip.into(), ports::free().port());
            // Another process may have taken it meanwhile.
            if let Ok(listener) = TcpListener::bind(address) {
                break (address, listener);
            }
        };
        let shared = Arc::new(Shared {
            address,
            objects: Mutex::default(),
            key_id: Mutex::default(),
            fault: Mutex::default(),
            turns: AtomicU64::new(0),
            counts: Mutex::default(),
            has_ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || accept(&accepting, listener));
        S3 { shared }
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// The objects by their keys, to look at and to change. Nobody is served meanwhile.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.shared.objects.lock().expect("nobody panics with it")
    }

    /// The keys of all chunks.
    pub fn chunks(&self) -> Vec<String> {
        self.objects().keys().filter(|key| key.ends_with(".chunk")).cloned().collect()
    }

    /// Refuses everybody whose access key id is another one.
    pub fn accept_only(&self, key_id: &str) {
        *self.shared.key_id.lock().expect("nobody panics with it") = Some(key_id.to_owned());
    }

    /// From now on every request meets `fault`.
    pub fn fail(&self, fault: Fault) {
        self.fail_every(1, fault);
    }

    /// From now on one of `nth` requests meets `fault`; [`Fault::Away`] is met by all.
    pub fn fail_every(&self, nth: u64, fault: Fault) {
        *self.shared.fault.lock().expect("nobody panics with it") = Some((fault, nth));
    }

    /// From now on no request meets a fault.
    pub fn heal(&self) {
        *self.shared.fault.lock().expect("nobody panics with it") = None;
    }

    /// What was done so far.
    pub fn counts(&self) -> S3Counts {
        *self.shared.counts()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, S3Counts> {
        self.counts.lock().expect("nobody panics with it")
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether there is nobody: connections end.
    fn is_away(&self) -> bool {
        let fault = *self.fault.lock().expect("nobody panics with it");
        self.has_ended() || fault.is_some_and(|(fault, _)| fault == Fault::Away)
    }

    /// The fault that `call` meets.
    fn fault_of(&self, call: &Call) -> Option<Fault> {
        let (fault, nth) = (*self.fault.lock().expect("nobody panics with it"))?;
        let is_met = fault.is_met_by(call) && self.turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(nth);
        self.counts().faults += u64::from(is_met);
        is_met.then_some(fault)
    }

    fn knows(&self, call: &Call) -> bool {
        let known = self.key_id.lock().expect("nobody panics with it");
        let Some(known) = &*known else { return true };
        let credential = call.header("authorization").and_then(|value| value.split_once("Credential="));
        credential.is_some_and(|(_, credential)| credential.split('/').next() == Some(known))
    }

    /// Does what `call` asks for.
    fn answer(&self, call: &Call) -> Answer {
        let path = call.path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if !self.knows(call) {
            return Answer::refusal(403, "InvalidAccessKeyId");
        }
        if bucket != BUCKET {
            return Answer::refusal(404, "NoSuchBucket");
        }
        let mut objects = self.objects.lock().expect("nobody panics with it");
        match (call.method.as_str(), key) {
            ("GET", "") => {
                self.counts().lists += 1;
                list(&objects, call)
            }
            ("POST", "") if call.query("delete").is_some() => {
                let text = String::from_utf8_lossy(&call.body);
                let keys = text.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0));
                let mut result = String::from("<DeleteResult>");
                for key in keys {
                    self.counts().deletes += 1;
                    objects.remove(&plain(key));
                    result += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                Answer::xml(200, &(result + "</DeleteResult>"))
            }
            ("PUT", key) if !key.is_empty() => {
                self.counts().puts += 1;
                let etag = etag(&call.body);
                objects.insert(key.to_owned(), call.body.clone());
                Answer { status: 200, headers: vec![etag], body: Vec::new() }
            }
            ("GET" | "HEAD", key) => {
                self.counts().gets += u64::from(call.method == "GET");
                objects.get(key).map_or(Answer::refusal(404, "NoSuchKey"), |object| read(object, call))
            }
            ("DELETE", key) if !key.is_empty() => {
                self.counts().deletes += 1;
                objects.remove(key);
                Answer { status: 204, headers: Vec::new(), body: Vec::new() }
            }
            _ => Answer::refusal(405, "MethodNotAllowed"),
        }
    }
}

/// Accepts connections until the end. While the server is away there is no listener.
fn accept(shared: &Arc<Shared>, listener: TcpListener) {
    let mut listener = Some(listener);
    while !shared.has_ended() {
        if shared.is_away() {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(shared.address).ok();
        }
        let accepted = listener.as_ref().and_then(|listener| {
            listener.set_nonblocking(true).ok()?;
            listener.accept().ok()
        });
        let Some((socket, _)) = accepted else {
            thread::sleep(ACCEPT_EVERY);
            continue;
        };
        let shared = shared.clone();
        // A connection that breaks is the other side's to notice.
        thread::spawn(move || drop(serve(&shared, socket)));
    }
}

fn serve(shared: &Shared, mut socket: TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    let mut buffer = Vec::new();
    while let Some(call) = Call::read(shared, &mut socket, &mut buffer)? {
        let fault = shared.fault_of(&call);
        if let Some(Fault::Latency(latency)) = fault {
            thread::sleep(latency);
        }
        let mut answer = match fault {
            Some(Fault::Status(status, code)) => Answer::refusal(status, code),
            Some(Fault::Missing) => Answer::refusal(404, "NoSuchKey"),
            Some(Fault::Reset) => {
                rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
                return Ok(());
            }
            Some(Fault::Away) => return Ok(()),
            _ => shared.answer(&call),
        };
        let middle = answer.body.len() / 2;
        if let (Some(Fault::WrongBytes), Some(byte)) = (fault, answer.body.get_mut(middle)) {
            *byte ^= 1;
        }
        let bytes = answer.to_bytes(call.method == "HEAD");
        match fault {
            Some(Fault::LostReply) => return Ok(()),
            Some(Fault::Truncated) => return socket.write_all(&bytes[..bytes.len() - middle]),
            Some(Fault::Trickle) => {
                for part in bytes.chunks(TRICKLE_BYTES) {
                    socket.write_all(part)?;
                    thread::sleep(TRICKLE_EVERY);
                }
            }
            _ => socket.write_all(&bytes)?,
        }
    }
    Ok(())
}

/// A request as it came.
struct Call {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    /// Names in lower case, and values.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Call {
    /// The next one; `None` when the connection ends, or the server is away.
    fn read(shared: &Shared, socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Call>> {
        let mut scratch = [0; 65536];
        let mut call: Option<(Call, usize)> = None;
        loop {
            if call.is_none()
                && let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n")
            {
                let head: Vec<u8> = buffer.drain(..end + 4).collect();
                let head = Call::parse(&String::from_utf8_lossy(&head[..end]));
                let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                call = Some((head, length));
            }
            if let Some((call, length)) = call.take_if(|(_, length)| buffer.len() >= *length) {
                return Ok(Some(Call { body: buffer.drain(..length).collect(), ..call }));
            }
            match socket.read(&mut scratch) {
                Ok(0) => return Ok(None),
                Ok(bytes) => buffer.extend_from_slice(&scratch[..bytes]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
            if shared.is_away() {
                return Ok(None);
            }
        }
    }

    fn parse(head: &str) -> Call {
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let headers = lines.filter_map(|line| line.split_once(':'));
        Call {
            method: method.to_owned(),
            path: percent_decoded(path),
            query: pairs.map(|(name, value)| (name.to_owned(), percent_decoded(value))).collect(),
            headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect(),
            body: Vec::new(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What of an object of `len` bytes is asked for: the range if there is one, and within, `None` where it begins behind the
    /// end.
    fn range(&self, len: usize) -> Option<Option<Range<usize>>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let range = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => first..len.min(last.saturating_add(1)),
            (Ok(first), Err(_)) => first..len,
            (Err(_), Ok(suffix)) => len.saturating_sub(suffix)..len,
            (Err(_), Err(_)) => return None,
        };
        Some((!range.is_empty()).then_some(range))
    }
}

/// What is answered.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn xml(status: u16, document: &str) -> Answer {
        let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{document}").into_bytes();
        Answer { status, headers: vec![("Content-Type", "application/xml".to_owned())], body }
    }

    fn refusal(status: u16, code: &str) -> Answer {
        let document = format!("<Error><Code>{code}</Code><Message>This test's store says {code}.</Message></Error>");
        Answer::xml(status, &document)
    }

    /// As it goes on the wire; without its body for a `HEAD`.
    fn to_bytes(&self, head: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} -\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        // A 204 has no body and must not give its length.
        if self.status != 204 {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        let body: &[u8] = if head { &[] } else { &self.body };
        [(text + "\r\n").as_bytes(), body].concat()
    }
}

fn read(object: &[u8], call: &Call) -> Answer {
    let modified = ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT".to_owned());
    let mut headers = vec![etag(object), modified, ("Content-Type", "application/octet-stream".to_owned())];
    match call.range(object.len()) {
        None => Answer { status: 200, headers, body: object.to_vec() },
        Some(None) => Answer::refusal(416, "InvalidRange"),
        Some(Some(range)) => {
            let text = format!("bytes {}-{}/{}", range.start, range.end - 1, object.len());
            headers.push(("Content-Range", text));
            Answer { status: 206, headers, body: object[range].to_vec() }
        }
    }
}

/// A page of the keys that begin with `prefix`. A page is asked for with the last key of the one before it.
fn list(objects: &BTreeMap<String, Vec<u8>>, call: &Call) -> Answer {
    let prefix = call.query("prefix").unwrap_or_default();
    let after = call.query("continuation-token").or(call.query("start-after")).unwrap_or_default();
    let keys_max = call.query("max-keys").and_then(|keys| keys.parse().ok()).unwrap_or(1000).min(PAGE_KEYS);
    let mut found = objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
    let page: Vec<_> = found.by_ref().take(keys_max).collect();
    let next = page.last().filter(|_| found.next().is_some()).map(|(key, _)| escaped(key));
    let mut text = format!(
        "<ListBucketResult><Name>{BUCKET}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{keys_max}</MaxKeys>\
         <IsTruncated>{}</IsTruncated>",
        escaped(prefix),
        page.len(),
        next.is_some()
    );
    for (key, object) in &page {
        text += &format!(
            "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{}</ETag>\
             <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            escaped(key),
            escaped(&etag(object).1),
            object.len()
        );
    }
    if let Some(next) = next {
        text += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
    }
    Answer::xml(200, &(text + "</ListBucketResult>"))
}

fn etag(object: &[u8]) -> (&'static str, String) {
    let mut hasher = DefaultHasher::new();
    hasher.write(object);
    ("ETag", format!("\"{:016x}\"", hasher.finish()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text as it was before it was [`escaped`].
fn plain(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
