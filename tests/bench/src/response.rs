//! Responses taken apart as they arrive: the head is kept, bytes of the body are passed on and not copied.

/// The longest head that is waited for.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// One response after the other on one connection, with one request in flight.
#[derive(Debug)]
pub(crate) struct Response {
    state: State,
    /// The head of the response under way, or of the last one when that is complete.
    head: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing of the next response is there yet.
    Idle,
    Head,
    /// A body, or one chunk of one.
    Body {
        left: usize,
        is_chunk: bool,
    },
    /// The line with a chunk's size; the line feed after a chunk's bytes is a line without one.
    Size {
        bytes: Option<usize>,
        in_extension: bool,
    },
    /// Lines after the last chunk, up to an empty one.
    Trailer {
        line_bytes: usize,
    },
}

impl Response {
    /// Before the first response.
    pub(crate) fn new() -> Response {
        Response { state: State::Idle, head: Vec::new() }
    }

    /// Takes `bytes`, gives those of the body to `body`, and says whether the response is complete with them.
    ///
    /// A response without a length has no body.
    ///
    /// # Errors
    /// A sentence: the status is no success, or this is no HTTP.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut body: impl FnMut(&[u8])) -> Result<bool, String> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Idle => {
                    self.head.clear();
                    self.state = State::Head;
                }
                State::Head => {
                    bytes = self.feed_head(bytes)?;
                    if self.begin_body()? {
                        return Ok(true);
                    }
                }
                State::Body { left, is_chunk } => {
                    let (part, rest) = bytes.split_at(bytes.len().min(*left));
                    body(part);
                    bytes = rest;
                    *left -= part.len();
                    match (*left, *is_chunk) {
                        (0, true) => self.state = State::Size { bytes: None, in_extension: false },
                        (0, false) => return Ok(self.complete()),
                        _ => {}
                    }
                }
                State::Size { bytes: size, in_extension } => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    match (byte, char::from(byte).to_digit(16)) {
                        (b'\n', _) => match *size {
                            None => {}
                            Some(0) => self.state = State::Trailer { line_bytes: 0 },
                            Some(left) => self.state = State::Body { left, is_chunk: true },
                        },
                        (b'\r', _) => {}
                        (_, Some(digit)) if !*in_extension => {
                            let shifted = size.unwrap_or(0).checked_mul(16).ok_or("a chunk without bounds")?;
                            *size = Some(shifted + digit as usize);
                        }
                        _ if size.is_some() => *in_extension = true,
                        _ => return Err(format!("no chunk size: {:?}", char::from(byte))),
                    }
                }
                State::Trailer { line_bytes } => {
                    match (bytes[0], *line_bytes) {
                        (b'\n', 0) => return Ok(self.complete()),
                        (b'\n', _) => *line_bytes = 0,
                        (b'\r', _) => {}
                        _ => *line_bytes += 1,
                    }
                    bytes = &bytes[1..];
                }
            }
        }
        Ok(false)
    }

    /// Whether a head is there and its body may follow.
    pub(crate) fn has_head(&self) -> bool {
        !matches!(self.state, State::Idle | State::Head)
    }

    /// The header called `name`, in lower case, of the response under way or of the last one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.split(|&byte| byte == b'\n').find_map(|line| {
            let (own, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":").filter(|_| own.eq_ignore_ascii_case(name.as_bytes()))?;
            Some(std::str::from_utf8(value).ok()?.trim())
        })
    }

    /// Adds to the head up to its end and gives back what follows; the head ends with an empty line when it is whole.
    fn feed_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        const END: &[u8] = b"\r\n\r\n";
        let before = self.head.len();
        // The end may have begun with bytes that came before.
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(END.len() - 1);
        let Some(at) = self.head[from..].windows(END.len()).position(|window| window == END) else {
            let is_bounded = self.head.len() <= HEAD_BYTES_MAX;
            return if is_bounded { Ok(&[]) } else { Err("a response head without end".to_owned()) };
        };
        let end = from + at + END.len();
        if self.head.get(9) != Some(&b'2') {
            return Err(format!("a request was refused: {}", String::from_utf8_lossy(&self.head)));
        }
        self.head.truncate(end);
        Ok(&bytes[end - before..])
    }

    /// Finds out how the body ends, once the head is whole; true when there is none.
    fn begin_body(&mut self) -> Result<bool, String> {
        if !self.head.ends_with(b"\r\n\r\n") {
            return Ok(false);
        }
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            self.state = State::Size { bytes: None, in_extension: false };
            return Ok(false);
        }
        let length = self.header("content-length").unwrap_or("0");
        let left = length.parse().map_err(|_| format!("{length} is no content-length"))?;
        if left == 0 || self.head.get(9..12) == Some(b"204") {
            return Ok(self.complete());
        }
        self.state = State::Body { left, is_chunk: false };
        Ok(false)
    }

    /// Waits for the next response; always true.
    fn complete(&mut self) -> bool {
        self.state = State::Idle;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, when all of `text` makes one response, however it is cut in two.
    fn body(text: &str) -> Option<String> {
        let mut bodies: Vec<Option<String>> = (0..text.len())
            .map(|cut| {
                let (mut response, mut body) = (Response::new(), Vec::new());
                let first = response.feed(&text.as_bytes()[..cut], |part| body.extend_from_slice(part));
                assert_eq!(first, Ok(false), "complete before the last byte");
                let is_complete = response.feed(&text.as_bytes()[cut..], |part| body.extend_from_slice(part));
                is_complete.expect("a success").then(|| String::from_utf8_lossy(&body).into_owned())
            })
            .collect();
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "the same for all cuts");
        bodies.remove(0)
    }

    #[test]
    fn responses_are_complete_when_their_body_is() {
        assert_eq!(body("HTTP/1.1 204 No Content\r\na: b\r\n\r\n").as_deref(), Some(""));
        assert_eq!(body("HTTP/1.1 204 No Content\r\na: b\r\n"), None);
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"), None);
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxy").as_deref(), Some("xy"));
        assert!(Response::new().feed(b"HTTP/1.1 503 Busy\r\n\r\n", |_| {}).is_err());
    }

    #[test]
    fn chunks_are_put_together() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(
            body(&format!("{head}2\r\nab\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n")).as_deref(),
            Some("ab0123456789")
        );
        assert_eq!(body(&format!("{head}1\r\na\r\n0\r\nt: 1\r\n\r\n")).as_deref(), Some("a"));
        assert_eq!(body(&format!("{head}1\r\na\r\n")), None);
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let mut response = Response::new();
        let text = b"HTTP/1.1 200 OK\r\nStream-Next-Offset: 0_1\r\nstream-cursor:9\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(response.feed(text, |_| {}), Ok(true));
        assert_eq!(response.header("stream-next-offset"), Some("0_1"));
        assert_eq!(response.header("stream-cursor"), Some("9"));
        assert_eq!(response.header("stream"), None);
    }
}
