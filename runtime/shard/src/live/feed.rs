//! Feeds: what live readers of one stream have not taken yet.
//!
//! All readers of one shard share an event, and its encoded form: an advance costs a reader a wake and a reference.
//! [`crate::live::feeds`] says which shards have a feed, and from whom it hears.
//!
//! An event stays until every reader has taken it. A reader that falls behind holds nothing: when a feed or all feeds
//! together grow past their limit, the oldest events go, and readers that still needed them are cut off. They resume
//! with an offset.

use std::cell::{OnceCell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use slab::Slab;
use tokio::time::Instant;
use weir_types::{GroupId, Incarnation};

use crate::budget::{ENCODED_BYTES_MAX, LINE_BREAK_BYTES};
use crate::live::totals::Totals;
use crate::message::{Advance, Peer};
use crate::nodes::outgoing::Expectation;

/// Events of one feed.
const FEED_EVENTS_MAX: usize = 1024;
/// Memory of an event besides its bytes.
const EVENT_OVERHEAD_BYTES: usize = 384;

/// One stream's feed on one shard. Somebody follows the stream through it for as long as it is there.
pub(crate) struct Feed {
    pub(crate) incarnation: Incarnation,
    totals: Rc<Totals>,
    state: RefCell<State>,
}

struct State {
    kind: Kind,
    tail: u64,
    closed: bool,
    removed: bool,
    /// Nothing is heard here any more, and not because the stream has ended.
    lost: bool,
    events: VecDeque<Kept>,
    /// The number of the first event in `events`; events are numbered from 0 on.
    first: u64,
    bytes: usize,
    readers: Slab<Reader>,
}

/// From whom a feed hears, and whom it tells besides its readers.
pub(crate) enum Kind {
    /// On the stream's own shard: hears from apply.
    Own {
        /// The group that it is a stream of.
        group: GroupId,
        /// Shards that want to be told, each with the number of its last watch.
        peers: Vec<(Peer, u64)>,
    },
    /// On another shard, or another node: hears from the owner, by mail.
    Mirror {
        /// The stream's own shard.
        owner: Peer,
        /// The number of the last watch of this stream that the owner has answered.
        answered: u64,
        /// That there is something to be heard, if it is on another node.
        expected: Option<Expectation>,
    },
}

struct Kept {
    event: Rc<Event>,
    /// Readers that have not taken it.
    pending: usize,
}

struct Reader {
    /// The number of the next event to take.
    next: u64,
    waker: Option<Waker>,
}

/// New bytes of a stream, as its readers on one shard share them.
pub(crate) struct Event {
    /// When it was applied.
    at: Instant,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) payload: Bytes,
    /// The bytes as a client gets them, and for which key; made by the first reader, if they are shared.
    pub(crate) rendered: OnceCell<(u64, Bytes)>,
    /// What it takes, encoded form included, in bytes.
    memory: usize,
}

/// What a reader finds.
pub(crate) enum Found {
    /// An event that begins at or before the reader's position and ends after it.
    Event(Rc<Event>),
    /// Bytes after the position are not in the feed: they are in the log.
    Older,
    /// The reader was too slow and what it needed next is gone.
    CutOff,
    /// Nothing is heard here any more: the stream is to be watched anew.
    Lost,
    /// Nothing after the position.
    Nothing {
        /// Nothing will ever follow.
        closed: bool,
        /// The stream was deleted.
        removed: bool,
    },
}

impl Feed {
    pub(crate) fn new(totals: Rc<Totals>, incarnation: Incarnation, kind: Kind, tail: u64, closed: bool) -> Feed {
        let (events, readers) = (VecDeque::new(), Slab::new());
        let state = State { kind, tail, closed, removed: false, lost: false, events, first: 0, bytes: 0, readers };
        Feed { incarnation, totals, state: RefCell::new(state) }
    }

    /// Adds a shard that wants to be told, or notes its newer watch.
    pub(crate) fn add_peer(&self, peer: Peer, number: u64) {
        let mut state = self.state.borrow_mut();
        assert!(!state.closed, "nothing is ever told of a closed stream");
        let peers = state.peers();
        peers.retain(|&(other, _)| other != peer);
        peers.push((peer, number));
    }

    /// Forgets a shard that no longer wants to be told, unless it has watched again since.
    pub(crate) fn forget_peer(&self, peer: Peer, answered: u64) {
        if let Kind::Own { peers, .. } = &mut self.state.borrow_mut().kind {
            peers.retain(|&(other, number)| other != peer || number > answered);
        }
    }

