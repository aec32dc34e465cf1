//! What becomes the text of a server-sent event: bytes as `data:` lines or in base64, as much at a time as is wanted.
//!
//! - A line break of any kind (CRLF, CR, LF) in text begins a new `data:` line; a client sees LF for all of them. SSE
//!   cannot tell them apart, and a break that was not escaped so could forge an event.
//! - Clients drop one space after `data:`; a line that begins with a space gets another one before it.
//! - Text that is not UTF-8 reaches the client with replacement characters: read it otherwise.
//! - Messages are an array with each on a line of its own: many clients take lines of 64 KiB and no more.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};

use crate::media::{array, essence, is_json};

/// What base64 makes four characters of.
const GROUP_BYTES: usize = 3;

/// How a stream's bytes become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Messages as an array.
    Json,
    /// As they are.
    Text,
    /// Base64.
    Base64,
}

impl Encoding {
    /// The encoding for a stream of this type.
    pub(crate) fn of(content_type: &str) -> Encoding {
        let is_text = essence(content_type).get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("text/"));
        match (is_json(content_type), is_text) {
            (true, _) => Encoding::Json,
            (false, true) => Encoding::Text,
            (false, false) => Encoding::Base64,
        }
    }

    /// The encoding for a document of this type: one in JSON is whole as it is.
    pub(crate) fn of_document(content_type: &str) -> Encoding {
        match Encoding::of(content_type) {
            Encoding::Json | Encoding::Text => Encoding::Text,
            Encoding::Base64 => Encoding::Base64,
        }
    }
}

/// Bytes that become the text of an event.
pub(crate) struct Text {
    chunks: VecDeque<Bytes>,
    coding: Coding,
}

enum Coding {
    /// The values of `data:` lines, the first of which has been begun.
    Lines(Lines),
    Base64,
}

#[derive(Default)]
struct Lines {
    /// Something is on the line already.
    has_begun: bool,
    /// The last byte was a CR: an LF that comes next belongs to it.
    after_cr: bool,
    /// Where in an array of messages this is, if it is one.
    messages: Option<Nesting>,
}

/// How deep in a JSON text something is, which is known to be one.
#[derive(Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    after_escape: bool,
}

impl Nesting {
    /// Takes the next byte in; whether it is a comma between two elements of the outermost array.
    fn is_between_elements(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = byte != b'"' || self.after_escape;
            self.after_escape = byte == b'\\' && !self.after_escape;
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth -= 1,
            b',' => return self.depth == 1,
            _ => {}
        }
        false
    }
}

impl Text {
    /// The text of these bytes; stored messages become an array.
    pub(crate) fn new(encoding: Encoding, chunks: Vec<Bytes>) -> Text {
        let (chunks, coding) = match encoding {
            Encoding::Json => {
                (array(chunks), Coding::Lines(Lines { messages: Some(Nesting::default()), ..Lines::default() }))
            }
            Encoding::Text => (chunks, Coding::Lines(Lines::default())),
            Encoding::Base64 => (chunks, Coding::Base64),
        };
        Text { chunks: chunks.into(), coding }
    }

    /// Writes what comes next to `frame`, until that has about `frame_bytes_max`; whether that was everything.
    pub(crate) fn put(&mut self, frame: &mut Vec<u8>, frame_bytes_max: usize) -> bool {
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.is_empty() {
                self.chunks.pop_front();
                continue;
            }
            let room = frame_bytes_max.saturating_sub(frame.len());
            if room == 0 {
                return false;
            }
            match &mut self.coding {
                Coding::Lines(lines) => lines.put(frame, chunk, room),
                Coding::Base64 => match chunk.len().min(room) / GROUP_BYTES * GROUP_BYTES {
                    0 => group(frame, &mut self.chunks),
                    whole => base64(frame, &chunk.split_to(whole)),
                },
            }
        }
        true
    }
}

impl Lines {
    /// Writes the next line of `chunk`, or as much of it as there is room for.
    fn put(&mut self, frame: &mut Vec<u8>, chunk: &mut Bytes, room: usize) {
        if std::mem::take(&mut self.after_cr) && chunk[0] == b'\n' {
            // The second half of a CRLF, perhaps in the next chunk.
            return chunk.advance(1);
        }
        if !self.has_begun && chunk[0] == b' ' {
            frame.push(b' ');
        }
        let ahead = &chunk[..chunk.len().min(room)];
        // A line ends with a message, its comma included, or with a line break, which is left out.
        let is_end = |byte: u8| matches!(byte, b'\r' | b'\n');
        let end = match &mut self.messages {
            None => ahead.iter().position(|byte| is_end(*byte)),
            Some(nesting) => ahead.iter().position(|byte| nesting.is_between_elements(*byte) || is_end(*byte)),
        };
        let (text, taken) = match end {
            None => (ahead, ahead.len()),
            Some(end) if ahead[end] == b',' => (&ahead[..=end], end + 1),
            Some(end) => (&ahead[..end], end + 1),
        };
        frame.extend_from_slice(text);
        self.has_begun = end.is_none();
        if let Some(end) = end {
            self.after_cr = ahead[end] == b'\r';
            frame.extend_from_slice(b"\ndata:");
        }
        chunk.advance(taken);
    }
}

