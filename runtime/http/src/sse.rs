//! Server-sent events: how a stream's bytes and a reader's position become frames, and the body that carries them.
//!
//! A `data` event holds the bytes of some whole records: a JSON array in JSON mode, text as it is for `text/*`, base64
//! otherwise. A `summary` event holds what a fold says. A `control` event with the position follows either. All carry
//! `id:`, the offset to read on from, so that a browser's `EventSource` resumes where it was.
//!
//! - A line break of any kind (CRLF, CR, LF) in text begins a new `data:` line; a client sees LF for all of them. SSE
//!   cannot tell them apart, and a break that was not escaped so could forge an event.
//! - Clients drop one space after `data:`; a line that begins with a space gets another one before it.
//! - Text that is not UTF-8 reaches the client with replacement characters: read it otherwise.
//!
//! A frame is made as a chunk of HTTP/1.1's chunked coding, which is how most clients get it: one piece of memory, shared
//! by all readers and sent as it is. Other bodies take what is inside.
//!
//! Source: Durable Streams Protocol, section 5.8; the WHATWG HTML standard, section 9.2.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use weir_types::Offset;

use crate::media::{array, essence, is_json};

/// What a control event takes, about, in bytes.
const CONTROL_BYTES: usize = 192;
/// What comes before and after a chunk, at most: its length in 8 hexadecimal digits, and two line breaks.
const CHUNK_HEAD_BYTES: usize = 10;
const CHUNK_END: &[u8] = b"\r\n";
/// Frames that are written at once, at most: data and its control event, and a little more.
const WRITTEN_TOGETHER: usize = 4;

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

/// A comment: shows that the connection lives, and nothing else.
pub(crate) const COMMENT: Bytes = Bytes::from_static(b"3\r\n:\n\n\r\n");
/// The end of the chunked coding.
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// The event with these stored bytes, after which a client reads on at `next`.
pub(crate) fn data(encoding: Encoding, chunks: &[Bytes], next: Offset) -> Bytes {
    chunk(event(b"data", encoding, chunks, next))
}

/// [`data`] with the control event that follows.
pub(crate) fn data_and_control(encoding: Encoding, chunks: &[Bytes], control: Control, cursor: u64) -> Bytes {
    let mut frame = event(b"data", encoding, chunks, control.next);
    control.put(&mut frame, cursor);
    chunk(frame)
}

/// The event with what a fold says of the records before `next`.
pub(crate) fn view(encoding: Encoding, body: Bytes, next: Offset) -> Bytes {
    chunk(event(b"summary", encoding, &[body], next))
}

/// The event that says why a summary does not go on, with a problem document, after what is known before `next`.
pub(crate) fn failed(document: &Bytes, next: Offset) -> Bytes {
    chunk(event(b"failed", Encoding::Text, std::slice::from_ref(document), next))
}

/// An empty frame with room for `bytes`.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(CHUNK_HEAD_BYTES + bytes + CHUNK_END.len());
    frame.extend_from_slice(&[0; CHUNK_HEAD_BYTES]);
    frame
}

/// The chunk that a frame is.
fn chunk(mut frame: Vec<u8>) -> Bytes {
    let head = format!("{:x}\r\n", frame.len() - CHUNK_HEAD_BYTES);
    let start = CHUNK_HEAD_BYTES - head.len();
    frame[start..CHUNK_HEAD_BYTES].copy_from_slice(head.as_bytes());
    frame.extend_from_slice(CHUNK_END);
    Bytes::from(frame).slice(start..)
}

/// What is inside a chunk.
fn inside(chunk: &Bytes) -> Bytes {
    let head = chunk.iter().position(|&byte| byte == b'\n').expect("a frame begins with its length") + 1;
    chunk.slice(head..chunk.len() - CHUNK_END.len())
}

fn event(name: &[u8], encoding: Encoding, chunks: &[Bytes], next: Offset) -> Vec<u8> {
    let length: usize = chunks.iter().map(Bytes::len).sum();
    let mut frame = frame(80 + length + length / 3 + 4 + CONTROL_BYTES);
    id(&mut frame, next);
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(name);
    frame.extend_from_slice(b"\ndata:");
    match encoding {
        Encoding::Json => lines(&mut frame, &array(chunks.to_vec())),
        Encoding::Text => lines(&mut frame, chunks),
        Encoding::Base64 => {
            let mut encoder = EncoderWriter::new(&mut frame, &STANDARD);
            for chunk in chunks {
                encoder.write_all(chunk).expect("a vector takes everything");
            }
            encoder.finish().expect("a vector takes everything");
        }
    }
    frame.extend_from_slice(b"\n\n");
    frame
}

