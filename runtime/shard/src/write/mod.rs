//! What changes a stream: [`append`] (and close), [`create`], [`fork`] (and [`pin`], at its source), [`trim`], [`delete`], and the end
//! by time ([`expiry`]).
//!
//! [`validate`] takes appends through their validators, where they wait as [`validations`]; [`rounds`] takes what is to be
//! proposed to the log and brings the answers back; [`job`] is an append on that way.

pub(crate) mod append;
mod create;
mod delete;
pub(crate) mod expiry;
mod fork;
pub(crate) mod job;
mod pin;
pub(crate) mod role;
pub(crate) mod rounds;
mod trim;
pub(crate) mod validate;
pub(crate) mod validations;
