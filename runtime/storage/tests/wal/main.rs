//! The log as its callers see it: [`behaviour`] on disks that are used, slow, full or refuse; [`crash`]: power cuts;
//! [`damage`]: bits that change; [`mixups`]: files that are missing or in the wrong place.

mod behaviour;
mod crash;
mod damage;
mod mixups;
mod support;
