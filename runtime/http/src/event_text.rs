//! What becomes the text of a server-sent event: bytes as `data:` lines or in base64, as much at a time as is wanted.
//!
//! - A line break of any kind (CRLF, CR, LF) in text begins a new `data:` line; a client sees LF for all of them. SSE
//!   cannot tell them apart, and a break that was not escaped so could forge an event.
//! - Clients drop one space after `data:`; a line that begins with a space gets another one before it.
//! - Text that is not UTF-8 reaches the client with replacement characters: read it otherwise.

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
    Lines {
        /// Nothing is on the line yet.
        line_begins: bool,
        /// The last byte was a CR: an LF that comes next belongs to it.
        after_cr: bool,
    },
    Base64,
}

impl Text {
    /// The text of these bytes; stored messages become an array.
    pub(crate) fn new(encoding: Encoding, chunks: Vec<Bytes>) -> Text {
        let (chunks, coding) = match encoding {
            Encoding::Json => (array(chunks), Coding::Lines { line_begins: true, after_cr: false }),
            Encoding::Text => (chunks, Coding::Lines { line_begins: true, after_cr: false }),
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
                Coding::Lines { line_begins, after_cr } => line(frame, chunk, room, line_begins, after_cr),
                Coding::Base64 => match chunk.len().min(room) / GROUP_BYTES * GROUP_BYTES {
                    0 => group(frame, &mut self.chunks),
                    whole => base64(frame, &chunk.split_to(whole)),
                },
            }
        }
        true
    }
}

/// Writes the next line of `chunk`, or as much of it as there is room for.
fn line(frame: &mut Vec<u8>, chunk: &mut Bytes, room: usize, line_begins: &mut bool, after_cr: &mut bool) {
    if std::mem::take(after_cr) && chunk[0] == b'\n' {
        // The second half of a CRLF, perhaps in the next chunk.
        return chunk.advance(1);
    }
    if *line_begins && chunk[0] == b' ' {
        frame.push(b' ');
    }
    let ahead = &chunk[..chunk.len().min(room)];
    let line_break = ahead.iter().position(|b| matches!(b, b'\r' | b'\n'));
    let end = line_break.unwrap_or(ahead.len());
    frame.extend_from_slice(&ahead[..end]);
    *line_begins = line_break.is_some();
    if *line_begins {
        *after_cr = ahead[end] == b'\r';
        frame.extend_from_slice(b"\ndata:");
    }
    chunk.advance(end + usize::from(*line_begins));
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
        let text = b" a\r\n\r b\n\n c\r\rde fgh\n \r\n".repeat(3);
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
}
