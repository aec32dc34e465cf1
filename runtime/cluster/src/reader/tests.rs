//! What is written reads back, however it is cut on the way; what is not, is refused.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::*;
use crate::frame::{BODIES_MAX, FRAME_BYTES_MAX, HEAD_BYTES_MAX, Role};
use crate::writer::FrameWriter;

/// A connection that gives and takes so many bytes at a time, and has nothing in between.
#[derive(Default)]
struct Cut {
    bytes: VecDeque<u8>,
    cuts: Vec<usize>,
    turn: usize,
}

impl Cut {
    /// How many bytes may pass now.
    fn next(&mut self) -> Option<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(2) {
            return None;
        }
        Some(*self.cuts.get(self.turn % self.cuts.len().max(1)).unwrap_or(&usize::MAX))
    }
}

impl AsyncRead for Cut {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(next) = self.next() else { return Poll::Pending };
        for byte in {
            let n = next.min(buf.remaining()).min(self.bytes.len());
            self.bytes.drain(..n)
        } {
            buf.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(next) = self.next() else { return Poll::Pending };
        let taken = bytes.len().min(next);
        self.bytes.extend(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(next) = self.next() else { return Poll::Pending };
        let before = self.bytes.len();
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(next).collect();
        self.bytes.extend(bytes);
        Poll::Ready(Ok(self.bytes.len() - before))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Bytes that a buffer holds before its body.
const PREFIX: &[u8] = b"prefix";

fn prefixed(bytes: usize) -> BytesMut {
    assert!(bytes <= FRAME_BYTES_MAX, "a buffer is bounded before it is asked for");
    let mut buf = BytesMut::with_capacity(PREFIX.len() + bytes);
    buf.extend_from_slice(PREFIX);
    buf
}

fn written(frames: &[Frame], cuts: &[usize]) -> Cut {
    let mut stream = Cut { cuts: cuts.to_vec(), ..Cut::default() };
    let mut writer = FrameWriter::default();
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = frames.iter().cloned();
    loop {
        while writer.has_room()
            && let Some(frame) = frames.next()
        {
            writer.push(frame);
        }
        if writer.is_done() {
            return stream;
        }
        let _ = writer.poll_write(&mut stream, &mut context).map(|written| written.expect("takes all"));
    }
}

/// All frames of a connection, and why there are no more.
fn read(stream: &mut Cut) -> (Vec<Frame>, Option<FrameError>) {
    let mut reader = FrameReader::new(prefixed);
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    loop {
        match reader.poll_frame(stream, &mut context) {
            Poll::Pending => {}
            Poll::Ready(Ok(Some(Received { frame, memory_bytes }))) => {
                assert!(memory_bytes >= frame.message.bodies.iter().map(Bytes::len).sum());
                frames.push(frame);
            }
            Poll::Ready(Ok(None)) => return (frames, None),
            Poll::Ready(Err(error)) => return (frames, Some(error)),
        }
    }
}

/// As it arrives: each body behind the prefix.
fn arrived(mut frame: Frame) -> Frame {
    for body in &mut frame.message.bodies {
        *body = [PREFIX, body].concat().into();
    }
    frame
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let bytes = || prop_oneof![vec(any::<u8>(), 0..40), (0..40_000usize).prop_map(|bytes| vec![7; bytes])];
    let message = (any::<u8>(), bytes(), vec(bytes(), 0..4)).prop_map(|(kind, head, bodies)| Message {
        kind,
        head: head.into(),
        bodies: bodies.into_iter().map(Bytes::from).collect(),
    });
    let frame = (any::<bool>(), any::<u64>(), message).prop_map(|(is_reply, number, message)| {
        let role = if is_reply { Role::Reply } else { Role::Request };
        Frame { role, number, message }
    });
    let unanswered = any::<u64>();
    let unanswered =
        unanswered.prop_map(|number| Frame { role: Role::Unanswered, number, message: Message::default() });
    vec(prop_oneof![4 => frame, 1 => unanswered], 0..6)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..30usize, 1..20_000usize], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn frames_read_back_as_written(frames in frames(), writes in cuts(), reads in cuts()) {
        let mut stream = written(&frames, &writes);
        stream.cuts = reads;
        let (read, error) = read(&mut stream);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(read, frames.into_iter().map(arrived).collect::<Vec<_>>());
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_what_came_before_it_is_good(
        frames in frames(), at in any::<prop::sample::Index>(), bit in 0..8u8, reads in cuts(),
    ) {
        let mut stream = written(&frames, &[]);
        prop_assume!(!stream.bytes.is_empty());
        let at = at.index(stream.bytes.len());
        stream.bytes[at] ^= 1 << bit;
        stream.cuts = reads;
        let (read, error) = read(&mut stream);
        let frames: Vec<_> = frames.into_iter().map(arrived).collect();
        prop_assert!(read.len() < frames.len() && frames.starts_with(&read));
        prop_assert!(error.is_some());
    }

    #[test]
    fn garbage_at_any_point_is_refused_within_bounds(
        frames in frames(), at in any::<prop::sample::Index>(), garbage in vec(any::<u8>(), 0..200), reads in cuts(),
    ) {
        let mut stream = written(&frames, &[]);
        stream.bytes.truncate(at.index(stream.bytes.len() + 1));
        stream.bytes.extend(garbage);
        stream.cuts = reads;
        // That buffers are bounded is asserted where they are made.
        let (read, _) = read(&mut stream);
        prop_assert!(frames.into_iter().map(arrived).collect::<Vec<_>>().starts_with(&read));
    }
}

#[test]
fn a_connection_that_ends_within_a_frame_says_so() {
    let frame = Frame {
        role: Role::Request,
        number: 1,
        message: Message { kind: 0, head: "head".into(), bodies: vec!["body".into()] },
    };
    let whole = written(&[frame], &[]).bytes;
    for cut in 1..whole.len() {
        let bytes = whole.iter().copied().take(cut).collect();
        let (read, error) = read(&mut Cut { bytes, ..Cut::default() });
        assert!(read.is_empty() && matches!(error, Some(FrameError::CutOff)), "{cut}");
    }
}

#[test]
fn the_largest_frame_passes() {
    let bodies = vec![Bytes::from(vec![1; 1 << 10]); BODIES_MAX];
    let message = Message { kind: 1, head: vec![2; HEAD_BYTES_MAX].into(), bodies };
    let frame = Frame { role: Role::Request, number: 1, message };
    let (read, error) = read(&mut written(std::slice::from_ref(&frame), &[]));
    assert!(error.is_none() && read == [arrived(frame)]);
}

#[test]
fn a_body_stays_where_it_was_read_to() {
    for bytes in [0, 1, 4000, 100_000, 1 << 20] {
        let message = Message { kind: 1, head: "head".into(), bodies: vec![vec![7; bytes].into()] };
        let mut stream = written(&[Frame { role: Role::Request, number: 1, message }], &[]);
        stream.cuts = vec![1000, 9000];
        let (mut read, _) = read(&mut stream);
        let body = read.remove(0).message.bodies.remove(0).try_into_mut().expect("it has one owner");
        // A buffer that had grown would have more.
        assert_eq!((body.len(), body.capacity()), (PREFIX.len() + bytes, PREFIX.len() + bytes));
    }
}
