//! What group 0 decides and every group hears of: [`buckets`], uploaded [`modules`], and their [`bindings`] to streams.
//! [`reconcile`] finishes what has failed half way; [`unsettled`] knows what has.

mod bindings;
mod buckets;
mod modules;
pub(crate) mod reconcile;
pub(crate) mod unsettled;
