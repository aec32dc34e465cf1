//! A group from outside: its answers, its state, and its snapshots.

mod forks;
mod hostile;
mod model;
mod recover;
mod snapshot;
mod subscriptions;
mod transcript;
mod world;
