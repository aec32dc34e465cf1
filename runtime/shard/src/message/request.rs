//! What a shard is asked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_stream::subscription::EncodedWatches;
use weir_stream::{Ancestor, BucketTold, EncodedBindings, Expiry, Pattern, Retention};
use weir_types::{BucketName, Digest, GroupId, Incarnation, ModuleName, Offset, ReadFrom, Role, StreamKey};

use crate::config::Topology;
use crate::message::apart;
use crate::message::body::Body;
use crate::message::members::MembersRequest;
use crate::message::subscription::{LinksAsk, LinksRequest, SubscriptionAsk};

/// What must be true of a stream that is there for a request to change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfMatch {
    /// It is there.
    Exists,
    /// Its tail is one of these; of none, never.
    Tails(Vec<Offset>),
}

impl IfMatch {
    /// The one tail that apply is to demand. Which one of several it can be is decided by `tail`, where the stream is now.
    pub(crate) fn demanded(&self, tail: impl FnOnce() -> Option<Offset>) -> Option<Offset> {
        match self {
            IfMatch::Exists => None,
            IfMatch::Tails(tails) if tails.len() == 1 => Some(tails[0]),
            IfMatch::Tails(tails) => tail().map(|tail| match tails.contains(&tail) {
                true => tail,
                // No tail is ever there.
                false => Offset { position: u64::MAX, ..tail },
            }),
        }
    }
}

/// Create a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The stream's content type, as sent; `application/octet-stream` when the request has none.
    pub content_type: Box<str>,
    /// When it ends by itself.
    pub expiry: Expiry,
    /// Whether it is closed from the start.
    pub closed: bool,
    /// Its first records; empty for none.
    pub body: Body,
    /// Whether it must be there already, or must not.
    pub condition: Option<CreateCondition>,
}

/// Create a stream that begins with what another one holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForkRequest {
    /// The stream that it is a fork of.
    pub source: StreamKey,
    /// Where it leaves the source; `Now` is the source's tail.
    pub from: ReadFrom,
    /// How many messages of what follows there it has besides or, in a stream of bytes, how many bytes of the next record.
    pub sub_offset: u64,
    /// Its content type, which must be the source's, and is that if nothing is said.
    pub content_type: Option<Box<str>>,
    /// When it ends by itself: as the source does, if nothing is said.
    pub expiry: Option<Expiry>,
    /// Whether it is closed from the start.
    pub closed: bool,
    /// Its first own records; empty for none.
    pub body: Body,
    /// Whether it must be there already, or must not.
    pub condition: Option<CreateCondition>,
}

/// Keep what a fork is going to inherit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PinRequest {
    pub(crate) fork: StreamKey,
    pub(crate) fork_incarnation: Incarnation,
    pub(crate) from: ReadFrom,
    pub(crate) sub_offset: u64,
    pub(crate) content_type: Option<Box<str>>,
    /// Until when the fork may come to be, in milliseconds since 1970.
    pub(crate) until_ms: u64,
}

/// Read what a stream holds of a fork's records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InheritedRequest {
    pub(crate) key: StreamKey,
    pub(crate) incarnation: Incarnation,
    /// From where a record begins to where one ends.
    pub(crate) range: Range<u64>,
    pub(crate) bytes_max: usize,
}

impl InheritedRequest {
    /// What an ancestor holds of this range.
    pub(crate) fn of(ancestor: &Ancestor, range: Range<u64>, bytes_max: usize) -> InheritedRequest {
        let key = StreamKey::parse(&ancestor.key).expect("keys were checked when their request came");
        InheritedRequest { key, incarnation: ancestor.incarnation, range, bytes_max }
    }
}

/// The state of a stream's fold, as far as a fork's fold can begin with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FoldStateRequest {
    pub(crate) key: StreamKey,
    pub(crate) incarnation: Incarnation,
    /// The module's bytes, and its configuration.
    pub(crate) digest: Digest,
    pub(crate) config: Box<str>,
    /// It is of all records from the first of these positions on, and of none from the second.
    pub(crate) range: Range<u64>,
}

/// What must be true before a stream is created or found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateCondition {
    /// There is none of this name.
    Absent,
    /// There is one, and this is true of it: then nothing is created.
    Matches(IfMatch),
}

/// Append records, close, or both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AppendRequest {
    /// The body's content type, as sent.
    pub content_type: Option<Box<str>>,
    /// Close the stream after the append.
    pub close: bool,
    /// Who writes, for exactly-once.
    pub producer: Option<Producer>,
    /// `Stream-Seq`.
    pub seq: Option<Box<str>>,
    /// Append only if this is true of the stream.
    pub if_match: Option<IfMatch>,
    /// The records; empty only with `close`.
    pub body: Body,
}

