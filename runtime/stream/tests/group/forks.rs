//! Trees of forks over two groups against a naive model of them, in which every stream has all its records itself.
//!
//! What shards do between groups is done here in steps of its own, in any order: the two steps of a creation, releases, and
//! decisions about pins whose fork may never come.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use weir_stream::subscription::EncodedWatches;
use weir_stream::{
    Ancestor, BucketTold, Change, Command, EncodedBindings, EncodedFork, Expiry, Facts, Fork, ForkPoint, Group,
    NewFork, Piece, Records, Refusal, Reply, Retention, Split, Thaw, join_forks,
};
use weir_types::limits::SLOTS;
use weir_types::{GroupId, Incarnation, StreamKey};

use crate::snapshot::frozen;
use crate::world::{World, view};

const NAMES: usize = 8;
const GROUPS: usize = 2;
const TTL_MS: u64 = 2000;
/// For how long a fork may come to be after its source was pinned.
const PINNED_MS: u64 = 500;

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: usize,
        ttl: bool,
        body: usize,
    },
    Append {
        name: usize,
        body: usize,
    },
    Fork {
        source: usize,
        name: usize,
        at: prop::sample::Index,
        ttl: bool,
        body: usize,
    },
    /// The source is pinned, and the create comes later, too late, or never.
    Pin {
        source: usize,
        name: usize,
        at: prop::sample::Index,
    },
    CreatePinned,
    Delete {
        name: usize,
    },
    Expire {
        name: usize,
    },
    Trim {
        name: usize,
        at: prop::sample::Index,
    },
    Flush {
        name: usize,
        from: prop::sample::Index,
    },
    Merge {
        name: usize,
    },
    Release {
        group: usize,
    },
    Settle {
        group: usize,
    },
    Freeze {
        group: usize,
    },
    TakeFrozen {
        group: usize,
    },
    Thaw {
        group: usize,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES;
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (name(), prop::bool::weighted(0.2), 0..4usize).prop_map(|(name, ttl, body)| Step::Create { name, ttl, body }),
        10 => (name(), 1..4usize).prop_map(|(name, body)| Step::Append { name, body }),
        10 => (name(), name(), index(), prop::bool::weighted(0.2), 0..4usize)
            .prop_map(|(source, name, at, ttl, body)| Step::Fork { source, name, at, ttl, body }),
        2 => (name(), name(), index()).prop_map(|(source, name, at)| Step::Pin { source, name, at }),
        2 => Just(Step::CreatePinned),
        4 => name().prop_map(|name| Step::Delete { name }),
        2 => name().prop_map(|name| Step::Expire { name }),
        4 => (name(), index()).prop_map(|(name, at)| Step::Trim { name, at }),
        4 => (name(), index()).prop_map(|(name, from)| Step::Flush { name, from }),
        2 => name().prop_map(|name| Step::Merge { name }),
        4 => (0..GROUPS).prop_map(|group| Step::Release { group }),
        1 => (0..GROUPS).prop_map(|group| Step::Settle { group }),
        1 => (0..GROUPS).prop_map(|group| Step::Freeze { group }),
        1 => (0..GROUPS).prop_map(|group| Step::TakeFrozen { group }),
        1 => (0..GROUPS).prop_map(|group| Step::Thaw { group }),
        2 => prop_oneof![0..300u64, Just(TTL_MS)].prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A stream as its readers see it.
#[derive(Debug)]
struct Seen {
    life: u64,
    /// The first record is at this position.
    first: u64,
    records: Vec<Vec<u8>>,
    trimmed: usize,
    ttl: bool,
    written_ms: u64,
}

impl Seen {
    /// Where each record begins, and the tail.
    fn starts(&self) -> Vec<u64> {
        let mut starts = vec![self.first];
        self.records.iter().for_each(|record| starts.push(starts[starts.len() - 1] + record.len() as u64));
        starts
    }

    fn tail(&self) -> u64 {
        self.starts()[self.records.len()]
    }

    fn base(&self) -> u64 {
        self.starts()[self.trimmed]
    }
}

/// A fork whose source is pinned, and which has not been created.
struct Pinned {
    name: usize,
    life: u64,
    new: NewFork,
    seen: Seen,
}

struct Net {
    groups: Vec<World>,
    /// What is there, by name.
    seen: BTreeMap<usize, Seen>,
    /// Every life that is not over, gone or not: its name, and the life that it pins.
    lives: BTreeMap<u64, (usize, Option<u64>)>,
    /// By the pinned life, each fork that pins it.
    pins: Vec<(u64, u64)>,
    pinned: Option<Pinned>,
    frozen: Vec<Option<(usize, Vec<Bytes>)>>,
    /// What each life has ever had: its first position, and records.
    had: BTreeMap<u64, (u64, Vec<Vec<u8>>)>,
    time_ms: u64,
    lives_made: u64,
}

fn key(name: usize) -> StreamKey {
    StreamKey::new("b", &format!("s{name}")).expect("a valid name")
}

fn group_of(name: usize) -> usize {
    name % GROUPS
}

fn body(which: usize) -> &'static [u8] {
    [&b""[..], b"a", b"bcd", b"efghij"][which]
}

