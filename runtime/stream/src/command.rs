//! Commands: what a leader asks a group to do, and the bytes they are in a batch.
//!
//! A command is borrowed on both sides: from the request when it is encoded, from the log entry when it is applied, so
//! that apply allocates nothing for what it only reads. Kinds are part of the log's format: a number is never reused.

use weir_types::limits::{CONTENT_TYPE_BYTES_MAX, PRODUCER_ID_BYTES_MAX, WORD_BYTES_MAX};
use weir_types::{Digest, Incarnation, Lineage, Offset, Role};

use crate::binding::{EncodedBindings, role_code, role_of};
use crate::bucket::{BucketTold, Retention};
use crate::chunks::ChunkId;
use crate::codec::{CodecError, Reader};
use crate::fields::{flag, put_expiry, read_expiry};
use crate::fork::EncodedFork;
use crate::key::KeyRef;
use crate::meta::BucketStep;
use crate::meta::nodes::{EncodedFounders, NodeStep};
use crate::module::Upload;
use crate::part::EncodedParts;
use crate::producer::ProducerRef;
use crate::records::Records;
use crate::reply::Expiry;
use crate::sink::{Count, Sink};
use crate::subscription::kept::{HookSeed, SubscriptionStep, is_subscription_id, read_seed};
use crate::subscription::watch::{EncodedAcks, EncodedWatches};

const KIND_CREATE: u8 = 1;
const KIND_APPEND: u8 = 2;
const KIND_DELETE: u8 = 3;
const KIND_EXPIRE: u8 = 4;
const KIND_FLUSH: u8 = 5;
const KIND_BUCKET: u8 = 21;
const KIND_META_FORM: u8 = 32;
const KIND_META_MODULE_PUT: u8 = 37;
// 38 and 39 were these two with the number of an upload, which a later one may have, too.
const KIND_META_MODULE_DELETE: u8 = 40;
const KIND_META_BINDING_PUT: u8 = 41;
const KIND_META_BINDING_DELETE: u8 = 42;
const KIND_META_BUCKET: u8 = 43;
const KIND_META_MODULE_READY: u8 = 44;
const KIND_META_MODULE_FAILED: u8 = 45;
/// [`KIND_DELETE`] with the tail that is expected.
const KIND_DELETE_AT: u8 = 46;
const KIND_TRIM: u8 = 47;
const KIND_META_RETENTION: u8 = 48;
const KIND_PIN: u8 = 49;
const KIND_PIN_SETTLE: u8 = 50;
const KIND_UNPIN: u8 = 51;
const KIND_FORK_DECIDE: u8 = 52;
const KIND_FORK_RELEASED: u8 = 53;
const KIND_META_NODE: u8 = 68;
const KIND_META_FOUNDERS: u8 = 69;
const KIND_META_LEVEL: u8 = 70;

/// [`KIND_BUCKET`] with the streams that subscriptions are for.
const KIND_BUCKET_WATCHED: u8 = 64;
const KIND_META_SUBSCRIPTION: u8 = 65;
/// [`KIND_META_HOOK_KEY`], whichever keys there are.
const KIND_META_HOOK_KEY_ANYHOW: u8 = 66;
/// [`KIND_ACK`] that is never too late.
const KIND_ACK_EVER: u8 = 67;
const KIND_META_HOOK_KEY: u8 = 71;
const KIND_ACK: u8 = 72;

const FLAG_CLOSE: u8 = 1;
const FLAG_PRODUCER: u8 = 2;
const FLAG_SEQ: u8 = 4;
const FLAG_IF_MATCH: u8 = 8;
/// An epoch of bindings other than 0 follows. Entries from before there were bindings have none.
const FLAG_BINDINGS: u8 = 16;
const FLAG_ONLY_NEW: u8 = 32;
/// What a fork begins with follows. Entries from before there were forks have none.
const FLAG_FORK: u8 = 64;

const TOLD_GONE: u8 = 0;
const TOLD_OPEN: u8 = 1;
const TOLD_FENCED: u8 = 2;
const TOLD_WATCH: u8 = 3;

/// A step's number is its place.
const BUCKET_STEPS: [BucketStep; 6] =
    [BucketStep::Create, BucketStep::Delete, BucketStep::Keep, BucketStep::Drop, BucketStep::Forget, BucketStep::Renew];

