//! Feeds: what live readers of one stream have not taken yet.
//!
//! A stream has a feed on every shard where somebody follows it, and nowhere else. The feed on the stream's own shard
//! hears from apply; feeds of other shards are *mirrors*, told by mail, one message per advance and shard. All readers
//! share an event, and its encoded form: an advance costs a reader a wake and a reference.
//!
//! An event stays until every reader has taken it. A reader that falls behind holds nothing: when a feed or all feeds
//! together grow past their limit, the oldest events go, and readers that still needed them are cut off. They resume
//! with an offset.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use slab::Slab;
use weir_types::{Incarnation, ShardId};

use crate::message::Advance;

/// Events of one feed.
const FEED_EVENTS_MAX: usize = 1024;
/// Memory of an event besides its bytes.
const EVENT_OVERHEAD_BYTES: usize = 384;

/// The feeds of one shard. Cheap to clone: apply and the shard share it.
#[derive(Clone)]
pub(crate) struct Feeds(Rc<Inner>);

struct Inner {
    feeds: RefCell<HashMap<Incarnation, Rc<Feed>>>,
    bytes: Cell<usize>,
    bytes_max: usize,
    /// Bytes of one feed's events; a single larger event is kept.
    bytes_per_feed_max: usize,
    subscribers: Cell<usize>,
}

/// One stream's feed on one shard.
pub(crate) struct Feed {
    pub(crate) incarnation: Incarnation,
    feeds: Feeds,
    state: RefCell<State>,
}

struct State {
    tail: u64,
    closed: bool,
    removed: bool,
    events: VecDeque<Kept>,
    /// The number of the first event in `events`; events are numbered from 0 on.
    first: u64,
    bytes: usize,
    readers: Slab<Reader>,
    /// Shards that want to be told, each with the number of its last watch.
    peers: Vec<(ShardId, u64)>,
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
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) payload: Bytes,
    /// The bytes as a client gets them, and for which key; made by the first reader.
    pub(crate) rendered: OnceCell<(u64, Bytes)>,
}

/// What a reader finds.
pub(crate) enum Found {
    /// An event that begins at or before the reader's position and ends after it.
    Event(Rc<Event>),
    /// Bytes after the position are not in the feed: they are in the log.
    Older,
    /// The reader was too slow and what it needed next is gone.
    CutOff,
    /// Nothing after the position.
    Nothing {
        /// Nothing will ever follow.
        closed: bool,
        /// The stream was deleted.
        removed: bool,
    },
}

impl Feeds {
    pub(crate) fn new(bytes_max: usize, bytes_per_feed_max: usize) -> Feeds {
        let (feeds, bytes, subscribers) = Default::default();
        Feeds(Rc::new(Inner { feeds, bytes, bytes_max, bytes_per_feed_max, subscribers }))
    }

    /// Live readers on this shard.
    pub(crate) fn subscribers(&self) -> usize {
        self.0.subscribers.get()
    }

    /// Bytes kept for them.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.get()
    }

    /// Whether anybody on this shard follows any stream: apply asks before it looks at anything else.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.feeds.borrow().is_empty()
    }

    pub(crate) fn get(&self, incarnation: Incarnation) -> Option<Rc<Feed>> {
        self.0.feeds.borrow().get(&incarnation).cloned()
    }

    /// The stream's feed; a new one begins at this tail.
    pub(crate) fn open(&self, incarnation: Incarnation, tail: u64, closed: bool) -> Rc<Feed> {
        let mut feeds = self.0.feeds.borrow_mut();
        let feed = feeds.entry(incarnation).or_insert_with(|| {
            let state = State {
                tail,
                closed,
                removed: false,
                events: VecDeque::new(),
                first: 0,
                bytes: 0,
                readers: Slab::new(),
                peers: Vec::new(),
            };
            Rc::new(Feed { incarnation, feeds: self.clone(), state: RefCell::new(state) })
        });
        feed.clone()
    }

    /// The stream's feed, if somebody follows it; one that nobody follows any longer is closed.
    pub(crate) fn used(&self, incarnation: Incarnation) -> Option<Rc<Feed>> {
        let feed = self.get(incarnation)?;
        feed.close_if_unused();
        (!feed.is_unused()).then_some(feed)
    }

    /// Another shard no longer follows the stream. It may have begun to again before it said so: a watch that is newer
    /// than the last answer it had seen stays.
    pub(crate) fn forget_peer(&self, incarnation: Incarnation, peer: ShardId, answered: u64) {
        if let Some(feed) = self.get(incarnation) {
            feed.state.borrow_mut().peers.retain(|&(other, number)| other != peer || number > answered);
            feed.close_if_unused();
        }
    }

    fn add_bytes(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get() + bytes);
    }

    fn sub_bytes(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get() - bytes);
    }

    fn over_limit(&self) -> bool {
        self.0.bytes.get() > self.0.bytes_max
    }
}