impl Net {
    fn new() -> Net {
        let groups = (0..GROUPS).map(|_| {
            let mut world = World::new();
            let (retention, bindings) = (Retention::default(), EncodedBindings::of(&[0, 0]));
            let told =
                BucketTold::There { created_ms: 5, fenced: false, retention, bindings, watches: EncodedWatches::NONE };
            world.apply(5, &Command::Bucket { name: "b", epoch: 1, told });
            world
        });
        Net {
            groups: groups.collect(),
            seen: BTreeMap::new(),
            lives: BTreeMap::new(),
            pins: Vec::new(),
            pinned: None,
            frozen: (0..GROUPS).map(|_| None).collect(),
            had: BTreeMap::new(),
            time_ms: 1000,
            lives_made: 0,
        }
    }

    fn apply(&mut self, group: usize, command: &Command<'_>) -> (Reply, Change) {
        let outcome = self.groups[group].apply(self.time_ms, command);
        (outcome.reply, outcome.change)
    }

    /// Whether a name is held by a life that has ended.
    fn is_held(&self, name: usize) -> bool {
        !self.seen.contains_key(&name) && self.lives.values().any(|(of, _)| *of == name)
    }

    /// The life that has a name, over or not; 0 for none.
    fn life_of(&self, name: usize) -> u64 {
        self.lives.iter().find(|(_, (of, _))| *of == name).map_or(0, |(life, _)| *life)
    }

    /// Why nothing can be done with the stream of a name.
    fn refusal(&self, name: usize) -> Refusal {
        if self.is_held(name) { Refusal::SoftDeleted } else { Refusal::NotFound }
    }

    fn create(&mut self, name: usize, life: u64, ttl: bool, which: usize, fork: Option<&NewFork>) -> Reply {
        let (key, split) = (key(name), Split::Whole);
        let encoded = fork.map(NewFork::encode);
        let command = Command::Create {
            key: (&key).into(),
            incarnation: Incarnation(life),
            content_type: "text/plain",
            expiry: if ttl { Expiry::Idle { ttl_s: TTL_MS / 1000 } } else { Expiry::Never },
            closed: false,
            only_new: false,
            bindings_epoch: 0,
            fork: encoded.as_deref().map(EncodedFork::of),
            records: Records::new(body(which), &split),
        };
        self.apply(group_of(name), &command).0
    }

    /// Where a fork leaves its source: before one of its records, or at its tail.
    fn point(&self, source: usize, at: &prop::sample::Index) -> u64 {
        let Some(seen) = self.seen.get(&source) else { return 0 };
        seen.starts()[seen.trimmed + at.index(seen.records.len() - seen.trimmed + 1)]
    }

    /// Pins the source of a fork that leaves it at `upto`, and says what the fork is going to be.
    fn pin(&mut self, source: usize, name: usize, upto: u64) -> Result<Pinned, Refusal> {
        self.lives_made += 1;
        let life = self.lives_made;
        let (source_key, fork_key) = (key(source), key(name));
        let source_life = self.life_of(source);
        let until_ms = self.time_ms + PINNED_MS;
        let command = Command::Pin {
            key: (&source_key).into(),
            incarnation: Incarnation(source_life),
            fork: (&fork_key).into(),
            fork_incarnation: Incarnation(life),
            upto,
            until_ms,
        };
        let (reply, _) = self.apply(group_of(source), &command);
        let Some(seen) = self.seen.get(&source) else {
            let expected = if self.is_held(source) { Refusal::NameHeld } else { Refusal::NotFound };
            assert_eq!(reply, Reply::Refused(expected.clone()));
            return Err(expected);
        };
        let Reply::Pinned(Facts { earliest, lineages, .. }) = reply else { panic!("{reply:?}") };
        assert_eq!(earliest.position, seen.base());
        let stream = self.groups[group_of(source)].group.stream(&source_key).expect("it is seen");
        let fork = Fork {
            source: stream.key().into(),
            source_incarnation: stream.incarnation(),
            point: ForkPoint::At,
            anchor: upto,
            sub_offset: 0,
            inherits_expiry: false,
            begin: upto,
            ancestors: stream.ancestors_upto(earliest.position, upto),
            lineages: lineages.inherited_by(earliest.position, upto),
        };
        let new = NewFork { fork, base: earliest.position, until_ms };
        let count = seen.starts().iter().position(|start| *start == upto).expect("a boundary");
        let inherited = Seen {
            life,
            first: seen.base(),
            records: seen.records[seen.trimmed..count].to_vec(),
            trimmed: 0,
            ttl: false,
            written_ms: self.time_ms,
        };
        self.pins.push((source_life, life));
        Ok(Pinned { name, life, new, seen: inherited })
    }