/// What a group is asked to do.
///
/// `incarnation` is for a create the new stream's, and otherwise the one that the leader's checks were made against.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Creates a stream, or finds it there with the same configuration.
    Create {
        /// Its address.
        key: KeyRef<'a>,
        /// Drawn at random by the leader, never 0.
        incarnation: Incarnation,
        /// As sent, at most [`CONTENT_TYPE_BYTES_MAX`] bytes.
        content_type: &'a str,
        /// When it ends by itself.
        expiry: Expiry,
        /// Whether it is closed from the start.
        closed: bool,
        /// Whether one that is there already is a refusal.
        only_new: bool,
        /// [`Group::bindings_epoch`](crate::Group::bindings_epoch) when the records were checked.
        bindings_epoch: u64,
        /// What it begins with, if it is a fork.
        fork: Option<EncodedFork<'a>>,
        /// Its first records.
        records: Records<'a>,
    },
    /// Appends records, closes the stream, or both at once.
    Append {
        /// The stream's address.
        key: KeyRef<'a>,
        /// The life of the stream that the records were checked for.
        incarnation: Incarnation,
        /// Whether it is closed after the append.
        close: bool,
        /// Who writes, for exactly-once.
        producer: Option<ProducerRef<'a>>,
        /// `Stream-Seq`, at most [`PRODUCER_ID_BYTES_MAX`] bytes.
        seq: Option<&'a str>,
        /// The tail that the writer expects.
        if_match: Option<Offset>,
        /// [`Group::bindings_epoch`](crate::Group::bindings_epoch) when the records were checked.
        bindings_epoch: u64,
        /// None only with `close`.
        records: Records<'a>,
    },
    /// Deletes a stream.
    Delete {
        /// Its address.
        key: KeyRef<'a>,
        /// The life that is meant to end.
        incarnation: Incarnation,
        /// The tail that is expected.
        if_match: Option<Offset>,
    },
    /// Deletes a stream that has not been used for too long, or whose time has come; apply checks again.
    Expire {
        /// Its address.
        key: KeyRef<'a>,
        /// The life that is meant to end.
        incarnation: Incarnation,
    },
    /// Gives up a stream's oldest records.
    Trim {
        /// Its address.
        key: KeyRef<'a>,
        /// The life that is meant.
        incarnation: Incarnation,
        /// Where the first record begins that stays, or the tail.
        before: u64,
        /// Also those of a stream that has a summary, which could not be computed again from its beginning.
        force: bool,
    },
    /// Keeps what a fork inherits of a stream, from its first record on.
    Pin {
        /// The stream's address.
        key: KeyRef<'a>,
        /// The life that is meant.
        incarnation: Incarnation,
        /// The fork's address.
        fork: KeyRef<'a>,
        /// The life that the fork is going to have.
        fork_incarnation: Incarnation,
        /// The position after the last byte that the fork inherits.
        upto: u64,
        /// Until when the fork may come to be, in milliseconds since 1970.
        until_ms: u64,
    },
    /// The fork that a stream was pinned for is there.
    PinSettle {
        /// The stream's address.
        key: KeyRef<'a>,
        /// The life that is meant.
        incarnation: Incarnation,
        /// The fork's life.
        fork: Incarnation,
    },
    /// A fork is gone, will never be, or needs no bytes of the stream any more. A stream that only this fork has kept is removed.
    Unpin {
        /// The stream's address.
        key: KeyRef<'a>,
        /// The life that is meant.
        incarnation: Incarnation,
        /// The fork's life.
        fork: Incarnation,
        /// Whether the fork is still there.
        keeps_pin: bool,
    },
    /// Decides whether a fork is there or will never be: it cannot come to be afterwards.
    ForkDecide {
        /// The fork's address.
        key: KeyRef<'a>,
        /// The life that is meant.
        incarnation: Incarnation,
        /// Until when it might have come to be, in milliseconds since 1970.
        until_ms: u64,
    },
    /// What a fork of this group has pinned is unpinned.
    ForkReleased {
        /// The fork's life.
        incarnation: Incarnation,
        /// As it was said when this was unpinned.
        keeps_pin: bool,
    },
    /// Bytes of streams are in a chunk of the cold tier now, and are read from there.
    Flush {
        /// The chunk.
        chunk: ChunkId,
        /// The size of the object.
        bytes: u64,
        /// CRC32C of the object.
        crc: u32,
        /// When the first and the last of its bytes were appended, in milliseconds since 1970.
        times: (u64, u64),
        /// Which bytes.
        parts: EncodedParts<'a>,
    },
    /// Replaces the group's own copy of a bucket, if it is of an earlier change.
    Bucket {
        /// The bucket.
        name: &'a str,
        /// The last change that is in it.
        epoch: u64,
        /// The bucket.
        told: BucketTold<'a>,
    },
    /// Moves cursors of a subscription, as somebody says who has processed these streams.
    Ack {
        /// The bucket.
        bucket: &'a str,
        /// The subscription's number.
        number: u64,
        /// From when on it is too late, in milliseconds since 1970: until then nobody else has the wake.
        until_ms: u64,
        /// Which streams of this group, and up to where.
        acks: EncodedAcks<'a>,
    },
    /// Group 0 only: a subscription or a wake of it comes, changes or goes.
    MetaSubscription {
        /// The bucket.
        bucket: &'a str,
        /// The subscription's id.
        id: &'a str,
        /// What happens to it.
        step: SubscriptionStep<'a>,
    },
    /// Group 0 only: wakes are signed with another key some time from now on.
    MetaHookKey {
        /// What it is made of, drawn at random by the leader.
        seed: HookSeed,
        /// When the newest key came that is known, in milliseconds since 1970; 0 if there is none. If another one has come meanwhile, this
        /// one does not. [`u64::MAX`] in old logs: it comes all the same.
        after_ms: u64,
    },
    /// Group 0 only: fixes how many groups the slots are spread over.
    MetaForm {
        /// At least 1.
        groups: u16,
    },
    /// Group 0 only: these nodes have formed the cluster. The first command about nodes.
    MetaFounders {
        /// All of them.
        founders: EncodedFounders<'a>,
    },
    /// Group 0 only: all nodes know this format level.
    MetaLevel {
        /// At most [`weir_types::limits::FORMAT_LEVEL`].
        level: u16,
    },
    /// Group 0 only: a node of the cluster comes, goes, or is on its way.
    MetaNode {
        /// Its number, never 0.
        node: u64,
        /// What happens to it.
        step: NodeStep<'a>,
    },
    /// Group 0 only: a bucket comes to be, goes, or is on its way there.
    MetaBucket {
        /// The bucket.
        name: &'a str,
        /// What happens to it.
        step: BucketStep,
    },
    /// Group 0 only: how much of a bucket's streams is kept changes, before any group hears of it.
    MetaRetention {
        /// The bucket.
        bucket: &'a str,
        /// How much is kept from now on.
        retention: Retention,
    },
    /// Group 0 only: a module was uploaded, and is going to be compiled.
    MetaModulePut {
        /// The bucket.
        bucket: &'a str,
        /// The module.
        name: &'a str,
        /// What was uploaded.
        upload: Upload<'a>,
    },
    /// Group 0 only: an upload is compiled.
    MetaModuleReady {
        /// The bucket.
        bucket: &'a str,
        /// The module.
        name: &'a str,
        /// What was uploaded: what is true of these bytes, whichever upload brought them.
        digest: Digest,
    },
    /// Group 0 only: an upload cannot be compiled.
    MetaModuleFailed {
        /// The bucket.
        bucket: &'a str,
        /// The module.
        name: &'a str,
        /// What was uploaded: what is true of these bytes, whichever upload brought them.
        digest: Digest,
        /// Why, for whoever uploaded it.
        reason: &'a str,
    },
    /// Group 0 only: a module that no binding uses is removed, with all its revisions.
    MetaModuleDelete {
        /// The bucket.
        bucket: &'a str,
        /// The module.
        name: &'a str,
    },
    /// Group 0 only: a binding comes to be or changes, before any group hears of it.
    MetaBindingPut {
        /// The bucket.
        bucket: &'a str,
        /// The one binding; its epoch is assigned here.
        binding: EncodedBindings<'a>,
    },
    /// Group 0 only: a binding is removed, before any group hears of it.
    MetaBindingDelete {
        /// The bucket.
        bucket: &'a str,
        /// The binding.
        name: &'a str,
    },
}

