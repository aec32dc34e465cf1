//! Stored records as a guest takes them: packed, without the commas of JSON mode, each with its time.

use std::rc::Rc;

use bytes::BytesMut;
use weir_storage::WalReader;
use weir_stream::Pack;
use weir_types::{Offset, ReadFrom, StreamKey};
use weir_wasm::GuestBatch;

use crate::core::Core;
use crate::message::{RecordBatch, ShardError};
use crate::read::page::{Plan, corrupt};
use crate::write::job::LocalGroup;

impl Core {
    /// Reads the records after `from` and not beyond `until`: at most `records_max` of them, of at most `bytes_max` stored
    /// bytes, or one record if that is larger.
    ///
    /// # Errors
    /// As for a page: the stream is gone, or its bytes are damaged.
    pub(crate) async fn read_records(
        self: &Rc<Self>,
        key: &StreamKey,
        from: Offset,
        until: u64,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<RecordBatch, ShardError> {
        assert!(records_max > 0, "one record is read in any case");
        let group = self.local_group(key);
        let again = || self.plan(&group, key, ReadFrom::At(from), bytes_max);
        let plan = again()?;
        if let Some(held) = plan.inherited(until) {
            return self.read_inherited_records(held, records_max).await;
        }
        self.load_records(&group, plan, again, until, records_max).await
    }

    /// Reads the records that are planned, not beyond `until`.
    pub(crate) async fn load_records(
        &self,
        group: &LocalGroup,
        plan: Plan,
        again: impl Fn() -> Result<Plan, ShardError>,
        until: u64,
        records_max: usize,
    ) -> Result<RecordBatch, ShardError> {
        let plan = self.with_cold(group, plan, again).await?;
        let reader = group.wal.reader();
        let read = move || plan.load(&reader)?.into_records(&reader, until, records_max);
        // Off this thread even where all of it is in memory: packing takes longer than an append may wait.
        let read = tokio::task::spawn_blocking(read);
        self.note_damage(read.await.unwrap_or(Err(ShardError::Unavailable))).await
    }
}

impl Plan {
    /// The plan's records, once they are in memory. Blocks for the times of those that were not.
    fn into_records(self, reader: &WalReader, until: u64, records_max: usize) -> Result<RecordBatch, ShardError> {
        let separator_bytes = usize::from(self.is_json);
        let mut batch = Packing { data: BytesMut::new(), ends: Vec::new(), times: Vec::new() };
        let mut position = self.start;
        let bytes_end = until.min(self.start.saturating_add(self.bytes_max as u64));
        'packs: for stretch in &self.stretches {
            let time_ms = stretch.batch_time_ms(reader)?;
            for extent in &stretch.extents {
                let bytes = stretch.pack(extent);
                let pack = Pack::read(&bytes).map_err(|error| corrupt(extent, &error.to_string()))?;
                let payload = &bytes[pack.payload()];
                let mut begin = extent.start;
                for record_end in pack.record_ends() {
                    let end = extent.start + u64::from(record_end);
                    if begin >= position {
                        // One record is read in any case, but nothing beyond what was asked for.
                        let is_full = batch.ends.len() == records_max || end > bytes_end;
                        if end > until || (is_full && !batch.ends.is_empty()) {
                            break 'packs;
                        }
                        let range = (begin - extent.start) as usize..record_end as usize - separator_bytes;
                        batch.push(&payload[range], time_ms);
                        position = end;
                    }
                    begin = end;
                }
            }
        }
        Ok(RecordBatch { records: batch.finish(self.start), end: position, separator_bytes })
    }
}

/// A batch in the making.
struct Packing {
    data: BytesMut,
    ends: Vec<u32>,
    times: Vec<u64>,
}

impl Packing {
    fn push(&mut self, record: &[u8], time_ms: u64) {
        self.data.extend_from_slice(record);
        self.ends.push(self.data.len() as u32);
        self.times.push(time_ms);
    }

    fn finish(mut self, first_offset: u64) -> Option<GuestBatch> {
        let first = *self.times.first()?;
        if self.times.iter().all(|time| *time == first) {
            self.times.truncate(1);
        }
        Some(GuestBatch { first_offset, ends: self.ends, times: self.times, data: self.data.freeze() })
    }
}
