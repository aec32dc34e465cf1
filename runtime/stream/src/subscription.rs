//! Subscriptions: durable cursors over streams, and those who are woken when there is more.
//!
//! - [`kept`]: a subscription as group 0 has it, its wakes, and the steps that change them.
//! - [`watch`]: what every group is told of it. [`cursors`]: up to where streams were processed, in their own group; [`follow`]: how that
//!   changes.
//!
//! Source: Durable Streams Protocol, sections 6 and 7.

pub(crate) mod cursors;
pub(crate) mod follow;
pub(crate) mod kept;
pub(crate) mod watch;

pub use follow::Linked;
pub use kept::{
    Delivery, EncodedConfig, EncodedNames, HookKey, HookSeed, Subscription, SubscriptionConfig, SubscriptionStep, Turn,
    Wake, is_subscription_id,
};
pub use watch::{Ack, EncodedAcks, EncodedWatches, Link, Watch};