impl<'a> Command<'a> {
    /// The one stream that it is about, if it is about one.
    pub(crate) fn key(&self) -> Option<KeyRef<'a>> {
        match self {
            Command::Create { key, .. }
            | Command::Append { key, .. }
            | Command::Delete { key, .. }
            | Command::Expire { key, .. }
            | Command::Trim { key, .. }
            | Command::Pin { key, .. }
            | Command::PinSettle { key, .. }
            | Command::Unpin { key, .. }
            | Command::ForkDecide { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// Bytes of the command without its frame's head: what [`Command::put`] writes, counted.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let mut count = Count(0);
        self.put(&mut count);
        count.0
    }

    /// Writes kind and fields behind what `sink` holds.
    pub(crate) fn put<S: Sink>(&self, sink: &mut S) {
        const { assert!(CONTENT_TYPE_BYTES_MAX <= 255 && PRODUCER_ID_BYTES_MAX <= 255 && WORD_BYTES_MAX <= 255) };
        sink.u8(self.kind());
        match *self {
            Command::Create {
                key,
                incarnation,
                content_type,
                expiry,
                closed,
                only_new,
                bindings_epoch,
                fork,
                records,
            } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.u8(flag(closed, FLAG_CLOSE)
                    | flag(bindings_epoch != 0, FLAG_BINDINGS)
                    | flag(only_new, FLAG_ONLY_NEW)
                    | flag(fork.is_some(), FLAG_FORK));
                put_epoch(sink, bindings_epoch);
                put_expiry(sink, expiry);
                sink.short(content_type);
                if let Some(fork) = fork {
                    sink.blob(fork.bytes());
                }
                sink.records(&records);
            }
            Command::Append { key, incarnation, close, producer, seq, if_match, bindings_epoch, records } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.u8(flag(close, FLAG_CLOSE)
                    | flag(producer.is_some(), FLAG_PRODUCER)
                    | flag(seq.is_some(), FLAG_SEQ)
                    | flag(if_match.is_some(), FLAG_IF_MATCH)
                    | flag(bindings_epoch != 0, FLAG_BINDINGS));
                put_epoch(sink, bindings_epoch);
                if let Some(producer) = producer {
                    sink.short(producer.id);
                    sink.u64(producer.epoch);
                    sink.u64(producer.seq);
                }
                if let Some(seq) = seq {
                    sink.short(seq);
                }
                put_tail(sink, if_match);
                sink.records(&records);
            }
            Command::Delete { key, incarnation, if_match } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                put_tail(sink, if_match);
            }
            Command::Expire { key, incarnation } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
            }
            Command::Trim { key, incarnation, before, force } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.u64(before);
                sink.u8(u8::from(force));
            }
            Command::Pin { key, incarnation, fork, fork_incarnation, upto, until_ms } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.long(fork.as_str());
                sink.u64(fork_incarnation.0);
                sink.u64(upto);
                sink.u64(until_ms);
            }
            Command::PinSettle { key, incarnation, fork } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.u64(fork.0);
            }
            Command::Unpin { key, incarnation, fork, keeps_pin } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.u64(fork.0);
                sink.u8(u8::from(keeps_pin));
            }
            Command::ForkDecide { key, incarnation, until_ms } => {
                sink.long(key.as_str());
                sink.u64(incarnation.0);
                sink.u64(until_ms);
            }
            Command::ForkReleased { incarnation, keeps_pin } => {
                sink.u64(incarnation.0);
                sink.u8(u8::from(keeps_pin));
            }
            Command::Flush { chunk, bytes, crc, times, parts } => {
                sink.u64(chunk.term);
                sink.u32(chunk.number);
                sink.u32(chunk.nonce);
                sink.u64(bytes);
                sink.u32(crc);
                sink.u64(times.0);
                sink.u64(times.1);
                sink.bytes(parts.bytes());
            }
            Command::Bucket { name, epoch, told } => {
                sink.short(name);
                sink.u64(epoch);
                put_told(sink, told);
            }
            Command::Ack { bucket, number, until_ms, acks } => {
                sink.short(bucket);
                sink.u64(number);
                sink.u64(until_ms);
                sink.bytes(acks.bytes());
            }
            Command::MetaSubscription { bucket, id, step } => {
                put_words(sink, bucket, id);
                step.put(sink);
            }
            Command::MetaHookKey { seed, after_ms } => {
                sink.bytes(&seed.0);
                sink.u64(after_ms);
            }
            Command::MetaForm { groups } => sink.u16(groups),
            Command::MetaFounders { founders } => sink.bytes(founders.bytes()),
            Command::MetaLevel { level } => sink.u16(level),
            Command::MetaNode { node, step } => {
                sink.u64(node);
                step.put(sink);
            }
            Command::MetaBucket { name, step } => {
                sink.short(name);
                let code = BUCKET_STEPS.iter().position(|other| *other == step).expect("every step has a place");
                sink.u8(code as u8);
            }
            Command::MetaRetention { bucket, retention } => {
                sink.short(bucket);
                retention.put(sink);
            }
            Command::MetaModulePut { bucket, name, upload } => {
                put_words(sink, bucket, name);
                sink.bytes(&upload.digest.0);
                sink.u64(upload.bytes);
                sink.u8(upload.roles.len() as u8);
                upload.roles.iter().for_each(|role| sink.u8(role_code(*role)));
            }
            Command::MetaModuleReady { bucket, name, digest } => {
                put_words(sink, bucket, name);
                sink.bytes(&digest.0);
            }
            Command::MetaModuleFailed { bucket, name, digest, reason } => {
                put_words(sink, bucket, name);
                sink.bytes(&digest.0);
                sink.long(reason);
            }
            Command::MetaModuleDelete { bucket, name } | Command::MetaBindingDelete { bucket, name } => {
                put_words(sink, bucket, name);
            }
            Command::MetaBindingPut { bucket, binding } => {
                sink.short(bucket);
                sink.bytes(binding.bytes());
            }
        }
    }

    /// Reads what [`Command::put`] wrote.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Command<'a>, CodecError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let command = match r.u8("command kind")? {
            KIND_CREATE => read_create(r)?,
            KIND_APPEND => read_append(r)?,
            KIND_DELETE => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                Command::Delete { key, incarnation, if_match: None }
            }
            KIND_DELETE_AT => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                Command::Delete { key, incarnation, if_match: Some(read_tail(r)?) }
            }
            KIND_EXPIRE => Command::Expire { key: KeyRef::read(r)?, incarnation: Incarnation(r.u64("incarnation")?) },
            KIND_TRIM => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                Command::Trim { key, incarnation, before: r.u64("trim position")?, force: r.flag("trim force")? }
            }
            KIND_PIN => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                let (fork, fork_incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                let (upto, until_ms) = (r.u64("pin position")?, r.count("pin time")?);
                Command::Pin { key, incarnation, fork, fork_incarnation, upto, until_ms }
            }
            KIND_PIN_SETTLE => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                Command::PinSettle { key, incarnation, fork: Incarnation(r.u64("incarnation")?) }
            }
            KIND_UNPIN => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                let (fork, keeps_pin) = (Incarnation(r.u64("incarnation")?), r.flag("pin")?);
                Command::Unpin { key, incarnation, fork, keeps_pin }
            }
            KIND_FORK_DECIDE => {
                let (key, incarnation) = (KeyRef::read(r)?, Incarnation(r.u64("incarnation")?));
                Command::ForkDecide { key, incarnation, until_ms: r.count("pin time")? }
            }
            KIND_FORK_RELEASED => {
                Command::ForkReleased { incarnation: Incarnation(r.u64("incarnation")?), keeps_pin: r.flag("pin")? }
            }
            KIND_FLUSH => {
                let chunk = ChunkId { term: r.u64("chunk")?, number: r.u32("chunk")?, nonce: r.u32("chunk")? };
                let (bytes, crc, times) = (r.u64("chunk")?, r.u32("chunk")?, (r.u64("chunk")?, r.u64("chunk")?));
                Command::Flush { chunk, bytes, crc, times, parts: EncodedParts::read(r)? }
            }
            KIND_BUCKET => {
                let (name, epoch) = (read_bucket(r)?, r.u64("bucket epoch")?);
                Command::Bucket { name, epoch, told: read_told(r, false)? }
            }
            KIND_BUCKET_WATCHED => {
                let (name, epoch) = (read_bucket(r)?, r.u64("bucket epoch")?);
                Command::Bucket { name, epoch, told: read_told(r, true)? }
            }
            KIND_ACK => {
                let (bucket, number) = (read_bucket(r)?, r.u64("subscription number")?);
                Command::Ack { bucket, number, until_ms: r.u64("lease")?, acks: EncodedAcks::read(r)? }
            }
            KIND_ACK_EVER => {
                let (bucket, number) = (read_bucket(r)?, r.u64("subscription number")?);
                Command::Ack { bucket, number, until_ms: u64::MAX, acks: EncodedAcks::read(r)? }
            }
            KIND_META_SUBSCRIPTION => {
                let (bucket, id) = (read_bucket(r)?, r.short("subscription id")?);
                if !is_subscription_id(id) {
                    return Err(CodecError::Field("subscription id"));
                }
                Command::MetaSubscription { bucket, id, step: SubscriptionStep::read(r)? }
            }
            KIND_META_HOOK_KEY => Command::MetaHookKey { seed: read_seed(r)?, after_ms: r.u64("key")? },
            KIND_META_HOOK_KEY_ANYHOW => Command::MetaHookKey { seed: read_seed(r)?, after_ms: u64::MAX },
            KIND_META_FORM => match r.u16("groups")? {
                0 => return Err(CodecError::Field("groups")),
                groups => Command::MetaForm { groups },
            },
            KIND_META_FOUNDERS => Command::MetaFounders { founders: EncodedFounders::read(r)? },
            KIND_META_LEVEL => Command::MetaLevel { level: r.level()? },
            KIND_META_NODE => match r.u64("node")? {
                0 => return Err(CodecError::Field("node")),
                node => Command::MetaNode { node, step: NodeStep::read(r)? },
            },
            KIND_META_BUCKET => {
                let (name, code) = (read_bucket(r)?, r.u8("bucket step")?);
                let step = BUCKET_STEPS.get(usize::from(code)).ok_or(CodecError::Field("bucket step"))?;
                Command::MetaBucket { name, step: *step }
            }
            KIND_META_RETENTION => Command::MetaRetention { bucket: read_bucket(r)?, retention: Retention::read(r)? },
            KIND_META_MODULE_PUT => {
                let (bucket, name) = read_words(r)?;
                Command::MetaModulePut { bucket, name, upload: read_upload(r)? }
            }
            KIND_META_MODULE_READY => {
                let (bucket, name) = read_words(r)?;
                Command::MetaModuleReady { bucket, name, digest: r.digest("module digest")? }
            }
            KIND_META_MODULE_FAILED => {
                let (bucket, name) = read_words(r)?;
                Command::MetaModuleFailed {
                    bucket,
                    name,
                    digest: r.digest("module digest")?,
                    reason: r.long("reason")?,
                }
            }
            KIND_META_MODULE_DELETE => {
                let (bucket, name) = read_words(r)?;
                Command::MetaModuleDelete { bucket, name }
            }
            KIND_META_BINDING_PUT => {
                let (bucket, binding) = (read_bucket(r)?, EncodedBindings::read(r)?);
                Command::MetaBindingPut { bucket, binding: binding.single()? }
            }
            KIND_META_BINDING_DELETE => {
                let (bucket, name) = read_words(r)?;
                Command::MetaBindingDelete { bucket, name }
            }
            kind => return Err(CodecError::Kind(kind)),
        };
        reader.finish()?;
        Ok(command)
    }

    fn kind(&self) -> u8 {
        match self {
            Command::Create { .. } => KIND_CREATE,
            Command::Append { .. } => KIND_APPEND,
            Command::Delete { if_match: None, .. } => KIND_DELETE,
            Command::Delete { if_match: Some(_), .. } => KIND_DELETE_AT,
            Command::Expire { .. } => KIND_EXPIRE,
            Command::Trim { .. } => KIND_TRIM,
            Command::Pin { .. } => KIND_PIN,
            Command::PinSettle { .. } => KIND_PIN_SETTLE,
            Command::Unpin { .. } => KIND_UNPIN,
            Command::ForkDecide { .. } => KIND_FORK_DECIDE,
            Command::ForkReleased { .. } => KIND_FORK_RELEASED,
            Command::Flush { .. } => KIND_FLUSH,
            Command::Bucket { told: BucketTold::There { watches, .. }, .. } if !watches.is_empty() => {
                KIND_BUCKET_WATCHED
            }
            Command::Bucket { .. } => KIND_BUCKET,
            Command::Ack { .. } => KIND_ACK,
            Command::MetaSubscription { .. } => KIND_META_SUBSCRIPTION,
            Command::MetaHookKey { .. } => KIND_META_HOOK_KEY,
            Command::MetaForm { .. } => KIND_META_FORM,
            Command::MetaFounders { .. } => KIND_META_FOUNDERS,
            Command::MetaLevel { .. } => KIND_META_LEVEL,
            Command::MetaNode { .. } => KIND_META_NODE,
            Command::MetaBucket { .. } => KIND_META_BUCKET,
            Command::MetaRetention { .. } => KIND_META_RETENTION,
            Command::MetaModulePut { .. } => KIND_META_MODULE_PUT,
            Command::MetaModuleReady { .. } => KIND_META_MODULE_READY,
            Command::MetaModuleFailed { .. } => KIND_META_MODULE_FAILED,
            Command::MetaModuleDelete { .. } => KIND_META_MODULE_DELETE,
            Command::MetaBindingPut { .. } => KIND_META_BINDING_PUT,
            Command::MetaBindingDelete { .. } => KIND_META_BINDING_DELETE,
        }
    }
}

