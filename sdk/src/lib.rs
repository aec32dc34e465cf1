//! Write modules for Weir: a validator is a function with an attribute, a summary is a type with a trait.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use weir_sdk::{Json, Query, Record, Summary, Verdict, View, ensure, summary, validator};
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     qty: i64,
//! }
//!
//! /// Decides what may enter the stream.
//! #[validator]
//! fn check(order: Json<Order>) -> Verdict {
//!     ensure!(order.qty > 0, "qty", "the quantity must be positive, got {}", order.qty);
//!     Verdict::Accept
//! }
//!
//! /// What clients read instead of the stream.
//! #[derive(Default, Serialize, Deserialize)]
//! struct Totals {
//!     records: u64,
//! }
//!
//! #[summary]
//! impl Summary for Totals {
//!     fn apply(&mut self, _record: Record<'_>) {
//!         self.records += 1;
//!     }
//!
//!     fn query(&self, _query: Query<'_>) -> View {
//!         View::json(self)
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! In a build for `wasm32-unknown-unknown`, the attributes export the two as `weir:module@0.1.0`. In a native build
//! they add nothing that needs a server, so `cargo test` can test a module through [`testing`]. `README.md` beside
//! this crate takes you from an empty folder to a summary that you read with curl.
//!
//! - [`batch`]: the records of one call, packed as the server hands them over.
//! - [`extract`]: records as a validator's parameters, [`Json`] and [`Text`].
//! - [`validator`](mod@crate::validator): verdicts, and the trait behind `#[validator]`.
//! - [`summary`](mod@crate::summary): folds, their queries and snapshots, and the trait behind `#[summary]`.
//! - [`config`]: what a binding's config may be.
//! - [`log`]: lines for the operator.
//! - [`testing`]: harnesses for native tests.
//! - `glue`: the exports, on wasm only.

pub mod batch;
pub mod config;
pub mod extract;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod glue;
pub mod log;
pub mod summary;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod validator;

pub use batch::{Batch, Record, Records};
pub use config::NoConfig;
pub use extract::{FromRecord, Json, Text};
pub use summary::{Query, Summary, View};
pub use validator::{BatchVerdict, Context, Rejection, Validator, Verdict};
pub use weir_sdk_macros::{summary, validator};

// The page beside this crate compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