/// Whether the last character of a text in UTF-8 may go on in what follows.
pub(crate) fn ends_in_a_character(chunks: &[Bytes]) -> bool {
    let mut last: Vec<u8> = chunks.iter().rev().flat_map(|chunk| chunk.iter().rev()).take(3).copied().collect();
    last.reverse();
    let lead = last.iter().rposition(|byte| *byte >= 0xc0);
    lead.is_some_and(|lead| std::str::from_utf8(&last[lead..]).is_err_and(|error| error.error_len().is_none()))
}

/// Writes the next group of three bytes, which may lie in several chunks, or the last one, which may be shorter.
fn group(frame: &mut Vec<u8>, chunks: &mut VecDeque<Bytes>) {
    let mut group = Vec::with_capacity(GROUP_BYTES);
    while let Some(chunk) = chunks.front_mut().filter(|_| group.len() < GROUP_BYTES) {
        let taken = chunk.len().min(GROUP_BYTES - group.len());
        group.extend_from_slice(&chunk.split_to(taken));
        if chunk.is_empty() {
            chunks.pop_front();
        }
    }
    base64(frame, &group);
}

fn base64(frame: &mut Vec<u8>, bytes: &[u8]) {
    let start = frame.len();
    frame.resize(start + bytes.len().div_ceil(GROUP_BYTES) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut frame[start..]).expect("there is room");
    debug_assert_eq!(written, frame.len() - start);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a byte becomes at most, and a space before it.
    const ENCODED_FACTOR: usize = 7;

    #[test]
    fn the_type_decides_the_encoding() {
        assert_eq!(Encoding::of("application/json; charset=utf-8"), Encoding::Json);
        assert_eq!(Encoding::of("Application/JSON"), Encoding::Json);
        assert_eq!(Encoding::of("TEXT/html"), Encoding::Text);
        for binary in ["application/octet-stream", "image/png", "application/ndjson", "text", "", "tex\u{e9}/x"] {
            assert_eq!(Encoding::of(binary), Encoding::Base64, "{binary}");
        }
    }

    #[test]
    fn parts_are_what_the_whole_would_be() {
        let text = b" a\r\n\r b\n\n[c,\r\rd],e \"f,\\\"gh\"\n \r\n,".repeat(3);
        for encoding in [Encoding::Text, Encoding::Json, Encoding::Base64] {
            for chunk_bytes in 1..8 {
                let mut chunks: Vec<Bytes> = text.chunks(chunk_bytes).map(Bytes::copy_from_slice).collect();
                chunks.push(Bytes::from_static(b","));
                let mut whole = Vec::new();
                assert!(Text::new(encoding, chunks.clone()).put(&mut whole, usize::MAX));
                for part_bytes in 1..20 {
                    let (mut parts, mut text) = (Vec::new(), Text::new(encoding, chunks.clone()));
                    loop {
                        let mut part = Vec::new();
                        let is_last = text.put(&mut part, part_bytes);
                        assert!(part.len() <= part_bytes + ENCODED_FACTOR, "{} bytes", part.len());
                        parts.extend(part);
                        if is_last {
                            break;
                        }
                    }
                    assert_eq!(parts, whole, "{encoding:?}, chunks of {chunk_bytes}, parts of {part_bytes}");
                }
            }
        }
    }

    #[test]
    fn each_message_has_its_line() {
        let lines = |messages: &'static str| {
            let mut frame = b"data:".to_vec();
            assert!(
                Text::new(Encoding::Json, vec![Bytes::from_static(messages.as_bytes())]).put(&mut frame, usize::MAX)
            );
            String::from_utf8(frame).expect("UTF-8").replace('\n', "|")
        };
        assert_eq!(lines("1,"), "data:[1]");
        assert_eq!(lines(r#"{"a":[1,2]},"x,\",y",[3,[4,5]],"#), r#"data:[{"a":[1,2]},|data:"x,\",y",|data:[3,[4,5]]]"#);
        assert_eq!(lines("[1,\r\n 2],\"\\\\\",3,"), "data:[[1,|data:  2],|data:\"\\\\\",|data:3]");
    }

    #[test]
    fn a_character_is_seen_to_go_on() {
        let text = "a\u{e9}\u{4f60}\u{1f600}".as_bytes();
        for (end, goes_on) in
            [(0, false), (1, false), (2, true), (3, false), (4, true), (5, true), (6, false), (7, true), (9, true)]
        {
            let chunks: Vec<Bytes> = text[..end].chunks(1).map(Bytes::copy_from_slice).collect();
            assert_eq!(ends_in_a_character(&chunks), goes_on, "{end}");
        }
        for no_character in [&b"\xff"[..], b"\xc0", b"\xe0\x80", b"\x80\x80", b"\xf5\x80"] {
            assert!(!ends_in_a_character(&[Bytes::copy_from_slice(no_character)]), "{no_character:x?}");
        }
    }
}
