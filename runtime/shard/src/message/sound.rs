//! What other nodes may send: only what this node would send itself. What is asked for is checked where it comes in, by `http`;
//! from there on everybody counts on it, and so it is checked again where it comes from another process.

use bytes::Bytes;
use weir_stream::subscription::{EncodedWatches, is_subscription_id};
use weir_stream::{ANCESTORS_MAX, EncodedBindings, Facts};
use weir_types::limits::{CONTENT_TYPE_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCER_NUMBER_MAX};
use weir_types::{BucketName, Lineages, Offset, StreamKey};
use weir_wasm::GuestBatch;

use crate::message::answer::{Answer, Page, Pinned, RecordBatch};
use crate::message::mail::Advance;
use crate::message::request::{AppendRequest, BucketNews, InheritedRequest, Producer, Request};
use crate::message::subscription::{LinkedStream, LinksAsk, SubscriptionAnswer, SubscriptionAsk};

/// Whether a text may be a stream's content type: a header's value.
fn is_content_type(text: &str) -> bool {
    text.len() <= CONTENT_TYPE_BYTES_MAX && is_header(text)
}

fn is_header(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

fn is_producer(producer: &Producer) -> bool {
    let Producer { id, epoch, seq } = producer;
    (1..=PRODUCER_ID_BYTES_MAX).contains(&id.len()) && *epoch.max(seq) <= PRODUCER_NUMBER_MAX
}

fn is_append(request: &AppendRequest) -> bool {
    let AppendRequest { content_type, close, producer, seq, if_match: _, body } = request;
    content_type.as_deref().is_none_or(is_content_type)
        && producer.as_ref().is_none_or(is_producer)
        && seq.as_deref().is_none_or(|seq| seq.len() <= PRODUCER_ID_BYTES_MAX)
        && (*close || !body.is_empty())
}

fn is_bucket(name: &str) -> bool {
    BucketName::new(name).is_ok()
}

fn is_news(news: &BucketNews) -> bool {
    is_bucket(&news.name)
        && news.bindings.as_deref().is_none_or(EncodedBindings::is_sound)
        && match news.only {
            Some((_, number)) => EncodedWatches::is_only(&news.watches, number),
            None => EncodedWatches::is_sound(&news.watches),
        }
}

fn is_facts(facts: &Facts) -> bool {
    is_content_type(&facts.content_type)
        && facts.earliest.position <= facts.next.position
        && are_lineages(&facts.lineages)
}

/// Whether a stream could have these. A fork has at most one more than ancestors.
fn are_lineages(lineages: &Lineages) -> bool {
    let inherited = lineages.inherited();
    inherited.len() <= ANCESTORS_MAX + 1 && inherited.is_sorted_by(|before, after| before.position < after.position)
}

/// Whether a source could have pinned this: ancestors lie one behind the other, up to where the fork begins.
fn is_pinned(pinned: &Pinned) -> bool {
    let Pinned { source, anchor, begin, ancestors, prefix: _ } = pinned;
    let (earliest, last) = (source.earliest.position, ancestors.last().map(|last| last.upto));
    is_facts(source)
        && earliest <= *begin
        && anchor <= begin
        && ancestors.len() <= ANCESTORS_MAX
        && ancestors.iter().all(|ancestor| StreamKey::parse(&ancestor.key).is_ok())
        && ancestors.is_sorted_by(|before, after| before.upto < after.upto)
        // Nothing is inherited, or all up to where it begins.
        && last == (earliest < *begin).then_some(*begin)
}

/// Whether a command may have this time, in milliseconds since 1970.
fn is_time(time_ms: u64) -> bool {
    (1..=i64::MAX as u64).contains(&time_ms)
}

/// Whether these are records of what was asked for, some and not too many.
fn is_part(batch: &RecordBatch, request: &InheritedRequest, records_max: usize) -> bool {
    let records = batch.records.as_ref().map_or(0, |records| records.ends.len());
    (1..=records_max).contains(&records) && request.range.start < batch.end && batch.end <= request.range.end
}

/// Whether a guest can take them.
fn are_records(batch: &GuestBatch) -> bool {
    let GuestBatch { first_offset: _, ends, times, data } = batch;
    ends.last().is_some_and(|&end| end as usize == data.len())
        && ends.is_sorted()
        && (times.len() == 1 || times.len() == ends.len())
}

/// Whether so many bytes lie between two offsets of one stream.
fn lie_between(bytes: usize, start: Offset, next: Offset) -> bool {
    next.position.checked_sub(start.position) == Some(bytes as u64)
}

/// Whether this is what the ask is answered with.
fn is_said(ask: &SubscriptionAsk, said: &SubscriptionAnswer) -> bool {
    match ask {
        SubscriptionAsk::Put { .. } | SubscriptionAsk::Get => matches!(said, SubscriptionAnswer::Subscription(..)),
        SubscriptionAsk::Claim(_) => matches!(said, SubscriptionAnswer::Claimed(_)),
        SubscriptionAsk::Delete | SubscriptionAsk::Link(..) | SubscriptionAsk::Ack(_) => {
            matches!(said, SubscriptionAnswer::Acked { .. })
        }
    }
}

fn are_linked(streams: &[LinkedStream]) -> bool {
    streams.iter().all(|stream| StreamKey::new("b", &stream.name).is_ok())
}

fn total<'a>(parts: impl IntoIterator<Item = &'a Bytes>) -> usize {
    parts.into_iter().map(Bytes::len).sum()
}

