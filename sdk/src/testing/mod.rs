//! Tests of a module without a server: `cargo test`, natively, through the same code that runs on wasm.
//!
//! - [`ValidatorHarness`]: append records, get the verdict as text.
//! - [`SummaryHarness`]: append records, query, and check that snapshots are the whole state.
//! - [`logs`]: what the module has logged.
//!
//! ```
//! # use weir_sdk::{Text, Verdict, ensure, validator};
//! use weir_sdk::testing::ValidatorHarness;
//!
//! #[validator]
//! fn check(word: Text<'_>) -> Verdict {
//!     ensure!(!word.is_empty(), "empty", "there is nothing in it");
//!     Verdict::Accept
//! }
//!
//! # fn main() {
//! let stream = ValidatorHarness::<check>::new();
//! assert_eq!(stream.append(["a", ""]), "reject 1 empty: there is nothing in it");
//! # }
//! ```

mod summary;
mod validator;

use std::cell::RefCell;

use crate::log::Level;

pub use summary::SummaryHarness;
pub use validator::ValidatorHarness;

thread_local! {
    static LOGS: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

/// The lines that modules have logged on this thread since the last call.
pub fn logs() -> Vec<(Level, String)> {
    LOGS.take()
}

/// Stands for the export that a native build does not have, so that the compiler takes `T` for used.
#[doc(hidden)]
pub const fn exported<T>() {}

pub(crate) fn log(level: Level, message: String) {
    eprintln!("{level:?}: {message}");
    LOGS.with_borrow_mut(|lines| lines.push((level, message)));
}

/// Values as the JSON messages that a stream would hold.
///
/// # Panics
/// If a value has no JSON.
pub fn json<T: serde::Serialize>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| serde_json::to_string(&value).expect("a record has a JSON form")).collect()
}