    /// Creates a fork whose source is pinned. What is refused is unpinned.
    fn create_pinned(&mut self, pinned: Pinned, ttl: bool, which: usize) {
        let Pinned { name, life, new, mut seen } = pinned;
        let reply = self.create(name, life, ttl, which, Some(&new));
        let source_life = new.fork.source_incarnation.0;
        let expected = if self.is_held(name) {
            Some(Refusal::NameHeld)
        } else if self.seen.contains_key(&name) {
            Some(Refusal::ConfigConflict)
        } else {
            (self.groups[group_of(name)].group.time_ms() > new.until_ms).then_some(Refusal::ForkLate)
        };
        match expected {
            Some(Refusal::ConfigConflict) if matches!(reply, Reply::Exists(_)) => {
                let fork = self.groups[group_of(name)].group.stream(&key(name)).expect("it is seen").fork();
                let fork = fork.expect("it was made as a fork");
                assert_eq!((&fork.source, fork.anchor), (&new.fork.source, new.fork.anchor));
                self.unpin(source_life, life);
            }
            Some(refusal) => {
                assert_eq!(reply, Reply::Refused(refusal));
                self.unpin(source_life, life);
            }
            None => {
                (seen.ttl, seen.written_ms) = (ttl, self.time_ms);
                seen.records.extend(Some(body(which).to_vec()).filter(|body| !body.is_empty()));
                let Reply::Created(facts) = reply else { panic!("{reply:?}") };
                assert_eq!((facts.earliest.position, facts.next.position), (seen.base(), seen.tail()));
                self.lives.insert(life, (name, Some(source_life)));
                self.had.insert(life, (seen.first, seen.records.clone()));
                self.seen.insert(name, seen);
            }
        }
    }

    fn unpin(&mut self, source_life: u64, fork: u64) {
        let Some(&(source, _)) = self.lives.get(&source_life) else { return };
        let key = key(source);
        let command = Command::Unpin {
            key: (&key).into(),
            incarnation: Incarnation(source_life),
            fork: Incarnation(fork),
            keeps_pin: false,
        };
        self.apply(group_of(source), &command);
        self.pins.retain(|pin| *pin != (source_life, fork));
        let is_pinned = self.pins.iter().any(|(of, _)| *of == source_life);
        if !is_pinned && self.seen.get(&source).is_none_or(|seen| seen.life != source_life) {
            self.lives.remove(&source_life);
        }
    }

    /// The stream of a name has ended.
    fn end(&mut self, name: usize) {
        let life = self.seen.remove(&name).expect("it was there").life;
        if !self.pins.iter().any(|(of, _)| *of == life) {
            self.lives.remove(&life);
        }
    }

    /// As [`Net::release`], where the model does not follow.
    fn release_any(&mut self, group: usize) -> bool {
        let first = self.groups[group].group.releases().next();
        let Some((fork, release)) = first.map(|(fork, release)| (fork, release.clone())) else { return false };
        let source = StreamKey::parse(&release.source).expect("a key");
        let name: usize = source.name()[1..].parse().expect("a number");
        let (key, incarnation, keeps_pin) = ((&source).into(), release.source_incarnation, release.keeps_pin);
        self.apply(group_of(name), &Command::Unpin { key, incarnation, fork, keeps_pin });
        self.apply(group, &Command::ForkReleased { incarnation: fork, keeps_pin });
        true
    }

    /// Does what the leader of a group does about releases: the oldest of them.
    fn release(&mut self, group: usize) -> bool {
        let first = self.groups[group].group.releases().next();
        let Some((fork, release)) = first.map(|(fork, release)| (fork, release.clone())) else { return false };
        let source = StreamKey::parse(&release.source).expect("a key");
        let name: usize = source.name()[1..].parse().expect("a number");
        if release.keeps_pin {
            let (key, incarnation) = ((&source).into(), release.source_incarnation);
            self.apply(group_of(name), &Command::Unpin { key, incarnation, fork, keeps_pin: true });
        } else {
            self.unpin(release.source_incarnation.0, fork.0);
        }
        self.apply(group, &Command::ForkReleased { incarnation: fork, keeps_pin: release.keeps_pin });
        true
    }

