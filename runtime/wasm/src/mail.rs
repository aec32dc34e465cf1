//! What the threads of a lane are told, by callers and by each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_types::Role;

use crate::batch::{GuestBatch, View};
use crate::call::{FoldId, InstanceKey, Reply, Snapshot, Validation};
use crate::error::GuestError;
use crate::instance::Instance;
use crate::voice::Caller;

/// What can be asked of the front.
pub(crate) enum FrontMail {
    Validate(Vec<Validation>),
    /// What has become of an instance that the front has asked for.
    Started(InstanceKey, Result<Box<Instance>, GuestError>),
    /// Only these are bound in this bucket now.
    Retain {
        bucket: Arc<str>,
        kept: Arc<[(InstanceKey, Role)]>,
    },
    /// Nobody is left who could ask.
    Stop,
}

/// What can be asked of the back.
pub(crate) enum BackMail {
    Job(Job),
    /// An instance that was handed to the front has ended.
    Ended {
        instance: InstanceKey,
        role: Role,
        caller: Caller,
        error: GuestError,
    },
    /// Only these are bound in this bucket now.
    Retain {
        bucket: Arc<str>,
        kept: Arc<[(InstanceKey, Role)]>,
    },
    /// Nobody is left who could ask.
    Stop,
}

/// A call, or the making of an instance.
pub(crate) enum Job {
    Check {
        instance: InstanceKey,
        role: Role,
        reply: Reply<()>,
    },
    /// For the front, which gets it.
    Start {
        instance: InstanceKey,
        caller: Caller,
    },
    Validate(Validation),
    Open {
        instance: InstanceKey,
        caller: Caller,
        snapshot: Option<Bytes>,
        alone: bool,
        reply: Reply<FoldId>,
    },
    Apply {
        fold: FoldId,
        batch: GuestBatch,
        reply: Reply<Duration>,
    },
    Query {
        fold: FoldId,
        path: String,
        params: Vec<(String, String)>,
        reply: Reply<View>,
    },
    Snapshot {
        fold: FoldId,
        reply: Reply<(Snapshot, Duration)>,
    },
    Drop {
        fold: FoldId,
    },
}
