//! What clients saw of one stream, and the check that what is stored can explain it.
//!
//! Every record is unique, so the stored order is known from one read, and no search is needed:
//!
//! 1. A stored record belongs to exactly one append that was not refused; none is stored twice.
//! 2. An append is stored whole, its records side by side and in order, or not at all.
//! 3. An acknowledged append is stored, and ends at the offset that it was acknowledged with.
//! 4. Real time: an append that was answered before another one began is stored before it. It is enough to walk the
//!    stored order and compare each answer with the latest beginning seen so far, because every append's place is given.
//! 5. Every read is a piece of what is stored, at the offsets that it was read at.
//! 6. Whoever asks for the tail learns of every append that was acknowledged before it asked.
//!
//! Offsets are positions in stored bytes; in text and in JSON streams alike a record takes its own bytes and one more
//! (a line feed, a comma). That offsets are unique and dense follows from (3) and (5).

use std::collections::HashMap;
use std::time::Duration;

/// What became of an append, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with this offset as the tail behind it.
    Acked {
        /// An offset.
        end: u64,
    },
    /// Acknowledged as a duplicate of an earlier try whose answer was lost; the tail given was this one.
    AckedAgain {
        /// An offset.
        tail: u64,
    },
    /// Refused, and without effect.
    Refused,
    /// The connection broke: stored or not.
    Unknown,
}

/// One append; with retries by a producer, all tries of it together.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was appended, each record unique.
    pub records: Vec<String>,
    /// When the first try was sent, on the test's clock.
    pub invoked: Duration,
    /// When it was answered; nothing is known of that for [`Outcome::Unknown`].
    pub answered: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// A tail that a client was told.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// When it was asked for, on the test's clock.
    pub invoked: Duration,
    /// The offset.
    pub end: u64,
}

/// One read, or what a live read delivered from one offset to another.
#[derive(Clone, Debug)]
pub struct Read {
    /// The offset that it began at.
    pub start: u64,
    /// The offset behind it.
    pub end: u64,
    /// What was read.
    pub records: Vec<String>,
}

/// All that happened to one stream.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In no order.
    pub attempts: Vec<Attempt>,
    /// In no order.
    pub reads: Vec<Read>,
    /// In no order.
    pub tails: Vec<Tail>,
}

impl History {
    /// Checks the history against `stored`, the stream's records in order, as read when all was over.
    ///
    /// # Errors
    /// A sentence that names the first violation.
    pub fn check(&self, stored: &[String]) -> Result<(), String> {
        let mut ends = Vec::with_capacity(stored.len());
        let mut places = HashMap::with_capacity(stored.len());
        let mut end = 0;
        for (place, record) in stored.iter().enumerate() {
            end += record.len() as u64 + 1;
            ends.push(end);
            if let Some(before) = places.insert(record.as_str(), place) {
                return Err(format!("{} is stored twice, as {before} and {place}", brief(record)));
            }
        }
        let mut placed = Vec::new();
        for attempt in &self.attempts {
            if let Some(place) = check_attempt(attempt, &places, &ends)? {
                placed.push((place, attempt));
            }
        }
        let appended: usize = placed.iter().map(|(_, attempt)| attempt.records.len()).sum();
        if appended != stored.len() {
            return Err(format!("{} records are stored, but only {appended} were appended", stored.len()));
        }
        placed.sort_by_key(|(place, _)| *place);
        check_real_time(&placed)?;
        self.check_tails(ends.last().copied().unwrap_or(0))?;
        self.reads.iter().try_for_each(|read| check_read(read, stored, &ends))
    }

    /// Appends in the order of their answers and tails in the order in which they were asked for meet once.
    fn check_tails(&self, stored_end: u64) -> Result<(), String> {
        let acked = |attempt: &Attempt| match attempt.outcome {
            Outcome::Acked { end } => Some((attempt.answered, end)),
            _ => None,
        };
        let mut acked: Vec<(Duration, u64)> = self.attempts.iter().filter_map(acked).collect();
        acked.sort_unstable();
        let mut tails = self.tails.clone();
        tails.sort_by_key(|tail| tail.invoked);
        let (mut acked, mut known) = (acked.into_iter().peekable(), 0);
        for tail in tails {
            while let Some((_, end)) = acked.next_if(|(answered, _)| *answered < tail.invoked) {
                known = known.max(end);
            }
            if tail.end < known {
                return Err(format!("the tail was said to be {} when {known} was acknowledged already", tail.end));
            }
            if tail.end > stored_end {
                return Err(format!("the tail was said to be {}, and {stored_end} are stored", tail.end));
            }
        }
        Ok(())
    }
}