    /// Does what the leader of a group does about pins whose fork may never come: the oldest of them.
    fn settle(&mut self, group: usize) -> bool {
        let first = self.groups[group].group.unsettled_pins(self.time_ms).next();
        let Some((fork, until_ms, pin)) = first.map(|(fork, until_ms, pin)| (fork, until_ms, pin.clone())) else {
            return false;
        };
        let (source, fork_key) =
            (StreamKey::parse(&pin.source).expect("a key"), StreamKey::parse(&pin.fork).expect("a key"));
        let name: usize = fork_key.name()[1..].parse().expect("a number");
        let decide = Command::ForkDecide { key: (&fork_key).into(), incarnation: fork, until_ms };
        let (reply, _) = self.apply(group_of(name), &decide);
        match reply {
            Reply::ForkDecided { is_there: true } => {
                assert!(self.lives.contains_key(&fork.0));
                let (key, incarnation) = ((&source).into(), pin.source_incarnation);
                self.apply(group, &Command::PinSettle { key, incarnation, fork });
            }
            Reply::ForkDecided { is_there: false } => self.unpin(pin.source_incarnation.0, fork.0),
            other => panic!("{other:?}"),
        }
        true
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Create { name, ttl, body: which } => {
                self.lives_made += 1;
                let life = self.lives_made;
                let reply = self.create(name, life, ttl, which, None);
                if self.is_held(name) {
                    assert_eq!(reply, Reply::Refused(Refusal::NameHeld));
                } else if self.seen.contains_key(&name) {
                    assert!(matches!(reply, Reply::Exists(_) | Reply::Refused(Refusal::ConfigConflict)), "{reply:?}");
                } else {
                    assert!(matches!(reply, Reply::Created(_)), "{reply:?}");
                    let records = Some(body(which).to_vec()).filter(|body| !body.is_empty()).into_iter().collect();
                    let seen = Seen { life, first: 0, records, trimmed: 0, ttl, written_ms: self.time_ms };
                    self.had.insert(life, (0, seen.records.clone()));
                    self.seen.insert(name, seen);
                    self.lives.insert(life, (name, None));
                }
            }
            Step::Append { name, body: which } => {
                let life = self.life_of(name);
                let (key, split) = (key(name), Split::Whole);
                let command = Command::Append {
                    key: (&key).into(),
                    incarnation: Incarnation(life),
                    close: false,
                    producer: None,
                    seq: None,
                    if_match: None,
                    bindings_epoch: 0,
                    records: Records::new(body(which), &split),
                };
                let (reply, _) = self.apply(group_of(name), &command);
                let (refusal, time_ms) = (self.refusal(name), self.time_ms);
                match self.seen.get_mut(&name) {
                    None => assert_eq!(reply, Reply::Refused(refusal)),
                    Some(seen) => {
                        seen.records.push(body(which).to_vec());
                        let (_, had) = self.had.get_mut(&seen.life).expect("it was created");
                        had.push(body(which).to_vec());
                        seen.written_ms = time_ms;
                        let Reply::Appended(appended) = reply else { panic!("{reply:?}") };
                        assert_eq!(appended.next.position, seen.tail());
                    }
                }
            }
            Step::Fork { source, name, ref at, ttl, body } => {
                if let Ok(pinned) = self.pin(source, name, self.point(source, at)) {
                    self.create_pinned(pinned, ttl, body);
                }
            }
            Step::Pin { source, name, ref at } => {
                // The one before never comes.
                if let Ok(pinned) = self.pin(source, name, self.point(source, at)) {
                    self.pinned = Some(pinned);
                }
            }
            Step::CreatePinned => {
                if let Some(pinned) = self.pinned.take() {
                    self.create_pinned(pinned, false, 1);
                }
            }
            Step::Delete { name } => {
                let life = self.life_of(name);
                let (key, incarnation) = (key(name), Incarnation(life));
                let command = Command::Delete { key: (&key).into(), incarnation, if_match: None };
                let (reply, change) = self.apply(group_of(name), &command);
                if self.seen.contains_key(&name) {
                    assert_eq!((reply, change), (Reply::Done, Change::Removed { incarnation }));
                    self.end(name);
                } else {
                    assert_eq!(reply, Reply::Refused(self.refusal(name)));
                }
            }
            Step::Expire { name } => {
                let life = self.life_of(name);
                let (key, incarnation) = (key(name), Incarnation(life));
                let command = Command::Expire { key: (&key).into(), incarnation };
                let (_, change) = self.apply(group_of(name), &command);
                let time_ms = self.groups[group_of(name)].group.time_ms();
                let is_due = self.seen.get(&name).is_some_and(|seen| seen.ttl && time_ms >= seen.written_ms + TTL_MS);
                assert_eq!(change != Change::None, is_due);
                if is_due {
                    self.end(name);
                }
            }
            Step::Trim { name, ref at } => self.trim(name, |records| at.index(records + 1)),
            Step::Flush { name, ref from } => self.flush(name, |hot| hot[from.index(hot.len())..].last().copied()),
            Step::Merge { name } => self.merge(name),
            Step::Release { group } => drop(self.release(group)),
            Step::Settle { group } => drop(self.settle(group)),
            Step::Freeze { group } => {
                self.groups[group].group.freeze(100);
                self.frozen[group] = Some((self.groups[group].log.len(), Vec::new()));
            }
            Step::TakeFrozen { group } => {
                if let Some((_, pages)) = &mut self.frozen[group] {
                    pages.extend(self.groups[group].group.take_frozen());
                }
            }
            Step::Thaw { group } => {
                if let Some((entries, mut pages)) = self.frozen[group].take() {
                    pages.extend(std::iter::from_fn(|| self.groups[group].group.take_frozen()));
                    self.groups[group].thaw(entries, &pages);
                }
            }
            Step::Wait { ms } => self.time_ms += ms,
        }
    }

    /// Moves what is hot of a stream, up to the end of one of its packs, to a chunk.
    fn flush(&mut self, name: usize, pick: impl Fn(&[u64]) -> Option<u64>) {
        let (key, world) = (key(name), &mut self.groups[group_of(name)]);
        let Some(stream) = world.find(&key) else { return };
        let (incarnation, begin) = (stream.incarnation(), stream.hot_begin());
        let ends: Vec<u64> = stream.pieces_from(begin).map(|piece| piece.end()).collect();
        let Some(end) = (!ends.is_empty()).then(|| pick(&ends)).flatten() else { return };
        let id = world.next_chunk();
        let outcome = world.flush(self.time_ms, id, &[(&key, incarnation, begin..end)]);
        assert_eq!(outcome.reply, Reply::Flushed { parts: 1 });
    }

    /// Moves all that is cold of a stream to one chunk.
    fn merge(&mut self, name: usize) {
        let (key, world) = (key(name), &mut self.groups[group_of(name)]);
        let Some(stream) = world.find(&key) else { return };
        let cold: Vec<_> = stream.pieces_from(0).filter(|piece| matches!(piece, Piece::Cold { .. })).collect();
        let (Some(first), Some(last)) = (cold.first(), cold.last()) else { return };
        let (incarnation, range) = (stream.incarnation(), first.start()..last.end());
        let id = world.next_chunk();
        let outcome = world.flush(self.time_ms, id, &[(&key, incarnation, range)]);
        assert_eq!(outcome.reply, Reply::Flushed { parts: 1 });
    }

    /// Reads what a stream has from `position` on, from whoever holds it.
    fn read(&self, name: usize, position: u64) -> Vec<Vec<u8>> {
        let stream = self.groups[group_of(name)].group.stream(&key(name)).expect("it is seen");
        let (mut records, mut position) = (Vec::new(), position);
        let own =
            Ancestor { key: stream.key().into(), incarnation: stream.incarnation(), upto: stream.tail().position };
        for Ancestor { key, incarnation, upto } in stream.inherited_from(position).iter().chain([&own]) {
            let key = StreamKey::parse(key).expect("a key");
            let world = &self.groups[group_of(key.name()[1..].parse().expect("a number"))];
            let holder = world.group.life(&key, *incarnation).expect("an ancestor is there as long as its forks");
            assert!(position == *upto || holder.held() <= position, "an ancestor keeps what its forks read");
            records.extend(world.records_of(holder, position..*upto));
            position = *upto;
        }
        records
    }

    /// Trims as many of a stream's records as `count` says of how many there were.
    fn trim(&mut self, name: usize, count: impl FnOnce(usize) -> usize) {
        let Some(seen) = self.seen.get_mut(&name) else { return };
        seen.trimmed = seen.trimmed.max(count(seen.records.len()));
        let (key, incarnation, before) = (key(name), Incarnation(seen.life), seen.base());
        let command = Command::Trim { key: (&key).into(), incarnation, before, force: false };
        let (reply, _) = self.apply(group_of(name), &command);
        let Reply::Trimmed(facts) = reply else { panic!("{reply:?}") };
        assert_eq!(facts.earliest.position, before);
    }

    /// Compares everything that can be seen.
    fn agree(&self) {
        for name in 0..NAMES {
            let found = self.groups[group_of(name)].group.find(&key(name));
            let Some(seen) = self.seen.get(&name) else {
                assert_eq!(found.err(), Some(self.refusal(name)), "{name}");
                continue;
            };
            let stream = found.expect("the model has it");
            assert_eq!(stream.incarnation(), Incarnation(seen.life));
            assert_eq!((stream.base(), stream.tail().position), (seen.base(), seen.tail()));
            assert_eq!(self.read(name, seen.base()), seen.records[seen.trimmed..], "{name}");
        }
        for (n, world) in self.groups.iter().enumerate() {
            let there = self.lives.values().filter(|(name, _)| group_of(*name) == n).count();
            assert_eq!(world.group.streams(), there, "only forks keep what has ended");
        }
    }

    /// Does all that is to be done between the groups.
    fn come_to_rest(&mut self) {
        self.time_ms += PINNED_MS + 1;
        while (0..GROUPS).any(|group| self.release(group) || self.settle(group)) {}
        let forks = self.lives.iter().filter_map(|(life, (_, source))| source.map(|source| (source, *life)));
        let mut pins = self.pins.clone();
        pins.sort_unstable();
        let mut expected: Vec<_> = forks.collect();
        expected.sort_unstable();
        assert_eq!(pins, expected, "each fork pins its source, and nothing else does");
    }

    fn check_empty(&self) {
        for world in &self.groups {
            let group = &world.group;
            let unsettled = group.unsettled_pins(u64::MAX).count();
            assert_eq!((group.streams(), unsettled, group.releases().count()), (0, 0, 0));
            assert_eq!((group.hot_floor(), group.hot_bytes(), group.chunks_totals().live_bytes), (None, 0, 0));
            assert!((0..SLOTS).all(|slot| group.slot(slot).next().is_none()));
            assert!(!group.has_expirable());
            world.check_replay();
        }
    }
}

