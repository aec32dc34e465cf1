//! Live reads: long-polls and subscriptions, on the shard that holds the connection. Old bytes come as pages from the
//! stream's own shard, new ones through the feed.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use send_wrapper::SendWrapper;
use weir_stream::{Facts, Refusal};
use weir_types::limits::PAGE_BYTES_MAX;
use weir_types::{Offset, ReadFrom, StreamKey};

use crate::budget::{self, PageClaim};
use crate::core::{Core, Shard};
use crate::live::feed::{Event, Found};
use crate::live::feeds::Follower;
use crate::message::{Answer, Limit, LongPoll, Page, Peer, Request, Response, ShardError};

/// Bytes of a page of history for a subscription: small, because very many of them may begin at once.
const HISTORY_BYTES_MAX: usize = 256 << 10;
const _: () = assert!(HISTORY_BYTES_MAX <= PAGE_BYTES_MAX);
/// How long a subscription waits for others to take theirs.
const HISTORY_RETRY: Duration = Duration::from_millis(250);

/// What a subscription yields next.
pub enum LiveEvent {
    /// Bytes.
    Data(LiveData),
    /// Everything is sent that there is; yielded once, before the first wait.
    CaughtUp {
        /// The tail.
        next: Offset,
    },
    /// The stream is closed and everything is sent: the end.
    Closed {
        /// The final tail.
        next: Offset,
    },
    /// The stream was deleted, or what comes next was trimmed: the end.
    Removed,
    /// The reader was too slow and is cut off: the end. It resumes with the offset it has.
    Lagged,
    /// The history cannot be read: the end.
    Failed(ShardError),
}

/// Bytes of a subscription, from a page or from the feed.
pub struct LiveData {
    /// The stored bytes, in order; in JSON mode `message,message,`.
    pub chunks: Vec<Bytes>,
    /// The offset after them.
    pub next: Offset,
    /// Whether that was the tail.
    pub up_to_date: bool,
    /// Whether nothing will ever follow.
    pub closed: bool,
    /// What is shared, of an event that is encoded whole.
    event: Option<SendWrapper<Rc<Event>>>,
}

impl LiveData {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This and what follows it, as one.
    #[must_use]
    pub fn and(mut self, after: LiveData) -> LiveData {
        self.chunks.extend(after.chunks);
        LiveData { chunks: self.chunks, event: None, ..after }
    }

    /// This without its first byte.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn without_first(mut self) -> LiveData {
        let first = self.chunks.iter_mut().find(|chunk| !chunk.is_empty()).expect("there is a byte");
        *first = first.slice(1..);
        LiveData { event: None, ..self }
    }

    /// The bytes as `encode` makes them. Subscribers of one stream on one shard that come with the same key as the first
    /// share its result, so all who have the same key must encode alike. `None` for what is large and not shared: that is
    /// encoded in parts of at most [`budget::ENCODED_BYTES_MAX`], each of which keeps the last chunk, and with it what is
    /// claimed.
    pub fn rendered(&self, key: u64, encode: impl FnOnce(&[Bytes]) -> Bytes) -> Option<Bytes> {
        let Some(event) = &self.event else {
            let is_small = budget::encoded_bytes_max(self.len()) <= budget::ENCODED_BYTES_MAX;
            return is_small.then(|| budget::keep(encode(&self.chunks), self.chunks.last().cloned()));
        };
        Some(match event.rendered.get() {
            Some((of, rendered)) if *of == key => rendered.clone(),
            Some(_) => encode(&self.chunks),
            None => event.rendered.get_or_init(|| (key, encode(&self.chunks))).1.clone(),
        })
    }
}

/// A reader that follows a stream. Dropping it is how a client leaves.
pub struct Subscription {
    shard: Shard,
    key: StreamKey,
    facts: Facts,
    feed: SendWrapper<Follower>,
    position: u64,
    /// What is there from `position` on, if that was read to see whether a record begins there.
    first: Option<Page>,
    /// Whether everything was sent at least once: from then on falling behind means being cut off.
    caught_up: bool,
}

impl Shard {
    /// Follows a stream from `from` on.
    ///
    /// # Errors
    /// As a read: no such stream, or an offset that is not the stream's. [`Limit::Subscribers`].
    pub async fn subscribe(&self, key: StreamKey, from: ReadFrom) -> Result<Subscription, ShardError> {
        if self.0.feeds.subscribers() >= self.0.config.subscribers_max {
            self.0.stats.limits_met.count(Limit::Subscribers);
            return Err(ShardError::Limit(Limit::Subscribers));
        }
        let (facts, feed) = self.begin_to_follow(&key).await?;
        let position = facts.check_offset(from)?;
        let first = match from {
            ReadFrom::At(_) if (1..facts.next.position).contains(&position) => {
                self.first_page(&key, &facts, position).await?
            }
            _ => None,
        };
        Ok(Subscription { shard: self.clone(), key, facts, feed, position, first, caught_up: false })
    }

