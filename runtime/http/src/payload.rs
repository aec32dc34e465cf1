//! Response bodies: one enum, so that the small ones cost no allocation and their length is known.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::activity::ActiveRequest;
use crate::live::{Handover, LiveResponse};
use crate::sse::Events;

/// A response's body.
pub(crate) struct Payload {
    kind: Kind,
    /// The request counts as running until its response is sent.
    active: Option<ActiveRequest>,
}

enum Kind {
    Empty,
    /// These bytes, which are none once they are handed out.
    Full(Chunks),
    Events(Events),
    /// Events that the connection sends itself, once the response's head is written.
    Live(Option<(Events, Handover)>),
}

impl Payload {
    /// No body.
    pub(crate) fn empty() -> Payload {
        Payload::of(Kind::Empty)
    }

    /// These chunks, one after the other.
    pub(crate) fn chunks(chunks: Vec<Bytes>) -> Payload {
        let mut chunks = chunks.into_iter();
        let first = chunks.next().unwrap_or_default();
        Payload::of(Kind::Full(Chunks::new(first, chunks)))
    }

    /// Server-sent events, until they end.
    pub(crate) fn events(events: Events) -> Payload {
        Payload::of(Kind::Events(events))
    }

    /// Goes on its way, and keeps `active` until it is sent or given up. Events go by `handover` if there is one: then
    /// [`crate::live`] sends them, and not hyper.
    pub(crate) fn begin(&mut self, handover: Option<&Handover>, active: ActiveRequest) {
        match &mut self.kind {
            Kind::Full(chunks) => chunks.iter_mut().for_each(|chunk| active.owe(chunk)),
            // Events are owed as they are made.
            Kind::Empty | Kind::Events(_) | Kind::Live(_) => {}
        }
        self.active = Some(active);
        if let (Kind::Events(_), Some(handover)) = (&self.kind, handover)
            && let Kind::Events(events) = std::mem::replace(&mut self.kind, Kind::Empty)
        {
            self.kind = Kind::Live(Some((events, handover.clone())));
        }
    }

    fn of(kind: Kind) -> Payload {
        Payload { kind, active: None }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::of(Kind::Full(bytes.into()))
    }
}

impl Body for Payload {
    type Data = Chunks;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunks>, Infallible>>> {
        let Payload { kind, active } = self.get_mut();
        let chunks = match kind {
            Kind::Empty => None,
            Kind::Full(chunks) => {
                Some(Chunks { _active: active.take(), ..std::mem::take(chunks) }).filter(Chunks::has_remaining)
            }
            Kind::Events(events) => {
                let event = ready!(events.poll_next(cx));
                if let (Some(event), Some(access)) = (&event, active.as_mut().and_then(ActiveRequest::access)) {
                    access.sent(event.len() as u64);
                }
                event.map(Chunks::from)
            }
            Kind::Live(live) => {
                if let (Some((events, handover)), Some(active)) = (live.take(), active.take()) {
                    handover.give(LiveResponse::new(events, active));
                }
                return Poll::Pending;
            }
        };
        Poll::Ready(chunks.map(|chunks| Ok(Frame::data(chunks))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(chunks) => !chunks.has_remaining(),
            Kind::Events(_) | Kind::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(chunks) => SizeHint::with_exact(chunks.remaining() as u64),
            Kind::Events(_) | Kind::Live(_) => SizeHint::default(),
        }
    }
}

/// Bytes in several pieces. As one frame of a body they are written in one call, however many pieces they are.
#[derive(Default)]
pub(crate) struct Chunks {
    /// Not empty, but at the end.
    first: Bytes,
    rest: vec::IntoIter<Bytes>,
    remaining: usize,
    /// The body has ended when hyper has its last frame: that is not when it is sent.
    _active: Option<ActiveRequest>,
}

impl Chunks {
    fn new(first: Bytes, rest: vec::IntoIter<Bytes>) -> Chunks {
        let remaining = first.len() + rest.as_slice().iter().map(Bytes::len).sum::<usize>();
        let mut chunks = Chunks { first, rest, remaining, _active: None };
        chunks.pass_over_empty();
        chunks
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Bytes> {
        std::iter::once(&mut self.first).chain(self.rest.as_mut_slice())
    }

    fn pass_over_empty(&mut self) {
        if self.first.is_empty() {
            self.first = self.rest.find(|chunk| !chunk.is_empty()).unwrap_or_default();
        }
    }
}

impl From<Bytes> for Chunks {
    fn from(bytes: Bytes) -> Chunks {
        Chunks::new(bytes, vec::IntoIter::default())
    }
}

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = std::iter::once(&self.first).chain(self.rest.as_slice());
        let filled = slices.iter_mut().zip(chunks.filter(|chunk| !chunk.is_empty()));
        filled.map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "no more is advanced than remains");
        self.remaining -= count;
        while count > 0 {
            let here = count.min(self.first.len());
            self.first.advance(here);
            count -= here;
            self.pass_over_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pieces, with empty ones before, between and behind them.
    fn pieces() -> Vec<Bytes> {
        ["", "abc", "", "", "de", "fghi", ""].map(|piece| Bytes::from_static(piece.as_bytes())).to_vec()
    }

    #[test]
    fn a_body_of_chunks_is_one_frame_and_knows_its_length_and_its_end() {
        let mut payload = Payload::chunks(pieces());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut poll = || {
            let before = (payload.size_hint().exact(), payload.is_end_stream());
            let Poll::Ready(frame) = Pin::new(&mut payload).poll_frame(&mut cx) else { panic!("it waits for nothing") };
            let data = frame.map(|frame| frame.expect("chunks never fail").into_data().ok().expect("a data frame"));
            (before, data.map(|mut data| data.copy_to_bytes(data.remaining())))
        };
        assert_eq!(poll(), ((Some(9), false), Some("abcdefghi".into())));
        assert_eq!(poll(), ((Some(0), true), None));
        assert!(Payload::chunks(vec![Bytes::new()]).is_end_stream());
        assert!(Payload::chunks(Vec::new()).is_end_stream());
    }

    #[test]
    fn chunks_are_the_same_bytes_wherever_a_socket_stops() {
        for (first, second) in (0..=9).flat_map(|first| (0..=9 - first).map(move |second| (first, second))) {
            let mut pieces = pieces().into_iter();
            let mut chunks = Chunks::new(pieces.next().expect("one"), pieces);
            chunks.advance(first);
            chunks.advance(second);
            let expected = &b"abcdefghi"[first + second..];
            assert_eq!(chunks.remaining(), expected.len());
            assert_eq!(chunks.chunk().is_empty(), expected.is_empty(), "there is a piece as long as anything remains");
            let mut slices = [IoSlice::new(b""); 8];
            let filled = chunks.chunks_vectored(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            assert_eq!(bytes, expected);
            let few = chunks.chunks_vectored(&mut slices[..1]);
            assert_eq!(few, filled.min(1), "no more than there is room for");
        }
    }
}
