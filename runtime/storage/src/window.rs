//! Reading a segment's frames front to back.

use std::io;

use crate::disk::DiskFile;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader};

/// Bytes that are read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// Why there is no frame where one could be.
pub(crate) const TORN: &str = "the frame's checksum does not fit its bytes";
pub(crate) const OVERLONG: &str = "the frame is longer than its segment";

/// Reads a file front to back with few calls; nothing is allocated per frame.
pub(crate) struct Window<'a> {
    pub(crate) file: &'a dyn DiskFile,
    buf: Vec<u8>,
    /// Where in the file `buf` begins.
    start: u64,
}

impl<'a> Window<'a> {
    /// A window onto `file`, in a buffer that another one has left.
    pub(crate) fn new(file: &'a dyn DiskFile, mut buf: Vec<u8>) -> Window<'a> {
        buf.clear();
        Window { file, buf, start: 0 }
    }

    pub(crate) fn into_buf(self) -> Vec<u8> {
        self.buf
    }

    /// `bytes` bytes from `position` on, within the file.
    pub(crate) fn get(&mut self, position: u64, bytes: usize) -> io::Result<&[u8]> {
        assert!(position + bytes as u64 <= self.file.bytes(), "what is looked at is in the file");
        let is_held = position >= self.start && position + bytes as u64 <= self.start + self.buf.len() as u64;
        if !is_held {
            let rest = self.file.bytes() - position;
            self.buf.resize(rest.min(WINDOW_BYTES.max(bytes) as u64) as usize, 0);
            self.start = position;
            self.file.read_at(position, &mut self.buf)?;
        }
        let from = (position - self.start) as usize;
        Ok(&self.buf[from..from + bytes])
    }

    /// The frame at `position`, checked to be whole and of this `salt`; or why there is none.
    pub(crate) fn frame(&mut self, position: u64, salt: u64) -> io::Result<Result<FrameHeader, &'static str>> {
        let rest = self.file.bytes() - position;
        let Some(header) = FrameHeader::parse(self.get(position, FRAME_HEADER_BYTES)?) else {
            return Ok(Err("no frame begins here"));
        };
        if header.salt != salt {
            return Ok(Err("the frame is not of this segment"));
        }
        if header.frame_bytes() as u64 > rest {
            return Ok(Err(OVERLONG));
        }
        let frame = self.get(position, header.frame_bytes())?;
        Ok(if FrameHeader::is_intact(frame) { Ok(header) } else { Err(TORN) })
    }
}
