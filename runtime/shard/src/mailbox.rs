//! Mailboxes: how shards speak to each other. What a shard has to say to a peer in one turn travels as one message.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use weir_stream::{Appended, Binding, Summary};
use weir_types::{BucketName, GroupId, Incarnation, ModuleName, ReadFrom, ShardId, StreamKey};

use crate::api::{AppendRequest, CreateRequest, ListedStream, Page, ShardError};
use crate::bindings::BindingRequest;
use crate::calls::CallId;
use crate::modules::ModuleSummary;
use crate::stats::ShardStats;
use crate::summary::{SummaryQuery, SummaryView};
use crate::wakeup::Wakeup;

/// One thing to say.
pub(crate) enum Mail {
    /// Please carry this out and answer.
    Request { origin: ShardId, call: CallId, request: Request },
    /// The answer.
    Response { owner: ShardId, call: CallId, response: Response },
    /// A stream that you watch has advanced.
    Advanced { owner: ShardId, advance: Advance },
    /// Nobody here watches this stream any longer; `answered` is your last answer to a watch of mine that I have seen.
    Unwatch { origin: ShardId, incarnation: Incarnation, answered: u64 },
    /// How are you?
    Stats(oneshot::Sender<ShardStats>),
}

/// What one shard asks another.
pub(crate) enum Request {
    Append(StreamKey, AppendRequest),
    Create(StreamKey, CreateRequest),
    Delete(StreamKey),
    Head(StreamKey),
    Read {
        key: StreamKey,
        from: ReadFrom,
        bytes_max: usize,
    },
    /// Tell me when the stream advances. A shard numbers its watches.
    Watch {
        key: StreamKey,
        number: u64,
    },
    List {
        group: GroupId,
        query: Arc<ListQuery>,
    },
    BucketCreate(Box<str>),
    BucketDelete(Box<str>),
    BucketDescribe {
        group: GroupId,
        name: Box<str>,
    },
    BucketChange {
        group: GroupId,
        change: BucketChange,
        name: Box<str>,
        created_ms: u64,
    },
    /// Replace the group's copy of a bucket's bindings by these, encoded.
    BucketBindings {
        group: GroupId,
        name: Box<str>,
        epoch: u64,
        bindings: Bytes,
    },
    ModulePut {
        bucket: BucketName,
        name: ModuleName,
        wasm: Bytes,
    },
    ModuleDelete {
        bucket: BucketName,
        name: ModuleName,
    },
    Modules(BucketName),
    BindingPut(BucketName, Box<BindingRequest>),
    BindingDelete {
        bucket: BucketName,
        name: ModuleName,
    },
    Bindings(BucketName),
    Summary {
        key: StreamKey,
        query: Box<SummaryQuery>,
    },
}

impl Request {
    /// The stream that it is about, if it is about one.
    pub(crate) fn key(&self) -> Option<&StreamKey> {
        match self {
            Request::Append(key, _)
            | Request::Create(key, _)
            | Request::Delete(key)
            | Request::Head(key)
            | Request::Read { key, .. }
            | Request::Watch { key, .. }
            | Request::Summary { key, .. } => Some(key),
            Request::List { .. }
            | Request::BucketCreate(_)
            | Request::BucketDelete(_)
            | Request::BucketDescribe { .. }
            | Request::BucketChange { .. }
            | Request::BucketBindings { .. }
            | Request::ModulePut { .. }
            | Request::ModuleDelete { .. }
            | Request::Modules(_)
            | Request::BindingPut(..)
            | Request::BindingDelete { .. }
            | Request::Bindings(_) => None,
        }
    }
}

/// A change of one group's own copy of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketChange {
    /// Streams may be created in it.
    Create,
    /// No stream may be created in it while its deletion is being decided.
    Fence,
    /// The deletion was refused.
    Unfence,
    /// The deletion was decided.
    Drop,
}