impl Request {
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Request::Append(_, request) => is_append(request),
            Request::Create(_, request) => is_content_type(&request.content_type),
            Request::Fork(_, request) => request.content_type.as_deref().is_none_or(is_content_type),
            Request::Pin(_, request) => {
                is_time(request.until_ms) && request.content_type.as_deref().is_none_or(is_content_type)
            }
            Request::ForkDecide { until_ms, .. } => is_time(*until_ms),
            Request::BucketTell { news, .. } => is_news(news),
            Request::BucketCreate(name, _) | Request::BucketDelete(name) | Request::BucketDescribe { name, .. } => {
                is_bucket(name)
            }
            Request::List { query, .. } => query.limit > 0,
            Request::Subscription(_, id, ask) => is_subscription_id(id) && ask.is_sound(),
            Request::PendingNews(places) => places.iter().all(|(bucket, _)| is_bucket(bucket)),
            Request::Links(_, request) => request.is_sound(),
            Request::Unpin { .. }
            | Request::ReadInherited(..)
            | Request::InheritedRecords(..)
            | Request::FoldState(_)
            | Request::Delete(..)
            | Request::Trim(..)
            | Request::Head(_)
            | Request::Read { .. }
            | Request::Watch { .. }
            | Request::Buckets { .. }
            | Request::ModulePut { .. }
            | Request::ModuleDelete { .. }
            | Request::Modules(_)
            | Request::ModuleKeep { .. }
            | Request::ModuleBytes(_)
            | Request::ModuleLoad { .. }
            | Request::BindingPut(..)
            | Request::BindingDelete { .. }
            | Request::Bindings(_)
            | Request::HookKeys
            | Request::Summary { .. } => true,
            Request::Members(request) => request.is_sound(),
        }
    }

    /// Whether an answer is one to this request.
    pub(crate) fn is_answered_by(&self, answer: &Answer) -> bool {
        match self {
            Request::Append(..) => matches!(answer, Answer::Appended(_)),
            Request::Create(..) | Request::Fork(..) => matches!(answer, Answer::Created { .. }),
            Request::Pin(..) => matches!(answer, Answer::Pinned(_)),
            Request::ForkDecide { .. } => matches!(answer, Answer::ForkDecided { .. }),
            Request::InheritedRecords(request, records_max) => {
                matches!(answer, Answer::Records(batch) if is_part(batch, request, *records_max))
            }
            Request::FoldState(request) => match answer {
                Answer::FoldState { position, state } => {
                    let is_within = position.checked_sub(1).is_some_and(|last| request.range.contains(&last));
                    state.is_none() || is_within
                }
                _ => false,
            },
            Request::Trim(..) | Request::Head(_) => matches!(answer, Answer::Facts(_)),
            Request::Read { .. } | Request::ReadInherited(..) => matches!(answer, Answer::Page(_)),
            Request::Watch { number, .. } => matches!(answer, Answer::Watching { number: of, .. } if of == number),
            Request::List { .. } => matches!(answer, Answer::Listed(_)),
            Request::Buckets { .. } => matches!(answer, Answer::Buckets(_)),
            Request::BucketCreate(..) => matches!(answer, Answer::BucketCreated { .. }),
            Request::BucketDescribe { .. } => matches!(answer, Answer::Bucket(_)),
            Request::BucketTell { .. } => matches!(answer, Answer::BucketStreams(_)),
            Request::ModulePut { .. } => matches!(answer, Answer::Module { .. }),
            Request::Modules(_) => matches!(answer, Answer::Modules(_)),
            Request::ModuleBytes(_) => matches!(answer, Answer::ModuleBytes(_)),
            Request::BindingPut(..) => matches!(answer, Answer::Binding { .. }),
            Request::Bindings(_) => matches!(answer, Answer::Bindings(_)),
            Request::Summary { .. } => matches!(answer, Answer::View(_)),
            Request::Subscription(_, _, ask) => matches!(answer, Answer::Subscription(said) if is_said(ask, said)),
            Request::HookKeys => matches!(answer, Answer::HookKeys(_)),
            Request::Links(_, request) => match &request.ask {
                LinksAsk::Pending(limit, _) | LinksAsk::All(limit) => {
                    matches!(answer, Answer::Links(streams) if streams.len() <= *limit)
                }
                LinksAsk::Named(names) => matches!(answer, Answer::Links(streams) if streams.len() <= names.len()),
                LinksAsk::Ack { .. } => matches!(answer, Answer::Done),
                LinksAsk::Now => matches!(answer, Answer::Now(_)),
            },
            Request::Members(request) => {
                matches!(answer, Answer::Members(answer) if request.is_answered_by(answer))
            }
            Request::Delete(..)
            | Request::PendingNews(_)
            | Request::Unpin { .. }
            | Request::BucketDelete(_)
            | Request::ModuleDelete { .. }
            | Request::ModuleKeep { .. }
            | Request::ModuleLoad { .. }
            | Request::BindingDelete { .. } => matches!(answer, Answer::Done),
        }
    }
}

