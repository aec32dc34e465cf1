//! What every black-box suite needs: the real binary as a child process, and a small HTTP/1.1 client that shows the
//! bytes on the wire instead of hiding them.
//!
//! - [`server`]: start, wait for, kill, stop and restart `weir serve`.
//! - [`http`]: requests and responses over kept-open connections.
//! - [`sse`]: one live read, event by event.
//! - [`guests`]: modules to upload, good and bad.
//! - [`npm`]: scripts for node, and the packages that they are pinned to.
//! - [`tools`]: other programs, pinned and installed below `target/`.
//! - [`history`]: what clients saw of a stream, and whether what is stored can explain it; [`streams`] are what it is about.
//! - [`watch`]: its metrics, and waiting for something.
//! - [`random`]: numbers that follow from a seed.
//! - [`ports`]: loopback ports that nothing else is about to take.
//! - [`s3`]: an S3 server that does what it is told, also wrong.
//!
//! A suite asserts with panics, so most functions here panic with a sentence when the harness itself fails; what is
//! part of a server's behaviour (a refused connection, a reset, a status) comes back as a value.

pub mod guests;
pub mod history;
pub mod http;
pub mod npm;
pub mod ports;
pub mod random;
pub mod s3;
pub mod server;
pub mod sse;
pub mod streams;
pub mod tools;
pub mod watch;

pub use guests::{compile_bomb, guest, leb, section};
pub use http::{Client, Connection, Request, Response};
pub use random::Random;
pub use s3::{Fault, S3};
pub use server::{Exit, Server, Setup};
pub use sse::{Event, Events};
pub use watch::{metric, wait_until};
