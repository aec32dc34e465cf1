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
use crate::group::{Group, recount};
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
    let depths: Vec<usize> = forks.iter().map(|left| depth(groups, &left.key, forks.len())).collect();
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let mut is_done = false;
    while !is_done {
        is_done = true;
        // Forks of forks first: what they cannot have any more, nobody has to keep for them.
        for level in (1..=deepest).rev() {
            let needed = needed(groups, &forks);
            for (fork, _) in forks.iter_mut().zip(&depths).filter(|(_, depth)| **depth == level) {
                let stream = find(groups, &fork.key).expect("it was just there");
                let (tail, whole_upto) = (stream.tail, whole_upto(groups, stream, &needed));
                if whole_upto < stream.begin() {
                    let lineage = Lineage::from_bits(random());
                    groups.values_mut().for_each(|group| group.cut_fork(&fork.key, whole_upto, lineage));
                    fork.lost_bytes += tail - whole_upto;
                    // What others inherit of it may be lost, too.
                    is_done = false;
                }
            }
        }
    }
    let pins = pins_of(groups, &forks);
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

/// How many streams a fork has above it; if they are a circle, as nobody but a forger makes it, `depth_max`.
fn depth(groups: &BTreeMap<GroupId, Group>, key: &str, depth_max: usize) -> usize {
    let mut depth = 0;
    let mut next = find(groups, key).and_then(Stream::fork);
    while let Some(fork) = next.filter(|_| depth < depth_max) {
        depth += 1;
        next = find_life(groups, &fork.source, fork.source_incarnation).and_then(Stream::fork);
    }
    depth
}

fn life_of(stream: &Stream) -> Life {
    (stream.key.clone(), stream.incarnation())
}

fn source_of(stream: &Stream) -> Life {
    let fork = stream.fork().expect("it is one");
    (fork.source.clone(), fork.source_incarnation)
}

/// From which position on each fork is read, also by those that inherit of it.
fn needed(groups: &BTreeMap<GroupId, Group>, forks: &[ForkLeft]) -> BTreeMap<Life, u64> {
    let streams = || forks.iter().map(|left| find(groups, &left.key).expect("it was just there"));
    let mut needed: BTreeMap<Life, u64> = streams().map(|stream| (life_of(stream), stream.needed())).collect();
    let mut is_done = false;
    while !is_done {
        is_done = true;
        for stream in streams() {
            let own = needed[&life_of(stream)];
            let of_source = needed.get_mut(&source_of(stream));
            if let Some(of_source) = of_source.filter(|of_source| own < stream.begin() && **of_source > own) {
                (*of_source, is_done) = (own, false);
            }
        }
    }
    needed
}

/// What each source is to keep for its forks.
fn pins_of(groups: &BTreeMap<GroupId, Group>, forks: &[ForkLeft]) -> BTreeMap<Life, Vec<(Incarnation, Pin)>> {
    let needed = needed(groups, forks);
    let mut pins: BTreeMap<Life, Vec<(Incarnation, Pin)>> = BTreeMap::new();
    for stream in forks.iter().map(|left| find(groups, &left.key).expect("it was just there")) {
        let (own, begin) = (needed[&life_of(stream)], stream.begin());
        let range = if own < begin { own..begin } else { 0..0 };
        let pin = Pin { fork: stream.key.clone(), range, until_ms: 0 };
        pins.entry(source_of(stream)).or_default().push((stream.incarnation(), pin));
    }
    pins
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

fn find_life<'a>(groups: &'a BTreeMap<GroupId, Group>, key: &str, incarnation: Incarnation) -> Option<&'a Stream> {
    find(groups, key).filter(|found| found.incarnation() == incarnation)
}

/// Up to where all is there that somebody reads of what a fork inherits; its begin, if that is all. What its source has lost counts
/// as lost, whoever holds it: nobody else keeps it for the fork.
fn whole_upto(groups: &BTreeMap<GroupId, Group>, stream: &Stream, needed: &BTreeMap<Life, u64>) -> u64 {
    let fork = stream.fork().expect("it is one");
    let mut position = needed[&life_of(stream)].min(fork.begin);
    let source_tail = find_life(groups, &fork.source, fork.source_incarnation).map_or(0, |source| source.tail);
    let upto = source_tail.clamp(position, fork.begin);
    for ancestor in stream.inherited_from(position) {
        let holder = find_life(groups, &ancestor.key, ancestor.incarnation).filter(|holder| holder.held() <= position);
        let Some(holder) = holder else { return position };
        let wanted = ancestor.upto.min(upto);
        let there = position..wanted.min(holder.tail).max(position);
        if let Some(gap) = holder.extents.gap_in(&there, holder.tail) {
            return gap;
        }
        position = there.end;
        if position < ancestor.upto {
            return position;
        }
    }
    upto
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
        let lineages = stream.lineages().inherited_by(stream.base(), tail);
        let origin = stream.origin_mut();
        origin.lineage = lineage;
        let fork = origin.fork.as_mut().expect("it is one");
        (fork.begin, fork.lineages) = (tail, lineages);
        let first_lost = fork.ancestors.partition_point(|ancestor| ancestor.upto < tail);
        fork.ancestors.truncate(first_lost + 1);
        match fork.ancestors.last_mut() {
            Some(last) if origin.base < tail => last.upto = tail,
            _ => fork.ancestors.clear(),
        }
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        self.release_runs(runs);
    }

    /// Makes a stream's pins those of these forks. One that is gone and has none ends.
    fn pin_anew(&mut self, key: &str, forks: &[(Incarnation, Pin)]) {
        let key = KeyRef::parse(key).expect("keys were checked when they were read");
        let stream = self.slots.get_mut(key).expect("it was just there");
        let (before_bytes, before) = (stream.memory_bytes(), stream.needed());
        let (held_before, tail) = (stream.held(), stream.tail);
        let counted: Vec<ChunkBytes> = stream.extents.chunks(held_before, tail).collect();
        let known = stream.origin_mut().pins.take().unwrap_or_default();
        let mut pins = Pins::default();
        pins.is_gone = known.is_gone;
        for (incarnation, pin) in forks {
            pins.insert(*incarnation, pin.clone());
        }
        let is_over = pins.is_empty() && pins.is_gone;
        stream.origin_mut().pins = (!pins.is_empty() || is_over).then(|| Box::new(pins));
        // A fork may need of the source's source what lies before all that the source has kept.
        let held = stream.held();
        if stream.extents.begin_at(held, tail) && stream.is_gone() {
            stream.origin_mut().base = tail;
        }
        if held < held_before {
            counted.iter().for_each(|run| self.chunks.release(run.chunk, run.bytes));
            stream.extents.chunks(held, tail).for_each(|run| self.chunks.take(run.chunk, run.bytes));
        }
        recount(&mut self.index_bytes, before_bytes, stream.memory_bytes());
        let now = stream.needed();
        self.give_up(key, before.min(now));
        if is_over {
            self.remove(key);
        }
    }
}
