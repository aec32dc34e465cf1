//! Cursors: up to where a stream was processed, and which streams have more.
//!
//! Which subscriptions a stream is linked to is decided once per stream and change of the watches, when it takes its first record after
//! that: until then its cursor would be at its tail, so that a subscription over any number of streams costs nothing to make. The
//! records of a stream that comes later are all new to it.
//!
//! Streams that have more than some cursor says are *pending*: that is all that a wake has to look at. It follows from the cursors,
//! so it is in no snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use smallvec::SmallVec;
use weir_types::limits::SUBSCRIPTIONS_PER_BUCKET_MAX;

use crate::codec::{CodecError, Reader, counted};
use crate::sink::Sink;
use crate::subscription::kept::ENTRY_BYTES;

const WHAT: &str = "cursor";

/// Up to where a stream was processed, for one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The subscription's number.
    pub(crate) number: u64,
    pub(crate) position: u64,
}

/// A stream's cursors, in no order that means anything. Few streams have any, and those mostly one.
#[derive(Debug, Default)]
pub(crate) struct Cursors(SmallVec<[Cursor; 1]>);

/// Streams that have more than a cursor says.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Their addresses, by the subscription's number.
    streams: BTreeMap<u64, BTreeSet<Box<str>>>,
    /// The subscriptions for which one came since this was asked last.
    news: BTreeSet<u64>,
    bytes: usize,
}

impl Cursors {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Cursor> {
        self.0.iter()
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Cursor> {
        self.0.iter_mut().find(|cursor| cursor.number == number)
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.0.retain(|cursor| cursor.number != number);
    }

    pub(crate) fn of(&self, number: u64) -> Option<u64> {
        self.0.iter().find(|cursor| cursor.number == number).map(|cursor| cursor.position)
    }

    /// Has exactly these; new ones are at `position`.
    pub(crate) fn link(&mut self, linked: &[u64], position: u64) {
        self.0.retain(|cursor| linked.contains(&cursor.number));
        for &number in linked {
            if self.of(number).is_none() {
                self.0.push(Cursor { number, position });
            }
        }
    }

    /// Those of the stream that ends at `tail` are not behind it.
    pub(crate) fn cut(&mut self, tail: u64) {
        self.0.iter_mut().for_each(|cursor| cursor.position = cursor.position.min(tail));
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<Cursor>() } else { 0 }
    }

    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        sink.varint(self.0.len() as u64);
        for Cursor { number, position } in &self.0 {
            sink.varint(*number);
            sink.varint(*position);
        }
    }

    /// Reads what [`Cursors::put`] wrote, of a stream that ends at `tail`.
    pub(crate) fn read(reader: &mut Reader<'_>, tail: u64) -> Result<Cursors, CodecError> {
        let mut cursors = Cursors::default();
        for _ in 0..reader.up_to(SUBSCRIPTIONS_PER_BUCKET_MAX, WHAT)? {
            let (number, position) = (counted(reader.varint(WHAT)?, WHAT)?, reader.varint(WHAT)?);
            if position > tail || number == 0 || cursors.of(number).is_some() {
                return Err(CodecError::Field(WHAT));
            }
            cursors.0.push(Cursor { number, position });
        }
        if cursors.is_empty() { Err(CodecError::Field(WHAT)) } else { Ok(cursors) }
    }
}

impl Pending {
    /// Subscriptions that have a stream here which was not pending before, since this was asked last.
    pub(crate) fn take_news(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.news)
    }

    pub(crate) fn add(&mut self, number: u64, key: &str) {
        if self.streams.entry(number).or_default().insert(key.into()) {
            self.bytes += key.len() + ENTRY_BYTES;
            self.news.insert(number);
        }
    }

    pub(crate) fn remove(&mut self, number: u64, key: &str) {
        let Some(streams) = self.streams.get_mut(&number) else { return };
        if streams.remove(key) {
            self.bytes -= key.len() + ENTRY_BYTES;
        }
        if streams.is_empty() {
            self.streams.remove(&number);
            self.news.remove(&number);
        }
    }

    /// A stream with these cursors is gone: nobody is woken for it.
    pub(crate) fn forget_stream(&mut self, cursors: &Cursors, key: &str) {
        for cursor in &cursors.0 {
            self.remove(cursor.number, key);
        }
    }

    pub(crate) fn forget(&mut self, number: u64) {
        for key in self.streams.remove(&number).into_iter().flatten() {
            self.bytes -= key.len() + ENTRY_BYTES;
        }
        self.news.remove(&number);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        // Each has a tree of its own.
        self.bytes + (self.streams.len() + self.news.len()) * ENTRY_BYTES
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// The subscriptions for which streams are pending, each with the address of one of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, &str)> {
        self.streams.iter().filter_map(|(number, streams)| Some((*number, &**streams.first()?)))
    }

    /// The addresses of the streams that are pending for a subscription, in their order.
    pub(crate) fn of(&self, number: u64) -> impl Iterator<Item = &str> {
        self.behind(number, String::new())
    }

    /// Those behind `key`.
    pub(crate) fn behind(&self, number: u64, key: String) -> impl Iterator<Item = &str> {
        let all = self.streams.get(&number).into_iter();
        all.flat_map(move |all| all.range::<str, _>((Bound::Excluded(&*key), Bound::Unbounded))).map(|key| &**key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cursors_than_a_bucket_has_subscriptions_are_refused_before_they_are_read() {
        let read = |count: u64| {
            let mut buf = Vec::new();
            buf.varint(count);
            (1..=count.min(300)).for_each(|number| {
                buf.varint(number);
                buf.varint(7);
            });
            let mut reader = Reader::new(&buf);
            let read = Cursors::read(&mut reader, 9).map(|cursors| cursors.iter().count());
            (read, buf.len() - reader.rest().len())
        };
        let all = SUBSCRIPTIONS_PER_BUCKET_MAX as u64;
        assert_eq!(read(all).0, Ok(SUBSCRIPTIONS_PER_BUCKET_MAX));
        assert_eq!(read(all + 1), (Err(CodecError::Field(WHAT)), 2), "nothing behind the count is looked at");
        assert_eq!(read(u64::MAX), (Err(CodecError::Field(WHAT)), 10));
    }
}
