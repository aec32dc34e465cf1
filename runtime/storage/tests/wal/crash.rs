//! Power cuts at random points: what was acknowledged is there, and of the rest a prefix.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{CONFIG, Log, Outcomes};
use proptest::prelude::*;
use weir_storage::{EntryId, FaultyDisk, WalConfig, WriteMode};
use weir_types::GroupId;

const GROUPS: u16 = 3;

#[derive(Clone, Debug)]
enum Op {
    Append {
        group: u16,
        bytes: usize,
    },
    /// Removes this many entries from the end.
    Truncate {
        group: u16,
        count: u64,
    },
    /// Purges all but this many.
    Purge {
        group: u16,
        kept: u64,
    },
    /// As after a snapshot came in: purges beyond the end.
    Leap {
        group: u16,
        by: u64,
    },
    Vote {
        group: u16,
        vote: u8,
    },
    Applied {
        group: u16,
    },
    /// Lets the writer and everything else run once.
    Turn,
    /// Waits until all before is durable.
    Flush,
}

#[derive(Clone, Debug)]
struct Life {
    ops: Vec<Op>,
    /// Operations of the disk until the power is cut.
    power_for: u64,
    mode: WriteMode,
}

fn op() -> impl Strategy<Value = Op> {
    let group = 0..GROUPS;
    prop_oneof![
        8 => (group.clone(), 0..12_000usize).prop_map(|(group, bytes)| Op::Append { group, bytes }),
        1 => (group.clone(), 0..4u64).prop_map(|(group, count)| Op::Truncate { group, count }),
        2 => (group.clone(), 0..4u64).prop_map(|(group, kept)| Op::Purge { group, kept }),
        1 => (group.clone(), 1..9u64).prop_map(|(group, by)| Op::Leap { group, by }),
        1 => (group.clone(), any::<u8>()).prop_map(|(group, vote)| Op::Vote { group, vote }),
        1 => group.prop_map(|group| Op::Applied { group }),
        3 => Just(Op::Turn),
        2 => Just(Op::Flush),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let mode = prop_oneof![Just(WriteMode::Inline), Just(WriteMode::Thread), Just(WriteMode::Auto)];
    (prop::collection::vec(op(), 1..60), 1..60u64, mode).prop_map(|(ops, power_for, mode)| Life {
        ops,
        power_for,
        mode,
    })
}

/// One group as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    entries: BTreeMap<u64, (u64, Vec<u8>)>,
    purged: Option<EntryId>,
    vote: Option<Vec<u8>>,
}

impl Model {
    fn last(&self) -> Option<EntryId> {
        let last = self.entries.last_key_value().map(|(&index, &(term, _))| EntryId { index, term });
        last.or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }
}

type Models = Vec<Model>;

/// The log as it is.
fn observe(log: &Log) -> Models {
    let observe_group = |group| {
        let group = GroupId(group);
        let next = log.wal.last(group).map_or(0, |last| last.index + 1);
        let entries = (log.wal.first_index(group)..next).map(|index| {
            let entry = log.wal.entry(group, index).expect("indices are dense");
            (index, (entry.id.term, log.body(group, index).expect("a body")))
        });
        Model {
            entries: entries.collect(),
            purged: log.wal.purged(group),
            vote: log.wal.vote(group).map(|vote| vote.to_vec()),
        }
    };
    (0..GROUPS).map(observe_group).collect()
}

/// Everything that one run of lives knows.
struct Run {
    /// The state after each operation that becomes a frame; the first is where the life began.
    history: Vec<Models>,
    outcomes: Outcomes,
    term: u64,
    /// Of each group: how many entries are applied.
    applied: [u64; GROUPS as usize],
}

impl Run {
    fn note(&mut self, group: u16, change: impl FnOnce(&mut Model)) {
        let mut models = self.history.last().expect("never empty").clone();
        change(&mut models[usize::from(group)]);
        self.history.push(models);
    }

