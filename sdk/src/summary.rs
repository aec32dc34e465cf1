//! Summaries: a stream folded into a small state that clients read instead of the stream.
//!
//! The server promises that a summary at an offset is the fold of all records before it, byte for byte, whichever
//! node or instance computed it. It can keep that promise only if the fold follows these rules:
//!
//! - **Only the records count.** The same records in the same order give the same state. There is no clock but
//!   [`Record::time_ms`], and nothing random. Use `BTreeMap`, not `HashMap`: the order of a `HashMap` differs from one
//!   instance to the next.
//! - **A snapshot is the state.** `restore(snapshot(fold))` goes on exactly as `fold` would have. What
//!   `#[serde(skip)]` leaves out must not matter. A float that is not finite has no JSON: keep it out of the state.
//! - **The state stays small.** The memory limit of the module bounds it, however long the stream is. Limit every map
//!   whose keys come from the records.
//! - **Take records as they come.** Count or skip a record that makes no sense; a panic stops the summary at that
//!   record. The stream goes on in any case.
//!
//! [`SummaryHarness::check_snapshots`](crate::testing) tests the first two rules at every split.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::Record;

/// A fold over the records of one stream. Put the attribute `#[summary]` above the `impl`: it exports the fold and
/// writes what the `impl` leaves out. Everything but `apply` and `query` has a default.
pub trait Summary: Sized + 'static {
    /// The type of the binding's config. Default: [`crate::NoConfig`].
    type Config: DeserializeOwned + 'static;

    /// The version of the snapshots' form; `#[summary(state_version = 2)]` sets it. Raise it with every change of the
    /// state that makes old snapshots unreadable or wrong. Default: 1.
    const STATE_VERSION: u32;

    /// The state before the first record. Default: `Self::default()`.
    fn new(config: &Self::Config) -> Self;

    /// Takes the next record.
    fn apply(&mut self, record: Record<'_>);

    /// Answers a client that reads the summary.
    fn query(&self, query: Query<'_>) -> View;

    /// The whole state as bytes. Equal states must give equal bytes. Default: JSON by `serde::Serialize`.
    fn snapshot(&self) -> Vec<u8>;

    /// Restores the state that a module with this `state_version` stored as `snapshot`. Default: reads the JSON of
    /// [`Self::STATE_VERSION`], by `serde::Deserialize`. If you write it by hand, it may read older versions too.
    ///
    /// # Errors
    /// A sentence that says why the snapshot cannot be read. The server then folds the stream anew.
    fn restore(state_version: u32, snapshot: &[u8], config: &Self::Config) -> Result<Self, String>;

    /// The attribute writes this. If the compiler names it in an error, the attribute is missing.
    #[doc(hidden)]
    fn the_attribute_summary_is_missing_above_this_impl();
}

/// What a client asks of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Which view of the state; `/` for the summary itself.
    pub path: &'a str,
    /// Names and values in the order of the URL, without the server's own parameters.
    pub params: &'a [(String, String)],
}

impl<'a> Query<'a> {
    /// The first parameter of this name.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What a client sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// A body.
    Body {
        /// Its media type.
        content_type: String,
        /// Its bytes.
        body: Vec<u8>,
    },
    /// Nothing; the sentence says why.
    Refused(String),
}

impl View {
    /// A value as JSON.
    ///
    /// # Panics
    /// If the value has no JSON form, such as a map whose keys are not strings.
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

/// A fold's snapshot after the version of its state, which takes 4 bytes, little-endian.
#[doc(hidden)]
pub fn snapshot<S: Summary>(fold: &S) -> Vec<u8> {
    let mut bytes = S::STATE_VERSION.to_le_bytes().to_vec();
    bytes.extend(fold.snapshot());
    bytes
}

/// Restores the fold that [`snapshot`] stored.
///
/// # Errors
/// A sentence that says why the bytes are not a fold of this module.
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
/// If the snapshot has another version, or is not the state's JSON.
#[doc(hidden)]
pub fn restore_json<S: Summary + DeserializeOwned>(state_version: u32, snapshot: &[u8]) -> Result<S, String> {
    if state_version != S::STATE_VERSION {
        return Err(format!("the snapshot has state version {state_version}, the module reads {}", S::STATE_VERSION));
    }
    serde_json::from_slice(snapshot).map_err(|error| format!("the snapshot is not a state of the module: {error}"))
}