/// A reader's position, and what it may expect there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Where to read on.
    pub(crate) next: Offset,
    /// Whether that was the tail.
    pub(crate) up_to_date: bool,
    /// Whether nothing will ever follow.
    pub(crate) closed: bool,
}

impl Control {
    /// The event; `cursor` is left out at the end of a closed stream, where nobody comes again.
    pub(crate) fn frame(self, cursor: u64) -> Bytes {
        let mut frame = frame(CONTROL_BYTES);
        self.put(&mut frame, cursor);
        chunk(frame)
    }

    /// What tells control events with the same offset apart.
    pub(crate) fn key(self, cursor: u64) -> u64 {
        cursor << 2 | u64::from(self.up_to_date) << 1 | u64::from(self.closed)
    }

    fn put(self, frame: &mut Vec<u8>, cursor: u64) {
        id(frame, self.next);
        frame.extend_from_slice(b"event: control\ndata:{\"streamNextOffset\":\"");
        frame.extend_from_slice(&self.next.token());
        frame.push(b'"');
        if self.closed {
            frame.extend_from_slice(b",\"streamClosed\":true");
        } else {
            write!(frame, ",\"streamCursor\":\"{cursor}\"").expect("a vector takes everything");
        }
        if self.up_to_date || self.closed {
            frame.extend_from_slice(b",\"upToDate\":true");
        }
        frame.extend_from_slice(b"}\n\n");
    }
}

fn id(frame: &mut Vec<u8>, next: Offset) {
    frame.extend_from_slice(b"id:");
    frame.extend_from_slice(&next.token());
    frame.push(b'\n');
}

/// Writes `chunks`, one text, as the values of `data:` lines, the first of which has been begun.
fn lines(frame: &mut Vec<u8>, chunks: &[Bytes]) {
    let (mut line_begins, mut after_cr) = (true, false);
    for chunk in chunks {
        let mut rest = &chunk[..];
        while let Some(&first) = rest.first() {
            if after_cr && first == b'\n' {
                // The second half of a CRLF, perhaps in the next chunk.
                (rest, after_cr) = (&rest[1..], false);
                continue;
            }
            if line_begins && first == b' ' {
                frame.push(b' ');
            }
            let line = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
            frame.extend_from_slice(&rest[..line]);
            let line_break = rest.get(line);
            (line_begins, after_cr) = (line_break.is_some(), line_break == Some(&b'\r'));
            if line_begins {
                frame.extend_from_slice(b"\ndata:");
            }
            rest = rest.get(line + 1..).unwrap_or_default();
        }
    }
}

/// Where a session puts its frames, and its response takes them.
#[derive(Clone, Default)]
pub(crate) struct Outbox {
    frames: Rc<RefCell<VecDeque<Bytes>>>,
}

impl Outbox {
    /// Puts a frame, to be sent when the session waits next.
    pub(crate) fn put(&self, frame: Bytes) {
        self.frames.borrow_mut().push_back(frame);
    }

