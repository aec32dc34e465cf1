//! A blocking HTTP/1.1 client: one connection, one request at a time, no retries, no hidden headers but `Host` and
//! `Content-Length`.
//!
//! It retries nothing on purpose: whether a request whose connection broke was carried out is what the crash suite
//! asks about.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request, built up by its methods.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request for `target` (path and query, as it goes on the wire) without headers or body.
    pub fn new(method: &str, target: &str) -> Request {
        Request { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// `GET target`.
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// `HEAD target`.
    pub fn head(target: &str) -> Request {
        Request::new("HEAD", target)
    }

    /// `PUT target`.
    pub fn put(target: &str) -> Request {
        Request::new("PUT", target)
    }

    /// `POST target`.
    pub fn post(target: &str) -> Request {
        Request::new("POST", target)
    }

    /// `DELETE target`.
    pub fn delete(target: &str) -> Request {
        Request::new("DELETE", target)
    }

    /// Adds a header, as written.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl ToString) -> Request {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    /// Sets the body and its `Content-Type`.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self.header("Content-Type", content_type)
    }

    /// The request as it goes on the wire to a server at `host`.
    pub fn to_bytes(&self, host: &str) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        // A POST or PUT without a body still says so: some servers answer 411 otherwise.
        if !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT") {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A response, read whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case and values, in the order sent.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer coding undone.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header named `name` (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The header `stream-next-offset`.
    pub fn next_offset(&self) -> &str {
        self.header("stream-next-offset").unwrap_or_else(|| panic!("no Stream-Next-Offset in {self:?}"))
    }

    /// The body as text, lossily.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// `code` of a problem document; empty when there is none.
    pub fn code(&self) -> String {
        let document: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        document.and_then(|d| Some(d.get("code")?.as_str()?.to_owned())).unwrap_or_default()
    }

    /// Panics with the whole response unless the status is `status`; gives it back otherwise.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{self:?}, body {:?}", self.text());
        self
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    host: String,
    /// Bytes received and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    /// What `connect` says, in particular that nothing listens there.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        Connection::open_within(address, TIMEOUT)
    }

    /// Connects to `address`; the peer may take as long as `timeout` for that, and for each step of an answer.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_within(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(Connection { socket, host: address.to_string(), buffer: Vec::new() })
    }

    /// The socket, for what only a raw socket can do.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends `request` and reads its whole response.
    ///
    /// # Errors
    /// The connection broke or timed out first (the request may have been carried out), or the answer is no HTTP.
    pub fn send(&mut self, request: &Request) -> io::Result<Response> {
        self.write(&request.to_bytes(&self.host))?;
        self.read_response(request.method == "HEAD")
    }

    /// Writes `bytes` as they are.
    ///
    /// # Errors
    /// The connection broke, or the peer takes nothing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Reads one response; `head` when it answers a `HEAD` and therefore has no body.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the connection ends first, [`io::ErrorKind::InvalidData`] for no HTTP.
    pub fn read_response(&mut self, head: bool) -> io::Result<Response> {
        let mut response = self.read_head()?;
        // Interim responses precede the one that answers.
        while response.status < 200 {
            response = self.read_head()?;
        }
        if head || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        let chunked = response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = response.header("content-length").map(str::to_owned);
        if chunked {
            while let Some(chunk) = self.read_chunk()? {
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = length {
            let bytes = length.parse().map_err(|_| invalid("a content-length that is no number"))?;
            response.body = self.take(bytes)?;
        } else {
            self.socket.read_to_end(&mut self.buffer)?;
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(response)
    }

    /// Reads the status line and headers of a response and leaves its body on the connection.
    ///
    /// # Errors
    /// As [`Connection::read_response`].
    pub fn read_head(&mut self) -> io::Result<Response> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(invalid("a response head without end"));
            }
            self.fill()?;
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let text = std::str::from_utf8(&head[..end]).map_err(|_| invalid("a response head that is no text"))?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/1.1 ").or_else(|| status_line.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| invalid(&format!("no status line: {status_line:?}")))?;
        let headers = lines
            .map(|line| line.split_once(':').ok_or_else(|| invalid(&format!("no header: {line:?}"))))
            .map(|parts| parts.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
            .collect::<io::Result<_>>()?;
        Ok(Response { status, headers, body: Vec::new() })
    }

    /// Reads one chunk of a chunked body; `None` is its end.
    ///
    /// # Errors
    /// As [`Connection::read_response`].
    pub fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.read_line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let bytes = usize::from_str_radix(digits, 16).map_err(|_| invalid(&format!("no chunk size: {line:?}")))?;
        if bytes == 0 {
            while !self.read_line()?.is_empty() {}
            return Ok(None);
        }
        let mut chunk = self.take(bytes + 2)?;
        chunk.truncate(bytes);
        Ok(Some(chunk))
    }

    /// Whether the peer has ended the connection, waiting up to `within` for that; bytes before the end are dropped.
    pub fn ends_within(&mut self, within: Duration) -> bool {
        let deadline = std::time::Instant::now() + within;
        let mut scratch = [0; 65536];
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).expect("a positive timeout");
            match self.socket.read(&mut scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return false,
                Err(_) => return true,
            }
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).map_err(|_| invalid("a line that is no text"));
            }
            self.fill()?;
        }
    }

    fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.fill()?;
        }
        let rest = self.buffer.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut scratch = [0; 65536];
        match self.socket.read(&mut scratch)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                self.buffer.extend_from_slice(&scratch[..bytes]);
                Ok(())
            }
        }
    }
}

/// Requests to one server, each answered or the test fails.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the server at `address`; it connects with its first request.
    pub fn new(address: SocketAddr) -> Client {
        Client { address, connection: None }
    }

    /// Sends `request`, on the connection of the last one where the server left it open.
    #[track_caller]
    pub fn send(&mut self, request: Request) -> Response {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.address).unwrap_or_else(|e| panic!("cannot connect: {e}")),
        };
        let outcome = connection.send(&request);
        let response = outcome.unwrap_or_else(|e| panic!("no response to {} {}: {e}", request.method, request.target));
        if !response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.connection = Some(connection);
        }
        response
    }

    /// All bytes of the stream at `target`, read page by page until one is up to date.
    #[track_caller]
    pub fn read_all(&mut self, target: &str) -> Vec<u8> {
        let (mut offset, mut bytes) = ("-1".to_owned(), Vec::new());
        loop {
            let page = self.send(Request::get(&format!("{target}?offset={offset}"))).expect(200);
            bytes.extend_from_slice(&page.body);
            if page.header("stream-up-to-date").is_some() {
                return bytes;
            }
            offset = page.next_offset().to_owned();
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
