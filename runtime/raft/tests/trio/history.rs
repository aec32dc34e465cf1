//! What clients have proposed and what replicas have applied, and that the two agree.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;
use weir_raft::ProposeError;
use weir_storage::Arena;
use weir_stream::{Batch, BatchBuilder, Binding, Command, KeyRef, Limits, Outcome, Pattern, Records, Reply};
use weir_types::{Digest, Incarnation, Role, StreamKey};

use crate::branches::{Counts, Lives};
use crate::support::push_append;

/// So many batches append to one stream.
const STREAM_BATCHES: u64 = 8;
/// After so many batches, bindings change.
const BINDINGS_BATCHES: u64 = 24;

/// Shared by all who add to it.
#[derive(Clone, Default)]
pub(crate) struct History(Rc<RefCell<Events>>);

#[derive(Default)]
struct Events {
    /// Counts what happens, in the order of its happening.
    clock: u64,
    /// By number.
    proposals: Vec<Proposal>,
    /// What is at each index of the log: the number of a proposal, and whether its bytes were appended.
    entries: BTreeMap<u64, (u64, bool)>,
    /// The index of each proposal that was applied somewhere.
    indices: BTreeMap<u64, u64>,
    /// The last entry that was acknowledged.
    acknowledged: u64,
    /// By node: the indices that it has applied since it began.
    applied: BTreeMap<u64, Vec<u64>>,
    /// What forks and subscriptions have come to.
    lives: Lives,
    begun: Option<Instant>,
    /// Snapshots that nodes have taken over from others.
    sent: usize,
    /// All that has happened, a line each.
    trace: Vec<String>,
}

/// Numbers of proposals.
pub(crate) struct Totals {
    pub(crate) proposed: usize,
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    /// Snapshots that nodes have taken over from others.
    pub(crate) sent: usize,
    pub(crate) counts: Counts,
}

