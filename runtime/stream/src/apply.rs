//! Apply: committed batches become the group's state, in order. The dispatch; each verb has its own file.
//!
//! Apply is deterministic: what it answers and what it becomes depend on the batches alone. A failure that the state
//! decides is a [`Refusal`](crate::Refusal) in a reply, the same on every replica; bytes that no version of us wrote are an
//! error, after which the replica must stop, for it no longer knows what the others have applied.

use std::collections::BTreeSet;

use weir_types::bugs::{self, Bug};

use crate::append::Write;
use crate::batch::Batch;
use crate::chunks::Chunk;
use crate::codec::CodecError;
use crate::command::Command;
use crate::create::NewStream;
use crate::group::{At, Group, Outcome};
use crate::reply::{Refusal, Reply};

/// How much of what deleted and trimmed streams named is given back after each batch: more than a batch can have brought.
const REAPED_LEAVES: usize = 64;

impl Group {
    /// Applies the batch that was committed at log index `index` in `term`; pushes one outcome per command, in order.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that no version of us wrote. Commands before the bad one have been applied then, and the
    /// group must not be used any further.
    pub fn apply(
        &mut self,
        term: u64,
        index: u64,
        batch: &[u8],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), CodecError> {
        assert!(self.applied.is_none_or(|applied| applied < index), "entries are applied once, in their order");
        let batch = Batch::read(batch)?;
        let before = outcomes.len();
        self.chunks.begin_entry(index);
        // A new leader's clock may be behind its predecessor's.
        self.time_ms = self.time_ms.max(batch.time_ms);
        let mut commands = batch.commands();
        let late = if bugs::has(Bug::ApplyOutOfOrder) { commands.next() } else { None };
        for command in commands.chain(late) {
            let (frame, command) = command?;
            let at = At { term, index, frame, time_ms: self.time_ms, limits: batch.limits };
            outcomes.push(self.apply_command(&at, command));
        }
        assert!(outcomes.len() - before == batch.count(), "every command has an outcome");
        self.applied = Some(index);
        self.reap(REAPED_LEAVES);
        Ok(())
    }

    /// As [`Group::apply`], to a part of a group: what is said of streams that are not `wanted` is passed over. Where they have
    /// decided what became of a bucket, what comes of this may be something else.
    ///
    /// # Errors
    /// As for [`Group::apply`].
    pub fn apply_to(
        &mut self,
        wanted: &BTreeSet<Box<str>>,
        term: u64,
        index: u64,
        batch: &[u8],
    ) -> Result<(), CodecError> {
        let batch = Batch::read(batch)?;
        self.chunks.begin_entry(index);
        self.time_ms = self.time_ms.max(batch.time_ms);
        for command in batch.commands() {
            let (frame, command) = command?;
            if command.key().is_none_or(|key| wanted.contains(key.as_str())) {
                let at = At { term, index, frame, time_ms: self.time_ms, limits: batch.limits };
                self.apply_command(&at, command);
            }
        }
        self.applied = Some(index);
        Ok(())
    }

    fn apply_command(&mut self, at: &At, command: Command<'_>) -> Outcome {
        match command {
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
                let new =
                    NewStream { incarnation, content_type, expiry, closed, only_new, bindings_epoch, fork, records };
                self.create(at, key, new)
            }
            Command::Append { key, incarnation, close, producer, seq, if_match, bindings_epoch, records } => {
                self.append(at, key, Write { incarnation, close, producer, seq, if_match, bindings_epoch, records })
            }
            Command::Delete { key, incarnation, if_match } => self.delete(key, incarnation, if_match),
            Command::Expire { key, incarnation } => self.expire(at, key, incarnation),
            Command::Trim { key, incarnation, before, force } => self.trim(key, incarnation, before, force),
            Command::Pin { key, incarnation, fork, fork_incarnation, upto, until_ms } => {
                self.pin(key, incarnation, (fork, fork_incarnation), upto, until_ms)
            }
            Command::PinSettle { key, incarnation, fork } => self.settle_pin(key, incarnation, fork),
            Command::Unpin { key, incarnation, fork, keeps_pin } => self.unpin(key, incarnation, fork, keeps_pin),
            Command::ForkDecide { key, incarnation, until_ms } => self.decide_fork(key, incarnation, until_ms),
            Command::ForkReleased { incarnation, keeps_pin } => self.released(incarnation, keeps_pin),
            Command::Flush { chunk, bytes, crc, times, parts } => {
                self.flush(at, Chunk { id: chunk, bytes, crc, times, named_bytes: 0, live_bytes: 0 }, parts)
            }
            Command::Bucket { name, epoch, told } => self.bucket_told(name, epoch, told),
            Command::Ack { until_ms, .. } if until_ms <= at.time_ms => Outcome::refused(Refusal::WakeFenced),
            Command::Ack { bucket, number, until_ms: _, acks } => self.ack(bucket, number, acks),
            Command::MetaSubscription { bucket, id, step } => {
                decided(self.meta.subscription_step(bucket, id, step, at.time_ms))
            }
            Command::MetaHookKey { seed, after_ms } => {
                Outcome::unchanged(self.meta.hook_key_put(seed, after_ms, at.time_ms))
            }
            Command::MetaForm { groups } => decided(self.meta.form(groups)),
            Command::MetaFounders { founders } => Outcome::unchanged(self.meta.nodes_form(founders)),
            Command::MetaLevel { level } => Outcome::unchanged(self.meta.raise_level(level)),
            Command::MetaNode { node, step } => Outcome::unchanged(self.meta.node_step(node, step)),
            Command::MetaBucket { name, step } => decided(self.meta.bucket_step(name, step, at.time_ms)),
            Command::MetaRetention { bucket, retention } => decided(self.meta.retention_put(bucket, retention)),
            Command::MetaModulePut { bucket, name, upload } => {
                decided(self.meta.module_put(bucket, name, &upload, at.time_ms))
            }
            Command::MetaModuleReady { bucket, name, digest } => decided(self.meta.module_ready(bucket, name, digest)),
            Command::MetaModuleFailed { bucket, name, digest, reason } => {
                decided(self.meta.module_failed(bucket, name, digest, reason))
            }
            Command::MetaModuleDelete { bucket, name } => decided(self.meta.module_delete(bucket, name)),
            Command::MetaBindingPut { bucket, binding } => decided(self.meta.binding_put(bucket, binding)),
            Command::MetaBindingDelete { bucket, name } => decided(self.meta.binding_delete(bucket, name)),
        }
    }
}

/// The outcome of a change of group 0's tables.
fn decided(result: Result<Reply, Refusal>) -> Outcome {
    result.map_or_else(Outcome::refused, Outcome::unchanged)
}