    /// Forgets all shards of which this is true.
    pub(crate) fn forget_peers(&self, are_gone: &dyn Fn(Peer) -> bool) {
        if let Kind::Own { peers, .. } = &mut self.state.borrow_mut().kind {
            peers.retain(|&(peer, _)| !are_gone(peer));
        }
    }

    /// The group of a stream of this shard's own.
    pub(crate) fn own_group(&self) -> Option<GroupId> {
        match self.state.borrow().kind {
            Kind::Own { group, .. } => Some(group),
            Kind::Mirror { .. } => None,
        }
    }

    /// The owner of a mirror.
    pub(crate) fn owner(&self) -> Option<Peer> {
        match self.state.borrow().kind {
            Kind::Own { .. } => None,
            Kind::Mirror { owner, .. } => Some(owner),
        }
    }

    /// Nothing is heard here any more. Its readers hear that.
    pub(crate) fn lose(&self) {
        let mut state = self.state.borrow_mut();
        state.lost = true;
        if let Kind::Mirror { expected, .. } = &mut state.kind {
            *expected = None;
        }
        wake_all(state);
    }

    /// Whether nothing is heard here any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.borrow().lost
    }

    /// The shards to tell of an advance. Of a `last` one, after which there is nothing to tell, they are forgotten.
    pub(crate) fn peers_to_tell(&self, is_last: bool) -> Vec<Peer> {
        let mut state = self.state.borrow_mut();
        let told = state.peers().iter().map(|&(peer, _)| peer).collect();
        if is_last {
            state.peers().clear();
        }
        told
    }

    /// The owner of a mirror has answered another watch.
    pub(crate) fn note_answer(&self, number: u64) {
        match &mut self.state.borrow_mut().kind {
            Kind::Mirror { answered, .. } => {
                *answered = number.max(*answered);
            }
            Kind::Own { .. } => unreachable!("a shard does not mirror a stream of its own"),
        }
    }

    /// Whether nobody follows the stream through this feed.
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.state.borrow();
        let has_peers = matches!(&state.kind, Kind::Own { peers, .. } if !peers.is_empty());
        state.readers.is_empty() && !has_peers
    }

    /// Whom a mirror that is closed has to tell so, and the number of the watch that it takes back. The owner of a stream
    /// that has ended has forgotten its peers by itself.
    pub(crate) fn to_unwatch(&self) -> Option<(Peer, u64)> {
        let state = self.state.borrow();
        match state.kind {
            Kind::Mirror { owner, answered, .. } if !state.closed && !state.removed => Some((owner, answered)),
            _ => None,
        }
    }

    /// Whether an advance follows what is known.
    pub(crate) fn is_next(&self, advance: &Advance) -> bool {
        advance.start <= self.state.borrow().tail
    }

    /// Takes an advance in and wakes every reader.
    pub(crate) fn advance(&self, advance: &Advance) {
        let mut state = self.state.borrow_mut();
        state.closed |= advance.closed;
        state.removed |= advance.removed;
        if advance.end > state.tail {
            // A mirror that was just opened may be told of bytes that its first answer counted already.
            assert!(advance.start <= state.tail, "advances are told in order and without gaps");
            state.tail = advance.end;
            let pending = state.readers.len();
            let mut start = advance.start;
            for payload in advance.payloads.iter().filter(|_| pending > 0) {
                let event = Rc::new(Event::new(advance.at, start, payload.clone()));
                state.bytes += event.memory;
                self.totals.add_bytes(event.memory);
                start = event.end;
                state.events.push_back(Kept { event, pending });
            }
        }
        state.shed(advance.payloads.len().max(1), &self.totals);
        wake_all(state);
    }

    /// Adds a reader, who will find every event from now on.
    pub(crate) fn join(&self) -> usize {
        let mut state = self.state.borrow_mut();
        let next = state.end();
        self.totals.add_reader();
        state.readers.insert(Reader { next, waker: None })
    }

    /// Removes a reader.
    pub(crate) fn leave(&self, reader: usize) {
        let mut state = self.state.borrow_mut();
        let Reader { next, .. } = state.readers.remove(reader);
        state.release(next, u64::MAX);
        state.drop_taken(&self.totals, |_| ());
        self.totals.sub_reader();
    }

    /// Lets a reader that was cut off go on from the events that are still there; what it missed is in the log.
    pub(crate) fn rejoin(&self, reader: usize) {
        let mut state = self.state.borrow_mut();
        let first = state.first;
        state.readers[reader].next = first;
    }

    /// Looks for what follows `position`; events before it are taken on the way. Remembers `waker` if there is nothing.
    pub(crate) fn find(&self, reader: usize, position: u64, waker: &Waker) -> Found {
        let mut state = self.state.borrow_mut();
        let next = state.readers[reader].next;
        if next < state.first {
            return Found::CutOff;
        }
        let skipped = (next - state.first) as usize;
        let passed = state.events.iter().skip(skipped).take_while(|kept| kept.event.end <= position).count() as u64;
        if passed > 0 {
            state.readers[reader].next = next + passed;
            state.release(next, next + passed);
            state.drop_taken(&self.totals, |event| self.totals.count_delivery(event.at));
        }
        let at = (state.readers[reader].next - state.first) as usize;
        match state.events.get(at) {
            Some(kept) if kept.event.start <= position => Found::Event(kept.event.clone()),
            Some(_) => Found::Older,
            None if state.tail > position => Found::Older,
            None if state.lost && !state.closed && !state.removed => Found::Lost,
            None => {
                state.readers[reader].waker = Some(waker.clone());
                Found::Nothing { closed: state.closed, removed: state.removed }
            }
        }
    }

    /// The tail as far as this feed knows, and whether the stream is closed there.
    pub(crate) fn tail(&self) -> (u64, bool) {
        let state = self.state.borrow();
        (state.tail, state.closed)
    }
}

