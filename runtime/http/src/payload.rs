//! Response bodies: one enum, so that the small ones cost no allocation and their length is known.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::Bytes;
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
    Full(Bytes),
    /// `remaining` bytes are not handed out yet.
    Chunks {
        chunks: vec::IntoIter<Bytes>,
        remaining: u64,
    },
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
        let remaining = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Payload::of(Kind::Chunks { chunks: chunks.into_iter(), remaining })
    }

    /// Server-sent events, until they end.
    pub(crate) fn events(events: Events) -> Payload {
        Payload::of(Kind::Events(events))
    }

    /// Goes on its way, and keeps `active` until it is sent or given up. Events go by `handover` if there is one: then
    /// [`crate::live`] sends them, and not hyper.
    pub(crate) fn begin(&mut self, handover: Option<&Handover>, active: ActiveRequest) {
        match &mut self.kind {
            Kind::Full(bytes) => active.owe(bytes),
            Kind::Chunks { chunks, .. } => chunks.as_mut_slice().iter_mut().for_each(|chunk| active.owe(chunk)),
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
        Payload::of(Kind::Full(bytes))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Payload { kind, active } = self.get_mut();
        let bytes = match kind {
            Kind::Empty => None,
            Kind::Full(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Kind::Chunks { chunks, remaining } => {
                let next = chunks.find(|chunk| !chunk.is_empty());
                *remaining -= next.as_ref().map_or(0, |chunk| chunk.len() as u64);
                next
            }
            Kind::Events(events) => {
                let event = ready!(events.poll_next(cx));
                if let (Some(event), Some(access)) = (&event, active.as_mut().and_then(ActiveRequest::access)) {
                    access.sent(event.len() as u64);
                }
                event
            }
            Kind::Live(live) => {
                if let (Some((events, handover)), Some(active)) = (live.take(), active.take()) {
                    handover.give(LiveResponse::new(events, active));
                }
                return Poll::Pending;
            }
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Chunks { remaining, .. } => *remaining == 0,
            Kind::Events(_) | Kind::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks { remaining, .. } => SizeHint::with_exact(*remaining),
            Kind::Events(_) | Kind::Live(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_chunks_knows_its_length_and_its_end() {
        let mut payload = Payload::chunks(vec![Bytes::new(), Bytes::from_static(b"abc"), Bytes::from_static(b"de")]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut seen = Vec::new();
        assert_eq!(payload.size_hint().exact(), Some(5));
        while let Poll::Ready(Some(frame)) = Pin::new(&mut payload).poll_frame(&mut cx) {
            let data = frame.expect("chunks never fail").into_data().expect("a data frame");
            seen.push((data, payload.size_hint().exact(), payload.is_end_stream()));
        }
        assert_eq!(seen, [("abc".into(), Some(2), false), ("de".into(), Some(0), true)]);
        assert!(Payload::chunks(vec![Bytes::new()]).is_end_stream());
    }
}
