//! Listing: the streams of a bucket, one slot at a time, so that a long listing can pause between slots.

use crate::group::Group;
use crate::stream::Stream;

impl Group {
    /// Visits the streams of `bucket` in slot `slot` whose names begin with `prefix` and sort after `after`. `visit` gets
    /// the name within the bucket. The order is not defined, and differs between replicas: the caller merges slots anyway.
    pub fn list_slot(
        &self,
        slot: usize,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        visit: &mut dyn FnMut(&str, &Stream),
    ) {
        for stream in self.slots.slot(slot) {
            let name = stream.key().strip_prefix(bucket).and_then(|rest| rest.strip_prefix('/'));
            let wanted = |name: &&str| name.starts_with(prefix) && after.is_none_or(|after| *name > after);
            if let Some(name) = name.filter(wanted) {
                visit(name, stream);
            }
        }
    }
}