/// Wakes every reader, once the state is free.
fn wake_all(mut state: RefMut<'_, State>) {
    let wakers: Vec<Waker> = state.readers.iter_mut().filter_map(|(_, reader)| reader.waker.take()).collect();
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

impl State {
    fn peers(&mut self) -> &mut Vec<(Peer, u64)> {
        match &mut self.kind {
            Kind::Own { peers, .. } => peers,
            Kind::Mirror { .. } => unreachable!("only a stream's own shard tells others"),
        }
    }

    /// The number of the event after the last.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// A reader has taken, or will never take, the events from `from` until before `until`.
    fn release(&mut self, from: u64, until: u64) {
        let from = from.max(self.first);
        for number in from..until.min(self.end()) {
            let kept = &mut self.events[(number - self.first) as usize];
            assert!(kept.pending > 0, "a reader takes an event once");
            kept.pending -= 1;
        }
    }

    /// Drops the events that no reader has yet to take, the oldest first.
    fn drop_taken(&mut self, totals: &Totals, each: impl Fn(&Event)) {
        while let Some(kept) = self.events.front().filter(|kept| kept.pending == 0) {
            each(&kept.event);
            self.drop_first(totals);
        }
    }

    /// Drops the oldest events while a limit is passed, but not the newest, which nobody had the time to take. Readers that
    /// needed them are cut off.
    fn shed(&mut self, newest: usize, totals: &Totals) {
        while self.events.len() > newest && (self.events.len() > FEED_EVENTS_MAX || totals.is_over(self.bytes)) {
            self.drop_first(totals);
        }
    }

    fn drop_first(&mut self, totals: &Totals) {
        let kept = self.events.pop_front().expect("there is a first event");
        self.bytes -= kept.event.memory;
        totals.sub_bytes(kept.event.memory);
        self.first += 1;
    }
}

impl Event {
    fn new(at: Instant, start: u64, payload: Bytes) -> Event {
        let end = start + payload.len() as u64;
        let mut event = Event { at, start, end, payload, rendered: OnceCell::new(), memory: 0 };
        // The encoded form may come later, as text or in base64.
        let encoded = if event.is_shared() { encoded_bytes(&event.payload) } else { 0 };
        event.memory = EVENT_OVERHEAD_BYTES + event.payload.len() + encoded;
        event
    }

    /// Whether readers share its encoded form. A larger one is encoded by each, in parts.
    pub(crate) fn is_shared(&self) -> bool {
        self.payload.len() <= ENCODED_BYTES_MAX
    }
}

/// What `payload` takes when it is encoded, at most, in bytes.
fn encoded_bytes(payload: &[u8]) -> usize {
    // A comma between two messages ends a line, too.
    let line_breaks = payload.iter().filter(|byte| matches!(byte, b'\r' | b'\n' | b',')).count();
    payload.len() + (payload.len() / 3).max(LINE_BREAK_BYTES * line_breaks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(start: u64, end: u64) -> Advance {
        let payloads = [Bytes::from(vec![b'x'; (end - start) as usize])].into();
        Advance { incarnation: Incarnation(1), at: Instant::now(), start, end, payloads, closed: false, removed: false }
    }

    fn feed(bytes_max: usize) -> Feed {
        let totals = Rc::new(Totals::new(bytes_max, bytes_max));
        Feed::new(totals, Incarnation(1), Kind::Own { group: GroupId(0), peers: Vec::new() }, 0, false)
    }

    fn found(feed: &Feed, reader: usize, position: u64) -> String {
        match feed.find(reader, position, Waker::noop()) {
            Found::Event(event) => format!("event {}-{}", event.start, event.end),
            Found::Older => "older".to_string(),
            Found::CutOff => "cut off".to_string(),
            Found::Lost => "lost".to_string(),
            Found::Nothing { closed, .. } => format!("nothing closed={closed}"),
        }
    }

    #[test]
    fn an_event_goes_when_its_last_reader_has_taken_it() {
        let feed = feed(1 << 20);
        let (fast, slow) = (feed.join(), feed.join());
        feed.advance(&advance(0, 5));
        assert_eq!(found(&feed, fast, 0), "event 0-5");
        assert_eq!(found(&feed, fast, 5), "nothing closed=false");
        assert!(feed.totals.bytes() > 0);
        assert_eq!(found(&feed, slow, 0), "event 0-5");
        assert_eq!(found(&feed, slow, 5), "nothing closed=false");
        assert_eq!(feed.totals.bytes(), 0);
    }

    #[test]
    fn a_reader_that_leaves_holds_nothing() {
        let feed = feed(1 << 20);
        let reader = feed.join();
        feed.advance(&advance(0, 5));
        feed.leave(reader);
        assert_eq!((feed.totals.bytes(), feed.totals.readers()), (0, 0));
        assert!(feed.is_unused());
    }

    #[test]
    fn a_slow_reader_is_cut_off_and_a_fast_one_is_not() {
        let feed = feed(10 * EVENT_OVERHEAD_BYTES);
        let (fast, slow) = (feed.join(), feed.join());
        for start in 0..100 {
            feed.advance(&advance(start, start + 1));
            assert_eq!(found(&feed, fast, start), format!("event {start}-{}", start + 1));
            assert_eq!(found(&feed, fast, start + 1), "nothing closed=false");
        }
        assert!(feed.totals.bytes() <= 10 * EVENT_OVERHEAD_BYTES);
        assert_eq!(found(&feed, slow, 0), "cut off");
    }

    #[test]
    fn one_large_advance_is_many_events_and_cuts_nobody_off() {
        let feed = feed(10);
        let reader = feed.join();
        let payloads = [&b"1,"[..], b"22,", b"333,"].map(Bytes::from_static).into_iter().collect();
        feed.advance(&Advance { payloads, ..advance(0, 9) });
        for (position, event) in [(0, "event 0-2"), (2, "event 2-5"), (5, "event 5-9")] {
            assert_eq!(found(&feed, reader, position), event);
        }
        assert_eq!(found(&feed, reader, 9), "nothing closed=false");
        assert_eq!(feed.totals.bytes(), 0);
    }

    #[test]
    fn a_reader_behind_the_feed_is_sent_to_the_log_first() {
        let feed = feed(1 << 20);
        feed.advance(&advance(0, 5));
        let reader = feed.join();
        assert_eq!(found(&feed, reader, 0), "older");
        feed.advance(&advance(5, 9));
        assert_eq!(found(&feed, reader, 0), "older");
        assert_eq!(found(&feed, reader, 5), "event 5-9");
        // A page may end inside an event: the rest of it is in the log too.
        assert_eq!(found(&feed, reader, 7), "event 5-9");
        assert_eq!(found(&feed, reader, 9), "nothing closed=false");
    }

    #[test]
    fn what_is_counted_is_what_is_encoded() {
        let counted = |payload: &str| {
            Event::new(Instant::now(), 0, Bytes::from(payload.to_string())).memory - EVENT_OVERHEAD_BYTES
        };
        assert_eq!(counted("abcdef"), 6 + 8, "base64 is the longer one");
        assert_eq!(counted("\n \r x"), 5 + 5 + 2 * LINE_BREAK_BYTES);
        let large = "\n".repeat(ENCODED_BYTES_MAX + 1);
        assert_eq!(counted(&large), large.len(), "each reader's parts are claimed by itself");
    }
}
