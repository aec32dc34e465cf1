//! Server-sent events: how a stream's bytes and a reader's position become frames, and the body that carries them.
//!
//! A `data` event holds the bytes of some whole records: a JSON array in JSON mode, text as it is for `text/*`, base64
//! otherwise. A `summary` event holds what a fold says. A `control` event with the position follows either. All carry
//! `id:`, the offset to read on from, so that a browser's `EventSource` resumes where it was.
//!
//! A frame is made as a chunk of HTTP/1.1's chunked coding, which is how most clients get it: one piece of memory, shared
//! by all readers and sent as it is. Other bodies take what is inside. A large event is made in parts, each when the one
//! before it was taken: so it takes little memory however long it becomes, and no part takes long.
//!
//! Source: Durable Streams Protocol, section 5.8; the WHATWG HTML standard, section 9.2.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use weir_shard::{ENCODED_BYTES_MAX, keep};
use weir_types::Offset;

use crate::event_text::{Encoding, Text};

/// What an event takes besides its text, about, in bytes.
const EVENT_HEAD_BYTES: usize = 80;
const EVENT_END: &[u8] = b"\n\n";
/// What a control event takes, about, in bytes.
const CONTROL_BYTES: usize = 192;
/// What comes before and after a chunk, at most: its length in 8 hexadecimal digits, and two line breaks.
const CHUNK_HEAD_BYTES: usize = 10;
const CHUNK_END: &[u8] = b"\r\n";
/// Frames that are written at once, at most: data and its control event, and a little more.
const WRITTEN_TOGETHER: usize = 4;

/// A comment: shows that the connection lives, and nothing else.
pub(crate) const COMMENT: Bytes = Bytes::from_static(b"3\r\n:\n\n\r\n");
/// How soon a browser comes again after the end of a response, in milliseconds: left to itself, it waits for 3 or 5 seconds.
pub(crate) const RETRY: Bytes = Bytes::from_static(b"b\r\nretry:250\n\n\r\n");
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

/// [`data`] in parts.
pub(crate) fn data_in_parts(encoding: Encoding, chunks: Vec<Bytes>, next: Offset) -> Parts {
    Parts::new(b"data", encoding, chunks, next)
}

/// The event with what a fold says of the records before `next`.
pub(crate) fn view(encoding: Encoding, body: Bytes, next: Offset) -> Parts {
    Parts::new(b"summary", encoding, vec![body], next)
}

/// The event that says why a summary does not go on, with a problem document, after what is known before `next`.
pub(crate) fn failed(document: Bytes, next: Offset) -> Bytes {
    chunk(event(b"failed", Encoding::Text, &[document], next))
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
    let mut frame = frame(EVENT_HEAD_BYTES + length + length / 3 + 4 + CONTROL_BYTES);
    begin(&mut frame, name, next);
    let is_whole = Text::new(encoding, chunks.to_vec()).put(&mut frame, usize::MAX);
    debug_assert!(is_whole, "nothing bounds the frame");
    frame.extend_from_slice(EVENT_END);
    frame
}

/// Begins an event, up to its text.
fn begin(frame: &mut Vec<u8>, name: &[u8], next: Offset) {
    id(frame, next);
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(name);
    frame.extend_from_slice(b"\ndata:");
}

/// An event that is made part by part, of at most [`ENCODED_BYTES_MAX`] bytes and a little.
pub(crate) struct Parts {
    /// What is before the text, as long as no part was made.
    head: Vec<u8>,
    /// What is not encoded yet.
    text: Text,
    /// The last chunk, which holds what is claimed for all: each part keeps it.
    last: Bytes,
}

impl Parts {
    fn new(name: &[u8], encoding: Encoding, chunks: Vec<Bytes>, next: Offset) -> Parts {
        let last = chunks.last().cloned().unwrap_or_default();
        let mut head = frame(EVENT_HEAD_BYTES);
        begin(&mut head, name, next);
        Parts { head, text: Text::new(encoding, chunks), last }
    }

    /// Has every part keep `with`, too.
    pub(crate) fn keeping(mut self, with: impl FnOnce(Bytes) -> Bytes) -> Parts {
        self.last = with(self.last);
        self
    }

    /// The next part, as a frame, and whether it is the last.
    fn next(&mut self) -> (Bytes, bool) {
        let mut part = match self.head.is_empty() {
            true => frame(ENCODED_BYTES_MAX),
            false => std::mem::take(&mut self.head),
        };
        let is_last = self.text.put(&mut part, ENCODED_BYTES_MAX);
        if is_last {
            part.extend_from_slice(EVENT_END);
        }
        (keep(chunk(part), self.last.clone()), is_last)
    }
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

/// Where a session puts its frames, and its response takes them.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Rc<RefCell<Frames>>);

/// What is to be sent, in this order: the frames, the parts of an event, what comes after that.
#[derive(Default)]
struct Frames {
    ready: VecDeque<Bytes>,
    parts: Option<Parts>,
    after: VecDeque<Bytes>,
    /// What a connection has taken by itself.
    sent_bytes: u64,
}

impl Outbox {
    /// Puts a frame, to be sent when the session waits next.
    pub(crate) fn put(&self, frame: Bytes) {
        let mut frames = self.0.borrow_mut();
        match frames.parts {
            None => frames.ready.push_back(frame),
            Some(_) => frames.after.push_back(frame),
        }
    }

