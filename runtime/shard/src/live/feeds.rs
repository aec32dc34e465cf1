//! Which streams are followed on a shard, and how shards tell each other.
//!
//! A stream has a feed on every shard where somebody follows it, and nowhere else. The feed on the stream's own shard
//! hears from apply; feeds of other shards are *mirrors*, told by mail, one message per advance and shard.
//!
//! - A mirror is opened by the owner's answer to a *watch*, with its first reader in it: what the owner tells from then on
//!   follows that answer. The place is kept for whoever asked, and not taken if they have left.
//! - Its last reader's leaving closes it, and tells the owner so. Watches are numbered by the shard that asks: an *unwatch*
//!   names the last one that was answered, so it never takes back a newer one, whose answer is still on its way.
//! - Of the end of a stream, a close or a removal, peers are told and then forgotten: nothing follows.
//! - A shard of another node is a peer like others. When its mail is lost, or leadership moves, feeds are *lost*: nothing is heard
//!   in them any more, and their readers watch the stream anew, from where they are.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

use weir_cluster::NodeId;
use weir_types::{Distribution, GroupId, Incarnation, ShardId};

use crate::live::feed::{Feed, Found, Kind};
use crate::live::totals::Totals;
use crate::mailbox::Post;
use crate::message::{Advance, Mail, Peer};

/// The feeds of one shard. Cheap to clone: apply and the shard share it.
#[derive(Clone)]
pub(crate) struct Feeds(Rc<Inner>);

struct Inner {
    post: Rc<Post>,
    feeds: RefCell<HashMap<Incarnation, Rc<Feed>>>,
    totals: Rc<Totals>,
    /// The last watch of this shard.
    last_watch: Cell<u64>,
    /// The watches that somebody waits for, and the places of those that are answered.
    watches: RefCell<HashMap<u64, Option<Follower>>>,
    /// Called when the last follower of a stream of this shard's own has left.
    left: Box<dyn Fn(Incarnation)>,
}

/// A reader's place in a feed, given back when dropped.
pub(crate) struct Follower {
    feeds: Feeds,
    feed: Rc<Feed>,
    place: usize,
}

/// A watch that is waited for. Dropping it gives back the place that it has brought, or will bring.
pub(crate) struct Watch {
    feeds: Feeds,
    /// What the shard calls it.
    pub(crate) number: u64,
}

impl Feeds {
    /// Feeds that keep so many bytes; `left` hears of each stream of this shard's own that nobody follows any longer.
    pub(crate) fn new(
        post: Rc<Post>,
        bytes_max: usize,
        bytes_per_feed_max: usize,
        left: impl Fn(Incarnation) + 'static,
    ) -> Feeds {
        let (feeds, last_watch, watches) = Default::default();
        let totals = Rc::new(Totals::new(bytes_max, bytes_per_feed_max));
        Feeds(Rc::new(Inner { post, feeds, totals, last_watch, watches, left: Box::new(left) }))
    }

