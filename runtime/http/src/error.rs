//! Refusals: every way in which a request fails is one [`ErrorCode`], rendered as RFC 9457 `application/problem+json`.
//!
//! A code is part of the interface: clients decide by it, so it never changes its meaning. `type` is the code as a URN,
//! `title` is fixed per code, `detail` says what was wrong with this request. The facts that a client needs to go on
//! (the tail, the producer's epoch) are headers, because the protocol's own clients read only those.
//!
//! The `match`es below have no `_` arm: a new refusal in a lower crate does not compile until it has a code.

use std::borrow::Cow;

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use weir_shard::{Limit, ShardError};
use weir_stream::Refusal;
use weir_types::{KeyError, ModuleNameError, Offset};

use crate::headers::{
    NO_STORE, PROBLEM_JSON, PRODUCER_EPOCH, PRODUCER_EXPECTED_SEQ, PRODUCER_RECEIVED_SEQ, STREAM_CLOSED,
    STREAM_EARLIEST_OFFSET, STREAM_METHODS, STREAM_NEXT_OFFSET, STREAM_SUMMARY_FAILED, TRUE, offset,
};

/// Makes [`ErrorCode`] of one table: the name, status, stable text and title of each code.
macro_rules! codes {
    ($($name:ident = $status:literal, $text:literal, $title:literal;)*) => {
        /// Why a request was refused or failed; the `code` of the problem document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// Status, stable text and title of the code.
            fn row(self) -> (u16, &'static str, &'static str) {
                match self {
                    $(ErrorCode::$name => ($status, $text, $title),)*
                }
            }
        }
    };
}