/// Give up a stream's oldest records.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TrimRequest {
    /// Where the first record begins that stays, or the tail.
    pub before: ReadFrom,
    /// Also those of a stream that has a summary.
    pub force: bool,
}

/// An idempotent producer's headers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Producer {
    /// `Producer-Id`, 1 to [`weir_types::limits::PRODUCER_ID_BYTES_MAX`] bytes.
    pub id: Box<str>,
    /// `Producer-Epoch`.
    pub epoch: u64,
    /// `Producer-Seq`.
    pub seq: u64,
}

/// A binding that is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BindingRequest {
    /// Its name.
    pub name: ModuleName,
    /// Which streams of the bucket it is for.
    pub streams: Pattern,
    /// `stats`, `stats@sha256:<digest>`, or `builtin:stats`.
    pub module: Box<str>,
    /// As what the module is used.
    pub role: Role,
    /// The module's configuration as JSON text; `null` for none.
    #[serde(with = "weir_types::shared")]
    pub config: Arc<str>,
}

/// What is asked of a summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryQuery {
    /// The binding.
    pub binding: ModuleName,
    /// What the fold is asked for: `/` for the summary itself.
    pub path: Box<str>,
    /// The query parameters that are the fold's, in their order.
    pub params: Vec<(String, String)>,
}

/// What one shard asks another.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    Append(StreamKey, AppendRequest),
    Create(StreamKey, CreateRequest),
    Fork(StreamKey, Box<ForkRequest>),
    /// To the source of a fork that is going to be.
    Pin(StreamKey, Box<PinRequest>),
    /// To the source of a fork that is gone, will never be, or needs no bytes of it any more.
    Unpin {
        key: StreamKey,
        incarnation: Incarnation,
        fork: Incarnation,
        keeps_pin: bool,
    },
    /// To the fork, of which its source does not know whether it is there; its time is over.
    ForkDecide {
        key: StreamKey,
        incarnation: Incarnation,
        until_ms: u64,
    },
    /// A page of what a stream holds of a fork's records.
    ReadInherited(InheritedRequest, bool),
    /// As many of these records, for a module.
    InheritedRecords(InheritedRequest, usize),
    /// The state that a stream's fold has, for a fork's.
    FoldState(Box<FoldStateRequest>),
    Delete(StreamKey, Option<IfMatch>),
    Trim(StreamKey, TrimRequest),
    Head(StreamKey),
    Read {
        key: StreamKey,
        from: ReadFrom,
        bytes_max: usize,
        /// Whether the page is going to be encoded in parts, as live events: a part of it is counted, too.
        is_live: bool,
    },
    /// Tell me when the stream advances. A shard numbers its watches.
    Watch {
        key: StreamKey,
        number: u64,
    },
    List {
        group: GroupId,
        #[serde(with = "weir_types::shared")]
        query: Arc<ListQuery>,
    },
    /// Up to so many buckets behind a name, in the order of names.
    Buckets {
        after: Box<str>,
        limit: usize,
    },
    /// And have it keep so much, if that is said.
    BucketCreate(Box<str>, Option<Retention>),
    BucketDelete(Box<str>),
    BucketDescribe {
        group: GroupId,
        name: Box<str>,
    },
    /// Replace the group's copy of a bucket, if it is an older one.
    BucketTell {
        group: GroupId,
        #[serde(with = "weir_types::shared")]
        news: Arc<BucketNews>,
    },
    ModulePut {
        bucket: BucketName,
        name: ModuleName,
        roles: Vec<Role>,
        #[serde(with = "apart::one")]
        wasm: Bytes,
    },
    ModuleDelete {
        bucket: BucketName,
        name: ModuleName,
    },
    Modules(BucketName),
    /// As the next two, of the node that is asked, whoever leads: keep a module's bytes.
    ModuleKeep {
        digest: Digest,
        #[serde(with = "apart::one")]
        wasm: Bytes,
    },
    /// Hand a module's bytes over.
    ModuleBytes(Digest),
    /// Have a module ready.
    ModuleLoad {
        bucket: Box<str>,
        digest: Digest,
    },
    BindingPut(BucketName, Box<BindingRequest>),
    BindingDelete {
        bucket: BucketName,
        name: ModuleName,
    },
    Bindings(BucketName),
    /// About the members of a group, to its leader.
    Members(MembersRequest),
    Summary {
        key: StreamKey,
        query: Box<SummaryQuery>,
    },
    /// Of a bucket, by its id.
    Subscription(BucketName, Box<str>, Box<SubscriptionAsk>),
    /// What wakes are signed with.
    HookKeys,
    /// These subscriptions have something new: a bucket, and a number.
    PendingNews(Vec<(Box<str>, u64)>),
    /// Of a group's streams that are linked to a subscription.
    Links(GroupId, Box<LinksRequest>),
}

