//! Writing the binary format, once for what is written and once for how long that is.

use bytes::{BufMut, BytesMut};

use crate::records::Records;

/// Where a command's bytes go: to a buffer, or nowhere but into a [count](Count). So its size is known before it is written,
/// and cannot be another one.
pub(crate) trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    fn records(&mut self, records: &Records<'_>);

    fn u8(&mut self, number: u8) {
        self.bytes(&[number]);
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    /// Seven bits a byte, the lowest first; the last byte's highest bit is 0.
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.u8(number as u8);
    }

    /// Any number of bytes, behind how many they are.
    fn blob(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }

    /// A text of at most 255 bytes: its length in one byte, then the text.
    fn short(&mut self, text: &str) {
        self.u8(u8::try_from(text.len()).expect("short texts are checked when a request arrives"));
        self.bytes(text.as_bytes());
    }

    /// A text of at most 65,535 bytes: its length in two bytes, then the text.
    fn long(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).expect("names are checked when a request arrives"));
        self.bytes(text.as_bytes());
    }
}

impl Sink for BytesMut {
    fn bytes(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn records(&mut self, records: &Records<'_>) {
        records.put(self);
    }
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn records(&mut self, _records: &Records<'_>) {
        unreachable!("commands are written to where the log is written from");
    }
}

/// Counts what is written to it.
pub(crate) struct Count(pub(crate) usize);

impl Sink for Count {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn records(&mut self, records: &Records<'_>) {
        self.0 += records.encoded_bytes();
    }
}
