//! Listing: the streams of a bucket, one slot at a time, so that a long listing can pause between slots.

use crate::group::Group;
use crate::stream::Stream;

impl Group {
    /// Visits the streams of `bucket` in slot `slot` whose names begin with `prefix` and sort after `after`, in the order
    /// of their names (within this slot). `visit` gets the name within the bucket.
    pub fn list_slot(
        &self,
        slot: usize,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        visit: &mut dyn FnMut(&str, &Stream),
    ) {
        let name_of = |stream: &Stream| -> Option<usize> {
            let name = stream.key().strip_prefix(bucket)?.strip_prefix('/')?;
            let wanted = name.starts_with(prefix) && after.is_none_or(|after| name > after);
            wanted.then_some(bucket.len() + 1)
        };
        let mut found: Vec<(&str, &Stream)> =
            self.slots.slot(slot).filter_map(|stream| Some((&stream.key()[name_of(stream)?..], stream))).collect();
        // The table's order depends on what was there before, which differs between replicas.
        found.sort_unstable_by_key(|(name, _)| *name);
        for (name, stream) in found {
            visit(name, stream);
        }
    }
}
