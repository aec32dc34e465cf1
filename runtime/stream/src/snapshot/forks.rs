//! Recovery of forks: what is left of them when the groups of a node have lost their logs, and their snapshots are of different
//! times.
//!
//! A fork may inherit what its ancestors have lost. It then ends where that begins, without what came behind it. A source may have
//! no pin for a fork that is there, or pins for forks that are not; so all pins are made anew, of the forks that there are. What a
//! source kept for those is still there, or the fork is cut.

use std::collections::BTreeMap;

use weir_types::{GroupId, Incarnation, Lineage};

use crate::extents::{ChunkBytes, Extents};
use crate::fork::pins::{Pin, Pins, UnsettledPins};
use crate::group::Group;
use crate::key::KeyRef;
use crate::snapshot::recover::{ForkLeft, Remainder};
use crate::stream::Stream;

/// `bucket/name` of a stream, and which life of it.
type Life = (Box<str>, Incarnation);

/// Makes `forks`, which are all that there are, and their sources agree again. `random` gives numbers that nobody has seen; `told` is
/// told of each fork.
pub fn join_forks(
    groups: &mut BTreeMap<GroupId, Group>,
    mut forks: Vec<ForkLeft>,
    mut random: impl FnMut() -> u64,
    mut told: impl FnMut(Remainder<'_>),
) {
    let mut is_done = false;
    while !is_done {
        is_done = true;
        for fork in &mut forks {
            let stream = find(groups, &fork.key).expect("it was just there");
            let (tail, whole_upto) = (stream.tail, whole_upto(groups, stream));
            if whole_upto < stream.begin() {
                let lineage = Lineage::from_bits(random());
                groups.values_mut().for_each(|group| group.cut_fork(&fork.key, whole_upto, lineage));
                fork.lost_bytes += tail - whole_upto;
                // What others inherit of it may be lost, too.
                is_done = false;
            }
        }
    }
    let mut pins: BTreeMap<Life, Vec<Life>> = BTreeMap::new();
    for left in &forks {
        let stream = find(groups, &left.key).expect("it was just there");
        let fork = stream.fork().expect("it is one");
        let source = (fork.source.clone(), fork.source_incarnation);
        pins.entry(source).or_default().push((left.key.clone(), stream.incarnation()));
    }
    for group in groups.values_mut() {
        group.unsettled = UnsettledPins::default();
        let mut sources: Vec<Life> = Vec::new();
        for slot in 0..weir_types::limits::SLOTS {
            let known =
                |stream: &&Stream| stream.forks() > 0 || pins.contains_key(&(stream.key.clone(), stream.incarnation()));
            let found = group.slot(slot).filter(known);
            sources.extend(found.map(|stream| (stream.key.clone(), stream.incarnation())));
        }
        for source in sources {
            group.pin_anew(&source.0, pins.get(&source).map_or(&[], Vec::as_slice));
        }
    }
    settle(groups);
    for ForkLeft { key, lost_bytes, is_final } in forks {
        if let Some(stream) = find(groups, &key) {
            told(Remainder { key: &key, bytes: stream.tail, lost_bytes, is_final });
        }
    }
}

/// Releases all that is to be released.
fn settle(groups: &mut BTreeMap<GroupId, Group>) {
    loop {
        let next = groups
            .iter()
            .find_map(|(id, group)| group.releases.iter().next().map(|(fork, of)| (*id, fork, of.clone())));
        let Some((id, fork, release)) = next else { return };
        let key = KeyRef::parse(&release.source).expect("keys were checked when they were read");
        for group in groups.values_mut() {
            group.unpin(key, release.source_incarnation, fork, release.keeps_pin);
        }
        groups.get_mut(&id).expect("it was just there").releases.remove(fork);
    }
}

fn find<'a>(groups: &'a BTreeMap<GroupId, Group>, key: &str) -> Option<&'a Stream> {
    let key = KeyRef::parse(key).expect("keys were checked when they were read");
    groups.values().find_map(|group| group.slots.get(key))
}

/// Up to where all is there that somebody reads of what a stream inherits; its begin, if that is all.
fn whole_upto(groups: &BTreeMap<GroupId, Group>, stream: &Stream) -> u64 {
    let mut position = stream.needed().min(stream.begin());
    for ancestor in stream.inherited_from(position) {
        let holder = find(groups, &ancestor.key).filter(|holder| holder.incarnation() == ancestor.incarnation);
        let Some(holder) = holder.filter(|holder| holder.held() <= position) else { return position };
        if holder.tail < ancestor.upto {
            return holder.tail.max(position);
        }
        position = ancestor.upto;
    }
    stream.begin()
}

impl Group {
    /// Ends a fork at `tail`, within what it inherits.
    fn cut_fork(&mut self, key: &str, tail: u64, lineage: Lineage) {
        let key = KeyRef::parse(key).expect("keys were checked when they were read");
        let Some(stream) = self.slots.get_mut(key) else { return };
        let before_bytes = stream.memory_bytes();
        let runs: Vec<ChunkBytes> = stream.extents.chunks(stream.held(), stream.tail).collect();
        stream.extents = Extents::default();
        stream.cut(tail);
        let origin = stream.origin_mut();
        origin.lineage = lineage;
        let fork = origin.fork.as_mut().expect("it is one");
        fork.begin = tail;
        let first_lost = fork.ancestors.partition_point(|ancestor| ancestor.upto < tail);
        fork.ancestors.truncate(first_lost + 1);
        match fork.ancestors.last_mut() {
            Some(last) if origin.base < tail => last.upto = tail,
            _ => fork.ancestors.clear(),
        }
        self.index_bytes = self.index_bytes - before_bytes + stream.memory_bytes();
        self.release_runs(runs);
    }

    /// Makes a stream's pins those of these forks. One that is gone and has none ends.
    fn pin_anew(&mut self, key: &str, forks: &[Life]) {
        let key = KeyRef::parse(key).expect("keys were checked when they were read");
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (before_bytes, before, tail) = (stream.memory_bytes(), stream.needed(), stream.tail);
        let known = stream.origin_mut().pins.take().unwrap_or_default();
        let mut pins = Pins::default();
        pins.is_gone = known.is_gone;
        for (fork, incarnation) in forks {
            let range = known.get(*incarnation).map_or(before..tail, |pin| pin.range.clone());
            let range = range.start.min(tail)..range.end.min(tail);
            pins.insert(*incarnation, Pin { fork: fork.clone(), range, until_ms: 0 });
        }
        let is_over = pins.is_empty() && pins.is_gone;
        stream.origin_mut().pins = (!pins.is_empty() || is_over).then(|| Box::new(pins));
        self.index_bytes = self.index_bytes - before_bytes + stream.memory_bytes();
        self.give_up(key, before);
        if is_over {
            self.remove(key);
        }
    }
}
