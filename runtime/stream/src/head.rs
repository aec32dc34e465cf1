//! The first page of a snapshot: all of a group's state but its streams.

use std::sync::Arc;

use weir_types::bugs::{self, Bug};
use weir_types::limits::SUBSCRIPTIONS_PER_BUCKET_MAX;
use weir_types::{BucketName, ModuleName, Role};

use crate::binding::{Binding, EncodedBindings, role_code, role_of};
use crate::bucket::{Bucket, Retention};
use crate::chunks::Chunks;
use crate::codec::{CodecError, Reader};
use crate::fork::Releases;
use crate::group::Group;
use crate::meta::nodes::NodeTable;
use crate::meta::{BucketState, Meta, MetaBucket};
use crate::module::{Module, Revision};
use crate::sink::Sink;
use crate::subscription::kept::{HookKey, Subscription, is_subscription_id};
use crate::subscription::watch::{EncodedWatches, Watch};

const VERSION: u8 = 5;
/// There was no format level.
const VERSION_BEFORE_LEVELS: u8 = 4;
/// There were no subscriptions and no nodes.
const VERSION_BEFORE_SUBSCRIPTIONS: u8 = 3;
/// There were no forks.
const VERSION_BEFORE_FORKS: u8 = 2;
const WHAT: &str = "snapshot head";

/// What the head says of the pages behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    streams: usize,
    chunks_live_bytes: Vec<u64>,
}

impl Told {
    pub(crate) fn of(group: &Group) -> Told {
        let chunks_live_bytes = group.chunks.iter().map(|chunk| chunk.live_bytes).collect();
        Told { streams: group.slots.len(), chunks_live_bytes }
    }
}

pub(crate) fn put<S: Sink>(group: &Group, sink: &mut S) {
    sink.u8(VERSION);
    sink.u64(group.applied.expect("what is frozen has been applied"));
    sink.u64(group.time_ms);
    sink.u64(if bugs::has(Bug::SnapshotWithoutBindingsEpoch) { 0 } else { group.bindings_epoch });
    sink.u64(group.buckets_gone_epoch);
    sink.u64(group.slots.len() as u64);
    group.chunks.put(sink);
    sink.varint(group.buckets.len() as u64);
    for (name, bucket) in &group.buckets {
        let Bucket { epoch, created_ms, streams: _, fenced, retention, bindings, watches: _ } = bucket;
        sink.short(name);
        sink.u64(*epoch);
        sink.u64(*created_ms);
        sink.u8(u8::from(*fenced));
        retention.put(sink);
        put_bindings(sink, bindings.iter());
    }
    put_meta(sink, &group.meta);
    group.releases.put(sink);
    put_subscriptions(group, sink);
    group.meta.nodes.put(sink);
    sink.u16(group.meta.nodes.level);
}

/// Reads what [`put`] wrote into a group that is still empty.
pub(crate) fn read(group: &mut Group, reader: &mut Reader<'_>) -> Result<Told, CodecError> {
    let version = reader.u8(WHAT)?;
    if !matches!(version, VERSION_BEFORE_FORKS..=VERSION) {
        return Err(CodecError::Version(version));
    }
    group.applied = Some(reader.count(WHAT)?);
    group.time_ms = reader.count(WHAT)?;
    group.bindings_epoch = reader.count(WHAT)?;
    group.buckets_gone_epoch = reader.count(WHAT)?;
    let streams = usize::try_from(reader.u64(WHAT)?).map_err(|_| CodecError::Field(WHAT))?;
    group.chunks = Chunks::read(reader, group.time_ms)?;
    let chunks_live_bytes = group.chunks.count_anew();
    for _ in 0..reader.varint(WHAT)? {
        let name = next_name(reader, is_bucket, group.buckets.keys().next_back())?;
        let (epoch, created_ms, fenced) = (reader.count(WHAT)?, reader.count(WHAT)?, reader.flag(WHAT)?);
        let retention = Retention::read(reader)?;
        let bindings: Vec<_> = read_bindings(reader)?.into_iter().map(Arc::new).collect();
        group.bound_buckets += usize::from(!bindings.is_empty());
        let watches = Vec::new();
        group.buckets.insert(name, Bucket { epoch, created_ms, streams: 0, fenced, retention, bindings, watches });
    }
    group.meta = read_meta(reader)?;
    if version >= VERSION_BEFORE_SUBSCRIPTIONS {
        group.releases = Releases::read(reader)?;
    }
    if version >= VERSION_BEFORE_LEVELS {
        read_subscriptions(group, reader)?;
        group.meta.nodes = NodeTable::read(reader)?;
    }
    if version > VERSION_BEFORE_LEVELS {
        group.meta.nodes.level = reader.level()?;
    }
    Ok(Told { streams, chunks_live_bytes })
}

