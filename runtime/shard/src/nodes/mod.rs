//! Other nodes: who leads what, mail to them, and mail from them.

pub(crate) mod announce;
pub(crate) mod ask;
pub(crate) mod driver;
mod hand_over;
pub(crate) mod join;
pub(crate) mod lanes;
pub(crate) mod leaders;
pub(crate) mod losses;
mod members;
mod order;
pub(crate) mod outgoing;
mod plan;
pub(crate) mod salute;
