//! Blocks: what positions, addresses and lengths of durable writes are multiples of.
//!
//! A durable write that bypasses the page cache wants its memory at block addresses. Safe code cannot ask the allocator
//! for that, so a buffer takes a block more than it needs and begins at the first block address within.

use bytes::{Buf, Bytes, BytesMut};

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

/// A block that says something about a file: `magic`, whose last byte is the format's version, then `numbers`, and a
/// checksum over both.
pub(crate) fn seal<const N: usize>(magic: [u8; 8], numbers: [u64; N]) -> Bytes {
    const { assert!(8 * (N + 2) <= BLOCK_BYTES) };
    let mut block = zero_block();
    block[..8].copy_from_slice(&magic);
    for (field, number) in block[8..].chunks_exact_mut(8).zip(numbers) {
        field.copy_from_slice(&number.to_le_bytes());
    }
    let checked_bytes = 8 * (N + 1);
    let crc = crc32c::crc32c(&block[..checked_bytes]);
    block[checked_bytes..checked_bytes + 4].copy_from_slice(&crc.to_le_bytes());
    block.freeze()
}

/// What a block is that should be a sealed one.
pub(crate) enum Unsealed<const N: usize> {
    Numbers([u64; N]),
    /// Sealed by a version that we do not know.
    OtherVersion(u8),
    /// Not sealed under this magic, or damaged.
    Nothing,
}

/// Reads what [`seal`] made.
pub(crate) fn unseal<const N: usize>(magic: [u8; 8], block: &[u8]) -> Unsealed<N> {
    assert_eq!(block.len(), BLOCK_BYTES, "a seal is a block's");
    let checked_bytes = 8 * (N + 1);
    let crc = crc32c::crc32c(&block[..checked_bytes]).to_le_bytes();
    if block[..7] != magic[..7] || block[checked_bytes..checked_bytes + 4] != crc {
        return Unsealed::Nothing;
    }
    if block[7] != magic[7] {
        return Unsealed::OtherVersion(block[7]);
    }
    let field = |number: usize| *block[8 * (number + 1)..].first_chunk().expect("within the block");
    Unsealed::Numbers(std::array::from_fn(|number| u64::from_le_bytes(field(number))))
}

/// Whether `buf` begins at a block address.
pub(crate) fn is_block_address(buf: &[u8]) -> bool {
    buf.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
}