/// Of each bucket, in their order, what this group knows of its subscriptions; then group 0's tables.
fn put_subscriptions<S: Sink>(group: &Group, sink: &mut S) {
    for bucket in group.buckets.values() {
        sink.blob(&Watch::encode(&bucket.watches));
    }
    for bucket in group.meta.buckets.values() {
        sink.varint(bucket.subscriptions.len() as u64);
        for (id, subscription) in &bucket.subscriptions {
            sink.short(id);
            subscription.put(sink);
        }
    }
    sink.varint(group.meta.hook_keys.len() as u64);
    group.meta.hook_keys.iter().for_each(|key| key.put(sink));
}

fn read_subscriptions(group: &mut Group, reader: &mut Reader<'_>) -> Result<(), CodecError> {
    for bucket in group.buckets.values_mut() {
        bucket.watches = EncodedWatches::of(reader.blob(WHAT)?).try_decode()?;
        group.watched_buckets += usize::from(!bucket.watches.is_empty());
        group.watches_bytes += bucket.watches.iter().map(Watch::memory_bytes).sum::<usize>();
    }
    let changes = group.meta.changes;
    for bucket in group.meta.buckets.values_mut() {
        for _ in 0..reader.up_to(SUBSCRIPTIONS_PER_BUCKET_MAX, WHAT)? {
            let id = next_name(reader, is_subscription_id, bucket.subscriptions.keys().next_back())?;
            let subscription = Subscription::read(reader)?;
            if subscription.number > changes {
                return Err(CodecError::Field(WHAT));
            }
            bucket.subscriptions.insert(id, subscription);
        }
        group.meta.subscriptions_bytes += bucket.subscriptions_bytes();
    }
    for _ in 0..reader.up_to(HookKey::KEPT, WHAT)? {
        group.meta.hook_keys.push(HookKey::read(reader)?);
    }
    Ok(())
}

fn put_bindings<'a, S: Sink>(sink: &mut S, bindings: impl ExactSizeIterator<Item = &'a Arc<Binding>>) {
    sink.blob(&Binding::encode(bindings.map(|binding| &**binding)));
}

fn read_bindings(reader: &mut Reader<'_>) -> Result<Vec<Binding>, CodecError> {
    EncodedBindings::of(reader.blob(WHAT)?).try_decode()
}

fn put_meta<S: Sink>(sink: &mut S, meta: &Meta) {
    let Meta { groups, buckets, changes, subscriptions_bytes: _, hook_keys: _, nodes: _ } = meta;
    sink.u16(groups.unwrap_or(0));
    sink.u64(*changes);
    sink.varint(buckets.len() as u64);
    for (name, bucket) in buckets {
        let MetaBucket { state, created_ms, retention, modules, bindings, subscriptions: _, epoch } = bucket;
        sink.short(name);
        sink.u8(state_code(*state));
        sink.u64(*created_ms);
        sink.u64(*epoch);
        retention.put(sink);
        put_bindings(sink, bindings.values());
        sink.varint(modules.len() as u64);
        for (name, Module { revisions, failed, numbers }) in modules {
            sink.short(name);
            sink.u32(*numbers);
            sink.varint(revisions.len() as u64);
            revisions.iter().for_each(|revision| put_revision(sink, revision));
            sink.u8(u8::from(failed.is_some()));
            if let Some((revision, reason)) = failed {
                put_revision(sink, revision);
                sink.long(reason);
            }
        }
    }
}