impl Feed {
    /// Adds a shard that wants to be told, or notes its newer watch.
    pub(crate) fn add_peer(&self, peer: ShardId, number: u64) {
        let mut state = self.state.borrow_mut();
        state.peers.retain(|&(other, _)| other != peer);
        state.peers.push((peer, number));
    }

    /// The shards that want to be told.
    pub(crate) fn peers(&self) -> Vec<ShardId> {
        self.state.borrow().peers.iter().map(|&(peer, _)| peer).collect()
    }

    /// Whether nobody follows the stream through this feed.
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.state.borrow();
        state.readers.is_empty() && state.peers.is_empty()
    }

    fn close_if_unused(&self) {
        if self.is_unused() {
            self.feeds.0.feeds.borrow_mut().remove(&self.incarnation);
        }
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
            let readers = state.readers.len();
            if readers > 0 {
                let Advance { start, end, ref payload, .. } = *advance;
                let event = Rc::new(Event { start, end, payload: payload.clone(), rendered: OnceCell::new() });
                state.bytes += event.memory();
                self.feeds.add_bytes(event.memory());
                state.events.push_back(Kept { event, pending: readers });
            }
        }
        state.shed(&self.feeds);
        let wakers: Vec<Waker> = state.readers.iter_mut().filter_map(|(_, reader)| reader.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Adds a reader, who will find every event from now on.
    pub(crate) fn join(&self) -> usize {
        let mut state = self.state.borrow_mut();
        let next = state.end();
        self.feeds.0.subscribers.set(self.feeds.0.subscribers.get() + 1);
        state.readers.insert(Reader { next, waker: None })
    }

    /// Removes a reader.
    pub(crate) fn leave(&self, reader: usize) {
        let mut state = self.state.borrow_mut();
        let Reader { next, .. } = state.readers.remove(reader);
        state.release(next, u64::MAX, &self.feeds);
        self.feeds.0.subscribers.set(self.feeds.0.subscribers.get() - 1);
        drop(state);
        self.close_if_unused();
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
            state.release(next, next + passed, &self.feeds);
        }
        let at = (state.readers[reader].next - state.first) as usize;
        match state.events.get(at) {
            Some(kept) if kept.event.start <= position => Found::Event(kept.event.clone()),
            Some(_) => Found::Older,
            None if state.tail > position => Found::Older,
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

impl State {
    /// The number of the event after the last.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// A reader has taken, or will never take, the events from `from` until before `until`.
    fn release(&mut self, from: u64, until: u64, feeds: &Feeds) {
        let from = from.max(self.first);
        for number in from..until.min(self.end()) {
            self.events[(number - self.first) as usize].pending -= 1;
        }
        while self.events.front().is_some_and(|kept| kept.pending == 0) {
            self.drop_first(feeds);
        }
    }

    /// Drops the oldest events while a limit is passed. Readers that needed them are cut off.
    fn shed(&mut self, feeds: &Feeds) {
        while self.events.len() > 1
            && (self.events.len() > FEED_EVENTS_MAX || self.bytes > feeds.0.bytes_per_feed_max || feeds.over_limit())
        {
            self.drop_first(feeds);
        }
    }

    fn drop_first(&mut self, feeds: &Feeds) {
        let kept = self.events.pop_front().expect("there is a first event");
        self.bytes -= kept.event.memory();
        feeds.sub_bytes(kept.event.memory());
        self.first += 1;
    }
}

impl Event {
    /// Counted once for the payload and once for its encoded form, which may come later.
    fn memory(&self) -> usize {
        EVENT_OVERHEAD_BYTES + 2 * self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(start: u64, end: u64) -> Advance {
        let payload = Bytes::from(vec![b'x'; (end - start) as usize]);
        Advance { incarnation: Incarnation(1), start, end, payload, closed: false, removed: false }
    }

    fn feed(bytes_max: usize) -> Rc<Feed> {
        Feeds::new(bytes_max, bytes_max).open(Incarnation(1), 0, false)
    }

    fn found(feed: &Feed, reader: usize, position: u64) -> String {
        match feed.find(reader, position, Waker::noop()) {
            Found::Event(event) => format!("event {}-{}", event.start, event.end),
            Found::Older => "older".to_string(),
            Found::CutOff => "cut off".to_string(),
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
        assert!(feed.feeds.bytes() > 0);
        assert_eq!(found(&feed, slow, 0), "event 0-5");
        assert_eq!(found(&feed, slow, 5), "nothing closed=false");
        assert_eq!(feed.feeds.bytes(), 0);
    }

    #[test]
    fn a_reader_that_leaves_holds_nothing() {
        let feed = feed(1 << 20);
        let reader = feed.join();
        feed.advance(&advance(0, 5));
        feed.leave(reader);
        assert_eq!((feed.feeds.bytes(), feed.feeds.subscribers()), (0, 0));
        assert!(feed.feeds.is_empty());
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
        assert!(feed.feeds.bytes() <= 10 * EVENT_OVERHEAD_BYTES);
        assert_eq!(found(&feed, slow, 0), "cut off");
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
}
