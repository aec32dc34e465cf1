//! How streams follow subscriptions: they are linked, advance, are acknowledged, and go.

use std::collections::BTreeSet;

use smallvec::SmallVec;
use weir_types::cut_at_slash;

use crate::group::{Group, Outcome, recount};
use crate::key::KeyRef;
use crate::pattern::Pattern;
use crate::reply::Reply;
use crate::stream::Stream;
use crate::subscription::cursors::{Cursors, Pending};
use crate::subscription::watch::{Ack, EncodedAcks, Link, WATCH_EPOCH_MAX, Watch, is_wakes};

/// A stream that is linked to a subscription.
#[derive(Clone, Copy, Debug)]
pub struct Linked<'a> {
    /// The stream.
    pub stream: &'a Stream,
    /// How it came to be linked.
    pub link: Link,
    /// The position after the last record that was processed.
    pub acked: u64,
}

impl Stream {
    pub(crate) fn cursors(&self) -> Option<&Cursors> {
        self.origin().map(|origin| &origin.cursors).filter(|cursors| !cursors.is_empty())
    }

    /// Links the stream anew if the watches have changed since that was last done; it ended at `before` then.
    pub(crate) fn follow(&mut self, watches: &[Watch], epoch: u32, before: u64) {
        self.set_watched(epoch);
        let is_wakes = is_wakes(watches, self.name());
        let linked: SmallVec<[u64; 4]> =
            watches.iter().filter(|watch| self.is_linked(watch, is_wakes)).map(|watch| watch.number).collect();
        if self.cursors().is_some() || !linked.is_empty() {
            self.origin_mut().cursors.link(&linked, before);
        }
    }

    /// Whether a watch is for the stream. A cursor says so without asking the pattern: a pattern never changes, and a stream that a watch
    /// no longer names, or that wakes are written to, was unlinked then.
    fn is_linked(&self, watch: &Watch, is_wakes: bool) -> bool {
        let has_cursor = self.cursors().is_some_and(|cursors| cursors.of(watch.number).is_some());
        has_cursor || watch.link(self.name(), is_wakes).is_some()
    }

    fn name(&self) -> &str {
        cut_at_slash(&self.key).expect("a stream's key has a bucket").1
    }

    /// Adds what it has that some cursor has not; it ended at `before`, up to where that was added.
    pub(crate) fn note_pending(&self, before: u64, pending: &mut Pending) {
        let tail = self.tail;
        for cursor in self.cursors().into_iter().flat_map(Cursors::iter) {
            if before <= cursor.position && cursor.position < tail {
                pending.add(cursor.number, &self.key);
            }
        }
    }
}

impl Group {
    pub(crate) fn watches_of(&self, bucket: &str) -> &[Watch] {
        self.buckets.get(bucket).map_or(&[], |bucket| &bucket.watches)
    }

    /// Replaces one watch of a bucket that is there, or removes it.
    pub(crate) fn set_watch(&mut self, name: &str, number: u64, watch: Option<Watch>) {
        let mut watches = self.watches_of(name).to_vec();
        watches.retain(|before| before.number != number);
        watches.extend(watch);
        self.set_watches(name, watches);
    }

    /// Replaces the watches of a bucket that is there.
    pub(crate) fn set_watches(&mut self, name: &str, mut watches: Vec<Watch>) {
        // However they came, they are the same.
        watches.sort_unstable_by_key(|watch| watch.number);
        let bucket = self.buckets.get_mut(name).expect("the caller has found it");
        if bucket.watches == watches {
            return;
        }
        self.watched_buckets += usize::from(!watches.is_empty());
        self.watched_buckets -= usize::from(!bucket.watches.is_empty());
        let bytes = |watches: &[Watch]| watches.iter().map(Watch::memory_bytes).sum::<usize>();
        self.watches_bytes = self.watches_bytes + bytes(&watches) - bytes(&bucket.watches);
        let before = std::mem::replace(&mut bucket.watches, watches);
        let watches = &bucket.watches;
        let mut unlinked: Vec<(u64, Box<str>)> = Vec::new();
        for old in &before {
            match watches.iter().find(|watch| watch.number == old.number) {
                None => self.pending.forget(old.number),
                Some(new) => {
                    let is_linked = |name: &str| new.link(name, is_wakes(watches, name)).is_some();
                    let gone = old.explicit.difference(&new.explicit).filter(|gone| !is_linked(gone));
                    unlinked.extend(gone.map(|gone| (old.number, format!("{name}/{gone}").into())));
                }
            }
        }
        let is_new = |watch: &&Watch| before.iter().all(|old| old.number != watch.number);
        let new_wakes: BTreeSet<Box<str>> =
            watches.iter().filter(is_new).filter_map(|watch| watch.wake_stream.clone()).collect();
        // What is linked again later begins at the tail as of then.
        for (number, key) in unlinked {
            let key = KeyRef::parse(&key).expect("names were checked when their command was read");
            self.unlink(key, number);
        }
        for wakes in new_wakes {
            self.unlink_unnamed(name, &wakes);
        }
        self.begin_watch_epoch();
    }

    /// Adds what a stream of a snapshot has that some subscription has not. A cursor may be of one that is gone.
    pub(crate) fn find_pending(&mut self, stream: &Stream) {
        let (bucket, _) = cut_at_slash(&stream.key).expect("a stream's key has a bucket");
        let watches = self.buckets.get(bucket).map_or(&[][..], |bucket| &bucket.watches);
        let is_known = |number: u64| watches.iter().any(|watch| watch.number == number);
        for cursor in stream.cursors().into_iter().flat_map(Cursors::iter) {
            if cursor.position < stream.tail && is_known(cursor.number) {
                self.pending.add(cursor.number, &stream.key);
            }
        }
    }