    /// Streams that are followed on this shard, or through it.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.feeds.borrow().len()
    }

    /// Live readers on this shard.
    pub(crate) fn subscribers(&self) -> usize {
        self.0.totals.readers()
    }

    /// Bytes kept for them.
    pub(crate) fn bytes(&self) -> usize {
        self.0.totals.bytes()
    }

    /// How long new bytes took from their apply until the last of their readers here had taken them, in nanoseconds.
    pub(crate) fn delivery_times(&self) -> Distribution {
        self.0.totals.delivery_times()
    }

    /// Whether anybody on this shard follows any stream: apply asks before it looks at anything else.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.feeds.borrow().is_empty()
    }

    /// Begins a watch.
    pub(crate) fn begin_watch(&self) -> Watch {
        let number = self.0.last_watch.get() + 1;
        self.0.last_watch.set(number);
        self.0.watches.borrow_mut().insert(number, None);
        Watch { feeds: self.clone(), number }
    }

    /// Whether somebody on this shard, or through it, follows the stream.
    pub(crate) fn is_followed(&self, incarnation: Incarnation) -> bool {
        self.0.feeds.borrow().contains_key(&incarnation)
    }

    /// Watch `number`, of a stream of this shard's own, is answered with this tail.
    pub(crate) fn join_own(&self, group: GroupId, number: u64, incarnation: Incarnation, tail: u64, closed: bool) {
        let feed = self.open_own(group, incarnation, tail, closed);
        self.join(number, feed);
    }

    /// Another shard wants to be told of a stream of this shard's own, which is at this tail. Of one that is closed there
    /// is nothing to tell.
    pub(crate) fn add_peer(
        &self,
        group: GroupId,
        incarnation: Incarnation,
        tail: u64,
        closed: bool,
        (peer, number): (Peer, u64),
    ) {
        if !closed {
            self.open_own(group, incarnation, tail, closed).add_peer(peer, number);
        }
    }

    /// Another shard no longer wants to be told. It may have watched again before it said so.
    pub(crate) fn forget_peer(&self, incarnation: Incarnation, peer: Peer, answered: u64) {
        if let Some(feed) = self.get(incarnation) {
            feed.forget_peer(peer, answered);
            self.close_if_unused(&feed);
        }
    }

    /// Watch `number`, of a stream of another shard, is answered with this tail.
    pub(crate) fn join_mirror(&self, owner: Peer, number: u64, incarnation: Incarnation, tail: u64, closed: bool) {
        let feed = self.open_mirror(owner, number, incarnation, tail, closed);
        feed.note_answer(number);
        self.join(number, feed);
    }

    /// Keeps a place for whoever waits for watch `number`.
    fn join(&self, number: u64, feed: Rc<Feed>) {
        let follower = Follower { feeds: self.clone(), place: feed.join(), feed };
        // Who has left has no place: dropping it closes the feed and tells the owner, if nobody else is there.
        let unwanted = match self.0.watches.borrow_mut().get_mut(&number) {
            Some(place) => place.replace(follower),
            None => Some(follower),
        };
        drop(unwanted);
    }

    /// A stream of this shard's own has advanced: tells all who follow it, here and elsewhere. Of a stream that is led elsewhere,
    /// they hear from there.
    pub(crate) fn announce(&self, advance: &Advance) {
        let Some(feed) = self.get(advance.incarnation).filter(|feed| feed.own_group().is_some()) else { return };
        let (owner, is_last) = (Peer::Here(self.0.post.own()), advance.closed || advance.removed);
        for peer in feed.peers_to_tell(is_last) {
            if self.0.post.is_full(peer) {
                feed.forget_peer(peer, u64::MAX);
                self.0.post.mail(peer, Mail::Ended { owner, incarnation: advance.incarnation });
            } else {
                self.0.post.mail(peer, Mail::Advanced { owner, advance: advance.clone() });
            }
        }
        feed.advance(advance);
        self.close_if_unused(&feed);
    }

    /// A stream of another shard has advanced. Every reader may have left since; then the owner has been told.
    pub(crate) fn mirror_advanced(&self, owner: Peer, advance: &Advance) {
        match self.get(advance.incarnation).filter(|feed| feed.owner() == Some(owner)) {
            Some(feed) if feed.is_next(advance) => feed.advance(advance),
            // Nobody has said what is between.
            Some(feed) => self.lose(&feed),
            None => {}
        }
    }

    /// The owner of a stream tells nothing more of it.
    pub(crate) fn mirror_ended(&self, owner: Peer, incarnation: Incarnation) {
        if let Some(feed) = self.get(incarnation).filter(|feed| feed.owner() == Some(owner)) {
            self.lose(&feed);
        }
    }

    /// This node does not lead a group any longer: who follows its streams here is to find out who does.
    pub(crate) fn lose_group(&self, group: GroupId) {
        self.lose_all(|feed| feed.own_group() == Some(group));
    }

    /// What a node tells of its streams is not heard any more.
    pub(crate) fn lose_mirrors(&self, node: NodeId) {
        self.lose_all(|feed| feed.owner().and_then(Peer::node) == Some(node));
    }

    /// Those shards of a node of which this is true want to be told of nothing any more.
    pub(crate) fn forget_peers_of(&self, node: NodeId, shards: impl Fn(ShardId) -> bool) {
        let are_gone = |peer: Peer| matches!(peer, Peer::Away(of, shard) if of == node && shards(shard.shard));
        let feeds: Vec<_> = self.0.feeds.borrow().values().cloned().collect();
        for feed in feeds {
            feed.forget_peers(&are_gone);
            self.close_if_unused(&feed);
        }
    }

    fn lose_all(&self, are_lost: impl Fn(&Feed) -> bool) {
        let feeds: Vec<_> = self.0.feeds.borrow().values().filter(|feed| are_lost(feed)).cloned().collect();
        feeds.iter().for_each(|feed| self.lose(feed));
    }

    /// Nothing is heard in a feed any more: its readers and its peers are told. It is nobody's any longer.
    fn lose(&self, feed: &Rc<Feed>) {
        let incarnation = feed.incarnation;
        self.0.feeds.borrow_mut().remove(&incarnation);
        if feed.own_group().is_some() {
            let owner = Peer::Here(self.0.post.own());
            for peer in feed.peers_to_tell(true) {
                self.0.post.mail(peer, Mail::Ended { owner, incarnation });
            }
        }
        self.unwatch(feed);
        feed.lose();
    }

    /// Tells the owner of a mirror that it is one no longer.
    fn unwatch(&self, feed: &Feed) -> bool {
        let Some((owner, answered)) = feed.to_unwatch() else { return false };
        let origin = Peer::Here(self.0.post.own());
        self.0.post.mail(owner, Mail::Unwatch { origin, incarnation: feed.incarnation, answered });
        true
    }

    /// Closes a feed that nobody follows any longer.
    fn close_if_unused(&self, feed: &Feed) {
        if !feed.is_unused() || feed.is_lost() {
            return;
        }
        let closed = self.0.feeds.borrow_mut().remove(&feed.incarnation);
        assert!(closed.is_some_and(|closed| std::ptr::eq(&*closed, feed)), "a feed is there while it is used");
        if !self.unwatch(feed) {
            (self.0.left)(feed.incarnation);
        }
    }

    fn get(&self, incarnation: Incarnation) -> Option<Rc<Feed>> {
        self.0.feeds.borrow().get(&incarnation).cloned()
    }

    /// The feed of a stream of this shard's own; a new one begins at this tail. The caller gives it a reader or a peer at once.
    fn open_own(&self, group: GroupId, incarnation: Incarnation, tail: u64, closed: bool) -> Rc<Feed> {
        match self.get(incarnation) {
            Some(feed) if feed.own_group().is_some() => return feed,
            // It was led elsewhere before.
            Some(feed) => self.lose(&feed),
            None => {}
        }
        self.open(incarnation, Kind::Own { group, peers: Vec::new() }, tail, closed)
    }

    /// The same for a stream of another shard.
    fn open_mirror(
        &self,
        owner: Peer,
        mut answered: u64,
        incarnation: Incarnation,
        tail: u64,
        closed: bool,
    ) -> Rc<Feed> {
        match self.get(incarnation) {
            Some(feed) if feed.owner() == Some(owner) && feed.tail() == (tail, closed) => return feed,
            // Mail was lost between the two answers: one of them is that to a watch from before. The owner goes on telling this
            // shard, so it is not told to stop, and the last watch that is taken back is the later one of both.
            Some(feed) if feed.owner() == Some(owner) => {
                answered = feed.to_unwatch().map_or(answered, |(_, before)| before.max(answered));
                self.0.feeds.borrow_mut().remove(&incarnation);
                feed.lose();
            }
            Some(feed) => self.lose(&feed),
            None => {}
        }
        // Of a stream that is closed there is nothing to be heard.
        let node = owner.node().filter(|_| !closed).and_then(|node| self.0.post.node(node));
        let kind = Kind::Mirror { owner, answered, expected: node.map(|node| node.expect()) };
        self.open(incarnation, kind, tail, closed)
    }

    fn open(&self, incarnation: Incarnation, kind: Kind, tail: u64, closed: bool) -> Rc<Feed> {
        let feed = Rc::new(Feed::new(self.0.totals.clone(), incarnation, kind, tail, closed));
        self.0.feeds.borrow_mut().insert(incarnation, feed.clone());
        feed
    }
}

