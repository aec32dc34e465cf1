//! Whose turn it is on a thread that many share: a deficit round robin over CPU time.
//!
//! Whoever has work gets a quantum's credit per round and runs until that is used up. A call cannot be ended early, so
//! one that takes longer leaves a debt, and its owner sits out as many rounds as it takes to pay for it: over time all who
//! always have work get the same share, whatever their calls cost.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Duration;

use hashbrown::HashMap;

/// Who has work, in the order of their turns, and what they have used.
pub(crate) struct Turns<K> {
    /// What each may use in a round, in nanoseconds.
    quantum: i64,
    waiting: VecDeque<K>,
    /// Nanoseconds: what is left of the quantum of those that wait, below 0 a debt, which stays when its owner has no work.
    credits: HashMap<K, i64>,
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// `quantum` is what each may use in a round.
    pub(crate) fn new(quantum: Duration) -> Turns<K> {
        Turns { quantum: nanos(quantum), waiting: VecDeque::new(), credits: HashMap::new() }
    }

    /// `key`, which waits for no turn, has work now.
    pub(crate) fn enter(&mut self, key: K) {
        self.credits.entry(key.clone()).or_insert(0);
        self.waiting.push_back(key);
    }

    /// Whose turn it is, and how long it may last; `None` when nobody has work. Whoever is named waits no more, and is to be
    /// given to [`Turns::done`].
    pub(crate) fn next(&mut self) -> Option<(K, Duration)> {
        let quantum = self.quantum;
        loop {
            for _ in 0..self.waiting.len() {
                let key = self.waiting.pop_front()?;
                let credit = self.credits.get_mut(&key).expect("who waits has an account");
                *credit = (*credit + quantum).min(quantum);
                if *credit > 0 {
                    let left = Duration::from_nanos(credit.unsigned_abs());
                    return Some((key, left));
                }
                self.waiting.push_back(key);
            }
            // All are in debt: the rounds that none of them can take part in are skipped.
            let credits = self.waiting.iter().map(|key| self.credits[key]);
            let rounds = credits.max()?.unsigned_abs() as i64 / quantum;
            for key in &self.waiting {
                *self.credits.get_mut(key).expect("who waits has an account") += rounds * quantum;
            }
        }
    }

    /// A turn is over that took this long.
    pub(crate) fn done(&mut self, key: K, used: Duration, has_more: bool) {
        let credit = self.credits.get_mut(&key).expect("whose turn it was has an account");
        *credit -= nanos(used);
        if has_more {
            self.waiting.push_back(key);
        } else if *credit >= 0 {
            self.credits.remove(&key);
        }
    }

    /// Forgives the debts of all who have no work now.
    pub(crate) fn forgive(&mut self) {
        let waiting: std::collections::HashSet<&K> = self.waiting.iter().collect();
        self.credits.retain(|key, _| waiting.contains(key));
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: Duration = Duration::from_millis(5);

    /// Lets all who have a cost take turns for `total`, and says how long each has run.
    fn run(costs: &[(&'static str, u64)], total: u64) -> Vec<u64> {
        let mut turns = Turns::new(QUANTUM);
        costs.iter().for_each(|(key, _)| turns.enter(*key));
        let mut used = vec![0; costs.len()];
        while used.iter().sum::<u64>() < total {
            let (key, left) = turns.next().expect("there is work");
            let index = costs.iter().position(|(of, _)| *of == key).expect("it is one of them");
            let mut turn = 0;
            while turn < left.as_micros() as u64 {
                turn += costs[index].1;
            }
            used[index] += turn;
            turns.done(key, Duration::from_micros(turn), true);
        }
        used
    }

    #[test]
    fn all_get_the_same_share_whatever_their_calls_cost() {
        let used = run(&[("small", 10), ("medium", 4_000), ("large", 1_000_000)], 30_000_000);
        for one in &used {
            assert!((9_000_000..=11_000_000).contains(one), "{used:?}");
        }
    }

    #[test]
    fn a_debt_stays_while_its_owner_has_no_work() {
        let mut turns = Turns::new(QUANTUM);
        turns.enter("debtor");
        let (key, _) = turns.next().expect("it has work");
        turns.done(key, Duration::from_millis(100), false);
        turns.enter("debtor");
        turns.enter("other");
        for _ in 0..15 {
            let (key, left) = turns.next().expect("there is work");
            assert_eq!((key, left), ("other", QUANTUM));
            turns.done(key, QUANTUM, true);
        }
        // Alone, nobody waits for anything.
        let (_, left) = turns.next().expect("there is work");
        turns.done("other", left, false);
        assert_eq!(turns.next().map(|(key, _)| key), Some("debtor"));
        assert!(turns.next().is_none());
    }
}
