//! Stream addresses: `{bucket}/{name}`, checked when a request arrives and hashed once.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::Slot;
use crate::limits::{NAME_BYTES_MAX, WORD_BYTES_MAX};

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bucket does not match `^[a-z0-9][a-z0-9_-]{0,63}$`, or is the reserved `v1`.
    #[error("a bucket is 1 to 64 of a-z, 0-9, '_' and '-', begins with a letter or digit, and is not 'v1'")]
    Bucket,
    /// The name is empty, too long, or has an empty, `.` or `..` segment.
    #[error("a stream name is 1 to 1024 bytes of segments, none of them empty, '.' or '..'")]
    Name,
    /// The name's first segment is reserved for the server.
    #[error("stream names beginning with '-' or '__ds' as their first segment are reserved")]
    Reserved,
}

/// A bucket's name, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Box<str>", into = "Box<str>")]
pub struct BucketName(Box<str>);

impl BucketName {
    /// Checks `text` and takes it as a bucket's name.
    ///
    /// # Errors
    /// [`KeyError::Bucket`] when it does not match the pattern.
    pub fn new(text: &str) -> Result<BucketName, KeyError> {
        check_bucket(text)?;
        Ok(BucketName(text.into()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<Box<str>> for BucketName {
    type Error = KeyError;

    fn try_from(text: Box<str>) -> Result<BucketName, KeyError> {
        BucketName::new(&text)
    }
}

impl From<BucketName> for Box<str> {
    fn from(name: BucketName) -> Box<str> {
        name.0
    }
}

/// A stream's address with its hash: what requests carry and groups look up.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Box<str>", into = "Box<str>")]
pub struct StreamKey {
    /// `bucket/name`.
    text: Box<str>,
    bucket_bytes: u8,
    hash: u64,
}

impl StreamKey {
    /// Checks `bucket` and `name` (already percent-decoded) and joins them.
    ///
    /// # Errors
    /// [`KeyError`] names the part that is refused.
    pub fn new(bucket: &str, name: &str) -> Result<StreamKey, KeyError> {
        check_bucket(bucket)?;
        check_name(name)?;
        let mut text = String::with_capacity(bucket.len() + 1 + name.len());
        text.push_str(bucket);
        text.push('/');
        text.push_str(name);
        let hash = StreamKey::hash_of(&text);
        Ok(StreamKey { text: text.into_boxed_str(), bucket_bytes: bucket.len() as u8, hash })
    }

    /// Checks `text` as [`StreamKey::parse`] does.
    ///
    /// # Errors
    /// [`KeyError`] names the part that is refused; [`KeyError::Name`] when there is no slash.
    pub fn check(text: &str) -> Result<(), KeyError> {
        let (bucket, name) = cut_at_slash(text).ok_or(KeyError::Name)?;
        check_bucket(bucket)?;
        check_name(name)
    }

    /// Reads `bucket/name`, as [`StreamKey::as_str`] gives it.
    ///
    /// # Errors
    /// [`KeyError`] names the part that is refused; [`KeyError::Name`] when there is no slash.
    pub fn parse(text: &str) -> Result<StreamKey, KeyError> {
        let (bucket, name) = cut_at_slash(text).ok_or(KeyError::Name)?;
        StreamKey::new(bucket, name)
    }

    /// The hash of `bucket/name`. Part of the data format (it decides the slot): XXH3, 64 bits, no seed.
    pub fn hash_of(text: &str) -> u64 {
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    /// `bucket/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.text[..usize::from(self.bucket_bytes)]
    }

    /// The stream's name within its bucket.
    pub fn name(&self) -> &str {
        &self.text[usize::from(self.bucket_bytes) + 1..]
    }

    /// [`StreamKey::hash_of`] the whole address.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The slot that the address falls into.
    pub fn slot(&self) -> Slot {
        Slot::of_hash(self.hash)
    }
}

impl TryFrom<Box<str>> for StreamKey {
    type Error = KeyError;

    fn try_from(text: Box<str>) -> Result<StreamKey, KeyError> {
        StreamKey::parse(&text)
    }
}

impl From<StreamKey> for Box<str> {
    fn from(key: StreamKey) -> Box<str> {
        key.text
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey({})", self.text)
    }
}

/// Whether `text` is what buckets, modules and bindings are called by: `^[a-z0-9][a-z0-9_-]{0,63}$`.
pub(crate) fn is_word(text: &str) -> bool {
    const { assert!(WORD_BYTES_MAX <= u8::MAX as usize) };
    let bytes = text.as_bytes();
    let first_fits = matches!(bytes.first(), Some(b'a'..=b'z' | b'0'..=b'9'));
    let all_fit = bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    first_fits && all_fit && bytes.len() <= WORD_BYTES_MAX
}

fn check_bucket(text: &str) -> Result<(), KeyError> {
    if is_word(text) && text != "v1" { Ok(()) } else { Err(KeyError::Bucket) }
}

fn check_name(text: &str) -> Result<(), KeyError> {
    if text.len() > NAME_BYTES_MAX {
        return Err(KeyError::Name);
    }
    // This is asked of every request: the passes over all bytes are such that several are looked at at once.
    let bytes = text.as_bytes();
    // They could command a terminal, or end a line of a log.
    let has_commands = bytes.iter().fold(false, |found, &byte| found | (byte < 0x20) | (byte == 0x7f));
    if has_commands || (!text.is_ascii() && text.chars().any(char::is_control)) {
        return Err(KeyError::Name);
    }
    let mut is_first = true;
    for part in bytes.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." | b".." => return Err(KeyError::Name),
            b"-" | b"__ds" if is_first => return Err(KeyError::Reserved),
            _ => is_first = false,
        }
    }
    Ok(())
}

/// Cuts `text` at the first slash. As `split_once`, at a third of the price for texts as short as addresses are.
pub fn cut_at_slash(text: &str) -> Option<(&str, &str)> {
    let at = text.bytes().position(|b| b == b'/')?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_part_by_part() {
        let check = |bucket: &str, name: &str| StreamKey::new(bucket, name).map(|key| key.to_string());
        assert_eq!(check("demo", "a/b/.updates"), Ok("demo/a/b/.updates".to_string()));
        assert_eq!(check("v1", "a"), Err(KeyError::Bucket));
        assert_eq!(check("Demo", "a"), Err(KeyError::Bucket));
        assert_eq!(check(&"b".repeat(65), "a"), Err(KeyError::Bucket));
        assert_eq!(check("demo", ""), Err(KeyError::Name));
        assert_eq!(check("demo", "a//b"), Err(KeyError::Name));
        for control in ["a\nb", "a\u{1b}[2Jb", "a\u{7f}", "a\u{85}b", "a\u{9b}b", "\0"] {
            assert_eq!(check("demo", control), Err(KeyError::Name), "{control:?}");
        }
        assert!(check("demo", "a\u{a0}\u{c5}\u{e9}b").is_ok());
        assert_eq!(check("demo", "a/../b"), Err(KeyError::Name));
        assert_eq!(check("demo", &"n".repeat(1025)), Err(KeyError::Name));
        assert_eq!(check("demo", "-/streams"), Err(KeyError::Reserved));
        assert_eq!(check("demo", "__ds/x"), Err(KeyError::Reserved));
        assert_eq!(check("demo", "x/__ds"), Ok("demo/x/__ds".to_string()));
    }

    #[test]
    fn parts_of_a_key_are_its_own() {
        let key = StreamKey::new("demo", "orders/7").expect("a valid address");
        assert_eq!((key.bucket(), key.name()), ("demo", "orders/7"));
        assert_eq!(key.hash(), StreamKey::hash_of("demo/orders/7"));
        assert_eq!(StreamKey::parse(key.as_str()), Ok(key));
        assert_eq!(StreamKey::parse("demo"), Err(KeyError::Name));
    }

    #[test]
    fn the_hash_never_changes() {
        // A changed value here would place every stream of every existing node elsewhere.
        assert_eq!(
            StreamKey::hash_of("demo/orders/7") & 0xfff,
            u64::from(Slot::of_hash(StreamKey::hash_of("demo/orders/7")).index() as u16)
        );
        assert_eq!(StreamKey::hash_of(""), 0x2d06_8005_38d3_94c2);
    }
}
