//! What is asked and answered, between connections and shards and between shards: plain values.

mod answer;
mod apart;
mod backup;
mod body;
mod check;
mod error;
mod letter;
mod limit;
mod mail;
mod members;
mod peer;
mod request;
mod sound;
mod stats;
mod subscription;

pub(crate) use answer::{Answer, Pinned, RecordBatch, Response};
pub use answer::{
    BucketSummary, ListedStream, Listing, LongPoll, ModuleState, ModuleSummary, Page, SummaryView, SummaryWait,
};
pub use backup::BackupNews;
pub use body::Body;
pub use check::{CheckNews, DamagedChunk};
pub use error::ShardError;
pub(crate) use letter::{Letter, LetterError, Sent, decode, encode};
pub use limit::Limit;
pub(crate) use mail::{Advance, CallId, Lead, Mail};
pub(crate) use members::{Announcement, GroupChange, GroupStep, MembersAnswer, MembersRequest, NodesView};
pub use members::{
    ClusterOrder, ClusterReport, ClusterStatus, Following, GroupStanding, GroupStatus, NodeChange, NodeStatus,
};
pub(crate) use peer::{Addressee, Peer};
pub use request::{
    AppendRequest, BindingRequest, CreateCondition, CreateRequest, ForkRequest, IfMatch, ListCursor, Producer,
    SummaryQuery, TrimRequest,
};
pub(crate) use request::{BucketNews, FoldStateRequest, InheritedRequest, ListQuery, PinRequest, Request};
pub use stats::ShardStats;
pub use subscription::{AckRequest, ClaimedWake, LinkedStream, SubscriptionView};
pub(crate) use subscription::{LinksAsk, LinksRequest, SubscriptionAnswer, SubscriptionAsk};
