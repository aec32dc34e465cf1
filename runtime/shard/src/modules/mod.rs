//! Modules at work: what a shard has of them ([`guests`]), and streams on their way into folds ([`folds`], [`catch_up`],
//! [`summary`]). [`copies`]: modules on the other nodes, and for how long they stay ([`last_wanted`]). [`compile_queue`]: whose module is looked at or compiled next.

mod catch_up;
pub(crate) mod compile_queue;
pub(crate) mod copies;
pub(crate) mod folds;
pub(crate) mod guests;
pub(crate) mod last_wanted;
pub(crate) mod summary;
