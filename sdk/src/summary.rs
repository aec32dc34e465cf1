//! Summaries: a stream folded into a small state, which clients read instead of the stream.
//!
//! The server promises that a summary at an offset is the fold of all records before it, byte for byte, whichever node or
//! instance computed it. It can only do so if the fold keeps its side:
//!
//! - **Only the records count.** The same records in the same order give the same state. There is no clock but
//!   [`Record::time_ms`] and nothing random; `HashMap` is both, for its order differs from one instance to the next.
//!   Use `BTreeMap`.
//! - **A snapshot is the state.** `restore(snapshot(fold))` goes on exactly as `fold` would have. What
//!   `#[serde(skip)]` leaves out must not matter, and a float that is not finite has no JSON: keep it out of the state.
//! - **The state stays small.** It is bounded by the memory limit of the module, not by the length of the stream: give
//!   every map that is keyed by what is in the records a limit.
//! - **Records are taken as they come.** One that makes no sense is counted or passed over; a panic stops the summary at
//!   that record. The stream goes on in any case.
//!
//! [`SummaryHarness::check_snapshots`](crate::testing) tests the first two at every split.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::Record;

/// A fold over the records of one stream. Goes with the attribute `#[summary]` above the `impl`, which exports it and
/// writes what the `impl` leaves out: everything but `apply` and `query` has a default.
pub trait Summary: Sized + 'static {
    /// What the binding's config is read into. Default: [`crate::NoConfig`].
    type Config: DeserializeOwned + 'static;

    /// Which form the snapshots have; `#[summary(state_version = 2)]` sets it. Raise it with every change of the state
    /// that makes old snapshots unreadable or wrong. Default: 1.
    const STATE_VERSION: u32;

    /// The state before the first record. Default: `Self::default()`.
    fn new(config: &Self::Config) -> Self;

    /// Takes the next record.
    fn apply(&mut self, record: Record<'_>);

    /// Answers a client that reads the summary.
    fn query(&self, query: Query<'_>) -> View;

    /// The whole state as bytes, equal for equal states. Default: JSON by `serde::Serialize`.
    fn snapshot(&self) -> Vec<u8>;

    /// The state that was stored as `snapshot` by a module with this `state_version`. Default: the JSON of
    /// [`Self::STATE_VERSION`], by `serde::Deserialize`. Written by hand, it may read older versions too.
    ///
    /// # Errors
    /// A sentence saying why the snapshot cannot be read. The server then folds the stream anew.
    fn restore(state_version: u32, snapshot: &[u8], config: &Self::Config) -> Result<Self, String>;

    /// Written by the attribute. A compiler that names it says that the attribute is missing.
    #[doc(hidden)]
    fn the_attribute_summary_is_missing_above_this_impl();
}

/// What a client asks of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Which view of the state; `/` for the summary itself.
    pub path: &'a str,
    /// Names and values in the order of the URL, without those that are the server's own.
    pub params: &'a [(String, String)],
}

impl<'a> Query<'a> {
    /// The first parameter of this name.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What a client gets to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// A body.
    Body {
        /// Its media type.
        content_type: String,
        /// Its bytes.
        body: Vec<u8>,
    },
    /// Nothing, for the reason that the sentence gives.
    Refused(String),
}

impl View {
    /// A value as JSON.
    ///
    /// # Panics
    /// If the value has no JSON, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> View {
        View::bytes("application/json", serde_json::to_vec(value).expect("a view has a JSON form"))
    }

    /// Plain text.
    pub fn text(text: impl Into<String>) -> View {
        View::bytes("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Any bytes, of this media type.
    pub fn bytes(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> View {
        View::Body { content_type: content_type.into(), body: body.into() }
    }

    /// No view: the sentence tells the client what is wrong with the query.
    pub fn refused(message: impl Into<String>) -> View {
        View::Refused(message.into())
    }
}

/// A fold's snapshot, preceded by the version of its state, 4 bytes, little-endian.
#[doc(hidden)]
pub fn snapshot<S: Summary>(fold: &S) -> Vec<u8> {
    let mut bytes = S::STATE_VERSION.to_le_bytes().to_vec();
    bytes.extend(fold.snapshot());
    bytes
}

/// The fold that [`snapshot`] has stored.
///
/// # Errors
/// A sentence saying why the bytes are not a fold of this module.
#[doc(hidden)]
pub fn restore<S: Summary>(bytes: &[u8], config: &S::Config) -> Result<S, String> {
    let (state_version, state) =
        bytes.split_first_chunk().ok_or("the snapshot is too short to have a state version")?;
    S::restore(u32::from_le_bytes(*state_version), state, config)
}

/// The default of [`Summary::snapshot`].
#[doc(hidden)]
pub fn snapshot_json<S: Serialize>(fold: &S) -> Vec<u8> {
    serde_json::to_vec(fold).expect("a summary's state has a JSON form")
}

/// The default of [`Summary::restore`].
///
/// # Errors
/// When the snapshot is of another version, or no JSON of the state.
#[doc(hidden)]
pub fn restore_json<S: Summary + DeserializeOwned>(state_version: u32, snapshot: &[u8]) -> Result<S, String> {
    if state_version != S::STATE_VERSION {
        return Err(format!("the snapshot has state version {state_version}, the module reads {}", S::STATE_VERSION));
    }
    serde_json::from_slice(snapshot).map_err(|error| format!("the snapshot is not a state of the module: {error}"))
}
