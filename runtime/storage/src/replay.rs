//! What the frames of a log say, one after the other.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use weir_types::GroupId;

use crate::entry::EntryId;
use crate::frame::{FrameHeader, FrameKind};
use crate::log::{BlockAddress, GroupLog, Located};
use crate::state;

/// Every group's log.
pub(crate) type Logs = BTreeMap<GroupId, GroupLog>;

/// The groups as the frames so far have left them.
#[derive(Default)]
pub(crate) struct Replay {
    logs: Logs,
    /// Entries that the first state frame knows of and that were in segments before it: all purged, or lost.
    unseen: BTreeMap<GroupId, Range<u64>>,
    /// Whether a state frame was seen.
    is_begun: bool,
}

impl Replay {
    /// The logs, when nothing follows. The error says which entries are missing before the first segment.
    pub(crate) fn finish(self) -> Result<Logs, String> {
        for (group, unseen) in &self.unseen {
            if !unseen.is_empty() {
                let (from, to) = (unseen.start, unseen.end - 1);
                return Err(format!("entries {from} to {to} of group {group} were before it and are gone"));
            }
        }
        Ok(self.logs)
    }

    /// Carries out one frame; the error says what does not follow from the frames before it.
    pub(crate) fn apply(&mut self, header: FrameHeader, body: &[u8], at: BlockAddress) -> Result<(), String> {
        if header.kind == FrameKind::State {
            return self.apply_state(body);
        }
        let unseen = self.unseen.get_mut(&header.group);
        let log = self.logs.entry(header.group).or_default();
        match header.kind {
            FrameKind::Entry => {
                let is_first = log.is_unbegun() && unseen.is_none_or(|unseen| unseen.is_empty());
                if header.index != log.next() && !is_first {
                    let (found, expected) = (header.index, log.next());
                    let group = header.group;
                    return Err(format!("entry {found} of group {group} is where {expected} was expected"));
                }
                if let Some(last) = log.last().filter(|last| last.term > header.term) {
                    let (found, group) = (header.term, header.group);
                    return Err(format!("the term of group {group} falls from {} to {found}", last.term));
                }
                let entry = Located { term: header.term, at, body_bytes: header.body_bytes, kind: header.entry_kind };
                log.push(header.index, entry, None);
            }
            FrameKind::Vote => log.vote = Some(Bytes::copy_from_slice(body)),
            FrameKind::Truncate => {
                log.truncate(header.index);
                if let Some(unseen) = unseen {
                    unseen.end = unseen.end.min(header.index);
                }
            }
            FrameKind::Purge => {
                log.purge(EntryId { index: header.index, term: header.term });
                if let Some(unseen) = unseen {
                    unseen.start = unseen.start.max(header.index + 1);
                }
            }
            FrameKind::State => unreachable!("returned above"),
        }
        Ok(())
    }

    /// The first state frame is where the log begins; later ones must say what is known already.
    fn apply_state(&mut self, body: &[u8]) -> Result<(), String> {
        let states = state::decode(body).ok_or("not a state frame of this version")?;
        // Not always the first segment's: one may be left that was torn before it had a state frame.
        let is_start = !std::mem::replace(&mut self.is_begun, true);
        let groups = states.len();
        for state in states {
            if is_start {
                self.unseen.insert(state.group, state.first..state.next);
                self.logs.insert(state.group, GroupLog::from_state(state));
                continue;
            }
            let log = self.logs.entry(state.group).or_default();
            if (log.next(), log.purged(), &log.vote) != (state.next, state.purged, &state.vote) {
                let found = log.state(state.group);
                return Err(format!("the state does not follow from the log before it: {state:?} after {found:?}"));
            }
        }
        if self.logs.len() != groups {
            return Err("the state frame lacks a group that the log before it has".to_string());
        }
        Ok(())
    }
}