impl Request {
    /// The group that carries it out.
    pub(crate) fn group(&self, topology: Topology) -> GroupId {
        let of_stream = || self.stream().map(|key| topology.group_of(key.slot()));
        self.named_group().or_else(of_stream).unwrap_or(GroupId::META)
    }

    /// The group that it names, if it names one.
    fn named_group(&self) -> Option<GroupId> {
        match self {
            Request::List { group, .. } | Request::BucketDescribe { group, .. } | Request::BucketTell { group, .. } => {
                Some(*group)
            }
            Request::Links(group, _) => Some(*group),
            Request::Members(request) => Some(request.group()),
            _ => None,
        }
    }

    /// Its body, if it may have one.
    pub(crate) fn body_mut(&mut self) -> Option<&mut Body> {
        match self {
            Request::Append(_, request) => Some(&mut request.body),
            Request::Create(_, request) => Some(&mut request.body),
            Request::Fork(_, request) => Some(&mut request.body),
            _ => None,
        }
    }

    /// Whether it is answered from group 0's tables of buckets, modules and bindings.
    pub(crate) fn is_of_meta(&self) -> bool {
        self.named_group().is_none() && self.stream().is_none() && !self.is_of_node()
    }

    /// Whether it is answered by the node that is asked, which need not lead.
    fn is_of_node(&self) -> bool {
        matches!(self, Request::ModuleKeep { .. } | Request::ModuleBytes(_) | Request::ModuleLoad { .. })
    }

    /// Has `visit` take what is large out, or put it in.
    pub(crate) fn exchange(&mut self, visit: &mut dyn FnMut(&mut Bytes)) {
        match self {
            Request::ModulePut { wasm, .. } | Request::ModuleKeep { wasm, .. } => visit(wasm),
            Request::BucketTell { news, .. } => {
                // Who else has it keeps it as it is.
                Arc::make_mut(news).bindings.iter_mut().for_each(visit);
            }
            request => {
                if let Some(body) = request.body_mut() {
                    body.exchange(visit);
                }
            }
        }
    }

    /// Whether it is answered within the time that a write or a page may take, whatever it finds.
    pub(crate) fn is_prompt(&self) -> bool {
        !matches!(
            self,
            Request::Summary { .. }
                | Request::List { .. }
                | Request::ModulePut { .. }
                | Request::BindingPut(..)
                | Request::Subscription(..)
                | Request::Links(..)
        )
    }