/// What is left of the groups when their logs are lost, and the snapshots are of these moments.
fn recovered(net: &mut Net, snapshots: &[Vec<Bytes>]) {
    let mut groups: BTreeMap<GroupId, Group> = BTreeMap::new();
    let (mut forks, mut numbers) = (Vec::new(), 1000..);
    let mut random = || numbers.next().expect("there are many");
    for (n, pages) in snapshots.iter().enumerate() {
        let mut thaw = Thaw::default();
        pages.iter().for_each(|page| thaw.take(page).expect("pages as they were written"));
        let mut group = thaw.finish().expect("all pages are there");
        forks.extend(group.forget_log(&mut random, |_| ()));
        groups.insert(GroupId(n as u16), group);
    }
    join_forks(&mut groups, forks, &mut random, |_| ());
    net.frozen = (0..GROUPS).map(|_| None).collect();
    for (world, group) in net.groups.iter_mut().zip(groups.into_values()) {
        world.group = group;
    }
}

/// Every fork has what it had, up to where it ends; its source is pinned for it, and for nobody else.
fn check_recovered(net: &mut Net) {
    let streams: Vec<_> =
        net.groups.iter().flat_map(|world| (0..SLOTS).flat_map(|slot| world.group.slot(slot))).collect();
    for stream in &streams {
        let (base, tail) = (stream.base(), stream.tail().position);
        let forks = streams.iter().filter_map(|fork| fork.fork());
        let own = forks.filter(|fork| fork.source_incarnation == stream.incarnation()).count();
        assert_eq!(stream.forks(), own, "{}", stream.key());
        assert!(!stream.is_gone() || own > 0, "what nobody reads has gone");
        let (first, records) = &net.had[&stream.incarnation().0];
        let mut position = *first;
        let mut expected = Vec::new();
        for record in records {
            if position >= base && position < tail {
                expected.push(record.clone());
            }
            position += record.len() as u64;
        }
        if !stream.is_gone() {
            let name = stream.key()["b/s".len()..].parse().expect("a number");
            assert_eq!(net.read(name, base), expected, "{}", stream.key());
        }
    }
    for world in &mut net.groups {
        let group = &mut world.group;
        let mut thaw = Thaw::default();
        frozen(group).iter().for_each(|page| thaw.take(page).expect("pages as they were written"));
        assert_eq!(view(&thaw.finish().expect("all is there")), view(group), "what is counted is what is there");
        assert_eq!((group.releases().count(), group.unsettled_pins(u64::MAX).count()), (0, 0));
        assert_eq!((group.hot_floor(), group.hot_bytes()), (None, 0));
    }
}

