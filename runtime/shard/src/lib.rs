//! weir-shard