impl Answer {
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Answer::Created { facts, .. } | Answer::Facts(facts) | Answer::Watching { facts, .. } => is_facts(facts),
            Answer::Page(page) => {
                let Page { content_type, start, next, chunks, .. } = &**page;
                is_content_type(content_type) && lie_between(total(chunks), *start, *next)
            }
            Answer::Listed(listing) => listing.streams.iter().all(|stream| is_facts(&stream.facts)),
            Answer::View(view) => is_header(&view.content_type) && are_lineages(&view.lineages),
            Answer::Pinned(pinned) => is_pinned(pinned),
            Answer::Records(batch) => batch.records.as_ref().is_none_or(are_records),
            Answer::FoldState { position, state } => state.is_none() || *position > 0,
            Answer::ForkDecided { .. }
            | Answer::Appended(_)
            | Answer::Bucket(_)
            | Answer::Buckets(_)
            | Answer::BucketStreams(_)
            | Answer::BucketCreated { .. }
            | Answer::Module { .. }
            | Answer::Modules(_)
            | Answer::ModuleBytes(_)
            | Answer::Binding { .. }
            | Answer::Bindings(_)
            | Answer::HookKeys(_)
            | Answer::Done
            | Answer::Now(_) => true,
            Answer::Members(answer) => answer.is_sound(),
            Answer::Subscription(said) => match &**said {
                SubscriptionAnswer::Claimed(claimed) => are_linked(&claimed.streams),
                SubscriptionAnswer::Subscription(..) | SubscriptionAnswer::Acked { .. } => true,
            },
            Answer::Links(streams) => are_linked(streams),
        }
    }
}

impl Advance {
    pub(crate) fn is_sound(&self) -> bool {
        self.end.checked_sub(self.start) == Some(total(&self.payloads) as u64)
            && self.payloads.iter().all(|payload| !payload.is_empty())
    }
}