codes! {
    PathMalformed = 400, "path_malformed", "The path cannot be decoded.";
    BucketNameInvalid = 400, "bucket_name_invalid", "This is not a bucket's name.";
    StreamNameInvalid = 400, "stream_name_invalid", "This is not a stream's name.";
    ModuleNameInvalid = 400, "module_name_invalid", "This is not a module's or binding's name.";
    QueryInvalid = 400, "query_invalid", "A query parameter is missing or invalid.";
    HeaderInvalid = 400, "header_invalid", "A request header is missing or invalid.";
    OffsetMalformed = 400, "offset_malformed", "This is not an offset.";
    OffsetInvalid = 400, "offset_invalid", "The stream has no such offset.";
    ContentTypeMissing = 400, "content_type_missing", "A body needs a content type.";
    BodyEmpty = 400, "body_empty", "There is nothing to append.";
    BodyUnreadable = 400, "body_unreadable", "The body could not be read to its end.";
    JsonInvalid = 400, "json_invalid", "The body is not valid JSON.";
    ForkSubOffsetInvalid = 400, "fork_sub_offset_invalid", "The source has nothing at this sub-offset.";
    ProducerEpochStart = 400, "producer_epoch_start", "A new epoch begins at sequence 0.";
    SummaryRefused = 400, "summary_refused", "The module refuses the question.";
    SubscriptionInvalid = 400, "subscription_invalid", "The subscription, or what is asked of it, cannot be like this.";
    WebhookUrlRejected = 400, "webhook_url_rejected", "The server does not call this address.";
    TokenInvalid = 401, "token_invalid", "The token is missing or is none of this subscription.";
    ProducerFenced = 403, "producer_fenced", "A newer epoch of this producer has written.";
    RouteNotFound = 404, "route_not_found", "There is nothing at this address.";
    StreamNotFound = 404, "stream_not_found", "There is no such stream.";
    BucketNotFound = 404, "bucket_not_found", "There is no such bucket.";
    ModuleNotFound = 404, "module_not_found", "There is no such module.";
    BindingNotFound = 404, "binding_not_found", "There is no such binding.";
    SubscriptionNotFound = 404, "subscription_not_found", "There is no such subscription.";
    MethodNotAllowed = 405, "method_not_allowed", "This address has no such method.";
    BodyTimeout = 408, "body_timeout", "The body did not arrive in time.";
    StreamClosed = 409, "stream_closed", "The stream is closed.";
    ContentTypeMismatch = 409, "content_type_mismatch", "The stream has another content type.";
    ConfigConflict = 409, "config_conflict", "The stream exists with another configuration.";
    StreamNameHeld = 409, "stream_name_held", "A deleted stream that has forks has this name.";
    SeqRegression = 409, "seq_regression", "The sequence is not after the last one.";
    ProducerGap = 409, "producer_gap", "A sequence number of this producer is missing.";
    TrimSummarized = 409, "trim_summarized", "A summary is computed from these records.";
    BucketBusy = 409, "bucket_busy", "The bucket is not empty or is being deleted.";
    ModuleInUse = 409, "module_in_use", "A binding uses the module.";
    ModuleCompiling = 409, "module_compiling", "The module cannot be bound yet.";
    ModuleFailed = 409, "module_failed", "The module could not be compiled.";
    SubscriptionConflict = 409, "subscription_conflict", "The subscription exists with another configuration.";
    Fenced = 409, "fenced", "The wake is over, or another one has begun.";
    AlreadyClaimed = 409, "already_claimed", "Somebody else has claimed the wake.";
    NothingPending = 409, "nothing_pending", "The subscription has nothing to be processed.";
    StreamGone = 410, "stream_gone", "The stream was deleted, but has forks.";
    OffsetGone = 410, "offset_gone", "What was at this offset is gone.";
    OffsetTrimmed = 410, "offset_trimmed", "What was at this offset has been trimmed.";
    TailMoved = 412, "tail_moved", "The tail is not where the request expects it.";
    StreamExists = 412, "stream_exists", "The stream is there already.";
    StreamAbsent = 412, "stream_absent", "The stream is not there.";
    BodyTooLarge = 413, "body_too_large", "The body is larger than the server accepts.";
    ModuleTooLarge = 413, "module_too_large", "The module is larger than the server accepts.";
    ContentEncodingUnsupported = 415, "content_encoding_unsupported", "The body is compressed.";
    HostUnknown = 421, "host_unknown", "The server is not called by this name.";
    RecordRejected = 422, "record_rejected", "A validator refuses a record.";
    ForkNotJudged = 422, "fork_not_judged", "A validator cannot judge what the fork would inherit.";
    ForkAncestors = 422, "fork_ancestors", "The fork would have records of too many streams.";
    ModuleInvalid = 422, "module_invalid", "This is not a module that can be used.";
    BucketInvalid = 422, "bucket_invalid", "The bucket cannot be like this.";
    BindingInvalid = 422, "binding_invalid", "The module cannot be bound like this.";
    ProducerLimit = 429, "producer_limit", "The stream has too many active producers.";
    ModuleLimit = 429, "module_limit", "The bucket has as many modules as it may.";
    BindingLimit = 429, "binding_limit", "The bucket has as many bindings as it may.";
    SubscriptionLimit = 429, "subscription_limit", "The bucket has as many subscriptions as it may.";
    Internal = 500, "internal", "The server has made a mistake.";
    StorageCorrupt = 500, "storage_corrupt", "Stored bytes are damaged.";
    ModuleTrapped = 500, "module_trapped", "A module has failed.";
    SummaryFailed = 500, "summary_failed", "The summary has stopped before this offset.";
    NotSupported = 501, "not_supported", "The server does not do this yet.";
    Unavailable = 503, "unavailable", "The stream cannot take requests now.";
    LogFailed = 503, "log_failed", "The stream's log cannot be written any more.";
    ModuleNotReady = 503, "module_not_ready", "A module of the stream is not ready yet.";
    ModuleTimedOut = 503, "module_timed_out", "A module took too long.";
    ModuleSuspended = 503, "module_suspended", "A module fails again and again.";
    ModuleCallsLimit = 503, "module_calls_limit", "Too many calls of a module are waiting.";
    ModuleMemoryLimit = 503, "module_memory_limit", "The modules have no more memory.";
    InFlightLimit = 503, "in_flight_limit", "Requests under way use all the memory they may.";
    ColdDamaged = 503, "cold_damaged", "Old bytes of the stream are damaged and are not served.";
    ColdUnavailable = 503, "cold_unavailable", "Old bytes of the stream cannot be read now.";
    ReadLimit = 503, "read_limit", "Pages being sent use all the memory they may.";
    SubscriberLimit = 503, "subscriber_limit", "There are as many live readers as there may be.";
    OutcomeUnknown = 504, "outcome_unknown", "It is unknown whether this was carried out.";
    DiskFull = 507, "disk_full", "The disk is full.";
    WalFull = 507, "wal_full", "The log has reached its configured size.";
    HotIndexFull = 507, "hot_index_full", "The index of recent data has reached its size.";
    ModuleStoreFull = 507, "module_store_full", "Modules have as many bytes on disk as they may.";
}

