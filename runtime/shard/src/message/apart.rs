//! Large parts of messages between nodes: they travel behind the message, as they are, and in it stands only how many they are.
//!
//! Named in `#[serde(with = ...)]`; read back, they are empty until they are put in.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use weir_cluster::frame::BODIES_MAX;

/// Parts of one message, at most.
pub(crate) const PARTS_MAX: usize = BODIES_MAX - 1;

/// So many parts that are not there yet.
fn awaited<E: de::Error>(count: u16) -> Result<Vec<Bytes>, E> {
    match usize::from(count) <= PARTS_MAX {
        true => Ok(vec![Bytes::new(); count.into()]),
        false => Err(E::custom("more parts than a message has")),
    }
}

/// A part that is always there.
pub(crate) mod one {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(_: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        <()>::deserialize(deserializer).map(|()| Bytes::new())
    }
}

/// A part that may be there.
pub(crate) mod maybe {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(part: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        part.is_some().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        Ok(bool::deserialize(deserializer)?.then(Bytes::new))
    }
}

/// Any number of parts.
pub(crate) mod several {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(parts: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
        assert!(parts.len() <= PARTS_MAX, "a message has room for them");
        (parts.len() as u16).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, C: From<Vec<Bytes>>>(deserializer: D) -> Result<C, D::Error> {
        awaited(u16::deserialize(deserializer)?).map(C::from)
    }
}