fn read_meta(reader: &mut Reader<'_>) -> Result<Meta, CodecError> {
    let groups = Some(reader.u16(WHAT)?).filter(|groups| *groups > 0);
    let mut meta = Meta { groups, changes: reader.count(WHAT)?, ..Meta::default() };
    for _ in 0..reader.varint(WHAT)? {
        let name = next_name(reader, is_bucket, meta.buckets.keys().next_back())?;
        let state = state_of(reader.u8(WHAT)?)?;
        let (created_ms, epoch, retention) = (reader.count(WHAT)?, reader.count(WHAT)?, Retention::read(reader)?);
        if epoch > meta.changes {
            return Err(CodecError::Field(WHAT));
        }
        let bindings = read_bindings(reader)?.into_iter().map(|binding| (binding.name.clone(), Arc::new(binding)));
        let (modules, bindings, subscriptions) = (Default::default(), bindings.collect(), Default::default());
        let mut bucket = MetaBucket { state, created_ms, retention, modules, bindings, subscriptions, epoch };
        for _ in 0..reader.varint(WHAT)? {
            let name = next_name(reader, is_module, bucket.modules.keys().next_back())?;
            let mut module = Module { numbers: reader.u32(WHAT)?, ..Module::default() };
            for _ in 0..reader.varint(WHAT)? {
                module.revisions.push(read_revision(reader)?);
            }
            if reader.flag(WHAT)? {
                module.failed = Some((read_revision(reader)?, reader.long(WHAT)?.into()));
            }
            if !module.can_be() {
                return Err(CodecError::Field(WHAT));
            }
            bucket.modules.insert(name, module);
        }
        meta.buckets.insert(name, bucket);
    }
    Ok(meta)
}

fn is_bucket(name: &str) -> bool {
    BucketName::new(name).is_ok()
}

fn is_module(name: &str) -> bool {
    ModuleName::new(name).is_ok()
}

/// A name, if it is one, which follows that of the `last` one.
fn next_name(
    reader: &mut Reader<'_>,
    is_name: fn(&str) -> bool,
    last: Option<impl AsRef<str>>,
) -> Result<Box<str>, CodecError> {
    let name = reader.short(WHAT)?;
    let follows = last.is_none_or(|last| last.as_ref() < name);
    if follows && is_name(name) { Ok(name.into()) } else { Err(CodecError::Field(WHAT)) }
}

fn put_revision<S: Sink>(sink: &mut S, revision: &Revision) {
    let Revision { number, digest, bytes, roles, created_ms, ready } = revision;
    sink.u32(*number);
    sink.bytes(&digest.0);
    sink.u64(*bytes);
    sink.u8(roles.len() as u8);
    roles.iter().for_each(|role| sink.u8(role_code(*role)));
    sink.u64(*created_ms);
    sink.u8(u8::from(*ready));
}

fn read_revision(reader: &mut Reader<'_>) -> Result<Revision, CodecError> {
    let (number, digest, bytes) = (reader.u32(WHAT)?, reader.digest(WHAT)?, reader.count(WHAT)?);
    let roles: Vec<Role> =
        (0..reader.u8(WHAT)?).map(|_| reader.u8(WHAT).and_then(role_of)).collect::<Result<_, _>>()?;
    if roles.is_empty() {
        return Err(CodecError::Field(WHAT));
    }
    Ok(Revision { number, digest, bytes, roles, created_ms: reader.count(WHAT)?, ready: reader.flag(WHAT)? })
}

fn state_code(state: BucketState) -> u8 {
    match state {
        BucketState::Active => 1,
        BucketState::Deleting => 2,
        BucketState::Dropped => 3,
    }
}

fn state_of(code: u8) -> Result<BucketState, CodecError> {
    use BucketState::{Active, Deleting, Dropped};
    [Active, Deleting, Dropped].into_iter().find(|state| state_code(*state) == code).ok_or(CodecError::Field(WHAT))
}