impl Watch {
    /// The place in the feed, once the watch is answered.
    pub(crate) fn into_follower(self) -> Follower {
        let place = self.feeds.0.watches.borrow_mut().get_mut(&self.number).and_then(Option::take);
        place.expect("an answer to a watch brings a place")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let place = self.feeds.0.watches.borrow_mut().remove(&self.number);
        drop(place);
    }
}

impl Follower {
    /// See [`Feed::rejoin`].
    pub(crate) fn rejoin(&self) {
        self.feed.rejoin(self.place);
    }

    /// See [`Feed::find`].
    pub(crate) fn find(&self, position: u64, waker: &Waker) -> Found {
        self.feed.find(self.place, position, waker)
    }

    /// See [`Feed::tail`].
    pub(crate) fn tail(&self) -> (u64, bool) {
        self.feed.tail()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.feed.leave(self.place);
        self.feeds.close_if_unused(&self.feed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use smallvec::SmallVec;
    use tokio::time::Instant;

    use super::*;
    use crate::mailbox::mesh;

    const SHARDS: usize = 3;
    const OWNER: Peer = Peer::Here(ShardId(0));
    const STREAM: Incarnation = Incarnation(7);

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Somebody on this shard begins to follow the stream.
        Subscribe {
            shard: usize,
        },
        /// A reader leaves, or one that still waits for its watch to be answered.
        Leave {
            which: prop::sample::Index,
        },
        /// Bytes are appended.
        Append {
            bytes: u64,
        },
        /// The next message from one shard to another arrives.
        Deliver {
            from: usize,
            to: usize,
        },
        Close,
        Remove,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..SHARDS).prop_map(|shard| Step::Subscribe { shard }),
            6 => any::<prop::sample::Index>().prop_map(|which| Step::Leave { which }),
            4 => (1..4u64).prop_map(|bytes| Step::Append { bytes }),
            20 => (0..SHARDS, 0..SHARDS).prop_map(|(from, to)| Step::Deliver { from, to }),
            1 => Just(Step::Close),
            1 => Just(Step::Remove),
        ]
    }

    enum Message {
        Watch { number: u64 },
        Answer { number: u64, tail: u64, closed: bool },
        Refusal { number: u64 },
        Mail(Mail),
    }

    struct Reader {
        shard: usize,
        /// What it waits for, until it has a place.
        watch: Option<Watch>,
        place: Option<Follower>,
        position: u64,
    }

    /// Three shards, the first of which owns the one stream, and what is on its way between them.
    struct Net {
        shards: Vec<(Rc<Post>, Feeds)>,
        /// By sender, then receiver.
        ways: Vec<Vec<VecDeque<Message>>>,
        readers: Vec<Reader>,
        tail: u64,
        closed: bool,
        removed: bool,
    }

    impl Net {
        fn new() -> Net {
            let addresses = mesh(SHARDS as u16).1;
            let shard = |id: usize| {
                let post = Rc::new(Post::new(ShardId(id as u16), addresses.clone()));
                (post.clone(), Feeds::new(post, 1 << 20, 1 << 20, |_| {}))
            };
            let way = || (0..SHARDS).map(|_| VecDeque::new()).collect();
            let (shards, ways) = ((0..SHARDS).map(shard).collect(), (0..SHARDS).map(|_| way()).collect());
            Net { shards, ways, readers: Vec::new(), tail: 0, closed: false, removed: false }
        }

        fn owner(&self) -> &Feeds {
            &self.shards[0].1
        }

        /// What was put into the shards' posts in this step goes on its way.
        fn collect(&mut self) {
            for (from, (post, _)) in self.shards.iter().enumerate() {
                for (to, way) in self.ways[from].iter_mut().enumerate() {
                    way.extend(post.take(ShardId(to as u16)).into_iter().map(Message::Mail));
                }
            }
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Subscribe { shard: 0 } if !self.removed => {
                    let watch = self.owner().begin_watch();
                    self.owner().join_own(GroupId(0), watch.number, STREAM, self.tail, self.closed);
                    let place = Some(watch.into_follower());
                    self.readers.push(Reader { shard: 0, watch: None, place, position: self.tail });
                }
                Step::Subscribe { shard: 0 } => {}
                Step::Subscribe { shard } => {
                    let watch = self.shards[shard].1.begin_watch();
                    self.ways[shard][0].push_back(Message::Watch { number: watch.number });
                    self.readers.push(Reader { shard, watch: Some(watch), place: None, position: 0 });
                }
                Step::Leave { which } if !self.readers.is_empty() => {
                    drop(self.readers.remove(which.index(self.readers.len())));
                }
                Step::Leave { .. } => {}
                Step::Append { bytes } if !self.closed && !self.removed => self.announce(bytes, false, false),
                Step::Close if !self.closed && !self.removed => self.announce(0, true, false),
                Step::Remove if !self.removed => self.announce(0, false, true),
                Step::Append { .. } | Step::Close | Step::Remove => {}
                Step::Deliver { from, to } => {
                    if let Some(message) = self.ways[from][to].pop_front() {
                        self.deliver(from, to, message);
                    }
                }
            }
            self.collect();
        }

        fn announce(&mut self, bytes: u64, closed: bool, removed: bool) {
            let start = self.tail;
            self.tail += bytes;
            self.closed |= closed;
            self.removed |= removed;
            let payloads = if bytes > 0 { [Bytes::from(vec![b'x'; bytes as usize])].into() } else { SmallVec::new() };
            self.owner().announce(&Advance {
                incarnation: STREAM,
                at: Instant::now(),
                start,
                end: self.tail,
                payloads,
                closed,
                removed,
            });
        }

        fn deliver(&mut self, from: usize, to: usize, message: Message) {
            match message {
                Message::Watch { number } if self.removed => {
                    self.ways[to][from].push_back(Message::Refusal { number });
                }
                Message::Watch { number } => {
                    let (tail, closed) = (self.tail, self.closed);
                    self.owner().add_peer(GroupId(0), STREAM, tail, closed, (ShardId(from as u16).into(), number));
                    self.ways[to][from].push_back(Message::Answer { number, tail, closed });
                }
                Message::Answer { number, tail, closed } => {
                    self.shards[to].1.join_mirror(OWNER, number, STREAM, tail, closed);
                    if let Some(reader) = self.waiting(to, number) {
                        reader.place = reader.watch.take().map(Watch::into_follower);
                        reader.position = tail;
                    }
                }
                Message::Refusal { number } => {
                    self.readers.retain(|r| r.shard != to || r.watch.as_ref().is_none_or(|w| w.number != number));
                }
                Message::Mail(Mail::Advanced { owner, advance }) => self.shards[to].1.mirror_advanced(owner, &advance),
                Message::Mail(Mail::Unwatch { origin, incarnation, answered }) => {
                    self.shards[to].1.forget_peer(incarnation, origin, answered);
                }
                Message::Mail(_) => unreachable!("feeds send nothing else"),
            }
        }

        /// Whoever waits for this watch, if they have not left.
        fn waiting(&mut self, shard: usize, number: u64) -> Option<&mut Reader> {
            let mut readers = self.readers.iter_mut().filter(|reader| reader.shard == shard);
            readers.find(|reader| reader.watch.as_ref().is_some_and(|watch| watch.number == number))
        }

        fn deliver_all(&mut self) {
            let ways: Vec<_> = (0..SHARDS).flat_map(|from| (0..SHARDS).map(move |to| (from, to))).collect();
            while self.ways.iter().flatten().any(|way| !way.is_empty()) {
                ways.iter().for_each(|&(from, to)| self.take(Step::Deliver { from, to }));
            }
        }

        /// Every reader finds everything since it came, without a gap, and hears of the end.
        fn check_readers(&mut self) {
            for reader in &mut self.readers {
                let place = reader.place.as_ref().expect("every watch is answered");
                let ended = loop {
                    match place.find(reader.position, Waker::noop()) {
                        Found::Event(event) => {
                            assert_eq!(event.start, reader.position);
                            reader.position = event.end;
                        }
                        Found::Nothing { closed, removed } => break (closed, removed),
                        Found::Older | Found::CutOff | Found::Lost => panic!("nothing is missing"),
                    }
                };
                assert_eq!(reader.position, self.tail);
                // A closed stream's removal is found by whoever reads on.
                assert_eq!(ended.0, self.closed);
                assert!(ended.1 == self.removed || self.closed);
            }
        }
    }

    /// Feeds of the first of two shards, with its post.
    fn feeds() -> (Rc<Post>, Feeds) {
        let post = Rc::new(Post::new(ShardId(0), mesh(2).1));
        (post.clone(), Feeds::new(post, 1 << 20, 1 << 20, |_| {}))
    }

    fn watch(feeds: &Feeds, join: impl FnOnce(u64)) -> Follower {
        let watch = feeds.begin_watch();
        join(watch.number);
        watch.into_follower()
    }

    fn advance(start: u64, end: u64) -> Advance {
        let payloads = [Bytes::from(vec![b'x'; (end - start) as usize])].into();
        Advance { incarnation: STREAM, at: Instant::now(), start, end, payloads, closed: false, removed: false }
    }

    fn is_lost(reader: &Follower, position: u64) -> bool {
        matches!(reader.find(position, Waker::noop()), Found::Lost)
    }

    #[test]
    fn who_follows_a_group_that_is_led_elsewhere_is_told() {
        let (post, feeds) = feeds();
        let reader = watch(&feeds, |number| feeds.join_own(GroupId(0), number, STREAM, 5, false));
        feeds.add_peer(GroupId(0), STREAM, 5, false, (ShardId(1).into(), 9));
        feeds.announce(&advance(5, 7));
        feeds.lose_group(GroupId(1));
        assert!(matches!(reader.find(5, Waker::noop()), Found::Event(_)) && post.take(ShardId(1)).len() == 1);
        feeds.lose_group(GroupId(0));
        assert!(matches!(reader.find(5, Waker::noop()), Found::Event(_)), "what was told is not taken back");
        assert!(is_lost(&reader, 7));
        assert!(matches!(&post.take(ShardId(1))[..], [Mail::Ended { incarnation: STREAM, .. }]));
        // Whoever comes now has another feed, and leaving the lost one does not touch that.
        let anew = watch(&feeds, |number| feeds.join_own(GroupId(0), number, STREAM, 7, false));
        drop(reader);
        feeds.announce(&advance(7, 8));
        assert!(matches!(anew.find(7, Waker::noop()), Found::Event(_)));
        drop(anew);
        assert_eq!((feeds.len(), feeds.subscribers(), feeds.bytes()), (0, 0, 0));
    }

    #[test]
    fn a_mirror_is_lost_with_its_owner_and_with_a_gap() {
        let (post, feeds) = feeds();
        let (owner, other) = (Peer::Here(ShardId(1)), Peer::Here(ShardId(2)));
        let first = watch(&feeds, |number| feeds.join_mirror(owner, number, STREAM, 5, false));
        feeds.mirror_advanced(other, &advance(5, 6));
        // Its own replica has applied it, too; the leader tells of it.
        feeds.announce(&advance(5, 6));
        assert!(matches!(first.find(5, Waker::noop()), Found::Nothing { .. }), "nobody but the owner is heard");
        feeds.mirror_advanced(owner, &advance(5, 6));
        assert!(matches!(first.find(5, Waker::noop()), Found::Event(_)));
        feeds.mirror_advanced(owner, &advance(7, 8));
        assert!(is_lost(&first, 6) && feeds.is_empty());
        assert!(matches!(&post.take(ShardId(1))[..], [Mail::Unwatch { answered: 1, .. }]));

        let second = watch(&feeds, |number| feeds.join_mirror(owner, number, STREAM, 8, false));
        feeds.mirror_ended(other, STREAM);
        assert!(!is_lost(&second, 8));
        let third = watch(&feeds, |number| feeds.join_own(GroupId(0), number, STREAM, 8, false));
        assert!(is_lost(&second, 8) && !is_lost(&third, 8), "it is led here now");
        let fourth = watch(&feeds, |number| feeds.join_mirror(owner, number, STREAM, 8, false));
        assert!(is_lost(&third, 8) && !is_lost(&fourth, 8), "and then there again");
        feeds.mirror_ended(owner, STREAM);
        assert!(is_lost(&fourth, 8));
        drop((first, second, third, fourth));
        assert_eq!((feeds.len(), feeds.subscribers(), feeds.bytes()), (0, 0, 0));
    }

    #[test]
    fn an_answer_that_comes_late_brings_nobody_to_a_feed_that_misses_something() {
        let (post, feeds) = feeds();
        let owner = Peer::Here(ShardId(1));
        let at = |tail, closed| watch(&feeds, |number| feeds.join_mirror(owner, number, STREAM, tail, closed));
        // What came between the two was lost.
        let (early, late) = (at(5, false), at(9, false));
        assert!(is_lost(&early, 5) && !is_lost(&late, 9));
        assert!(matches!(early.find(4, Waker::noop()), Found::Older), "what is missing is read");
        feeds.mirror_advanced(owner, &advance(9, 10));
        assert!(matches!(late.find(9, Waker::noop()), Found::Event(_)));
        // The owner tells whoever has watched, and would stop if it were told to.
        assert!(post.take(ShardId(1)).is_empty());
        // The other way round, and then nobody is left: the owner hears of the later watch.
        feeds.join_mirror(owner, 1, STREAM, 5, false);
        assert!(is_lost(&late, 10));
        assert!(matches!(&post.take(ShardId(1))[..], [Mail::Unwatch { answered: 2, .. }]));
        drop((early, late));
        let (open, closed) = (at(10, false), at(10, true));
        assert!(is_lost(&open, 10) && matches!(closed.find(10, Waker::noop()), Found::Nothing { closed: true, .. }));
        drop((open, closed));
        assert_eq!((feeds.len(), feeds.subscribers(), feeds.bytes()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn feeds_end_with_their_readers_however_messages_cross(steps in vec(step(), 0..80)) {
            let mut net = Net::new();
            steps.into_iter().for_each(|step| net.take(step));
            net.deliver_all();
            net.check_readers();
            net.readers.clear();
            net.collect();
            net.deliver_all();
            for (_, feeds) in &net.shards {
                prop_assert_eq!((feeds.len(), feeds.subscribers(), feeds.bytes()), (0, 0, 0));
            }
        }
    }
}
