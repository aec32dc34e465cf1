//! What is asked and answered, between connections and shards and between shards: plain values.

mod answer;
mod backup;
mod body;
mod check;
mod error;
mod limit;
mod mail;
mod request;
mod stats;

pub(crate) use answer::{Answer, Pinned, RecordBatch, Response};
pub use answer::{
    BucketSummary, ListedStream, Listing, LongPoll, ModuleState, ModuleSummary, Page, SummaryView, SummaryWait,
};
pub use backup::BackupNews;
pub use body::Body;
pub use check::{CheckNews, DamagedChunk};
pub use error::ShardError;
pub use limit::Limit;
pub(crate) use mail::{Advance, CallId, Mail};
pub use request::{
    AppendRequest, BindingRequest, CreateCondition, CreateRequest, ForkRequest, IfMatch, ListCursor, Producer,
    SummaryQuery, TrimRequest,
};
pub(crate) use request::{BucketNews, InheritedRequest, ListQuery, PinRequest, Request};
pub use stats::ShardStats;
