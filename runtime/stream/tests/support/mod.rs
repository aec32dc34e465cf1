//! One group as a leader and its log would drive it: commands are encoded, kept, applied, and read back from what was kept.

use bytes::BytesMut;
use weir_stream::{BatchBuilder, Command, Group, Limits, Outcome, Pack};
use weir_types::StreamKey;

/// A group and its log, one command per entry.
pub(crate) struct World {
    pub(crate) group: Group,
    /// Entry `i` is at index `i`, with bytes before it that do not belong to the batch.
    pub(crate) log: Vec<BytesMut>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) producers_max: u32,
}

/// Bytes that a log keeps in front of a batch.
const HEADER_BYTES: usize = 64;

impl World {
    pub(crate) fn new() -> World {
        World { group: Group::new(), log: Vec::new(), outcomes: Vec::new(), producers_max: 8 }
    }

    /// Applies one command at `time_ms`.
    pub(crate) fn apply(&mut self, time_ms: u64, command: &Command<'_>) -> Outcome {
        let mut builder = BatchBuilder::new(BytesMut::zeroed(HEADER_BYTES));
        builder.push(command);
        self.log.push(builder.finish(time_ms, Limits { producers_max: self.producers_max }));
        let index = self.log.len() - 1;
        let mut outcomes = Vec::new();
        self.group.apply(index as u64, &self.log[index][HEADER_BYTES..], &mut outcomes).expect("our own bytes");
        assert_eq!(outcomes.len(), 1, "one outcome per command");
        let outcome = outcomes.remove(0);
        self.outcomes.push(outcome.clone());
        outcome
    }

    /// The records of a stream from `position` on, read back from the log through the stream's extents.
    pub(crate) fn records(&self, key: &StreamKey, position: u64) -> Vec<Vec<u8>> {
        let stream = self.group.stream(key).expect("the stream is there");
        let mut records = Vec::new();
        let mut at = None;
        for extent in stream.extents_from(position) {
            assert!(extent.end > position && at.is_none_or(|at| at == extent.start), "extents are dense");
            at = Some(extent.end);
            let batch = &self.log[extent.index as usize][HEADER_BYTES..];
            let bytes = &batch[extent.pos as usize..][..extent.len as usize];
            let pack = Pack::check(bytes).expect("a pack as it was written");
            let payload = &bytes[pack.payload()];
            assert_eq!(payload.len() as u64, extent.end - extent.start);
            let mut start = 0;
            for end in pack.record_ends() {
                if extent.start + u64::from(end) > position {
                    records.push(payload[start as usize..end as usize].to_vec());
                }
                start = end;
            }
            assert_eq!(start as usize, payload.len(), "records cover the payload");
        }
        assert_eq!(at.unwrap_or(stream.tail().position), stream.tail().position, "extents reach the tail");
        records
    }

    /// Applies the whole log to another group: its answers and its size must be those of this one.
    pub(crate) fn check_replay(&self) {
        let (mut group, mut outcomes) = (Group::new(), Vec::new());
        for (index, entry) in self.log.iter().enumerate() {
            group.apply(index as u64, &entry[HEADER_BYTES..], &mut outcomes).expect("our own bytes");
        }
        assert_eq!(outcomes, self.outcomes, "the same log gives the same answers");
        assert_eq!(group.index_bytes(), self.group.index_bytes());
        assert_eq!(group.time_ms(), self.group.time_ms());
    }
}