/// Which streams of a bucket to list: those with `prefix`, after `after`, the first `limit` by name.
pub(crate) struct ListQuery {
    pub(crate) bucket: Box<str>,
    pub(crate) prefix: Box<str>,
    pub(crate) after: Option<Box<str>>,
    pub(crate) limit: usize,
}

/// What a request is answered with.
pub(crate) type Response = Result<Answer, ShardError>;

/// A request's result, by its kind.
pub(crate) enum Answer {
    Appended(Appended),
    Created {
        summary: Summary,
        existed: bool,
    },
    Summary(Summary),
    Watching {
        summary: Summary,
        number: u64,
    },
    Page(Box<Page>),
    Listed(Vec<ListedStream>),
    /// Streams of the bucket in one group, when it was created, and the last change of its bindings that arrived there.
    Bucket {
        streams: u64,
        created_ms: u64,
        bindings_epoch: u64,
    },
    BucketCreated {
        existed: bool,
    },
    Module {
        module: Box<ModuleSummary>,
        existed: bool,
    },
    Modules(Vec<ModuleSummary>),
    Binding {
        binding: Arc<Binding>,
        existed: bool,
    },
    Bindings(Vec<Arc<Binding>>),
    View(Box<SummaryView>),
    Done,
}

/// New bytes of a stream, or its close or removal, for those who watch.
#[derive(Clone)]
pub(crate) struct Advance {
    pub(crate) incarnation: Incarnation,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) payload: Bytes,
    pub(crate) closed: bool,
    pub(crate) removed: bool,
}

/// A shard's outgoing mail: what is put into it in one turn leaves together at the turn's end.
pub(crate) struct Post {
    own: ShardId,
    peers: Vec<Address>,
    outbox: Vec<RefCell<Vec<Mail>>>,
    filled: Wakeup,
}

impl Post {
    pub(crate) fn new(own: ShardId, peers: Vec<Address>) -> Post {
        let outbox = peers.iter().map(|_| RefCell::default()).collect();
        Post { own, peers, outbox, filled: Wakeup::default() }
    }

    /// The shard that this is the post of.
    pub(crate) fn own(&self) -> ShardId {
        self.own
    }

    /// Puts mail for a peer into this turn's message.
    pub(crate) fn mail(&self, peer: ShardId, mail: Mail) {
        self.outbox[usize::from(peer.0)].borrow_mut().push(mail);
        self.filled.ring();
    }

    /// Sends every turn's mail. Runs for the shard's life.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            self.filled.rung().await;
            for (outbox, peer) in self.outbox.iter().zip(&self.peers) {
                let mail = outbox.take();
                if !mail.is_empty() {
                    // A peer that has stopped is about to take the process with it; nothing is owed to it.
                    let _ = peer.0.send(mail);
                }
            }
        }
    }
}

/// A shard's own mailbox, with the addresses of all.
pub struct Mailbox {
    pub(crate) receiver: mpsc::UnboundedReceiver<Vec<Mail>>,
    pub(crate) peers: Vec<Address>,
}

/// Where a shard's mail goes. Unbounded: what is in it is bounded by the requests under way.
#[derive(Clone)]
pub struct Address(pub(crate) mpsc::UnboundedSender<Vec<Mail>>);

impl Address {
    /// Asks the shard for its figures. `None` when it has stopped.
    pub async fn stats(&self) -> Option<ShardStats> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(vec![Mail::Stats(sender)]).ok()?;
        receiver.await.ok()
    }
}

/// The mailboxes of a node with this many shards, and the address of each, in their order.
pub fn mesh(shards: u16) -> (Vec<Mailbox>, Vec<Address>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::unbounded_channel()).unzip();
    let peers: Vec<Address> = senders.into_iter().map(Address).collect();
    let mailboxes = receivers.into_iter().map(|receiver| Mailbox { receiver, peers: peers.clone() }).collect();
    (mailboxes, peers)
}
