//! Listing a bucket: every group gives its first streams by name, the asking shard merges them.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_types::GroupId;
use weir_types::limits::SLOTS;

use crate::core::{Core, Shard};
use crate::message::{Answer, ListQuery, ListedStream, Request, Response, ShardError};

/// Slots between two pauses: a listing of a large bucket must not hold up the shard's appends.
const SLOTS_PER_TURN: usize = 64;

impl Shard {
    /// Lists the first `limit` streams of `bucket`, by name, whose names begin with `prefix` and come after `after`.
    ///
    /// # Errors
    /// [`weir_stream::Refusal::BucketNotFound`] when there is no such bucket.
    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedStream>, ShardError> {
        let query = ListQuery { bucket: bucket.into(), prefix: prefix.into(), after: after.map(Into::into), limit };
        let query = Arc::new(query);
        let mut listed = Vec::new();
        for group in self.0.topology.groups() {
            let owner = self.0.topology.owner_of(group);
            match self.call(owner, Request::List { group, query: query.clone() }).await? {
                Answer::Listed(streams) => listed.extend(streams),
                _ => unreachable!("a listing is answered with streams"),
            }
        }
        listed.sort_unstable_by(|a: &ListedStream, b| a.name.cmp(&b.name));
        listed.truncate(limit);
        Ok(listed)
    }
}

impl Core {
    pub(crate) async fn list_group(&self, group: GroupId, query: &ListQuery) -> Response {
        let group = self.group(group);
        if group.state.borrow().bucket(&query.bucket).is_none() {
            return Err(weir_stream::Refusal::BucketNotFound.into());
        }
        let mut first: BTreeMap<Box<str>, weir_stream::Summary> = BTreeMap::new();
        for slot in 0..SLOTS {
            if slot % SLOTS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
            let state = group.state.borrow();
            state.list_slot(slot, &query.bucket, &query.prefix, query.after.as_deref(), &mut |name, stream| {
                let fits = first.len() < query.limit || first.last_key_value().is_some_and(|(last, _)| name < &**last);
                if fits && !self.is_expired(&group, stream) {
                    first.insert(name.into(), stream.summary());
                }
                if first.len() > query.limit {
                    first.pop_last();
                }
            });
        }
        Ok(Answer::Listed(first.into_iter().map(|(name, summary)| ListedStream { name, summary }).collect()))
    }
}