/// Checks one append by itself; gives back the place of its first record, if it is stored.
fn check_attempt(attempt: &Attempt, places: &HashMap<&str, usize>, ends: &[u64]) -> Result<Option<usize>, String> {
    let name = brief(&attempt.records[0]);
    let found: Vec<usize> = attempt.records.iter().filter_map(|record| places.get(record.as_str()).copied()).collect();
    let Some(&first) = found.first() else {
        return match attempt.outcome {
            Outcome::Acked { .. } | Outcome::AckedAgain { .. } => Err(format!("{name} was acknowledged and is lost")),
            Outcome::Refused | Outcome::Unknown => Ok(None),
        };
    };
    if found.len() != attempt.records.len() {
        return Err(format!("{} of {} records of {name} are stored", found.len(), attempt.records.len()));
    }
    if found.windows(2).any(|pair| pair[1] != pair[0] + 1) {
        return Err(format!("the records of {name} are stored apart: {found:?}"));
    }
    let actual = ends[first + found.len() - 1];
    match attempt.outcome {
        Outcome::Acked { end } if end != actual => {
            Err(format!("{name} was acknowledged at {end} and is stored up to {actual}"))
        }
        Outcome::AckedAgain { tail } if tail < actual => {
            Err(format!("{name} was acknowledged again with the tail {tail}, before its own end {actual}"))
        }
        Outcome::Refused => Err(format!("{name} was refused and is stored")),
        _ => Ok(Some(first)),
    }
}

fn check_real_time(placed: &[(usize, &Attempt)]) -> Result<(), String> {
    let mut latest: Option<&Attempt> = None;
    for (_, attempt) in placed {
        let is_answered = attempt.outcome != Outcome::Unknown;
        if let Some(before) = latest.filter(|before| is_answered && attempt.answered < before.invoked) {
            return Err(format!(
                "{} is stored behind {}, which began only after it was answered",
                brief(&attempt.records[0]),
                brief(&before.records[0])
            ));
        }
        if latest.is_none_or(|before| before.invoked < attempt.invoked) {
            latest = Some(attempt);
        }
    }
    Ok(())
}

fn check_read(read: &Read, stored: &[String], ends: &[u64]) -> Result<(), String> {
    let place = |offset: u64| match offset {
        0 => Ok(0),
        _ => ends.binary_search(&offset).map(|place| place + 1),
    };
    let place = |offset| place(offset).map_err(|_| format!("a read had the offset {offset}, where no record ends"));
    let (start, end) = (place(read.start)?, place(read.end)?);
    if start > end || stored[start..end] != read.records {
        return Err(format!("a read from {} to {} saw other records than are stored there", read.start, read.end));
    }
    Ok(())
}

/// The beginning of a record, enough to tell it.
fn brief(record: &str) -> &str {
    record.get(..60).unwrap_or(record)
}

/// The checker must refuse what a broken server would have left behind.
#[cfg(test)]
mod tests {
    use super::*;

    fn acked(record: &str, invoked: u64, answered: u64, end: u64) -> Attempt {
        Attempt {
            records: vec![record.to_owned()],
            invoked: Duration::from_millis(invoked),
            answered: Duration::from_millis(answered),
            outcome: Outcome::Acked { end },
        }
    }

    fn unknown(records: &[&str], invoked: u64) -> Attempt {
        let records = records.iter().map(|&record| record.to_owned()).collect();
        let invoked = Duration::from_millis(invoked);
        Attempt { records, invoked, answered: invoked, outcome: Outcome::Unknown }
    }

    fn check(change: impl FnOnce(&mut History, &mut Vec<String>)) -> String {
        let mut stored: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let read = Read { start: 2, end: 6, records: stored[1..3].to_vec() };
        let attempts = vec![acked("a", 1, 2, 2), acked("b", 3, 5, 4), unknown(&["c", "d"], 4), unknown(&["gone"], 6)];
        let tails = vec![
            Tail { invoked: Duration::from_millis(4), end: 2 },
            Tail { invoked: Duration::from_millis(9), end: 8 },
        ];
        let mut history = History { attempts, reads: vec![read], tails };
        change(&mut history, &mut stored);
        history.check(&stored).err().unwrap_or_default()
    }

    #[test]
    fn a_true_history_passes() {
        assert_eq!(check(|_, _| {}), "");
    }

    #[test]
    fn broken_histories_are_refused() {
        assert_eq!(check(|_, stored| drop(stored.remove(1))), "b was acknowledged and is lost");
        assert_eq!(check(|_, stored| stored.push("a".to_owned())), "a is stored twice, as 0 and 4");
        assert_eq!(check(|_, stored| drop(stored.pop())), "1 of 2 records of c are stored");
        assert_eq!(check(|_, stored| stored.swap(2, 3)), "the records of c are stored apart: [3, 2]");
        assert_eq!(check(|_, stored| stored.swap(0, 1)), "a was acknowledged at 2 and is stored up to 4");
        assert_eq!(check(|_, stored| stored.push("x".to_owned())), "5 records are stored, but only 4 were appended");
        assert_eq!(check(|h, _| h.attempts[1].outcome = Outcome::Refused), "b was refused and is stored");
        let stale = check(|h, _| h.attempts[0].invoked = Duration::from_millis(6));
        assert_eq!(stale, "b is stored behind a, which began only after it was answered");
        assert_eq!(check(|h, _| h.tails[1].end = 2), "the tail was said to be 2 when 4 was acknowledged already");
        assert_eq!(check(|h, _| h.tails[0].end = 10), "the tail was said to be 10, and 8 are stored");
        let torn = check(|h, _| h.reads[0].end = 5);
        assert_eq!(torn, "a read had the offset 5, where no record ends");
        let other = check(|h, _| h.reads[0].records[0] = "B".to_owned());
        assert_eq!(other, "a read from 2 to 6 saw other records than are stored there");
    }
}
