//! Live reads: what readers have not taken yet ([`totals`], [`feed`]), which streams are followed and how shards tell each
//! other ([`feeds`]), and how readers follow a stream ([`subscription`]).

pub(crate) mod feed;
pub(crate) mod feeds;
pub(crate) mod subscription;
pub(crate) mod totals;