struct Proposal {
    /// Whether it appends to a stream of [`History::numbers`].
    appends: bool,
    begun: u64,
    ended: Option<(u64, Result<(), ProposeError>)>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Events {
    /// Notes what happens, and when.
    fn note(&mut self, what: fmt::Arguments<'_>) {
        let now = Instant::now();
        let begun = *self.begun.get_or_insert(now);
        self.trace.push(format!("{:>9.3} {what}", (now - begun).as_secs_f64()));
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl History {
    /// A batch of about so many bytes that nobody has proposed before, checked under the bindings as of `bindings_epoch`, and its
    /// number. After a few, another stream follows.
    pub(crate) fn begin(&self, bindings_epoch: u64, body_bytes: usize) -> (u64, Bytes) {
        self.begin_in(None, bindings_epoch, body_bytes)
    }

    /// As [`History::begin`]; apply finds that its stream is not there, so nothing needs its entry any more.
    pub(crate) fn begin_refused(&self, body_bytes: usize) -> (u64, Bytes) {
        self.begin_in(Some("absent"), 0, body_bytes)
    }

    fn begin_in(&self, name: Option<&str>, bindings_epoch: u64, body_bytes: usize) -> (u64, Bytes) {
        self.begin_as(true, body_bytes + 256, |builder, number| {
            let mut body = vec![b'x'; body_bytes];
            body[..8].copy_from_slice(&number.to_le_bytes());
            body[8..16].copy_from_slice(&(body_bytes as u64).to_le_bytes());
            let nth = number / STREAM_BATCHES;
            let key = |nth| StreamKey::new("b", &format!("s{nth}")).expect("a valid key");
            let bindings = bindings_of(number / BINDINGS_BATCHES);
            let told = weir_stream::BucketTold::There {
                created_ms: 0,
                fenced: false,
                retention: weir_stream::Retention::default(),
                bindings: weir_stream::EncodedBindings::of(&bindings),
                watches: weir_stream::subscription::EncodedWatches::NONE,
            };
            builder.push(&Command::Bucket { name: "b", epoch: 1 + number / BINDINGS_BATCHES, told });
            builder.push(&Command::Create {
                key: KeyRef::from(&key(nth)),
                incarnation: Incarnation(1),
                content_type: "text/plain",
                expiry: weir_stream::Expiry::Never,
                closed: false,
                only_new: false,
                bindings_epoch: 0,
                fork: None,
                records: Records::whole(&[]),
            });
            // Those of before go, also when a batch of theirs has come late.
            for nth in (nth.saturating_sub(4)..nth).rev().skip(1) {
                let (key, incarnation) = (key(nth), Incarnation(1));
                builder.push(&Command::Delete { key: KeyRef::from(&key), incarnation, if_match: None });
            }
            push_append(builder, name.unwrap_or(&format!("s{nth}")), bindings_epoch, &body);
        })
    }

    /// A batch of about so many bytes of what `fill` adds, which is told its number.
    pub(crate) fn begin_batch(&self, bytes: usize, fill: impl FnOnce(&mut BatchBuilder, u64)) -> (u64, Bytes) {
        self.begin_as(false, bytes, fill)
    }

    fn begin_as(&self, appends: bool, bytes: usize, fill: impl FnOnce(&mut BatchBuilder, u64)) -> (u64, Bytes) {
        let number = {
            let mut events = self.0.borrow_mut();
            let number = events.proposals.len() as u64;
            let begun = events.tick();
            events.note(format_args!("proposal {number}"));
            events.proposals.push(Proposal { appends, begun, ended: None });
            number
        };
        let mut builder = BatchBuilder::new(Arena::new(bytes).into_buf());
        fill(&mut builder, number);
        // The time of a batch is its number: so it is told by whoever applies it.
        (number, Arena::seal(builder.finish(number, Limits { producers_max: 1 })))
    }

    pub(crate) fn end(&self, number: u64, result: Result<(), ProposeError>) {
        let mut events = self.0.borrow_mut();
        let now = events.tick();
        events.note(format_args!("proposal {number}: {result:?}"));
        let proposal = &mut events.proposals[number as usize];
        assert!(proposal.ended.is_none(), "a proposal ends once");
        proposal.ended = Some((now, result));
        if result.is_ok() {
            let index = events
                .indices
                .get(&number)
                .copied()
                .unwrap_or_else(|| panic!("{number} was acknowledged by nobody who has applied it"));
            events.acknowledged = events.acknowledged.max(index);
        }
    }

    /// Notes something that happens beside proposals.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.0.borrow_mut().note(what);
    }

    /// A node begins, and has applied nothing.
    pub(crate) fn restart(&self, node: u64) {
        self.note(format_args!("node {node} begins"));
        self.0.borrow_mut().applied.insert(node, Vec::new());
    }

    /// A node has the state as of entry `index`, whatever it has applied before.
    pub(crate) fn restore(&self, node: u64, index: Option<u64>, is_sent: bool) {
        let whence = if is_sent { "another node" } else { "its own disk" };
        self.note(format_args!("node {node} goes on from {index:?} out of a snapshot from {whence}"));
        let mut events = self.0.borrow_mut();
        events.sent += usize::from(is_sent);
        let known = events.entries.keys().copied().take_while(|&known| Some(known) <= index).collect();
        events.applied.insert(node, known);
    }

    /// A node has applied the batch that is entry `index`.
    pub(crate) fn apply(&self, node: u64, index: u64, batch: &[u8], outcomes: &[Outcome]) {
        let mut events = self.0.borrow_mut();
        let batch = Batch::read(batch).expect("a batch");
        let number = batch.time_ms;
        events.note(format_args!("node {node} applies {number} at {index}"));
        let is_appended = events.proposals[number as usize].appends
            && matches!(outcomes.last(), Some(Outcome { reply: Reply::Appended(_), .. }));
        if !events.entries.contains_key(&index) {
            events.lives.apply(&batch, outcomes);
        }
        let known = *events.entries.entry(index).or_insert((number, is_appended));
        assert_eq!(known, (number, is_appended), "node {node} has another entry {index} than a node before it");
        events.indices.insert(number, index);
        let applied = events.applied.get_mut(&node).expect("it has begun");
        assert!(applied.last().is_none_or(|&last| last < index), "indices rise");
        applied.push(index);
    }

    /// What forks and subscriptions have come to.
    pub(crate) fn lives(&self) -> RefMut<'_, Lives> {
        RefMut::map(self.0.borrow_mut(), |events| &mut events.lives)
    }

    /// The last entry that was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.0.borrow().acknowledged
    }