fn read_create<'a>(r: &mut Reader<'a>) -> Result<Command<'a>, CodecError> {
    let key = KeyRef::read(r)?;
    let incarnation = Incarnation(r.u64("incarnation")?);
    let flags = r.u8("create flags")?;
    if flags & !(FLAG_CLOSE | FLAG_BINDINGS | FLAG_ONLY_NEW | FLAG_FORK) != 0 {
        return Err(CodecError::Field("create flags"));
    }
    let bindings_epoch = read_epoch(r, flags)?;
    let expiry = read_expiry(r)?;
    let content_type = r.short("content type")?;
    let fork = if flags & FLAG_FORK != 0 { Some(EncodedFork::read(r)?) } else { None };
    let records = Records::read(r)?;
    let (closed, only_new) = (flags & FLAG_CLOSE != 0, flags & FLAG_ONLY_NEW != 0);
    Ok(Command::Create { key, incarnation, content_type, expiry, closed, only_new, bindings_epoch, fork, records })
}

fn read_append<'a>(r: &mut Reader<'a>) -> Result<Command<'a>, CodecError> {
    let key = KeyRef::read(r)?;
    let incarnation = Incarnation(r.u64("incarnation")?);
    let flags = r.u8("append flags")?;
    if flags & !(FLAG_CLOSE | FLAG_PRODUCER | FLAG_SEQ | FLAG_IF_MATCH | FLAG_BINDINGS) != 0 {
        return Err(CodecError::Field("append flags"));
    }
    let bindings_epoch = read_epoch(r, flags)?;
    let producer = if flags & FLAG_PRODUCER != 0 {
        let id = r.short("producer id")?;
        Some(ProducerRef { id, epoch: r.u64("producer epoch")?, seq: r.u64("producer sequence")? })
    } else {
        None
    };
    let seq = if flags & FLAG_SEQ != 0 { Some(r.short("stream sequence")?) } else { None };
    let if_match = if flags & FLAG_IF_MATCH != 0 { Some(read_tail(r)?) } else { None };
    let records = Records::read(r)?;
    let close = flags & FLAG_CLOSE != 0;
    Ok(Command::Append { key, incarnation, close, producer, seq, if_match, bindings_epoch, records })
}

