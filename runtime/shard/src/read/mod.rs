//! Reading what is stored: pages for clients ([`page`]), packed records for guests ([`records`]), listings ([`list`]).

mod inherited;
mod list;
pub(crate) mod page;
pub(crate) mod records;
