//! Webhooks: what is called when a subscription wakes, and what proves who calls.
//!
//! - [`policy`]: which addresses are called. A name is resolved when it is called, and what it resolves to is checked, and called.
//! - [`deliver`]: one call: a signed request, its answer, within its time. It says delivered, done or failed, and decides nothing more.
//! - [`calls`]: whose turn it is, where many are to be called.
//! - [`signature`]: the key that requests are signed with, and its public half. [`token`]: what callers back show.
//!
//! It knows no stream and no shard, and keeps nothing: keys, generations and when to try again are group 0's.

mod calls;
mod deliver;
mod policy;
mod signature;
mod token;

pub use calls::Call;
pub use deliver::{Delivery, Hooks, HooksConfig, WakeRequest, WakeStream};
pub use policy::{Policy, PolicyError, UrlRefusal};
pub use signature::{PublicKey, public_key};
pub use token::{Claims, issue, verify};