fn put_epoch<S: Sink>(sink: &mut S, epoch: u64) {
    if epoch != 0 {
        sink.u64(epoch);
    }
}

fn read_epoch(r: &mut Reader<'_>, flags: u8) -> Result<u64, CodecError> {
    if flags & FLAG_BINDINGS == 0 {
        return Ok(0);
    }
    match r.u64("bindings epoch")? {
        0 => Err(CodecError::Field("bindings epoch")),
        epoch => Ok(epoch),
    }
}

fn put_tail<S: Sink>(sink: &mut S, tail: Option<Offset>) {
    if let Some(offset) = tail {
        sink.u64(offset.position);
        sink.u64(offset.lineage.bits());
    }
}

fn read_tail(r: &mut Reader<'_>) -> Result<Offset, CodecError> {
    let position = r.u64("expected tail")?;
    Ok(Offset { position, lineage: Lineage::from_bits(r.u64("expected lineage")?) })
}

fn put_words<S: Sink>(sink: &mut S, bucket: &str, name: &str) {
    sink.short(bucket);
    sink.short(name);
}

fn read_words<'a>(r: &mut Reader<'a>) -> Result<(&'a str, &'a str), CodecError> {
    Ok((read_bucket(r)?, r.short("module or binding name")?))
}

fn put_told<S: Sink>(sink: &mut S, told: BucketTold<'_>) {
    match told {
        BucketTold::Gone => sink.u8(TOLD_GONE),
        BucketTold::Watch { after, number, watches } => {
            sink.u8(TOLD_WATCH);
            sink.u64(after);
            sink.u64(number);
            sink.blob(watches.bytes());
        }
        BucketTold::There { created_ms, fenced, retention, bindings, watches } => {
            sink.u8(if fenced { TOLD_FENCED } else { TOLD_OPEN });
            sink.u64(created_ms);
            retention.put(sink);
            if !watches.is_empty() {
                sink.blob(watches.bytes());
            }
            sink.bytes(bindings.bytes());
        }
    }
}

