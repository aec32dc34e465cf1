//! Other nodes: who leads what, mail to them, and mail from them.

pub(crate) mod ask;
mod hand_over;
pub(crate) mod lanes;
pub(crate) mod leaders;
pub(crate) mod losses;
mod members;
mod order;
pub(crate) mod outgoing;
pub(crate) mod salute;
