//! Forks that are gone, and forks that have not come to be: what a fork's group and its source's owe each other. See `fork`.

use weir_types::Incarnation;

use crate::fork::{Fork, Release};
use crate::group::{Group, Outcome};
use crate::key::KeyRef;
use crate::reply::Reply;

impl Group {
    /// Pins that are to be released, by the life of their fork.
    pub fn releases(&self) -> impl Iterator<Item = (Incarnation, &Release)> {
        self.releases.iter()
    }

    /// Decides whether a fork will ever be there, and moves group time so that this stays true.
    pub(crate) fn decide_fork(&mut self, key: KeyRef<'_>, incarnation: Incarnation, until_ms: u64) -> Outcome {
        let is_there = self.life_at(key, incarnation).is_some();
        self.time_ms = self.time_ms.max(until_ms + 1);
        Outcome::unchanged(Reply::ForkDecided { is_there })
    }

    /// The source knows that the fork needs its pin no longer.
    pub(crate) fn released(&mut self, fork: Incarnation, keeps_pin: bool) -> Outcome {
        if self.releases.get(fork).is_some_and(|release| release.keeps_pin == keeps_pin) {
            self.releases.remove(fork);
        }
        Outcome::unchanged(Reply::Done)
    }

    /// Notes that a fork needs its pin no longer, or no bytes of its source.
    pub(crate) fn release_source(&mut self, incarnation: Incarnation, fork: &Fork, keeps_pin: bool) {
        let (source, source_incarnation) = (fork.source.clone(), fork.source_incarnation);
        self.releases.insert(incarnation, Release { source, source_incarnation, keeps_pin });
    }
}