fn read_told<'a>(r: &mut Reader<'a>, is_watched: bool) -> Result<BucketTold<'a>, CodecError> {
    let fenced = match r.u8("bucket told")? {
        TOLD_GONE => return Ok(BucketTold::Gone),
        TOLD_WATCH => {
            let (after, number) = (r.u64("bucket epoch")?, r.u64("subscription number")?);
            let watches = EncodedWatches::read(r)?;
            if !EncodedWatches::is_only(watches.bytes(), number) {
                return Err(CodecError::Field("watch"));
            }
            return Ok(BucketTold::Watch { after, number, watches });
        }
        TOLD_OPEN => false,
        TOLD_FENCED => true,
        _ => return Err(CodecError::Field("bucket told")),
    };
    let created_ms = r.u64("bucket creation time")?;
    let retention = Retention::read(r)?;
    let watches = match is_watched {
        true => EncodedWatches::read(r)?,
        false => EncodedWatches::NONE,
    };
    Ok(BucketTold::There { created_ms, fenced, retention, bindings: EncodedBindings::read(r)?, watches })
}

fn read_upload<'a>(r: &mut Reader<'a>) -> Result<Upload<'a>, CodecError> {
    let (digest, bytes) = (r.digest("module digest")?, r.u64("module size")?);
    let count = usize::from(r.u8("module roles")?);
    let mut codes = r.take(count, "module roles")?.iter().map(|&code| role_of(code));
    let roles: &[Role] = match (codes.next().transpose()?, codes.next().transpose()?, codes.next()) {
        (Some(Role::Validator), None, _) => &[Role::Validator],
        (Some(Role::Summary), None, _) => &[Role::Summary],
        (Some(Role::Validator), Some(Role::Summary), None) => &Role::ALL,
        _ => return Err(CodecError::Field("module roles")),
    };
    Ok(Upload { digest, bytes, roles })
}

