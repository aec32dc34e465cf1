//! weir-stream