/// What is between nobody reads: what comes before is the source's source's.
#[test]
fn a_source_that_has_given_up_what_an_older_fork_still_needs_is_recovered_without_it() {
    for (is_deleted, has_other_fork) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut net = Net::new();
        net.take(&Step::Create { name: 0, ttl: false, body: 1 });
        let fork = |net: &mut Net, source: usize, name: usize, which: usize| {
            let tail = net.seen[&source].tail();
            let pinned = net.pin(source, name, tail).expect("it is there");
            net.create_pinned(pinned, false, which);
        };
        fork(&mut net, 0, 2, 1);
        fork(&mut net, 2, 1, 0);
        let older = frozen(&mut net.groups[1].group);
        net.take(&Step::Append { name: 2, body: 2 });
        if has_other_fork {
            fork(&mut net, 2, 4, 0);
            net.trim(4, |records| records - 1);
        }
        [0, 2].into_iter().for_each(|name| net.flush(name, |hot| hot.last().copied()));
        net.trim(1, |records| records);
        if is_deleted {
            net.take(&Step::Delete { name: 2 });
        } else {
            net.trim(2, |records| records - 1);
        }
        while (0..GROUPS).any(|group| net.release_any(group)) {}
        let newer = frozen(&mut net.groups[0].group);
        recovered(&mut net, &[newer, older]);
        check_recovered(&mut net);
    }
}