impl ErrorCode {
    /// The text that clients see and decide by; it never changes.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The response's status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().0).expect("the table holds valid statuses")
    }

    /// What the code says, whatever the request was.
    #[cfg(test)]
    pub(crate) fn title(self) -> &'static str {
        self.row().2
    }

    /// Whether the same request may succeed later, with nothing else changed by the client.
    pub fn is_retryable(self) -> bool {
        // 408 too: the body came too slowly, not wrongly. 500 not: it would fail again. A bucket's limits not: nothing
        // but a deletion changes what they are about.
        matches!(self.row().0, 408 | 429 | 503 | 504 | 507)
            && !matches!(self, ErrorCode::ModuleLimit | ErrorCode::BindingLimit | ErrorCode::SubscriptionLimit)
    }

    /// Whether it is certain that the request changed nothing, so that a retry needs no producer headers.
    pub fn had_no_effect(self) -> bool {
        !matches!(self, ErrorCode::OutcomeUnknown | ErrorCode::Internal | ErrorCode::StorageCorrupt)
    }
}

/// One refusal: a code, what was wrong, and the facts that go into headers.
#[derive(Debug)]
pub(crate) struct Problem {
    code: ErrorCode,
    detail: Cow<'static, str>,
    facts: Vec<(HeaderName, HeaderValue)>,
    rejection: Option<Box<Rejection>>,
    error: Option<Box<ProtocolError>>,
}

/// What the protocol itself says of a refusal about a subscription: a member of the document.
#[derive(Debug, Default, Serialize)]
struct ProtocolError {
    code: String,
    message: String,
    /// Who has claimed the wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_holder: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// What a validator has against a record: a member of the document.
#[derive(Debug, Serialize)]
struct Rejection {
    /// The validator's binding.
    binding: Box<str>,
    /// Which record of the request, counted from 0.
    index: u32,
    code: Box<str>,
    message: Box<str>,
}

/// The document that a client gets.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejection: Option<&'a Rejection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ProtocolError>,
}