fn read_bucket<'a>(r: &mut Reader<'a>) -> Result<&'a str, CodecError> {
    r.short("bucket name")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that is the first of these kinds now, as it was when it was the second one, without the 8 bytes at `lacks`.
    fn as_before(command: &Command<'_>, kind: u8, lacks: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        command.put(&mut bytes);
        bytes[0] = kind;
        bytes.drain(lacks..lacks + 8);
        bytes
    }

    #[test]
    fn commands_of_logs_from_before_mean_what_they_meant() {
        let acks = EncodedAcks::encode(&[]);
        let ack = |until_ms| Command::Ack { bucket: "b", number: 7, until_ms, acks: EncodedAcks::of(&acks) };
        let mut bytes = Vec::new();
        ack(5).put(&mut bytes);
        let lease_at = bytes.windows(8).position(|part| part == 5_u64.to_le_bytes()).expect("it has one");
        let before = as_before(&ack(5), KIND_ACK_EVER, lease_at);
        assert!(matches!(Command::read(&before), Ok(Command::Ack { number: 7, until_ms: u64::MAX, .. })));
        let key = Command::MetaHookKey { seed: HookSeed([3; 32]), after_ms: 9 };
        let before = as_before(&key, KIND_META_HOOK_KEY_ANYHOW, 33);
        let Ok(Command::MetaHookKey { seed, after_ms }) = Command::read(&before) else { panic!("it is a key") };
        assert_eq!((seed.0, after_ms), ([3; 32], u64::MAX));
    }
}
