//! What a group is told of buckets by group 0; see [`crate::bucket`].

use std::sync::Arc;

use crate::binding::Binding;
use crate::bucket::{Bucket, BucketTold, BucketView};
use crate::group::{Group, Outcome};
use crate::reply::{Refusal, Reply};

impl Group {
    /// The group's own copy of a bucket.
    pub fn bucket(&self, name: &str) -> Option<BucketView> {
        let &Bucket { epoch, created_ms, streams, fenced, retention, .. } = self.buckets.get(name)?;
        Some(BucketView { epoch, created_ms, streams, fenced, retention })
    }

    /// All bindings, each with its bucket.
    pub fn bound(&self) -> impl Iterator<Item = (&str, &Binding)> {
        let buckets = self.buckets.iter().filter(|(_, bucket)| !bucket.bindings.is_empty());
        buckets.flat_map(|(name, bucket)| bucket.bindings.iter().map(|binding| (&**name, &**binding)))
    }

    /// Whether any bucket keeps less than everything.
    pub fn has_retention(&self) -> bool {
        self.buckets.values().any(|bucket| !bucket.retention.is_unlimited())
    }

    /// Takes in what group 0 says of a bucket, if it is news.
    pub(crate) fn bucket_told(&mut self, name: &str, epoch: u64, told: BucketTold<'_>) -> Outcome {
        let bucket = self.buckets.get(name);
        let is_there = bucket.is_some();
        let known = bucket.map_or(self.buckets_gone_epoch, |bucket| bucket.epoch);
        let streams = bucket.map_or(0, |bucket| bucket.streams);
        match told {
            _ if is_there && epoch == known => {}
            BucketTold::Gone if !is_there => self.buckets_gone_epoch = known.max(epoch),
            // Without the bucket there is one number for all that have gone: it may be of another one, and then group 0
            // says it again under a new number.
            _ if epoch <= known => return Outcome::refused(Refusal::Stale),
            BucketTold::Gone if streams > 0 => return Outcome::refused(Refusal::BucketBusy),
            BucketTold::Gone => {
                self.set_bindings(name, Vec::new());
                self.set_watches(name, Vec::new());
                let gone = self.buckets.remove(name);
                assert!(
                    gone.is_some_and(|gone| gone.streams == 0 && gone.bindings.is_empty()),
                    "nothing is left in it"
                );
                self.buckets_gone_epoch = self.buckets_gone_epoch.max(epoch);
            }
            BucketTold::Watch { after, .. } if !is_there || after != known => return Outcome::refused(Refusal::Stale),
            BucketTold::Watch { after: _, number, watches } => {
                self.buckets.get_mut(name).expect("it is there").epoch = epoch;
                self.set_watch(name, number, watches.decode().pop());
            }
            BucketTold::There { created_ms, fenced, retention, bindings, watches } => {
                let (no_bindings, no_watches) = Default::default();
                let new = || Bucket {
                    epoch,
                    created_ms,
                    streams: 0,
                    fenced,
                    retention,
                    bindings: no_bindings,
                    watches: no_watches,
                };
                let own = self.buckets.entry(name.into()).or_insert_with(new);
                own.epoch = epoch;
                own.created_ms = created_ms;
                own.fenced = fenced;
                own.retention = retention;
                self.set_bindings(name, bindings.decode().into_iter().map(Arc::new).collect());
                self.set_watches(name, watches.decode());
            }
        }
        Outcome::unchanged(Reply::Bucket { streams })
    }
}
