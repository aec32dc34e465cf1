//! Why a request was not carried out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_stream::Refusal;
use weir_types::Offset;

use crate::message::limit::Limit;

/// Why a request was not carried out.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ShardError {
    /// The stream's state forbids it; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A create that is only to find its stream has not found it; nothing changed.
    #[error("there is no such stream, and If-Match asks for one")]
    Absent,
    /// The bucket does not exist and may not come to be by itself; nothing changed.
    #[error("no such bucket, and buckets are not created automatically")]
    BucketUnknown,
    /// A limit is met; nothing changed.
    #[error("the server has reached its limit {}", .0.key())]
    Limit(Limit),
    /// The group has no leader, or its queue is full; nothing changed.
    #[error("the stream cannot take requests right now; try again")]
    Unavailable,
    /// The log cannot be written any more; nothing changed. Only a restart helps.
    #[error("the stream's log has failed")]
    LogFailed,
    /// No outcome within the deadline, or the log failed under the request: it may or may not have been carried out.
    #[error(
        "the server cannot tell whether this was carried out; look at the tail, or send it again with producer headers"
    )]
    Unknown,
    /// A validator refused a record; nothing changed.
    #[error("record {index} was refused by {binding}: {message}")]
    RecordRejected {
        /// The validator's binding.
        binding: Box<str>,
        /// Which record of the request, counted from 0.
        index: u32,
        /// For programs: 1 to 64 characters of `a-z`, `0-9`, `-` and `_`.
        code: Box<str>,
        /// For people.
        message: Box<str>,
    },
    /// A validator of the fork's path has not judged what the fork would inherit; nothing changed.
    #[error("{0}")]
    ForkNotJudged(Box<str>),
    /// A module that was needed for the answer ended instead of giving it; nothing changed.
    #[error("{0}")]
    ModuleTrapped(#[serde(with = "weir_types::shared")] Arc<str>),
    /// A module that was needed for the answer took more time than a call may have; nothing changed.
    #[error("{0}")]
    ModuleTimedOut(#[serde(with = "weir_types::shared")] Arc<str>),
    /// A module that is needed for the answer has failed again and again and is not asked for a while; nothing changed.
    #[error("{0}")]
    ModuleSuspended(#[serde(with = "weir_types::shared")] Arc<str>),
    /// A module that is needed for the answer is not ready on this node yet; nothing changed.
    #[error("a module that the stream is bound to is not ready yet")]
    ModuleNotReady,
    /// What was uploaded is no module that can be used; nothing is kept.
    #[error("{0}")]
    ModuleInvalid(Box<str>),
    /// What was uploaded is larger than modules may be; nothing is kept.
    #[error("the module is too large: a module may have {bytes_max} bytes")]
    ModuleTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// What was uploaded cannot be looked at or kept, for a reason of this node.
    #[error("the server could not store the module; its log says why")]
    ModuleStore(#[serde(with = "weir_types::shared")] Arc<str>),
    /// As many modules wait for being looked at or compiled as may; nothing changed.
    #[error("too many modules of this bucket are being inspected or compiled; try again when one is ready")]
    ModulesWaiting,
    /// No module of the bucket has this name, or none of its uploads has the digest behind the name; nothing changed.
    #[error("no such module: `{0}`")]
    ModuleUnknown(Box<str>),
    /// The module's only uploads could not be compiled; nothing changed.
    #[error("the module `{name}` cannot be used: {reason}")]
    ModuleFailed {
        /// The module.
        name: Box<str>,
        /// Why its newest upload could not be compiled.
        reason: Box<str>,
    },
    /// The node could not start an instance of the module, for want of something that its machine has to give.
    #[error("{0}")]
    ModuleNotStarted(#[serde(with = "weir_types::shared")] Arc<str>),
    /// No binding of the bucket has this name; nothing changed.
    #[error("no such binding: `{0}`")]
    BindingUnknown(Box<str>),
    /// The module cannot be bound like this; nothing changed.
    #[error("{0}")]
    BindingInvalid(Box<str>),
    /// The subscription does not have what is asked of it; nothing changed.
    #[error("{0}")]
    SubscriptionInvalid(Box<str>),
    /// The webhook's address is one that the server does not call; nothing changed.
    #[error("{0}")]
    WebhookRejected(Box<str>),
    /// The token is missing, has ended, or is none that the server has given out; nothing changed.
    #[error("the token is missing, has ended, or is none of this server's")]
    TokenInvalid,
    /// Another worker has claimed the wake; nothing changed.
    #[error("'{holder}' has claimed the wake")]
    Claimed {
        /// Who.
        holder: Box<str>,
        /// The wake's generation.
        generation: u64,
    },
    /// There is nothing that could be claimed; nothing changed.
    #[error("no stream of the subscription has anything new")]
    NothingPending,
    /// The fold has ended before the offset that was asked for: the record there ends the module.
    #[error("the summary has failed at offset {at}: {reason}")]
    SummaryFailed {
        /// The offset of the record.
        at: Offset,
        /// Why.
        #[serde(with = "weir_types::shared")]
        reason: Arc<str>,
    },
    /// The module refuses the question, in its own words.
    #[error("{0}")]
    SummaryRefused(Box<str>),
    /// What the cold tier holds is not what was written; it is not served.
    #[error("cold bytes of this stream are damaged")]
    ColdDamaged(#[serde(with = "weir_types::shared")] Arc<str>),
    /// The cold tier does not answer.
    #[error("the cold tier cannot be read now")]
    ColdUnavailable(#[serde(with = "weir_types::shared")] Arc<str>),
    /// What the disk holds is not what was written.
    #[error("stored bytes are damaged: {0}")]
    Corrupt(#[serde(with = "weir_types::shared")] Arc<str>),
}

impl From<weir_cold::ColdError> for ShardError {
    fn from(error: weir_cold::ColdError) -> ShardError {
        let reason = Arc::from(error.to_string());
        match error {
            weir_cold::ColdError::Damaged { .. } => ShardError::ColdDamaged(reason),
            weir_cold::ColdError::Unavailable(_) => ShardError::ColdUnavailable(reason),
        }
    }
}
