//! Bringing a fold up to its stream's tail.

use std::rc::Rc;

use weir_stream::Binding;
use weir_types::StreamKey;
use weir_wasm::{GuestError, InstanceKey};

use crate::core::Core;
use crate::message::ShardError;
use crate::modules::folds::Fold;

/// Stored bytes that a fold takes at once: some thousand records, and some milliseconds of the lane.
const BATCH_BYTES: usize = 1 << 20;
/// How often one catching-up begins anew. Finding the record that ends a module takes three times.
const RESTARTS_MAX: usize = 8;

impl Fold {
    /// Takes all records up to the position `tail`, or up to the one that ends the module.
    ///
    /// # Errors
    /// [`ShardError::ModuleTrapped`] when the module ends again and again, and not for one record;
    /// [`ShardError::ModuleNotReady`]; what reading the stream says.
    pub(crate) async fn catch_up(
        &mut self,
        shard: &Rc<Core>,
        key: &StreamKey,
        binding: &Binding,
        tail: u64,
    ) -> Result<(), ShardError> {
        let instance =
            InstanceKey { bucket: key.bucket().into(), digest: binding.digest, config: binding.config.clone() };
        let mut last_error = GuestError::FoldLost;
        for _ in 0..RESTARTS_MAX {
            match self.try_catch_up(shard, key, &instance, tail).await? {
                Ok(()) => return Ok(()),
                Err(error) => last_error = error,
            }
        }
        tracing::warn!(stream = %key, binding = &*binding.name, error = %last_error, "a summary cannot be computed");
        Err(last_error.into())
    }

    /// Takes records until there are no more, or until the guest fails: then the fold has to begin anew.
    async fn try_catch_up(
        &mut self,
        shard: &Rc<Core>,
        key: &StreamKey,
        instance: &InstanceKey,
        tail: u64,
    ) -> Result<Result<(), GuestError>, ShardError> {
        let open = match self.open {
            Some(open) => open,
            None => {
                self.position = 0;
                match self.lane.fold_open(instance.clone(), None).await {
                    Ok(open) => *self.open.insert(open),
                    Err(GuestError::NotReady) => return Err(ShardError::ModuleNotReady),
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        loop {
            let until = self.stop.as_ref().map_or(tail, |(at, _)| (*at).min(tail));
            if self.position >= until {
                return Ok(Ok(()));
            }
            let (until, bytes_max) = match &self.suspects {
                Some(suspects) if self.position >= suspects.end => {
                    self.suspects = None;
                    (until, BATCH_BYTES)
                }
                Some(suspects) if self.position >= suspects.start => (until, 1),
                Some(suspects) => (until.min(suspects.start), BATCH_BYTES),
                None => (until, BATCH_BYTES),
            };
            let _page = shard.guests.pages.acquire().await;
            let read = shard.read_records(key, self.next(), until, bytes_max).await?;
            let Some(records) = read.records else { return Ok(Ok(())) };
            let taken = self.position..read.end;
            match self.lane.fold_apply(open, records).await {
                Ok(()) => self.position = read.end,
                Err(error) => {
                    self.blame(&taken, bytes_max == 1, &error);
                    return Ok(Err(error));
                }
            }
        }
    }
}
