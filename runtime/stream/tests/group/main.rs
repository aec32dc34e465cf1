//! A group from outside: its answers, its state, and its snapshots.

mod model;
mod snapshot;
mod transcript;
mod world;
