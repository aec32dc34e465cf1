//! weir-raft