    /// What the streams must hold that are there: the numbers that were appended to each, in the order of the log.
    pub(crate) fn numbers(&self, stream: &str) -> Vec<u64> {
        let events = self.0.borrow();
        let of_stream = |number: u64| stream == format!("b/s{}", number / STREAM_BATCHES);
        let appended = events.entries.values().filter(|(number, is_appended)| *is_appended && of_stream(*number));
        appended.map(|(number, _)| *number).collect()
    }

    pub(crate) fn has_applied(&self, node: u64, number: u64) -> bool {
        let events = self.0.borrow();
        events.applied[&node].iter().any(|index| events.entries[index].0 == number)
    }

    /// What became of all that was proposed.
    pub(crate) fn totals(&self) -> Totals {
        let events = self.0.borrow();
        let (proposed, sent, counts) = (events.proposals.len(), events.sent, events.lives.counts);
        let mut totals = Totals { proposed, acknowledged: 0, unknown: 0, sent, counts };
        for proposal in &events.proposals {
            match proposal.ended {
                Some((_, Ok(()))) => totals.acknowledged += 1,
                Some((_, Err(ProposeError::NotLeader | ProposeError::Stopped))) => {}
                Some((_, Err(ProposeError::Unknown))) | None => totals.unknown += 1,
            }
        }
        totals
    }

    /// Every replica that is up has applied the same entries: what was acknowledged, in an order that fits that of the
    /// acknowledgements, nothing twice, and nothing that was refused.
    pub(crate) fn check(&self) {
        let events = self.0.borrow();
        for (node, applied) in &events.applied {
            assert!(applied.iter().eq(events.entries.keys()), "node {node} has applied all that any node has");
        }
        let mut index_of = BTreeMap::new();
        for (&index, &(number, _)) in &events.entries {
            assert_eq!(index_of.insert(number, index), None, "proposal {number} is in the log twice");
        }
        let mut acknowledged = Vec::new();
        for (number, proposal) in (0..).zip(&events.proposals) {
            match proposal.ended {
                Some((ended, Ok(()))) => {
                    let index =
                        index_of.get(&number).unwrap_or_else(|| panic!("{number} was acknowledged and is lost"));
                    acknowledged.push((proposal.begun, ended, *index));
                }
                Some((_, Err(ProposeError::NotLeader | ProposeError::Stopped))) => {
                    assert!(!index_of.contains_key(&number), "{number} was refused and is in the log");
                }
                Some((_, Err(ProposeError::Unknown))) | None => {}
            }
        }
        let mut ended: Vec<(u64, u64)> = acknowledged.iter().map(|&(_, ended, index)| (ended, index)).collect();
        ended.sort_unstable();
        acknowledged.sort_unstable();
        let (mut ended, mut last) = (ended.into_iter().peekable(), 0);
        for (begun, _, index) in acknowledged {
            while let Some((_, before)) = ended.next_if(|&(ended, _)| ended < begun) {
                last = last.max(before);
            }
            assert!(index > last, "entry {index} was proposed after {last} was acknowledged");
        }
    }
}

/// What is bound after so many changes.
fn bindings_of(changes: u64) -> Vec<u8> {
    let binding = Binding {
        name: "v".into(),
        streams: Pattern::new("elsewhere-*").expect("a pattern"),
        module: "m".into(),
        digest: Digest([7; 32]),
        role: Role::Validator,
        config: changes.to_string().into(),
        epoch: changes,
    };
    Binding::encode([&binding].into_iter().take(changes.min(1) as usize).collect::<Vec<_>>().into_iter())
}