    /// Every stream is linked anew when it takes its next record.
    fn begin_watch_epoch(&mut self) {
        if self.watch_epoch < WATCH_EPOCH_MAX {
            self.watch_epoch += 1;
            return;
        }
        // After millions of changes, once.
        self.watch_epoch = 1;
        self.slots.forget_watched();
    }

    /// Unlinks a stream that wakes are written to from all watches but those that name it.
    fn unlink_unnamed(&mut self, bucket: &str, name: &str) {
        let key = format!("{bucket}/{name}");
        let key = KeyRef::parse(&key).expect("names were checked when their command was read");
        let watches = self.watches_of(bucket);
        let is_named = |number| watches.iter().any(|watch| watch.number == number && watch.explicit.contains(name));
        let cursors = self.slots.get(key).and_then(Stream::cursors).into_iter().flat_map(Cursors::iter);
        let unnamed: Vec<u64> = cursors.map(|cursor| cursor.number).filter(|number| !is_named(*number)).collect();
        for number in unnamed {
            self.unlink(key, number);
        }
    }

    fn unlink(&mut self, key: KeyRef<'_>, number: u64) {
        self.pending.remove(number, key.as_str());
        if self.slots.get(key).is_none_or(|stream| stream.cursors().is_none_or(|all| all.of(number).is_none())) {
            return;
        }
        let stream = self.slots.get_mut(key).expect("it was just there");
        let before_bytes = stream.memory_bytes();
        stream.origin_mut().cursors.remove(number);
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
    }

    /// Moves cursors of a subscription. What is behind a cursor already, or of another life, changes nothing.
    pub(crate) fn ack(&mut self, bucket: &str, number: u64, acks: EncodedAcks<'_>) -> Outcome {
        for Ack { name, incarnation, position } in acks.try_decode().expect("it was checked when it was read") {
            let text = format!("{bucket}/{name}");
            let Ok(key) = KeyRef::parse(&text) else { continue };
            if self.life_at(key, incarnation).is_none_or(|stream| stream.cursors().is_none()) {
                continue;
            }
            let stream = self.slots.get_mut(key).expect("it was just there");
            let tail = stream.tail;
            let Some(cursor) = stream.origin_mut().cursors.get_mut(number) else {
                continue;
            };
            cursor.position = cursor.position.max(position.min(tail));
            if cursor.position == tail {
                self.pending.remove(number, &text);
            }
        }
        Outcome::unchanged(Reply::Done)
    }

    /// Subscriptions that have a stream here which has come to have more than was processed, since this was asked last; each with its
    /// bucket.
    pub fn take_pending_news(&mut self) -> Vec<(Box<str>, u64)> {
        let news = self.pending.take_news();
        let one = |number| Some((self.pending.of(number).next()?, number));
        news.into_iter().filter_map(one).map(|(key, number)| (bucket_of(key).into(), number)).collect()
    }

    /// Whether [`Group::take_pending_news`] has something to say.
    pub fn has_pending_news(&self) -> bool {
        self.pending.has_news()
    }

    /// All subscriptions that have a stream here which has more than was processed, each with its bucket.
    pub fn pending_subscriptions(&self) -> impl Iterator<Item = (Box<str>, u64)> {
        self.pending.all().map(|(number, key)| (bucket_of(key).into(), number))
    }

    /// The streams of `bucket` that have more than was processed for a subscription, in the order of their names.
    pub fn pending(&self, bucket: &str, number: u64) -> impl Iterator<Item = Linked<'_>> {
        self.pending_behind(bucket, number, "")
    }

    /// Those whose names are behind `name`.
    pub fn pending_behind(&self, bucket: &str, number: u64, name: &str) -> impl Iterator<Item = Linked<'_>> {
        let keys = self.pending.behind(number, format!("{bucket}/{name}"));
        let streams = keys.filter_map(|key| self.slots.get(KeyRef::parse(key).ok()?));
        streams.filter_map(move |stream| self.linked(bucket, number, stream))
    }

    /// The stream as a subscription has it, if it is linked to that.
    pub fn linked<'a>(&self, bucket: &str, number: u64, stream: &'a Stream) -> Option<Linked<'a>> {
        let name = stream.name_in(bucket).filter(|_| !stream.is_gone())?;
        let watches = self.watches_of(bucket);
        let watch = watches.iter().find(|watch| watch.number == number)?;
        let cursor = stream.cursors().and_then(|cursors| cursors.of(number));
        // The pattern is asked only where that has not been decided for these watches.
        let link = match cursor {
            Some(_) if watch.explicit.contains(name) => Some(Link::Explicit),
            Some(_) => Some(Link::Glob),
            None if stream.watched() == self.watch_epoch => None,
            None => watch.link(name, is_wakes(watches, name)),
        };
        Some(Linked { stream, link: link?, acked: cursor.unwrap_or(stream.tail) })
    }

    /// Segments and bytes that [`Group::linked`] compares at most, and names of streams that wakes are written to.
    pub fn linked_steps(&self, bucket: &str, number: u64) -> usize {
        let watches = self.watches_of(bucket);
        let watch = watches.iter().find(|watch| watch.number == number);
        watches.len() + watch.and_then(|watch| watch.pattern.as_ref()).map_or(1, Pattern::steps_max)
    }
}

fn bucket_of(key: &str) -> &str {
    cut_at_slash(key).expect("a stream's key has a bucket").0
}

impl Linked<'_> {
    /// Its name within the bucket.
    pub fn name(&self) -> &str {
        self.stream.name()
    }
}
