//! Bindings: modules attached to the streams of a bucket, in group 0 and as every group's own copy.
//!
//! Group 0 holds the truth and numbers its changes: a binding's *epoch*. The whole set of a bucket's bindings then travels
//! to every group with the bucket ([`crate::bucket`]).
//!
//! Every group counts the changes of its own copy, whatever bucket they are of. The leader notes that count when it asks
//! a validator, the command carries it, and apply answers [`Refusal::Stale`](crate::Refusal::Stale) when it has moved: what was validated under
//! other bindings is never stored. It is one number for the whole group so that apply looks nothing up for it.

use std::sync::Arc;

use bytes::BufMut;
use serde::{Deserialize, Serialize};
use weir_types::{Digest, Role};

use crate::codec::{CodecError, Reader};
use crate::pattern::Pattern;

/// The epoch of records that no validator has looked at, in a create that found its stream there and did not expect to
/// store them: apply refuses them as stale where it would have to.
pub const EPOCH_UNJUDGED: u64 = u64::MAX;

/// What a binding's `module` begins with when it names a module that the server brings along.
pub const BUILTIN_PREFIX: &str = "builtin:";

/// A module attached to streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Its name within the bucket.
    pub name: Box<str>,
    /// Which streams of the bucket it is for.
    pub streams: Pattern,
    /// The module as it was asked for: `stats`, `stats@sha256:<digest>` or `builtin:stats`.
    pub module: Box<str>,
    /// The module's bytes: what the name stood for when the binding was made.
    pub digest: Digest,
    /// As what the module is used.
    pub role: Role,
    /// The module's configuration as JSON text; `null` for none.
    #[serde(with = "weir_types::shared")]
    pub config: Arc<str>,
    /// The change of the node's buckets that made it what it is; assigned by group 0.
    pub epoch: u64,
}

/// Bindings as bytes in a command: `[count u16]`, then each with its fields.
#[derive(Clone, Copy)]
pub struct EncodedBindings<'a>(&'a [u8]);

impl std::fmt::Debug for EncodedBindings<'_> {
    // A configuration is its owner's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncodedBindings({} bytes)", self.0.len())
    }
}

impl Binding {
    /// The uploaded module that it names, without a pinned digest; `None` for one that the server brings along.
    pub fn module_name(&self) -> Option<&str> {
        if self.module.starts_with(BUILTIN_PREFIX) {
            return None;
        }
        Some(self.module.split_once('@').map_or(&*self.module, |(name, _)| name))
    }

    /// Writes bindings for [`EncodedBindings::of`].
    pub fn encode<'a>(bindings: impl ExactSizeIterator<Item = &'a Binding>) -> Vec<u8> {
        let mut buf = Vec::new();
        buf.put_u16_le(u16::try_from(bindings.len()).expect("a bucket has few bindings"));
        for binding in bindings {
            for text in [&*binding.name, binding.streams.as_str(), &*binding.module] {
                buf.put_u16_le(
                    u16::try_from(text.len()).expect("names and patterns are checked when a request arrives"),
                );
                buf.put_slice(text.as_bytes());
            }
            buf.put_slice(&binding.digest.0);
            buf.put_u8(role_code(binding.role));
            buf.put_u64_le(binding.epoch);
            buf.put_u32_le(u32::try_from(binding.config.len()).expect("configurations are limited"));
            buf.put_slice(binding.config.as_bytes());
        }
        buf
    }

    fn read(r: &mut Reader<'_>) -> Result<Binding, CodecError> {
        let name = r.long("binding name")?.into();
        let streams = Pattern::kept(r.long("binding pattern")?).map_err(|_| CodecError::Field("binding pattern"))?;
        let module = r.long("binding module")?.into();
        let digest = r.digest("binding digest")?;
        let role = role_of(r.u8("binding role")?)?;
        let epoch = r.u64("binding epoch")?;
        let config_bytes = r.u32("binding config")? as usize;
        let config = r.take(config_bytes, "binding config")?;
        let config = std::str::from_utf8(config).map_err(|_| CodecError::Field("binding config"))?.into();
        Ok(Binding { name, streams, module, digest, role, config, epoch })
    }

    pub(crate) fn is_asked_for_as(&self, other: &Binding) -> bool {
        Binding { epoch: other.epoch, ..self.clone() } == *other
    }
}

impl<'a> EncodedBindings<'a> {
    /// What [`Binding::encode`] has written.
    pub fn of(encoded: &'a [u8]) -> EncodedBindings<'a> {
        EncodedBindings(encoded)
    }

    /// Whether these bytes are what [`Binding::encode`] writes: asked of what other nodes send.
    pub fn is_sound(encoded: &[u8]) -> bool {
        EncodedBindings(encoded).try_decode().is_ok()
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Takes everything that is left of a command, and checks it.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EncodedBindings<'a>, CodecError> {
        let rest = reader.rest();
        let encoded = EncodedBindings(reader.take(rest.len(), "bindings")?);
        encoded.try_decode()?;
        Ok(encoded)
    }

    /// Checks that it is one binding.
    pub(crate) fn single(self) -> Result<EncodedBindings<'a>, CodecError> {
        if self.0.starts_with(&1u16.to_le_bytes()) { Ok(self) } else { Err(CodecError::Field("binding count")) }
    }

    /// The bindings. They were checked when they were encoded, or when their command was read.
    pub fn decode(self) -> Vec<Binding> {
        self.try_decode().expect("bindings are checked when their command is read")
    }

    pub(crate) fn try_decode(self) -> Result<Vec<Binding>, CodecError> {
        let mut reader = Reader::new(self.0);
        let count = reader.u16("bindings")?;
        let bindings = (0..count).map(|_| Binding::read(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(bindings)
    }
}

/// The role's number in a command; never reused.
pub(crate) fn role_code(role: Role) -> u8 {
    match role {
        Role::Validator => 1,
        Role::Summary => 2,
    }
}

pub(crate) fn role_of(code: u8) -> Result<Role, CodecError> {
    Role::ALL.into_iter().find(|role| role_code(*role) == code).ok_or(CodecError::Field("role"))
}
