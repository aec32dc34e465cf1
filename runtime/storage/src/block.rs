//! Blocks: what positions, addresses and lengths of durable writes are multiples of.
//!
//! A durable write that bypasses the page cache wants its memory at block addresses. Safe code cannot ask the allocator
//! for that, so a buffer takes a block more than it needs and begins at the first block address within.

use bytes::{Buf, BytesMut};

/// The unit of placement: positions, addresses and lengths of durable writes are multiples of this many bytes.
pub const BLOCK_BYTES: usize = 4096;

const _: () = assert!(BLOCK_BYTES.is_power_of_two(), "addresses are aligned to it");

/// `bytes` rounded up to whole blocks.
pub(crate) const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// An empty buffer that begins at a block address and has room for `bytes`, padded to whole blocks.
pub(crate) fn block_buf(bytes: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(padded(bytes) + BLOCK_BYTES);
    let skip = buf.as_ptr().align_offset(BLOCK_BYTES);
    assert!(skip < BLOCK_BYTES, "a block address is at most a block away");
    buf.resize(skip, 0);
    buf.advance(skip);
    assert!(is_block_address(&buf), "the buffer begins at a block");
    buf
}

/// A block of zeros.
pub(crate) fn zero_block() -> BytesMut {
    let mut block = block_buf(BLOCK_BYTES);
    block.resize(BLOCK_BYTES, 0);
    block
}

/// Whether `buf` begins at a block address.
pub(crate) fn is_block_address(buf: &[u8]) -> bool {
    buf.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
}
