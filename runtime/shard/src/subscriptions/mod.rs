//! Subscriptions at work. See ARCHITECTURE.md, "Life of one subscription".
//!
//! - [`links`]: a group's part: which of its streams have something new, and up to where they were processed.
//! - [`report`]: each group's leader tells group 0's of what is new.
//! - [`wakes`]: group 0's leader begins wakes, has them delivered, and ends those whose lease is over.
//! - [`asks`]: what clients and those who were woken ask of group 0's leader.
//! - [`desk`]: what that leader keeps in memory for all this.

pub(crate) mod asks;
pub(crate) mod desk;
pub(crate) mod links;
pub(crate) mod report;
pub(crate) mod wakes;