    /// Puts an event whose parts are made as they are taken. A session puts one of them before it waits.
    pub(crate) fn put_parts(&self, parts: Parts) {
        let before = self.0.borrow_mut().parts.replace(parts);
        assert!(before.is_none(), "a session waits until everything was taken");
    }

    /// Whether every frame was taken.
    pub(crate) fn is_empty(&self) -> bool {
        let frames = self.0.borrow();
        frames.ready.is_empty() && frames.parts.is_none()
    }

    fn take(&self) -> Option<Bytes> {
        let mut frames = self.0.borrow_mut();
        frames.fill();
        frames.ready.pop_front()
    }

    /// Writes every frame.
    fn poll_write(&self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut frames = self.0.borrow_mut();
        loop {
            frames.fill();
            if frames.ready.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); WRITTEN_TOGETHER];
            let filled =
                slices.iter_mut().zip(frames.ready.iter()).map(|(slice, frame)| *slice = IoSlice::new(frame)).count();
            let mut written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..filled]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            frames.sent_bytes += written as u64;
            while let Some(frame) = frames.ready.front_mut().filter(|_| written > 0) {
                let taken = written.min(frame.len());
                frame.advance(taken);
                written -= taken;
                if frame.is_empty() {
                    frames.ready.pop_front();
                }
            }
        }
    }
}

impl Frames {
    /// Makes the next part, when all before it was taken.
    fn fill(&mut self) {
        let Some(parts) = self.parts.as_mut().filter(|_| self.ready.is_empty()) else { return };
        let (part, is_last) = parts.next();
        self.ready.push_back(part);
        if is_last {
            self.parts = None;
            self.ready.append(&mut self.after);
        }
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

    /// Bytes that [`Events::poll_write`] has written, the coding included.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.outbox.0.borrow().sent_bytes
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
        let body = frame.strip_prefix("id:00000000000000000005-00000001\nevent: data\n").expect("an id and a name");
        body.strip_suffix("\n\n").expect("an end").to_string()
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
        assert_eq!(check(Encoding::Json, &[b"{\"n\":1},", b"2,"]), "data:[{\"n\":1},\ndata:2]");
        assert_eq!(check(Encoding::Json, &[b"{\r\n \"n\": 1\r\n},"]), "data:[{\ndata:  \"n\": 1\ndata:}]");
    }

    #[test]
    fn other_bytes_are_base64_over_all_chunks() {
        assert_eq!(check(Encoding::Base64, &[b"He", b"llo"]), "data:SGVsbG8=");
        assert_eq!(check(Encoding::Base64, &[b"\x00\n\r\xff"]), "data:AAoN/w==");
    }

    #[test]
    fn a_large_event_is_made_as_it_is_taken() {
        let claimed = Rc::new(());
        let claim = send_wrapper::SendWrapper::new(claimed.clone());
        let record = keep(Bytes::from(vec![b'\n'; 3 * ENCODED_BYTES_MAX]), claim);
        let outbox = Outbox::default();
        outbox.put(COMMENT);
        outbox.put_parts(data_in_parts(Encoding::Text, vec![record], at(5)));
        outbox.put(Bytes::from_static(b"7\r\ncontrol\r\n"));
        assert_eq!(outbox.take(), Some(COMMENT));
        let (mut taken, mut parts) = (Vec::new(), 0);
        while let Some(frame) = outbox.take() {
            assert!(frame.len() <= ENCODED_BYTES_MAX + 100, "{} bytes", frame.len());
            taken.extend(inside(&frame));
            parts += 1;
            assert!(Rc::strong_count(&claimed) == 2 || frame == "7\r\ncontrol\r\n", "what is claimed is kept");
        }
        assert!(outbox.is_empty() && parts > 3 * 6, "{parts} parts");
        assert_eq!(Rc::strong_count(&claimed), 1, "and given back");
        let head = "id:00000000000000000005-00000001\nevent: data\n";
        let expected = [head, &"data:\n".repeat(3 * ENCODED_BYTES_MAX + 1), "\ncontrol"].concat();
        assert!(taken == expected.as_bytes());
    }

    #[test]
    fn a_view_is_an_event_of_its_own() {
        let check = |content_type, body: &'static [u8]| {
            let encoding = Encoding::of_document(content_type);
            let (frame, is_last) = view(encoding, Bytes::from_static(body), at(5)).next();
            assert!(is_last, "it is a small one");
            let frame = String::from_utf8(inside(&frame).to_vec()).expect("UTF-8");
            let body = frame.strip_prefix("id:00000000000000000005-00000001\nevent: summary\n").expect("an id, a name");
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
            let prefix = "id:00000000000000000005-00000001\nevent: control\ndata:{\"streamNextOffset\":\"00000000000000000005-00000001\",";
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