    /// Whether it changes nothing, so that it may be asked any number of times.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Request::Head(_)
            | Request::Read { .. }
            | Request::ReadInherited(..)
            | Request::InheritedRecords(..)
            | Request::FoldState(_)
            | Request::Watch { .. }
            | Request::List { .. }
            | Request::Buckets { .. }
            | Request::BucketDescribe { .. }
            | Request::Modules(_)
            | Request::ModuleBytes(_)
            | Request::Bindings(_)
            | Request::Summary { .. }
            | Request::HookKeys
            | Request::PendingNews(_) => true,
            Request::Subscription(_, _, ask) => matches!(**ask, SubscriptionAsk::Get),
            Request::Links(_, request) => match request.ask {
                LinksAsk::Pending(..) | LinksAsk::All(_) | LinksAsk::Named(_) | LinksAsk::Now => true,
                // What is acknowledged again is acknowledged already.
                LinksAsk::Ack { .. } => true,
            },
            Request::Members(request) => request.is_read(),
            Request::Append(..)
            | Request::Create(..)
            | Request::Fork(..)
            | Request::Pin(..)
            | Request::Unpin { .. }
            | Request::ForkDecide { .. }
            | Request::Delete(..)
            | Request::Trim(..)
            | Request::BucketCreate(..)
            | Request::BucketDelete(_)
            | Request::BucketTell { .. }
            | Request::ModulePut { .. }
            | Request::ModuleDelete { .. }
            | Request::ModuleKeep { .. }
            | Request::ModuleLoad { .. }
            | Request::BindingPut(..)
            | Request::BindingDelete { .. } => false,
        }
    }

    /// Whether it changes nothing, takes long and so ends with its client.
    pub(crate) fn ends_with_client(&self) -> bool {
        match self {
            Request::List { .. } | Request::Summary { .. } | Request::Read { .. } => true,
            Request::ReadInherited(..) | Request::InheritedRecords(..) | Request::FoldState(_) => true,
            // Of a bucket that is listed or looked at: one for each group.
            Request::BucketDescribe { .. } => true,
            Request::Links(_, request) => matches!(request.ask, LinksAsk::All(_)),
            _ => false,
        }
    }

    /// Bytes that it holds besides itself until its task ends.
    pub(crate) fn body_bytes(&self) -> usize {
        match self {
            Request::ModulePut { wasm, .. } | Request::ModuleKeep { wasm, .. } => wasm.len(),
            _ => 0,
        }
    }

    /// The stream that it is about, if it is about one.
    fn stream(&self) -> Option<&StreamKey> {
        match self {
            Request::Unpin { key, .. }
            | Request::ForkDecide { key, .. }
            | Request::ReadInherited(InheritedRequest { key, .. }, _)
            | Request::InheritedRecords(InheritedRequest { key, .. }, _) => Some(key),
            Request::FoldState(request) => Some(&request.key),
            request => request.key(),
        }
    }

    /// The stream that it is about as clients see it, if it is about one.
    pub(crate) fn key(&self) -> Option<&StreamKey> {
        match self {
            Request::Append(key, _)
            | Request::Create(key, _)
            | Request::Fork(key, _)
            | Request::Pin(key, _)
            | Request::Delete(key, _)
            | Request::Trim(key, _)
            | Request::Head(key)
            | Request::Read { key, .. }
            | Request::Watch { key, .. }
            | Request::Summary { key, .. } => Some(key),
            Request::Unpin { .. }
            | Request::ForkDecide { .. }
            | Request::ReadInherited(..)
            | Request::InheritedRecords(..)
            | Request::FoldState(_)
            | Request::List { .. }
            | Request::Buckets { .. }
            | Request::BucketCreate(..)
            | Request::BucketDelete(_)
            | Request::BucketDescribe { .. }
            | Request::BucketTell { .. }
            | Request::ModulePut { .. }
            | Request::ModuleDelete { .. }
            | Request::Modules(_)
            | Request::ModuleKeep { .. }
            | Request::ModuleBytes(_)
            | Request::ModuleLoad { .. }
            | Request::BindingPut(..)
            | Request::BindingDelete { .. }
            | Request::Bindings(_)
            | Request::Subscription(..)
            | Request::HookKeys
            | Request::PendingNews(_)
            | Request::Links(..)
            | Request::Members(_) => None,
        }
    }
}

/// A bucket as group 0 has it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct BucketNews {
    pub(crate) name: Box<str>,
    /// The last change that is in it.
    pub(crate) epoch: u64,
    pub(crate) created_ms: u64,
    pub(crate) fenced: bool,
    pub(crate) retention: Retention,
    /// All its bindings, encoded; `None` when the bucket is gone.
    #[serde(with = "apart::maybe")]
    pub(crate) bindings: Option<Bytes>,
    /// Which of its streams subscriptions are for, encoded.
    pub(crate) watches: Vec<u8>,
    /// If nothing else has changed: the change before, and the number of the subscription that these are the watches of.
    pub(crate) only: Option<(u64, u64)>,
}

impl BucketNews {
    pub(crate) fn told(&self) -> BucketTold<'_> {
        match (&self.bindings, self.only) {
            (_, Some((after, number))) => {
                BucketTold::Watch { after, number, watches: EncodedWatches::of(&self.watches) }
            }
            (None, None) => BucketTold::Gone,
            (Some(bindings), None) => BucketTold::There {
                created_ms: self.created_ms,
                fenced: self.fenced,
                retention: self.retention,
                bindings: EncodedBindings::of(bindings),
                watches: EncodedWatches::of(&self.watches),
            },
        }
    }
}

/// A place in a bucket's listing: behind the streams whose address has this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListCursor(pub u64);

/// Which streams of a bucket to list: `limit` of those with `prefix`, behind `after`.
#[derive(Serialize, Deserialize)]
pub(crate) struct ListQuery {
    pub(crate) bucket: Box<str>,
    pub(crate) prefix: Box<str>,
    pub(crate) after: Option<ListCursor>,
    pub(crate) limit: usize,
}
