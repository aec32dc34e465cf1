//! Links between nodes: messages, and the bytes that they travel as. What is said, others decide.
//!
//! - [`frame`]: what a message is, and what it looks like on the wire. [`reader`], [`writer`]: from and to a connection.

pub mod frame;
#[expect(dead_code, reason = "links come next")]
mod reader;
#[expect(dead_code, reason = "links come next")]
mod writer;

pub use frame::Message;
pub use reader::Buffers;