    fn carry_out(&mut self, log: &Log, disk: &FaultyDisk, op: &Op) {
        let models = self.history.last().expect("never empty");
        match *op {
            Op::Append { group, bytes } => {
                let id = EntryId { index: models[usize::from(group)].next(), term: self.term };
                let seed = (id.index as u8).wrapping_mul(31) ^ self.term as u8;
                let body: Vec<u8> = (0..bytes).map(|i| seed.wrapping_add(i as u8)).collect();
                log.append(GroupId(group), id.term, &body, self.outcomes.done());
                self.note(group, |model| drop(model.entries.insert(id.index, (id.term, body))));
            }
            Op::Truncate { group, count } => {
                let model = &models[usize::from(group)];
                let applied = self.applied[usize::from(group)];
                // What is applied is committed, and never taken back.
                let from = model.next().saturating_sub(count).max(log.wal.first_index(GroupId(group))).max(applied);
                let kept = from.checked_sub(1).map(|index| EntryId { index, term: 0 });
                log.wal.truncate_after(GroupId(group), kept, self.outcomes.done());
                self.term += 1;
                self.note(group, |model| drop(model.entries.split_off(&from)));
            }
            Op::Purge { group, kept } => {
                let model = &models[usize::from(group)];
                let upto = model.entries.iter().rev().nth(kept as usize);
                let Some(upto) = upto.map(|(&index, &(term, _))| EntryId { index, term }) else { return };
                self.purge(log, group, upto);
            }
            Op::Leap { group, by } => {
                let upto = EntryId { index: models[usize::from(group)].next() + by, term: self.term };
                self.purge(log, group, upto);
            }
            Op::Vote { group, vote } => {
                log.wal.save_vote(GroupId(group), &[vote; 9], self.outcomes.done());
                self.note(group, |model| model.vote = Some(vec![vote; 9]));
            }
            Op::Applied { group } => {
                let Some(last) = models[usize::from(group)].last() else { return };
                self.applied[usize::from(group)] = last.index + 1;
                log.wal.applied(GroupId(group), last.index);
            }
            Op::Turn => log.run(tokio::task::yield_now()),
            Op::Flush => self.flush(log, disk),
        }
    }

    fn purge(&mut self, log: &Log, group: u16, upto: EntryId) {
        log.wal.purge(GroupId(group), upto, self.outcomes.done());
        self.note(group, |model| {
            model.entries = model.entries.split_off(&(upto.index + 1));
            model.purged = Some(upto);
        });
    }

    fn flush(&self, log: &Log, disk: &FaultyDisk) {
        let asked = self.history.len() - 1;
        log.until(|| self.outcomes.all() == asked || !disk.has_power());
    }
}

fn live(lives: &[Life]) {
    let mut disk = FaultyDisk::new(64 << 20, 7);
    let mut now: Models = vec![Model::default(); usize::from(GROUPS)];
    let mut term = 1;
    for life in lives {
        let config = WalConfig { write: life.mode, ..CONFIG };
        let log = Log::open(Arc::new(disk.clone()), config).expect("a log that was only torn opens");
        // What was seen once stays: recovery is repeatable.
        assert_eq!(observe(&log), now);
        let mut run = Run { history: vec![now], outcomes: Outcomes::default(), term, applied: [0; GROUPS as usize] };
        disk.cut_power_at(disk.operations() + life.power_for);
        for op in &life.ops {
            run.carry_out(&log, &disk, op);
            if log.wal.failed() || !disk.has_power() {
                break;
            }
            assert_eq!(&observe(&log), run.history.last().expect("never empty"), "what is appended can be read");
        }
        let after = disk.crash();
        let acked = run.outcomes.good();
        drop(log);
        disk = after;
        let found = observe(&Log::open(Arc::new(disk.clone()), config).expect("a log that was only torn opens"));
        let prefix = (acked..run.history.len()).find(|&count| run.history[count] == found);
        assert!(prefix.is_some(), "acknowledged {acked} of {}, found {found:?}", run.history.len() - 1);
        now = found;
        term = run.term + 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_cuts_lose_nothing_acknowledged(lives in prop::collection::vec(life(), 1..6)) {
        live(&lives);
    }
}
