//! How the use of a guest fails.

/// Why a guest gave no answer, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The module is not compiled on this node, or not known here.
    #[error("the module is not ready")]
    NotReady,
    /// The module refuses the binding's configuration, or is not what the binding wants it to be.
    #[error("the module refuses its configuration: {0}")]
    ConfigRefused(String),
    /// The guest was ended; its instance is gone, and with it all folds in it.
    #[error("the module trapped ({reason}): {message}")]
    Trapped {
        /// What kind of end.
        reason: TrapReason,
        /// The engine's words, and what the guest logged as an error in the same call.
        message: String,
    },
    /// `apply`, `query` or `restore` answered with an error: the guest's words. The fold is still there.
    #[error("the module refused: {0}")]
    Refused(String),
    /// The answer does not fit the contract.
    #[error("the module's answer does not fit the contract: {0}")]
    Garbage(String),
    /// The fold's instance is gone, or the fold was dropped. Open it again, from a snapshot or from the beginning.
    #[error("the fold is gone")]
    FoldLost,
    /// As many calls of the binding wait for their turn as may.
    #[error("too many calls of the module wait for their turn")]
    Busy,
    /// The node's guests have all the memory that they may have together. Says nothing of this one.
    #[error("all modules together use all the memory they may: modules.guest_bytes_max")]
    OutOfBudget,
    /// The machine did not give what an instance takes. Says nothing of the module.
    #[error("this node could not start an instance of the module: {0}")]
    NotStarted(String),
    /// The module has failed again and again, and is not asked for a while.
    #[error("the module is suspended for {} ms, because it has failed {failures} times in a row: {error}", retry_after.as_millis())]
    Suspended {
        /// How often.
        failures: u32,
        /// How long it is suspended yet.
        retry_after: std::time::Duration,
        /// How it failed last.
        error: String,
    },
    /// The lane has ended: the node shuts down.
    #[error("the guest lane has ended")]
    Stopped,
}

impl GuestError {
    /// Whether it is the node that fell short, and not the module.
    pub fn is_of_node(&self) -> bool {
        matches!(self, GuestError::OutOfBudget | GuestError::NotStarted(_))
    }
}

/// How a guest was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrapReason {
    /// It ended itself: a panic.
    Panic,
    /// It used more instructions than the call's size allows.
    OutOfFuel,
    /// It took more CPU time than any call may.
    TimedOut,
    /// It asked for more memory than an instance may have.
    OutOfMemory,
    /// A fault: an address out of bounds, a stack too deep, a function that guests do not have.
    Other,
}

impl std::fmt::Display for TrapReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TrapReason::Panic => "panic",
            TrapReason::OutOfFuel => "out of fuel",
            TrapReason::TimedOut => "timed out",
            TrapReason::OutOfMemory => "out of memory",
            TrapReason::Other => "fault",
        })
    }
}
