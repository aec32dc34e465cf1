//! Offsets: positions in a stream's stored bytes, and the opaque tokens that stand for them on the wire.
//!
//! A token is the position as 20 zero-padded digits, `-`, and a [`Lineage`] as 8 characters. Tokens of one stream therefore
//! sort as their positions do, and a token of an earlier life under the same name is told apart.
//!
//! It has no `_`: `@durable-streams/y-durable-streams` takes what is behind one for a number and counts it up, although
//! tokens are opaque (protocol, section 8).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::Incarnation;

/// The alphabet of a lineage: Crockford's base 32 in lower case, in the order of its digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const POSITION_DIGITS: usize = 20;
const LINEAGE_CHARS: usize = 8;
const SEPARATOR: u8 = b'-';

/// A token's length in bytes; all tokens have the same.
pub const TOKEN_BYTES: usize = POSITION_DIGITS + 1 + LINEAGE_CHARS;

/// Why a text is no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an offset is '-1', 'now', or a token that this server gave out")]
pub struct OffsetError;

/// A short form of a stream's incarnation: 40 bits. Its forks have the offsets that they inherit in common with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Lineage(u64);

impl Lineage {
    /// The lineage that a stream created as `incarnation` begins.
    pub fn of(incarnation: Incarnation) -> Lineage {
        Lineage(incarnation.0 & ((1 << 40) - 1))
    }

    /// The lineage's 40 bits, for our own codec.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The lineage with these bits; those above 40 are dropped.
    pub fn from_bits(bits: u64) -> Lineage {
        Lineage(bits & ((1 << 40) - 1))
    }
}

impl From<u64> for Lineage {
    fn from(bits: u64) -> Lineage {
        Lineage::from_bits(bits)
    }
}

impl From<Lineage> for u64 {
    fn from(lineage: Lineage) -> u64 {
        lineage.bits()
    }
}

/// A position in one lineage of streams: `position` bytes of stored data come before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offset {
    /// Stored bytes before this offset.
    pub position: u64,
    /// Which stream, over all lives of its name.
    pub lineage: Lineage,
}

impl Offset {
    /// The token as ASCII bytes: what headers, URLs and `id:` lines carry.
    pub fn token(self) -> [u8; TOKEN_BYTES] {
        let mut token = [b'0'; TOKEN_BYTES];
        let mut rest = self.position;
        let mut digits = token[..POSITION_DIGITS].iter_mut().rev();
        // The rest of most positions is zeros, which are there.
        while rest > 0 {
            *digits.next().expect("a position has at most 20 digits") = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        token[POSITION_DIGITS] = SEPARATOR;
        for (i, char) in token[POSITION_DIGITS + 1..].iter_mut().enumerate() {
            let shift = 5 * (LINEAGE_CHARS - 1 - i);
            *char = ALPHABET[(self.lineage.0 >> shift) as usize & 31];
        }
        token
    }

    /// Reads a token that [`Offset::token`] wrote; anything else is refused.
    ///
    /// # Errors
    /// [`OffsetError`] for any other text, `-1` and `now` included.
    pub fn parse(text: &str) -> Result<Offset, OffsetError> {
        let bytes = text.as_bytes();
        if bytes.len() != TOKEN_BYTES || bytes[POSITION_DIGITS] != SEPARATOR {
            return Err(OffsetError);
        }
        let mut position = 0u64;
        for &digit in &bytes[..POSITION_DIGITS] {
            if !digit.is_ascii_digit() {
                return Err(OffsetError);
            }
            let shifted = position.checked_mul(10).ok_or(OffsetError)?;
            position = shifted.checked_add(u64::from(digit - b'0')).ok_or(OffsetError)?;
        }
        let mut lineage = 0u64;
        for char in &bytes[POSITION_DIGITS + 1..] {
            let value = ALPHABET.iter().position(|a| a == char).ok_or(OffsetError)?;
            lineage = lineage << 5 | value as u64;
        }
        Ok(Offset { position, lineage: Lineage(lineage) })
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.token()).expect("a token is ASCII"))
    }
}

/// What the offsets of one stream carry: its own lineage, but for a fork's offsets up to where it begins, which are its source's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineages {
    /// The last offset of each lineage before its own, in order. Only a fork has any.
    #[serde(with = "crate::shared::option")]
    inherited: Option<Arc<[Offset]>>,
    own: Lineage,
}

