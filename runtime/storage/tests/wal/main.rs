//! The log as its callers see it: [`behaviour`] on disks that are used, slow, full or refuse; [`crash`]: power cuts;
//! [`damage`]: bits that change.

mod behaviour;
mod crash;
mod damage;
mod support;
