//! Other nodes: who leads what ([`leaders`]), mail to them ([`outgoing`]) and from them ([`lanes`]), and who belongs to which group:
//! what is told ([`announce`]), asked ([`members`], [`order`], [`join`]), wanted ([`plan`]) and done ([`driver`]).

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
