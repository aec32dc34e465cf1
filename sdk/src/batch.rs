//! Batches: the records of one call, packed as the server hands them over.
//!
//! The server decides how to cut a stream's records into batches, and may decide otherwise the next time. That is why a
//! [`Record`] does not know its place in the batch, and why a fold sees only records.

use std::fmt;

use serde::Deserialize;

/// Records that lie next to each other in one stream, borrowed from the call.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    first_offset: u64,
    ends: &'a [u32],
    times: &'a [u64],
    data: &'a [u8],
}

/// One record: a JSON message in JSON mode, the body of one append otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its bytes. In JSON mode, one JSON value, as it was sent.
    pub data: &'a [u8],
    /// When it was appended, in milliseconds since 1970. Never earlier than the record before it.
    pub time_ms: u64,
}

impl<'a> Record<'a> {
    /// Reads the record as JSON into `T`, which may borrow from it.
    ///
    /// # Errors
    /// If it is not a `T`.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.data)
    }
}

impl<'a> Batch<'a> {
    /// A batch made of the parts of the contract: record i is `data[ends[i-1]..ends[i]]`, appended at `times[i]`, or at
    /// `times[0]` if that is the only time. Source: `weir:module/types`, `batch`.
    ///
    /// # Panics
    /// If the last end is not the end of the data, or if there is neither one time nor one time per record.
    pub fn new(first_offset: u64, ends: &'a [u32], times: &'a [u64], data: &'a [u8]) -> Batch<'a> {
        assert!(ends.last().map_or(0, |&end| end as usize) == data.len(), "the last record ends where the data does");
        assert!(times.len() == ends.len() || times.len() == 1, "each record has a time, or all have one");
        Batch { first_offset, ends, times, data }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where the first record would lie in the stream's stored bytes if no other append comes first. Use it for a log
    /// line, not for a decision.
    pub fn first_offset(&self) -> u64 {
        self.first_offset
    }

    /// The records, in order.
    pub fn records(self) -> impl Iterator<Item = Record<'a>> {
        let mut begin = 0;
        self.ends.iter().enumerate().map(move |(index, &end)| {
            let data = &self.data[begin..end as usize];
            begin = end as usize;
            Record { data, time_ms: self.times[if self.times.len() == 1 { 0 } else { index }] }
        })
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' at {} ms", String::from_utf8_lossy(self.data), self.time_ms)
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

/// Records that a validator returns in place of those it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    ends: Vec<u32>,
    data: Vec<u8>,
}

impl Records {
    /// No records yet.
    pub fn new() -> Records {
        Records::default()
    }

    /// Adds a record at the end.
    ///
    /// # Panics
    /// If all records together exceed 4 GiB.
    pub fn push(&mut self, record: &[u8]) {
        self.data.extend_from_slice(record);
        self.ends.push(u32::try_from(self.data.len()).expect("a batch is smaller than 4 GiB"));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of each record, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.ends.iter().map(move |&end| {
            let record = &self.data[begin..end as usize];
            begin = end as usize;
            record
        })
    }

    /// Ends and bytes, as the contract packs them.
    #[doc(hidden)]
    pub fn into_parts(self) -> (Vec<u32>, Vec<u8>) {
        (self.ends, self.data)
    }
}

impl<R: AsRef<[u8]>> Extend<R> for Records {
    fn extend<I: IntoIterator<Item = R>>(&mut self, records: I) {
        records.into_iter().for_each(|record| self.push(record.as_ref()));
    }
}

impl<R: AsRef<[u8]>> FromIterator<R> for Records {
    fn from_iter<I: IntoIterator<Item = R>>(records: I) -> Records {
        let mut all = Records::new();
        all.extend(records);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_at_their_ends_and_share_a_time() {
        let batch = Batch::new(7, &[1, 1, 4], &[5], b"abcd");
        assert_eq!(format!("{batch:?}"), "['a' at 5 ms, '' at 5 ms, 'bcd' at 5 ms]");
    }

    #[test]
    fn each_record_has_its_time() {
        let batch = Batch::new(0, &[1, 2], &[5, 6], b"ab");
        assert_eq!(batch.records().map(|record| record.time_ms).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn an_empty_batch_has_no_records() {
        assert_eq!(Batch::new(0, &[], &[], b"").records().count(), 0);
    }

    #[test]
    fn replaced_records_come_back_as_they_were_pushed() {
        let records: Records = ["a", "", "bcd"].into_iter().collect();
        assert_eq!(records.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"bcd"]);
        assert_eq!(records.into_parts(), (vec![1, 1, 4], b"abcd".to_vec()));
    }
}
