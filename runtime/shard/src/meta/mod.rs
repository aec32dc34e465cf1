//! What group 0 decides and every group hears of: [`buckets`], uploaded [`modules`], and their [`bindings`] to streams.

mod bindings;
mod buckets;
mod modules;