proptest! {
    #[test]
    fn forks_are_recovered_from_snapshots_of_different_times(
        steps in vec(step(), 1..100),
        more in vec(step(), 0..30),
        first in 0..GROUPS,
    ) {
        let mut net = Net::new();
        steps.iter().for_each(|step| net.take(step));
        let mut snapshots: Vec<_> = (0..GROUPS).map(|n| frozen(&mut net.groups[n].group)).collect();
        net.frozen = (0..GROUPS).map(|_| None).collect();
        more.iter().for_each(|step| net.take(step));
        snapshots[first] = frozen(&mut net.groups[first].group);
        recovered(&mut net, &snapshots);
        check_recovered(&mut net);
        // It can be gone on with: everything goes.
        let keys: Vec<_> = net
            .groups
            .iter()
            .flat_map(|world| (0..SLOTS).flat_map(|slot| world.group.slot(slot)))
            .filter(|stream| !stream.is_gone())
            .map(|stream| (stream.key().to_string(), stream.incarnation()))
            .collect();
        for (text, incarnation) in keys {
            let key = StreamKey::parse(&text).expect("a key");
            let name: usize = key.name()[1..].parse().expect("a number");
            net.apply(group_of(name), &Command::Delete { key: (&key).into(), incarnation, if_match: None });
        }
        while (0..GROUPS).any(|group| net.release_any(group)) {}
        for world in &net.groups {
            prop_assert_eq!((world.group.streams(), world.group.chunks_totals().live_bytes), (0, 0));
        }
    }
}

proptest! {
    #[test]
    fn trees_of_forks_agree_with_a_naive_model(steps in vec(step(), 1..120)) {
        let mut net = Net::new();
        for step in &steps {
            net.take(step);
            net.agree();
        }
        net.come_to_rest();
        net.agree();
        for name in 0..NAMES {
            net.take(&Step::Delete { name });
            net.agree();
        }
        net.come_to_rest();
        net.check_empty();
    }
}

/// A stream with three records, and a fork of it that has two of them and one of its own.
fn forked() -> Net {
    let mut net = Net::new();
    let steps = [
        Step::Create { name: 0, ttl: false, body: 3 },
        Step::Append { name: 0, body: 1 },
        Step::Append { name: 0, body: 2 },
    ];
    steps.iter().for_each(|step| net.take(step));
    let pinned = net.pin(0, 1, 7).expect("it is there");
    net.create_pinned(pinned, false, 2);
    net
}

#[test]
fn a_fork_has_what_its_source_had() {
    let net = forked();
    assert_eq!(net.read(1, 0), [&b"efghij"[..], b"a", b"bcd"]);
    assert_eq!(net.read(1, 6), [&b"a"[..], b"bcd"]);
    assert_eq!(net.read(1, 7), [b"bcd"]);
    let lineages = |name: usize| net.groups[group_of(name)].group.stream(&key(name)).expect("it is there").lineages();
    let (source, fork) = (lineages(0), lineages(1));
    assert!(
        (0..=7).all(|position| source.offset(position) == fork.offset(position)),
        "what it inherits has its offsets"
    );
    assert!(source.offset(8) != fork.offset(8), "an offset of other bytes is another one");
}

#[test]
fn what_is_trimmed_stays_for_a_fork_until_it_is_trimmed_or_gone_itself() {
    let mut net = forked();
    let held = |net: &Net| net.groups[0].find(&key(0)).expect("it is there").held();
    let trim = |net: &mut Net, name: usize, before: u64| {
        let (key, incarnation) = (key(name), Incarnation(net.seen[&name].life));
        let command = Command::Trim { key: (&key).into(), incarnation, before, force: false };
        let (reply, _) = net.apply(group_of(name), &command);
        assert!(matches!(reply, Reply::Trimmed(_)), "{reply:?}");
    };
    trim(&mut net, 0, 10);
    assert_eq!(held(&net), 0);
    trim(&mut net, 1, 6);
    assert!(!net.release(1), "it reads a part of it");
    trim(&mut net, 1, 7);
    assert!(net.release(1), "it reads nothing of it");
    assert_eq!(held(&net), 10);
    assert_eq!(net.groups[0].find(&key(0)).expect("it is there").forks(), 1, "it is still a fork of it");
}

