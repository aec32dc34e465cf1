//! Recovery: the state of a group that has lost its log, as it goes on with what is in the cold tier.
//!
//! What only the log had is gone: a stream ends where its cold bytes do. But clients may know of more. They have offsets
//! behind that end, of bytes that were in the log, or that came after the snapshot. If the stream went on under the same
//! offsets, such an offset would mean other bytes. So every stream that may have lost something begins a new *lineage*
//! ([`Offset`](weir_types::Offset)): it keeps its life and its bytes, and every offset of before is answered as one of an
//! earlier life. The one stream that cannot have lost anything is closed and has all its bytes in the cold tier.
//!
//! A stream that is cut
//! - is open: its close came after bytes that are lost, and whoever has them may append them again;
//! - knows no producers and no `Stream-Seq`: what they say of the lost bytes is no longer so. A producer that goes on is
//!   told that there is a gap; one that begins anew may send again what was lost.
//!
//! What became of subscriptions after group 0's snapshot, receivers and streams may know: wakes have been under way that it does not know,
//! or the one that it knows is over. So none is under way, and the next one has a generation that no lost one had ([`GENERATIONS_LOST`]).

use std::collections::BTreeMap;

use weir_types::{GroupId, Lineage};

use crate::group::{Group, recount};
use crate::meta::nodes::NodeTable;
use crate::meta::{BucketState, MetaBucket};
use crate::stream::Stream;

/// More wakes than a subscription can have had since a snapshot: some years of them.
const GENERATIONS_LOST: u64 = 1 << 36;

/// What is left of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder<'a> {
    /// `bucket/name`.
    pub key: &'a str,
    /// Bytes that are there, from the beginning on.
    pub bytes: u64,
    /// Bytes that are known to be lost behind them. There may have been more, later, if `is_final` is false.
    pub lost_bytes: u64,
    /// Whether it was closed when the snapshot was taken, so that nothing came later.
    pub is_final: bool,
}

/// A fork that has lost its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkLeft {
    /// `bucket/name`.
    pub(crate) key: Box<str>,
    pub(crate) lost_bytes: u64,
    pub(crate) is_final: bool,
}

impl Group {
    /// Gives up all that was in the log only. `random` gives numbers that nobody has seen; `told` is told of each stream that is
    /// not gone, but not of forks: what is left of them is known when all groups have done this, and [`join_forks`] says it.
    ///
    /// [`join_forks`]: crate::join_forks
    #[must_use = "forks have to be joined"]
    pub fn forget_log(
        &mut self,
        mut random: impl FnMut() -> u64,
        mut told: impl FnMut(Remainder<'_>),
    ) -> Vec<ForkLeft> {
        let mut forks = Vec::new();
        let (index_bytes, hotlog) = (&mut self.index_bytes, &mut self.hotlog);
        self.slots.for_each_mut(|stream| {
            let before_bytes = stream.memory_bytes();
            let is_final = stream.closed;
            let bytes = stream.hot_begin();
            let lost_bytes = stream.tail - bytes;
            if lost_bytes > 0 {
                stream.extents.hot.take_before(u64::MAX, |index, bytes| hotlog.release(index, bytes));
                stream.cut(bytes);
            }
            if lost_bytes > 0 || !is_final {
                stream.origin_mut().lineage = Lineage::from_bits(random());
            }
            recount(index_bytes, before_bytes, stream.memory_bytes());
            if stream.fork().is_some() {
                forks.push(ForkLeft { key: stream.key().into(), lost_bytes, is_final });
            } else if !stream.is_gone() {
                told(Remainder { key: stream.key(), bytes, lost_bytes, is_final });
            }
        });
        forks
    }
}

impl Stream {
    /// Ends it at `tail`, and forgets who has written what lay behind.
    pub(crate) fn cut(&mut self, tail: u64) {
        self.tail = tail;
        self.closed = false;
        if let Some(rare) = &mut self.rare {
            (rare.seq, rare.producers) = Default::default();
            if let Some(origin) = &mut rare.origin {
                // What was not trimmed may all be lost.
                origin.base = origin.base.min(tail);
                origin.cursors.cut(tail);
            }
        }
    }
}

/// Makes group 0's tables those of all `groups`, whose snapshots are of different times: a bucket is there if one of them
/// knows it, and is what the latest change has made of it. Each gets a new number, so that every group is told at the next
/// start.
pub fn join_buckets(groups: &mut BTreeMap<GroupId, Group>, count: u16) {
    let mut changes = 0;
    let mut known: BTreeMap<Box<str>, MetaBucket> = BTreeMap::new();
    for group in groups.values() {
        changes = changes.max(group.meta.changes).max(group.buckets_gone_epoch);
        for (name, bucket) in &group.buckets {
            changes = changes.max(bucket.epoch);
            let found = known.entry(name.clone()).or_insert_with(|| MetaBucket::new(bucket.created_ms, 0));
            if bucket.epoch > found.epoch {
                (found.epoch, found.retention) = (bucket.epoch, bucket.retention);
                let bindings = bucket.bindings.iter().map(|binding| (binding.name.clone(), binding.clone()));
                found.bindings = bindings.collect();
            }
        }
    }
    let group = groups.entry(GroupId::META).or_default();
    // One that had no snapshot begins with the first entry.
    group.begin();
    let meta = &mut group.meta;
    for (name, bucket) in std::mem::take(&mut meta.buckets) {
        if let Some(found) = known.get_mut(&name) {
            if bucket.epoch >= found.epoch {
                (found.bindings, found.retention) = (bucket.bindings, bucket.retention);
            }
            (found.created_ms, found.modules) = (bucket.created_ms, bucket.modules);
            found.subscriptions = bucket.subscriptions;
        } else if bucket.state == BucketState::Active {
            known.insert(name, bucket);
        }
    }
    for bucket in known.values_mut() {
        changes += 1;
        (bucket.epoch, bucket.state) = (changes, BucketState::Active);
        for subscription in bucket.subscriptions.values_mut() {
            subscription.wake = None;
            subscription.generation += GENERATIONS_LOST;
        }
    }
    (meta.groups, meta.changes, meta.buckets) = (Some(count), changes, known);
    // Those of the cluster that is lost. What it has written, older versions still cannot read.
    meta.nodes = NodeTable { level: meta.nodes.level, ..NodeTable::default() };
}