impl Problem {
    /// A refusal; `detail` is a sentence without a capital and a full stop.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem { code, detail: detail.into(), facts: Vec::new(), rejection: None, error: None }
    }

    /// A method that a stream's address does not have.
    pub(crate) fn method_of_stream() -> Problem {
        Problem::new(ErrorCode::MethodNotAllowed, "a stream has no such method").with(&ALLOW, STREAM_METHODS.clone())
    }

    /// Adds a fact.
    pub(crate) fn with(mut self, name: &HeaderName, value: HeaderValue) -> Problem {
        self.facts.push((name.clone(), value));
        self
    }

    /// With the member that the protocol asks for where a subscription is refused something.
    pub(crate) fn in_protocols_form(mut self) -> Problem {
        let mut error = self.error.take().unwrap_or_default();
        error.code = self.code.as_str().to_ascii_uppercase();
        error.message = self.detail.to_string();
        self.error = Some(error);
        self
    }

    fn with_tail(self, tail: Offset) -> Problem {
        self.with(&STREAM_NEXT_OFFSET, offset(tail))
    }

    /// The code.
    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    #[cfg(test)]
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The document, in JSON.
    pub(crate) fn document(&self) -> Bytes {
        let (status, code, title) = self.code.row();
        let r#type = format!("urn:weir:error:{code}");
        let document = Document {
            r#type,
            title,
            status,
            detail: &self.detail,
            code,
            rejection: self.rejection.as_deref(),
            error: self.error.as_deref(),
        };
        Bytes::from(serde_json::to_vec(&document).expect("strings and numbers are JSON"))
    }

    /// The response, with whatever kind of body.
    pub(crate) fn into_response<B: From<Bytes>>(self) -> Response<B> {
        // Behind the last line of a document, a terminal's prompt is on a line of its own.
        let document = Bytes::from([&*self.document(), b"\n"].concat());
        let mut response = Response::new(B::from(document));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.extend(self.facts);
        headers.insert(CONTENT_TYPE, PROBLEM_JSON.clone());
        headers.insert(CACHE_CONTROL, NO_STORE.clone());
        if self.code.is_retryable() {
            // A second is what a limit of memory takes; a disk is not emptied in one, and no producer is idle after one.
            let seconds = match self.code {
                ErrorCode::ProducerLimit => "60",
                code if code.status() == StatusCode::INSUFFICIENT_STORAGE => "30",
                _ => "1",
            };
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        Problem::into_response(self)
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Problem {
        let code = match error {
            KeyError::Bucket => ErrorCode::BucketNameInvalid,
            KeyError::Name | KeyError::Reserved => ErrorCode::StreamNameInvalid,
        };
        Problem::new(code, error.to_string())
    }
}

impl From<ModuleNameError> for Problem {
    fn from(error: ModuleNameError) -> Problem {
        Problem::new(ErrorCode::ModuleNameInvalid, error.to_string())
    }
}

impl From<ShardError> for Problem {
    fn from(error: ShardError) -> Problem {
        let detail = error.to_string();
        let code = match error {
            ShardError::Refused(refusal) => return refusal.into(),
            ShardError::Absent => ErrorCode::StreamAbsent,
            ShardError::BucketUnknown => ErrorCode::BucketNotFound,
            ShardError::Limit(limit) => code_of(limit),
            ShardError::Unavailable => ErrorCode::Unavailable,
            ShardError::LogFailed => ErrorCode::LogFailed,
            ShardError::Unknown => ErrorCode::OutcomeUnknown,
            ShardError::RecordRejected { binding, index, code, message } => {
                let rejection = Some(Box::new(Rejection { binding, index, code, message }));
                return Problem { rejection, ..Problem::new(ErrorCode::RecordRejected, detail) };
            }
            ShardError::ForkNotJudged(_) => ErrorCode::ForkNotJudged,
            ShardError::ModuleTrapped(_) => ErrorCode::ModuleTrapped,
            ShardError::ModuleTimedOut(_) => ErrorCode::ModuleTimedOut,
            ShardError::ModuleSuspended(_) => ErrorCode::ModuleSuspended,
            ShardError::ModuleNotReady | ShardError::ModuleNotStarted(_) => ErrorCode::ModuleNotReady,
            ShardError::ModuleInvalid(_) => ErrorCode::ModuleInvalid,
            ShardError::ModulesWaiting => ErrorCode::Unavailable,
            ShardError::ModuleUnknown(_) => ErrorCode::ModuleNotFound,
            ShardError::ModuleFailed { .. } => ErrorCode::ModuleFailed,
            ShardError::BindingUnknown(_) => ErrorCode::BindingNotFound,
            ShardError::SubscriptionInvalid(_) => ErrorCode::SubscriptionInvalid,
            ShardError::WebhookRejected(_) => ErrorCode::WebhookUrlRejected,
            ShardError::TokenInvalid => ErrorCode::TokenInvalid,
            ShardError::NothingPending => ErrorCode::NothingPending,
            ShardError::Claimed { holder, generation } => {
                let (current_holder, generation) = (Some(holder), Some(generation));
                let error = Some(Box::new(ProtocolError { current_holder, generation, ..ProtocolError::default() }));
                return Problem { error, ..Problem::new(ErrorCode::AlreadyClaimed, detail) };
            }
            ShardError::ModuleTooLarge { .. } => ErrorCode::ModuleTooLarge,
            ShardError::ModuleStore(reason) => {
                tracing::error!(%reason, "{detail}");
                ErrorCode::Internal
            }
            ShardError::BindingInvalid(_) => ErrorCode::BindingInvalid,
            ShardError::SummaryFailed { at, .. } => {
                return Problem::new(ErrorCode::SummaryFailed, detail).with(&STREAM_SUMMARY_FAILED, offset(at));
            }
            ShardError::SummaryRefused(_) => ErrorCode::SummaryRefused,
            ShardError::ColdDamaged(_) => ErrorCode::ColdDamaged,
            ShardError::ColdUnavailable(_) => ErrorCode::ColdUnavailable,
            ShardError::Corrupt(_) => {
                // The text names files and positions: for the operator's log, not for a client.
                tracing::error!("{detail}");
                return Problem::new(ErrorCode::StorageCorrupt, "stored bytes of this stream are damaged");
            }
        };
        Problem::new(code, detail)
    }
}

fn code_of(limit: Limit) -> ErrorCode {
    match limit {
        Limit::Disk => ErrorCode::DiskFull,
        Limit::WalBudget => ErrorCode::WalFull,
        Limit::HotIndex => ErrorCode::HotIndexFull,
        Limit::InFlight => ErrorCode::InFlightLimit,
        Limit::Reads => ErrorCode::ReadLimit,
        // A reader that is cut off meets it as the end of its response.
        Limit::Subscribers | Limit::Live => ErrorCode::SubscriberLimit,
        Limit::Producers => ErrorCode::ProducerLimit,
        Limit::Bindings => ErrorCode::BindingLimit,
        Limit::ModuleCalls => ErrorCode::ModuleCallsLimit,
        Limit::ModuleMemory => ErrorCode::ModuleMemoryLimit,
        Limit::ModuleStore => ErrorCode::ModuleStoreFull,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let of = |code| Problem::new(code, refusal.to_string());
        match &refusal {
            Refusal::NotFound => of(ErrorCode::StreamNotFound),
            Refusal::BucketNotFound => of(ErrorCode::BucketNotFound),
            Refusal::BucketBusy => of(ErrorCode::BucketBusy),
            Refusal::Exists { tail } => of(ErrorCode::StreamExists).with_tail(*tail),
            Refusal::ConfigConflict => of(ErrorCode::ConfigConflict),
            Refusal::Closed { tail } => of(ErrorCode::StreamClosed).with(&STREAM_CLOSED, TRUE.clone()).with_tail(*tail),
            Refusal::ContentTypeMismatch { .. } => of(ErrorCode::ContentTypeMismatch),
            Refusal::ContentTypeMissing => of(ErrorCode::ContentTypeMissing),
            Refusal::JsonInvalid { .. } => of(ErrorCode::JsonInvalid),
            Refusal::Empty => of(ErrorCode::BodyEmpty),
            Refusal::SeqRegression => of(ErrorCode::SeqRegression),
            Refusal::TailMoved { tail } => of(ErrorCode::TailMoved).with_tail(*tail),
            Refusal::OffsetGone => of(ErrorCode::OffsetGone),
            Refusal::OffsetTrimmed { earliest } => {
                of(ErrorCode::OffsetTrimmed).with(&STREAM_EARLIEST_OFFSET, offset(*earliest))
            }
            Refusal::TrimSummarized => of(ErrorCode::TrimSummarized),
            Refusal::OffsetInvalid => of(ErrorCode::OffsetInvalid),
            Refusal::ProducerFenced { epoch } => of(ErrorCode::ProducerFenced).with(&PRODUCER_EPOCH, (*epoch).into()),
            Refusal::ProducerGap { expected, received } => of(ErrorCode::ProducerGap)
                .with(&PRODUCER_EXPECTED_SEQ, (*expected).into())
                .with(&PRODUCER_RECEIVED_SEQ, (*received).into()),
            Refusal::ProducerEpochStart => of(ErrorCode::ProducerEpochStart),
            Refusal::ProducerLimit => of(ErrorCode::ProducerLimit),
            Refusal::ModuleNotFound => of(ErrorCode::ModuleNotFound),
            Refusal::ModuleNotReady => of(ErrorCode::ModuleCompiling),
            Refusal::ModuleInUse => of(ErrorCode::ModuleInUse),
            Refusal::ModuleLimit => of(ErrorCode::ModuleLimit),
            Refusal::BindingNotFound => of(ErrorCode::BindingNotFound),
            Refusal::BindingLimit => of(ErrorCode::BindingLimit),
            Refusal::SubscriptionNotFound => of(ErrorCode::SubscriptionNotFound),
            Refusal::SubscriptionConflict => of(ErrorCode::SubscriptionConflict),
            Refusal::SubscriptionLimit => of(ErrorCode::SubscriptionLimit),
            Refusal::WakeFenced => of(ErrorCode::Fenced),
            Refusal::SoftDeleted => of(ErrorCode::StreamGone),
            Refusal::NameHeld => of(ErrorCode::StreamNameHeld),
            Refusal::ForkAncestors { .. } => of(ErrorCode::ForkAncestors),
            Refusal::ForkSubOffset => of(ErrorCode::ForkSubOffsetInvalid),
            // They never leave the shard; if they did, trying again would be right.
            Refusal::Stale | Refusal::ForkLate => of(ErrorCode::Unavailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use weir_types::{Incarnation, Lineage};

    use super::*;

    #[test]
    fn codes_are_distinct_and_their_statuses_are_errors() {
        let texts: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.is_sorted_by_key(|code| code.status()));
        for &code in ErrorCode::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            // What is neither retryable nor without effect would leave a client with nothing to do.
            assert!(code.had_no_effect() || code.status().is_server_error(), "{code:?}");
        }
        assert!(ErrorCode::OutcomeUnknown.is_retryable() && !ErrorCode::OutcomeUnknown.had_no_effect());
        assert!(ErrorCode::Unavailable.is_retryable() && ErrorCode::Unavailable.had_no_effect());
        assert!(!ErrorCode::StreamClosed.is_retryable());
        assert!(!ErrorCode::ModuleTrapped.is_retryable() && ErrorCode::ModuleTrapped.had_no_effect());
    }

    /// `status code | header: value | ...` of a shard's refusal, headers in alphabetical order.
    fn check(error: impl Into<Problem>) -> String {
        let response: Response<Bytes> = error.into().into_response();
        let mut facts: Vec<String> = response
            .headers()
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "content-type" | "cache-control"))
            .map(|(name, value)| format!(" | {name}: {}", value.to_str().expect("ASCII")))
            .collect();
        facts.sort();
        format!("{}{}", response.status().as_u16(), facts.concat())
    }

    #[test]
    fn refusals_carry_the_facts_to_go_on() {
        let tail = Offset { position: 7, lineage: Lineage::of(Incarnation(1)) };
        let token = "00000000000000000007-00000001";
        assert_eq!(check(Refusal::Closed { tail }), format!("409 | stream-closed: true | stream-next-offset: {token}"));
        assert_eq!(check(Refusal::TailMoved { tail }), format!("412 | stream-next-offset: {token}"));
        assert_eq!(check(Refusal::ProducerFenced { epoch: 3 }), "403 | producer-epoch: 3");
        assert_eq!(
            check(Refusal::ProducerGap { expected: 1, received: 4 }),
            "409 | producer-expected-seq: 1 | producer-received-seq: 4"
        );
        assert_eq!(check(Refusal::NotFound), "404");
        assert_eq!(check(Refusal::OffsetGone), "410");
        assert_eq!(check(Refusal::SoftDeleted), "410");
        assert_eq!(check(Refusal::NameHeld), "409");
        assert_eq!(check(Refusal::ForkSubOffset), "400");
        assert_eq!(check(ShardError::ForkNotJudged("too much".into())), "422");
        let earliest = tail;
        assert_eq!(check(Refusal::OffsetTrimmed { earliest }), format!("410 | stream-earliest-offset: {token}"));
        assert_eq!(check(Refusal::TrimSummarized), "409");
        assert_eq!(check(Refusal::Empty), "400");
        assert_eq!(check(Problem::method_of_stream()), "405 | allow: GET, HEAD, POST, PUT, DELETE, OPTIONS");
    }

    #[test]
    fn a_shards_trouble_says_when_to_try_again() {
        assert_eq!(check(ShardError::Unavailable), "503 | retry-after: 1");
        assert_eq!(check(ShardError::Limit(Limit::WalBudget)), "507 | retry-after: 30");
        assert_eq!(check(ShardError::Unknown), "504 | retry-after: 1");
        assert_eq!(check(ShardError::Corrupt("wal-0/wal-1.seg at 4096".into())), "500");
        assert_eq!(check(ShardError::Refused(Refusal::SeqRegression)), "409");
    }

    #[test]
    fn what_is_wrong_with_modules_has_a_status_of_its_own() {
        let at = Offset { position: 7, lineage: Lineage::of(Incarnation(1)) };
        assert_eq!(check(ModuleNameError), "400");
        assert_eq!(check(ShardError::SummaryRefused("no such path".into())), "400");
        assert_eq!(check(Refusal::ModuleNotFound), "404");
        assert_eq!(check(Refusal::ModuleNotReady), "409");
        assert_eq!(check(ShardError::ModuleTooLarge { bytes_max: 8 }), "413");
        assert_eq!(check(ShardError::ModuleInvalid("not WebAssembly".into())), "422");
        assert_eq!(check(ShardError::ModuleTrapped("out of fuel".into())), "500");
        let failed = ShardError::SummaryFailed { at, reason: "out of fuel".into() };
        assert_eq!(check(failed), "500 | stream-summary-failed: 00000000000000000007-00000001");
        assert_eq!(check(ShardError::ModuleNotReady), "503 | retry-after: 1");
        // Waiting changes nothing.
        assert_eq!(check(Refusal::ModuleLimit), "429");
        assert_eq!(check(Refusal::BindingLimit), "429");
        assert_eq!(check(Refusal::ProducerLimit), "429 | retry-after: 60");
    }

    #[test]
    fn a_rejection_is_a_member_of_the_document() {
        let rejected = ShardError::RecordRejected {
            binding: "checked".into(),
            index: 1,
            code: "qty".into(),
            message: "must be \"positive\"".into(),
        };
        let response: Response<Bytes> = Problem::from(rejected).into_response();
        assert_eq!(response.status(), 422);
        let text = std::str::from_utf8(response.body()).expect("UTF-8");
        let expected = r#""code":"record_rejected","rejection":{"binding":"checked","index":1,"code":"qty","message":"must be \"positive\""}}"#;
        assert!(text.trim_end().ends_with(expected), "{text}");
    }

    #[test]
    fn the_document_has_the_members_of_rfc_9457() {
        let response: Response<Bytes> = Problem::from(Refusal::NotFound).into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let expected = r#"{"type":"urn:weir:error:stream_not_found","title":"There is no such stream.","status":404,"detail":"no such stream","code":"stream_not_found"}"#;
        assert_eq!(response.body(), format!("{expected}\n").as_bytes());
    }
}