#[test]
fn of_a_source_that_is_gone_only_that_is_kept_which_forks_read() {
    let mut net = forked();
    let upto = |net: &Net, bytes: u64| {
        let source = net.groups[0].find(&key(0)).expect("it is there");
        assert_eq!((source.pieces_from(0).last().map(|piece| piece.end()), source.held()), (Some(bytes), 0));
    };
    let pinned = net.pin(0, 3, 6).expect("it is there");
    net.create_pinned(pinned, false, 0);
    let incarnation = Incarnation(net.seen[&0].life);
    let source = key(0);
    net.apply(0, &Command::Trim { key: (&source).into(), incarnation, before: 10, force: false });
    net.seen.get_mut(&0).expect("it is there").trimmed = 3;
    let pinned = net.pin(0, 5, 10).expect("it is there");
    net.create_pinned(pinned, false, 1);
    upto(&net, 10);
    net.take(&Step::Delete { name: 0 });
    upto(&net, 7);
    net.take(&Step::Freeze { group: 0 });
    net.take(&Step::Thaw { group: 0 });
    net.take(&Step::Delete { name: 1 });
    net.come_to_rest();
    upto(&net, 6);
    assert_eq!(
        net.groups[0].group.hot_bytes(),
        net.groups[0]
            .find(&key(0))
            .expect("it is there")
            .pieces_from(0)
            .map(|piece| match piece {
                Piece::Hot(extent) => u64::from(extent.len),
                Piece::Cold { .. } => 0,
            })
            .sum::<u64>()
    );
    net.agree();
}

#[test]
fn what_nobody_reads_between_a_fork_and_a_trimmed_sources_own_readers_goes_once_it_is_cold() {
    for trims_first in [true, false] {
        let mut net = forked();
        let pinned = net.pin(0, 3, 6).expect("it is there");
        net.create_pinned(pinned, false, 0);
        net.take(&Step::Delete { name: 1 });
        net.come_to_rest();
        let incarnation = Incarnation(net.seen[&0].life);
        let source = key(0);
        let trimmed = |net: &mut Net| {
            let command = Command::Trim { key: (&source).into(), incarnation, before: 10, force: false };
            net.apply(0, &command);
            net.seen.get_mut(&0).expect("it is there").trimmed = 3;
        };
        if trims_first {
            trimmed(&mut net);
        }
        // Each pack goes to a chunk of its own.
        for _ in 0..3 {
            net.flush(0, |hot| hot.first().copied());
        }
        if !trims_first {
            trimmed(&mut net);
        }
        let group = &net.groups[0].group;
        assert_eq!((group.chunks_totals().live_bytes, group.chunks().count(), group.hot_bytes()), (6, 1, 0));
        net.take(&Step::Append { name: 0, body: 2 });
        // Another fork, of what lies behind the gap.
        let tail = net.groups[0].find(&key(0)).expect("it is there").tail().position;
        let pinned = net.pin(0, 4, tail).expect("it is there");
        net.create_pinned(pinned, false, 0);
        net.agree();
        net.take(&Step::Freeze { group: 0 });
        net.take(&Step::Thaw { group: 0 });
        net.agree();
        net.take(&Step::Delete { name: 4 });
        net.take(&Step::Delete { name: 3 });
        net.come_to_rest();
        net.agree();
        net.take(&Step::Delete { name: 0 });
        net.come_to_rest();
        net.check_empty();
    }
}

#[test]
fn a_fork_that_comes_too_late_is_refused_and_what_is_decided_stays_so() {
    let mut net = forked();
    let pinned = net.pin(0, 3, 6).expect("it is there");
    net.time_ms += PINNED_MS;
    assert!(!net.settle(0), "it may still come");
    net.time_ms += 1;
    while net.settle(0) {}
    assert_eq!(net.groups[0].find(&key(0)).expect("it is there").forks(), 1, "one has come, one has not");
    // A leader whose clock is behind.
    net.time_ms -= PINNED_MS;
    let reply = net.create(3, pinned.life, false, 0, Some(&pinned.new));
    assert_eq!(reply, Reply::Refused(Refusal::ForkLate));
}

#[test]
fn what_only_forks_keep_goes_with_the_last_of_them() {
    let mut net = forked();
    let pinned = net.pin(1, 2, 10).expect("it is there");
    net.create_pinned(pinned, false, 1);
    for name in [0, 1] {
        net.take(&Step::Delete { name });
    }
    net.agree();
    assert_eq!(net.read(2, 0).concat(), b"efghijabcda");
    net.take(&Step::Delete { name: 2 });
    net.come_to_rest();
    net.check_empty();
}
