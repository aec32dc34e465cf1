//! A stream's address as commands carry it.

use weir_types::limits::{NAME_BYTES_MAX, WORD_BYTES_MAX};
use weir_types::{Slot, StreamKey, cut_at_slash};

use crate::codec::{CodecError, Reader};

/// A stream's address, borrowed, with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRef<'a> {
    text: &'a str,
    bucket_bytes: usize,
    hash: u64,
}

impl<'a> KeyRef<'a> {
    /// `bucket/name`.
    pub fn as_str(self) -> &'a str {
        self.text
    }

    /// The bucket's name.
    pub fn bucket(self) -> &'a str {
        &self.text[..self.bucket_bytes]
    }

    /// The stream's name within the bucket.
    pub fn name(self) -> &'a str {
        &self.text[self.bucket_bytes + 1..]
    }

    /// [`StreamKey::hash_of`] the whole address.
    pub fn hash(self) -> u64 {
        self.hash
    }

    /// The slot that the address falls into.
    pub fn slot(self) -> Slot {
        Slot::of_hash(self.hash)
    }

    /// The address with this text, which a request's checks let through before it was written.
    pub(crate) fn parse(text: &'a str) -> Result<KeyRef<'a>, CodecError> {
        let (bucket, name) = cut_at_slash(text).ok_or(CodecError::Field("stream key"))?;
        let bucket_fits = (1..=WORD_BYTES_MAX).contains(&bucket.len());
        let name_fits = (1..=NAME_BYTES_MAX).contains(&name.len());
        if !bucket_fits || !name_fits {
            return Err(CodecError::Field("stream key"));
        }
        Ok(KeyRef { text, bucket_bytes: bucket.len(), hash: StreamKey::hash_of(text) })
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<KeyRef<'a>, CodecError> {
        KeyRef::parse(reader.long("stream key")?)
    }
}

impl<'a> From<&'a StreamKey> for KeyRef<'a> {
    fn from(key: &'a StreamKey) -> KeyRef<'a> {
        KeyRef { text: key.as_str(), bucket_bytes: key.bucket().len(), hash: key.hash() }
    }
}
