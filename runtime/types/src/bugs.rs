//! Bugs that a build for tests can have on purpose, to see whether the simulator finds them: `tests/sim/README.md`.
//!
//! Without the feature `seeded-bugs` no build has any, and the compiler leaves out what asks for them.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A leader acknowledges what only it has.
    AckBeforeMajority,
    /// A log takes a write for durable that was not synced; the simulated disk forgets it when the power goes.
    SkippedSync,
    /// A leader answers reads without knowing that nobody else leads.
    UncheckedLease,
    /// A vote is given and not noted.
    ForgottenVote,
    /// What another leader has contradicted stays in the log.
    LostTruncate,
    /// A leader that has handed over goes on answering reads.
    StaleAfterTransfer,
    /// The log gives up entries that streams' bytes are in.
    PurgeBeyondFloor,
    /// A snapshot does not say how often bindings have changed.
    SnapshotWithoutBindingsEpoch,
    /// Two streams have the same life.
    ReusedIncarnation,
    /// The commands of a batch are applied from the last to the first.
    ApplyOutOfOrder,
}

/// Whether this build has that bug.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub const fn has(_: Bug) -> bool {
    false
}

/// Whether this build has that bug, and was told to by `WEIR_SEEDED_BUG`.
#[cfg(feature = "seeded-bugs")]
pub fn has(bug: Bug) -> bool {
    static SEEDED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let seeded = SEEDED.get_or_init(|| std::env::var("WEIR_SEEDED_BUG").ok());
    seeded.as_deref().is_some_and(|seeded| seeded == format!("{bug:?}"))
}
