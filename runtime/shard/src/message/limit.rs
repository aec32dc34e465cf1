//! The limits that an operator has chosen, as a request meets them: which one, by the name it has in the configuration.

use serde::{Deserialize, Serialize};

/// A configured limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// The disk has no room for another WAL segment. Nobody has configured it, but it is met like the others.
    Disk,
    /// The WAL has reached its size.
    WalBudget,
    /// The index of hot bytes has reached its size.
    HotIndex,
    /// Requests under way have as many bytes as they may.
    InFlight,
    /// Pages that clients have not taken yet have as many bytes as they may.
    Reads,
    /// There are as many live readers as there may be.
    Subscribers,
    /// Live readers have left as many bytes as may be kept for them: the slowest were cut off.
    Live,
    /// A stream remembers as many producers as it may.
    Producers,
    /// A bucket has as many bindings as it may.
    Bindings,
    /// As many calls of one module wait for their turn as may.
    ModuleCalls,
    /// All modules of the node together have as much memory as they may.
    ModuleMemory,
    /// Modules and their code have as many bytes on disk as they may.
    ModuleStore,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Limit; 12] = [
        Limit::Disk,
        Limit::WalBudget,
        Limit::HotIndex,
        Limit::InFlight,
        Limit::Reads,
        Limit::Subscribers,
        Limit::Live,
        Limit::Producers,
        Limit::Bindings,
        Limit::ModuleCalls,
        Limit::ModuleMemory,
        Limit::ModuleStore,
    ];

    /// Its key in the configuration; `disk` has none.
    pub fn key(self) -> &'static str {
        match self {
            Limit::Disk => "disk",
            Limit::WalBudget => "wal.budget_bytes",
            Limit::HotIndex => "limits.hot_index_bytes_max",
            Limit::InFlight => "limits.in_flight_bytes_max",
            Limit::Reads => "limits.read_bytes_max",
            Limit::Subscribers => "limits.subscribers_max",
            Limit::Live => "limits.live_bytes_max",
            Limit::Producers => "limits.producers_per_stream_max",
            Limit::Bindings => "limits.bindings_per_bucket_max",
            Limit::ModuleCalls => "modules.calls_waiting_max",
            Limit::ModuleMemory => "modules.guest_bytes_max",
            Limit::ModuleStore => "modules.store_bytes_max",
        }
    }
}
