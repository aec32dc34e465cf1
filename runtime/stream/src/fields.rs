//! Fields that commands and snapshots have in common.

use crate::codec::{CodecError, Reader};
use crate::reply::Expiry;
use crate::sink::Sink;

const EXPIRY_NEVER: u8 = 0;
const EXPIRY_IDLE: u8 = 1;
const EXPIRY_AT: u8 = 2;

pub(crate) fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

pub(crate) fn put_expiry<S: Sink>(sink: &mut S, expiry: Expiry) {
    let (tag, value) = match expiry {
        Expiry::Never => (EXPIRY_NEVER, 0),
        Expiry::Idle { ttl_s } => (EXPIRY_IDLE, ttl_s),
        Expiry::At { at_ms } => (EXPIRY_AT, at_ms),
    };
    sink.u8(tag);
    sink.u64(value);
}

pub(crate) fn read_expiry(r: &mut Reader<'_>) -> Result<Expiry, CodecError> {
    match (r.u8("expiry")?, r.u64("expiry")?) {
        (EXPIRY_NEVER, 0) => Ok(Expiry::Never),
        (EXPIRY_IDLE, ttl_s) => Ok(Expiry::Idle { ttl_s }),
        (EXPIRY_AT, at_ms) => Ok(Expiry::At { at_ms }),
        _ => Err(CodecError::Field("expiry")),
    }
}