impl Lineages {
    /// Those of a stream whose own offsets carry `own`, and which has `inherited` the offsets up to these.
    pub fn new(inherited: Option<Arc<[Offset]>>, own: Lineage) -> Lineages {
        Lineages { inherited, own }
    }

    /// The offset of a position.
    pub fn offset(&self, position: u64) -> Offset {
        let inherited = self.inherited();
        let later = &inherited[inherited.partition_point(|last| last.position < position)..];
        Offset { position, lineage: later.first().map_or(self.own, |last| last.lineage) }
    }

    /// The last offset of each lineage that a fork would inherit with the offsets from `base` to `begin`.
    pub fn inherited_by(&self, base: u64, begin: u64) -> Arc<[Offset]> {
        let between = self.inherited().iter().filter(|last| (base..begin).contains(&last.position));
        between.copied().chain([self.offset(begin)]).collect()
    }

    /// The last offset of each lineage before its own, in order.
    pub fn inherited(&self) -> &[Offset] {
        self.inherited.as_deref().unwrap_or_default()
    }
}

/// Where a read begins, as a client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadFrom {
    /// `-1`, or no offset at all: the first retained record.
    Start,
    /// `now`: the tail at the time of the read.
    Now,
    /// A token.
    At(Offset),
}

impl ReadFrom {
    /// Reads the `offset` query parameter.
    ///
    /// # Errors
    /// [`OffsetError`] when it is neither a sentinel nor a token.
    pub fn parse(text: &str) -> Result<ReadFrom, OffsetError> {
        match text {
            "-1" => Ok(ReadFrom::Start),
            "now" => Ok(ReadFrom::Now),
            _ => Offset::parse(text).map(ReadFrom::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_has_the_offsets_of_its_source_up_to_where_it_begins() {
        let offset = |position, bits| Offset { position, lineage: Lineage::from_bits(bits) };
        let root = Lineages::new(None, Lineage::from_bits(1));
        let fork = Lineages::new(Some(root.inherited_by(0, 10)), Lineage::from_bits(2));
        let second = Lineages::new(Some(fork.inherited_by(0, 30)), Lineage::from_bits(3));
        for (position, bits) in [(0, 1), (10, 1), (11, 2), (30, 2), (31, 3), (u64::MAX, 3)] {
            assert_eq!(second.offset(position), offset(position, bits));
        }
        assert_eq!(second.inherited_by(0, 30)[..], [offset(10, 1), offset(30, 2)]);
        assert_eq!(second.inherited_by(10, 10)[..], [offset(10, 1)], "nothing but where it begins");
        assert_eq!(second.inherited_by(11, 40)[..], [offset(30, 2), offset(40, 3)], "without what was trimmed");
    }

    #[test]
    fn tokens_read_back_as_written() {
        for position in [0, 1, 4096, u64::MAX] {
            let offset = Offset { position, lineage: Lineage::of(Incarnation(0x0123_4567_89ab_cdef)) };
            assert_eq!(Offset::parse(&offset.to_string()), Ok(offset));
        }
    }

    #[test]
    fn clients_find_nothing_to_count_up_in_a_token() {
        let tokens =
            (0..1000).map(|n| Offset { position: n, lineage: Lineage::of(Incarnation(n << 30 | n)) }.to_string());
        assert!(tokens.into_iter().all(|token| !token.contains('_')));
    }

    #[test]
    fn tokens_of_a_stream_sort_as_their_positions() {
        let token = |position| Offset { position, lineage: Lineage::of(Incarnation(7)) }.to_string();
        assert_eq!(token(12), "00000000000000000012-00000007");
        assert!(token(9) < token(10) && token(99) < token(1 << 40));
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "18446744073709551616-00000000";
        for text in ["", "0", "-1", "now", "00000000000000000012", "0000000000000000001x_00000000", long] {
            assert_eq!(Offset::parse(text), Err(OffsetError), "{text}");
        }
        assert_eq!(ReadFrom::parse("-1"), Ok(ReadFrom::Start));
        assert_eq!(ReadFrom::parse("now"), Ok(ReadFrom::Now));
        assert_eq!(ReadFrom::parse("nope"), Err(OffsetError));
    }
}
