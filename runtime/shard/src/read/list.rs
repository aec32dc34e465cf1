//! Listing a bucket: group by group, in each slot by slot, in a slot by the hash of the address.
//!
//! So a page goes on where the one before has ended, without looking at what that has shown; by name, every page would have
//! to look at every stream. A stream that is there all the time is listed once; of others it depends on when they come and
//! go. A page is short, or empty, where few of many streams are wanted: one request looks at so many and no more.

use std::sync::Arc;

use weir_types::limits::SLOTS;
use weir_types::{GroupId, Slot, StreamKey};

use crate::core::{Core, Shard};
use crate::message::{Answer, ListCursor, ListQuery, ListedStream, Listing, Request, Response, ShardError};

/// Streams that are looked at between two pauses; a slot is not divided.
const STREAMS_PER_TURN: usize = 1024;
/// Slots that are looked at between two pauses.
const SLOTS_PER_TURN: usize = 512;
/// Streams that a group looks at for one request.
const STREAMS_PER_REQUEST: usize = 1 << 16;

impl Shard {
    /// Lists up to `limit` streams of `bucket` whose names begin with `prefix`, behind those of the page that has ended at
    /// `after`. A few more where addresses have the same hash, which is as good as never.
    ///
    /// # Errors
    /// [`weir_stream::Refusal::BucketNotFound`] when there is no such bucket.
    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<Listing, ShardError> {
        assert!(limit > 0, "a page has room for a stream");
        let mut listing = Listing { streams: Vec::new(), next: after };
        let topology = self.0.topology;
        let first = after.map_or(GroupId(0), |after| topology.group_of(after.slot()));
        for group in topology.groups().skip_while(|group| *group < first) {
            let limit = limit.saturating_sub(listing.streams.len());
            if limit == 0 {
                return Ok(listing);
            }
            let after = after.filter(|_| group == first);
            let query = Arc::new(ListQuery { bucket: bucket.into(), prefix: prefix.into(), after, limit });
            let answer = self.ask(Request::List { group, query }).await?;
            let Answer::Listed(part) = answer else { unreachable!("a listing is answered with streams") };
            listing.streams.extend(part.streams);
            if part.next.is_some() {
                return Ok(Listing { next: part.next, ..listing });
            }
            listing.next = listing.streams.last().map(|last| ListCursor::at(bucket, &last.name));
        }
        Ok(Listing { next: None, ..listing })
    }
}

impl Core {
    /// A group's part of a page; `next` says where to go on in it, if it has not come to its end.
    pub(crate) async fn list_group(&self, group: GroupId, query: &ListQuery) -> Response {
        let group = self.group(group);
        if group.leading()?.bucket(&query.bucket).is_none() {
            return Err(weir_stream::Refusal::BucketNotFound.into());
        }
        let mut streams: Vec<(u64, ListedStream)> = Vec::new();
        let page = |streams: Vec<(u64, ListedStream)>, next| {
            let streams = streams.into_iter().map(|(_, stream)| stream).collect();
            Ok(Answer::Listed(Listing { streams, next }))
        };
        let (mut looked, mut turn) = (0, (0, 0));
        for slot in query.after.map_or(0, |after| after.slot().index())..SLOTS {
            if turn.0 >= STREAMS_PER_TURN || turn.1 >= SLOTS_PER_TURN {
                tokio::task::yield_now().await;
                turn = (0, 0);
            }
            let state = group.leading()?;
            let mut found = Vec::new();
            let mut there = 0;
            for stream in state.slot(slot) {
                there += 1;
                let name = stream.name_in(&query.bucket).filter(|name| name.starts_with(&*query.prefix));
                if let Some(name) = name.filter(|_| !stream.is_gone() && !self.is_expired(&group, stream)) {
                    found.push((StreamKey::hash_of(stream.key()), name, stream));
                }
            }
            found.sort_unstable_by_key(|&(hash, name, _)| (hash, name));
            // In the first slot those that come before are there, too; in others all of them come after.
            let after = query.after.filter(|after| after.slot().index() == slot);
            for (hash, name, stream) in found.into_iter().filter(|(hash, ..)| after.is_none_or(|after| *hash > after.0))
            {
                match streams.last() {
                    Some(&(last, _)) if streams.len() >= query.limit && last != hash => {
                        return page(streams, Some(ListCursor(last)));
                    }
                    _ => streams.push((hash, ListedStream { name: name.into(), facts: stream.facts() })),
                }
            }
            looked += there;
            turn = (turn.0 + there, turn.1 + 1);
            if looked >= STREAMS_PER_REQUEST {
                return page(streams, Some(ListCursor::end_of(slot)));
            }
        }
        page(streams, None)
    }
}

impl ListCursor {
    /// The place of a stream.
    fn at(bucket: &str, name: &str) -> ListCursor {
        ListCursor(StreamKey::hash_of(&format!("{bucket}/{name}")))
    }

    /// Behind all streams of a slot.
    fn end_of(slot: usize) -> ListCursor {
        const { assert!(SLOTS.is_power_of_two()) };
        ListCursor(u64::MAX - (SLOTS - 1 - slot) as u64)
    }

    fn slot(self) -> Slot {
        Slot::of_hash(self.0)
    }
}