    /// The stream as it is now, and a place in its feed.
    async fn begin_to_follow(&self, key: &StreamKey) -> Result<(Facts, SendWrapper<Follower>), ShardError> {
        let watch = SendWrapper::new(self.0.feeds.begin_watch());
        let request = Request::Watch { key: key.clone(), number: watch.number };
        let Answer::Watching { facts, .. } = self.ask(request).await? else {
            unreachable!("a watch is answered with the stream")
        };
        Ok((facts, SendWrapper::new(watch.take().into_follower())))
    }

    /// The first page of a subscription that begins within a stream, if there is memory for it: an offset at which no record
    /// begins is refused before anything else is answered.
    async fn first_page(&self, key: &StreamKey, facts: &Facts, position: u64) -> Result<Option<Page>, ShardError> {
        match self.read_live(key.clone(), facts.offset(position), HISTORY_BYTES_MAX).await {
            Ok(page) => Ok(Some(page).filter(|page| page.incarnation == facts.incarnation)),
            Err(ShardError::Limit(Limit::Reads)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until there are bytes after `from`, the stream is closed there, or `timeout` has passed.
    ///
    /// # Errors
    /// As a read.
    pub async fn long_poll(&self, key: StreamKey, from: ReadFrom, timeout: Duration) -> Result<LongPoll, ShardError> {
        // Most long-polls that find something find it at once: only the others follow the stream.
        let page = self.read(key.clone(), from, PAGE_BYTES_MAX).await?;
        if page.next != page.start {
            return Ok(LongPoll::Page(page));
        }
        if page.closed {
            return Ok(LongPoll::Nothing { next: page.next, closed: true, earliest: page.earliest });
        }
        let at = ReadFrom::At(page.start);
        let mut subscription = self.subscribe(key.clone(), at).await?;
        let nothing = |closed| LongPoll::Nothing { next: page.next, closed, earliest: page.earliest };
        match tokio::time::timeout(timeout, subscription.changed()).await {
            Ok(Change::Bytes) => {}
            Ok(Change::Closed) => return Ok(nothing(true)),
            Ok(Change::Removed) => return Err(Refusal::NotFound.into()),
            Ok(Change::Failed(error)) => return Err(error),
            Err(_) if self.0.is_alone() => return Ok(nothing(false)),
            // Whether there is nothing, only the leader knows.
            Err(_) => {}
        }
        drop(subscription);
        let page = self.read(key, at, PAGE_BYTES_MAX).await?;
        match page.next == page.start {
            true => Ok(LongPoll::Nothing { next: page.next, closed: page.closed, earliest: page.earliest }),
            false => Ok(LongPoll::Page(page)),
        }
    }
}

/// What ends a wait for something new.
pub(crate) enum Change {
    Bytes,
    Closed,
    Removed,
    /// Nobody can be found who knows.
    Failed(ShardError),
}

impl Subscription {
    /// The offset of what comes next.
    pub fn position(&self) -> Offset {
        self.offset(self.position)
    }

    /// The stream as it was when the subscription began.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What comes next; waits for it. After an event that is an end, nothing follows.
    pub async fn next(&mut self) -> LiveEvent {
        if let Some(page) = self.first.take() {
            return self.history(page);
        }
        loop {
            let found = poll_fn(|context| match self.feed.find(self.position, context.waker()) {
                Found::Nothing { closed: false, removed: false } if self.caught_up => Poll::Pending,
                found => Poll::Ready(found),
            });
            // What is found is looked at without waiting, so that nothing that must stay on this thread is kept.
            let page_from = match self.sort(found.await) {
                Next::Event(event) => return event,
                Next::Page(from) => from,
                Next::Again => continue,
                Next::Anew => match self.watch_anew().await {
                    Ok(true) => continue,
                    Ok(false) => return LiveEvent::Removed,
                    Err(error) => return LiveEvent::Failed(error),
                },
                Next::Later => {
                    tokio::time::sleep(HISTORY_RETRY).await;
                    continue;
                }
            };
            let page = self.shard.read_live(self.key.clone(), page_from, HISTORY_BYTES_MAX).await;
            match page {
                Ok(page) if page.incarnation != self.facts.incarnation => return LiveEvent::Removed,
                Ok(page) if page.next == page.start => {}
                Ok(page) => return self.history(page),
                // Who comes again is told which it was.
                Err(ShardError::Refused(Refusal::NotFound | Refusal::OffsetGone | Refusal::OffsetTrimmed { .. })) => {
                    return LiveEvent::Removed;
                }
                // Readers that take nothing are cut off in time; a session that ended would only come again.
                Err(ShardError::Limit(Limit::Reads)) => tokio::time::sleep(HISTORY_RETRY).await,
                Err(error) => return LiveEvent::Failed(error),
            }
        }
    }

    fn sort(&mut self, found: Found) -> Next {
        let next = self.offset(self.position);
        match found {
            Found::Event(event) if event.start == self.position => match self.claim_encoded(&event) {
                Ok(claim) => Next::Event(self.event(event, claim)),
                // Whoever is too late for it afterwards is cut off.
                Err(_) => Next::Later,
            },
            Found::Event(_) | Found::Older => Next::Page(next),
            Found::CutOff if self.caught_up => {
                self.shard.0.stats.limits_met.count(Limit::Live);
                Next::Event(LiveEvent::Lagged)
            }
            // Still reading history: the log has what the feed has dropped.
            Found::CutOff => {
                self.feed.rejoin();
                Next::Again
            }
            Found::Lost => Next::Anew,
            Found::Nothing { removed: true, .. } => Next::Event(LiveEvent::Removed),
            Found::Nothing { closed: true, .. } => Next::Event(LiveEvent::Closed { next }),
            Found::Nothing { .. } => {
                self.caught_up = true;
                Next::Event(LiveEvent::CaughtUp { next })
            }
        }
    }

    /// Claims what encoding the event takes for this reader alone: nothing, if the encoded form is shared.
    fn claim_encoded(&self, event: &Event) -> Result<Option<PageClaim>, ShardError> {
        (!event.is_shared()).then(|| self.shard.claim_read(budget::ENCODED_BYTES_MAX)).transpose()
    }

    fn event(&mut self, event: Rc<Event>, claim: Option<PageClaim>) -> LiveEvent {
        self.position = event.end;
        let (tail, closed) = self.feed.tail();
        let up_to_date = self.position == tail;
        self.caught_up |= up_to_date;
        let payload = event.payload.clone();
        LiveEvent::Data(LiveData {
            next: self.offset(self.position),
            up_to_date,
            closed: closed && up_to_date,
            event: claim.is_none().then(|| SendWrapper::new(event)),
            chunks: vec![match claim {
                Some(claim) => budget::keep(payload, claim),
                None => payload,
            }],
        })
    }

    fn history(&mut self, page: Page) -> LiveEvent {
        self.position = page.next.position;
        self.caught_up |= page.up_to_date;
        let Page { chunks, next, up_to_date, closed, .. } = page;
        LiveEvent::Data(LiveData { chunks, next, up_to_date, closed, event: None })
    }

    /// Takes everything before `position` for known.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.position = self.position.max(position);
    }

    /// Waits until there is something after what is known.
    pub(crate) async fn changed(&mut self) -> Change {
        loop {
            let changed = poll_fn(|context| match self.feed.find(self.position, context.waker()) {
                Found::Event(_) | Found::Older | Found::CutOff => Poll::Ready(Some(Change::Bytes)),
                Found::Lost => Poll::Ready(None),
                Found::Nothing { removed: true, .. } => Poll::Ready(Some(Change::Removed)),
                Found::Nothing { closed: true, .. } => Poll::Ready(Some(Change::Closed)),
                Found::Nothing { .. } => Poll::Pending,
            });
            match changed.await {
                Some(change) => return change,
                None => match self.watch_anew().await {
                    Ok(true) => {}
                    Ok(false) => return Change::Removed,
                    Err(error) => return Change::Failed(error),
                },
            }
        }
    }

    /// Follows the stream where it is led now, from where this reader is; says whether it is the same stream still.
    async fn watch_anew(&mut self) -> Result<bool, ShardError> {
        match self.shard.begin_to_follow(&self.key).await {
            Ok((facts, feed)) => {
                self.feed = feed;
                Ok(facts.incarnation == self.facts.incarnation)
            }
            Err(ShardError::Refused(Refusal::NotFound)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn offset(&self, position: u64) -> Offset {
        self.facts.offset(position)
    }
}

enum Next {
    Event(LiveEvent),
    Page(Offset),
    Again,
    /// The feed is lost.
    Anew,
    Later,
}

impl Core {
    /// Puts this shard's reader, or a peer, into the stream's feed, and answers with the state that it begins at.
    pub(crate) fn watch(&self, origin: Peer, key: &StreamKey, number: u64) -> Response {
        let group = self.local_group(key);
        let state = group.leading()?;
        let stream = self.live_stream(&group, &state, key)?;
        let facts = stream.facts();
        self.touch(facts.incarnation, facts.expiry);
        let (incarnation, tail) = (facts.incarnation, facts.next.position);
        if origin == Peer::Here(self.id) {
            self.feeds.join_own(group.id, number, incarnation, tail, facts.closed);
        } else {
            self.feeds.add_peer(group.id, incarnation, tail, facts.closed, (origin, number));
        }
        Ok(Answer::Watching { facts, number })
    }

    /// The owner's answer to a watch: what it tells from now on follows this tail, so whoever asked has a place from here on.
    pub(crate) fn join_mirror(&self, owner: Peer, response: &Response) {
        if let Ok(Answer::Watching { facts, number }) = response {
            let (incarnation, tail) = (facts.incarnation, facts.next.position);
            self.feeds.join_mirror(owner, *number, incarnation, tail, facts.closed);
        }
    }
}