    /// Whether every frame was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.borrow().is_empty()
    }

    fn take(&self) -> Option<Bytes> {
        self.frames.borrow_mut().pop_front()
    }

    /// Writes every frame.
    fn poll_write(&self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut frames = self.frames.borrow_mut();
        while !frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITTEN_TOGETHER];
            let filled =
                slices.iter_mut().zip(frames.iter()).map(|(slice, frame)| *slice = IoSlice::new(frame)).count();
            let mut written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..filled]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(frame) = frames.front_mut().filter(|_| written > 0) {
                let taken = written.min(frame.len());
                frame.advance(taken);
                written -= taken;
                if frame.is_empty() {
                    frames.pop_front();
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A response that is written by a session: a future that puts frames into an [`Outbox`].
pub(crate) struct Events {
    outbox: Outbox,
    session: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Events {
    /// What `session` puts into `outbox`; it ends when the session ends.
    pub(crate) fn new(outbox: Outbox, session: impl Future<Output = ()> + 'static) -> Events {
        Events { outbox, session: Some(Box::pin(session)) }
    }

    /// The next frame of a body that is not chunked, or none at the end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.outbox.is_empty() && self.poll_session(cx).is_pending() && self.outbox.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(self.outbox.take().map(|frame| inside(&frame)))
    }

    /// Writes the whole chunked body to `io`; ready once it has taken the last chunk.
    pub(crate) fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.outbox.poll_write(io, cx))?;
            if self.session.is_none() {
                return Poll::Ready(Ok(()));
            }
            if self.poll_session(cx).is_ready() {
                self.outbox.put(LAST_CHUNK);
            } else if self.outbox.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Runs the session until it waits; ready at its end.
    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(session) = &mut self.session {
            ready!(session.as_mut().poll(cx));
            self.session = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use weir_types::{Incarnation, Lineage};

    use super::*;

    fn at(position: u64) -> Offset {
        Offset { position, lineage: Lineage::of(Incarnation(1)) }
    }

    /// The `data:` lines of the event with these chunks, as sent.
    fn check(encoding: Encoding, chunks: &[&'static [u8]]) -> String {
        let chunks: Vec<Bytes> = chunks.iter().map(|chunk| Bytes::from_static(chunk)).collect();
        let frame = String::from_utf8(inside(&data(encoding, &chunks, at(5))).to_vec()).expect("UTF-8");
        let body = frame.strip_prefix("id:00000000000000000005_00000001\nevent: data\n").expect("an id and a name");
        body.strip_suffix("\n\n").expect("an end").to_string()
    }

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
    fn every_line_break_begins_a_data_line() {
        assert_eq!(check(Encoding::Text, &[b"one"]), "data:one");
        assert_eq!(check(Encoding::Text, &[b"a\nb\r\nc\rd"]), "data:a\ndata:b\ndata:c\ndata:d");
        assert_eq!(check(Encoding::Text, &[b"a\r", b"\nb"]), "data:a\ndata:b");
        assert_eq!(check(Encoding::Text, &[b"a\r\rb\n\n"]), "data:a\ndata:\ndata:b\ndata:\ndata:");
        assert_eq!(
            check(Encoding::Text, &[b"a\r\n\r\nevent: control\r\n"]),
            "data:a\ndata:\ndata:event: control\ndata:"
        );
    }

    #[test]
    fn a_leading_space_survives() {
        assert_eq!(check(Encoding::Text, &[b" a\n  b", b" c"]), "data:  a\ndata:   b c");
    }

    #[test]
    fn messages_are_an_array_over_as_many_lines_as_they_have() {
        assert_eq!(check(Encoding::Json, &[b"{\"n\":1},", b"2,"]), "data:[{\"n\":1},2]");
        assert_eq!(check(Encoding::Json, &[b"{\r\n \"n\": 1\r\n},"]), "data:[{\ndata:  \"n\": 1\ndata:}]");
    }

    #[test]
    fn other_bytes_are_base64_over_all_chunks() {
        assert_eq!(check(Encoding::Base64, &[b"He", b"llo"]), "data:SGVsbG8=");
        assert_eq!(check(Encoding::Base64, &[b"\x00\n\r\xff"]), "data:AAoN/w==");
    }

    #[test]
    fn a_view_is_an_event_of_its_own() {
        let check = |content_type, body: &'static [u8]| {
            let encoding = Encoding::of_document(content_type);
            let frame = inside(&view(encoding, Bytes::from_static(body), at(5)));
            let frame = String::from_utf8(frame.to_vec()).expect("UTF-8");
            let body = frame.strip_prefix("id:00000000000000000005_00000001\nevent: summary\n").expect("an id, a name");
            body.strip_suffix("\n\n").expect("an end").to_string()
        };
        assert_eq!(check("application/json", b"{\n\"count\":1}"), "data:{\ndata:\"count\":1}");
        assert_eq!(check("text/html", b""), "data:");
        assert_eq!(check("image/png", b"Hello"), "data:SGVsbG8=");
    }

    #[test]
    fn a_control_event_says_where_the_reader_is() {
        let check = |up_to_date, closed| {
            let frame = Control { next: at(5), up_to_date, closed }.frame(12);
            let frame = String::from_utf8(inside(&frame).to_vec()).expect("UTF-8");
            let prefix = "id:00000000000000000005_00000001\nevent: control\ndata:{\"streamNextOffset\":\"00000000000000000005_00000001\",";
            frame.strip_prefix(prefix).expect("the same beginning").to_string()
        };
        assert_eq!(check(false, false), "\"streamCursor\":\"12\"}\n\n");
        assert_eq!(check(true, false), "\"streamCursor\":\"12\",\"upToDate\":true}\n\n");
        assert_eq!(check(true, true), "\"streamClosed\":true,\"upToDate\":true}\n\n");
    }

    #[test]
    fn data_and_its_control_event_may_come_together() {
        let control = Control { next: at(5), up_to_date: true, closed: false };
        let chunks = [Bytes::from_static(b"Hello")];
        let apart = [data(Encoding::Text, &chunks, at(5)), control.frame(12)].map(|frame| inside(&frame)).concat();
        assert_eq!(inside(&data_and_control(Encoding::Text, &chunks, control, 12)), apart);
        assert_ne!(control.key(12), Control { up_to_date: false, ..control }.key(12));
        assert_ne!(control.key(12), control.key(13));
    }

    #[test]
    fn a_frame_is_a_chunk() {
        for bytes in [0, 1, 15, 16, 255, 70_000] {
            let mut made = frame(0);
            made.resize(made.len() + bytes, b'x');
            let made = chunk(made);
            let text = std::str::from_utf8(&made).expect("ASCII");
            let (length, rest) = text.split_once("\r\n").expect("a length");
            assert_eq!(
                (usize::from_str_radix(length, 16), rest.strip_suffix("\r\n")),
                (Ok(bytes), Some(&*"x".repeat(bytes)))
            );
            assert_eq!(inside(&made), "x".repeat(bytes));
        }
        assert_eq!(inside(&COMMENT), ":\n\n");
    }

    /// Takes `at_once` bytes of every write.
    struct Narrow {
        taken: Vec<u8>,
        at_once: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let written = bytes.len().min(self.at_once);
            self.taken.extend_from_slice(&bytes[..written]);
            Poll::Ready(Ok(written))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_write(cx, &bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn chunks_are_written_whole_whatever_a_socket_takes_at_once() {
        for at_once in [1, 2, 7, 1000] {
            let outbox = Outbox::default();
            let mut events = Events::new(outbox.clone(), async move {
                (0..10).for_each(|number| outbox.put(chunk([frame(0), vec![b'0' + number; 3]].concat())));
            });
            let mut narrow = Narrow { taken: Vec::new(), at_once };
            let written = events.poll_write(&mut narrow, &mut Context::from_waker(Waker::noop()));
            assert!(matches!(written, Poll::Ready(Ok(()))));
            let expected: String = (0..10).map(|number| format!("3\r\n{}\r\n", number.to_string().repeat(3))).collect();
            assert_eq!(String::from_utf8(narrow.taken).expect("ASCII"), expected + "0\r\n\r\n");
        }
    }

    #[test]
    fn a_session_is_never_ahead_of_its_reader() {
        let outbox = Outbox::default();
        let made = Rc::new(RefCell::new(0));
        let mut events = Events::new(outbox.clone(), {
            let made = made.clone();
            async move {
                for _ in 0..2 {
                    *made.borrow_mut() += 1;
                    outbox.put(Bytes::from_static(b"4\r\ndata\r\n"));
                    outbox.put(Bytes::from_static(b"7\r\ncontrol\r\n"));
                    poll_fn(|_| if outbox.is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
                }
            }
        });
        let mut cx = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        while let Poll::Ready(Some(frame)) = events.poll_next(&mut cx) {
            seen.push((*made.borrow(), frame));
        }
        let seen: Vec<_> = seen.iter().map(|(made, frame)| (*made, &frame[..])).collect();
        assert_eq!(seen, [(1, &b"data"[..]), (1, b"control"), (2, b"data"), (2, b"control")]);
        assert_eq!(events.poll_next(&mut cx), Poll::Ready(None));
    }
}
