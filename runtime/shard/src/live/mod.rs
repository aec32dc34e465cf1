//! Live reads: what readers have not taken yet ([`feed`]), whose news a shard has asked for ([`watches`]), and how readers
//! follow a stream ([`subscription`]).

pub(crate) mod feed;
pub(crate) mod subscription;
pub(crate) mod watches;
