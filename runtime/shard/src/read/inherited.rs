//! What a fork has of its ancestors: read from them, page by page, and put together with what it has itself.
//!
//! An ancestor may be on another shard, and may be gone for everybody else. What a fork has of it never changes, and is kept for
//! it; so no two of these reads have to be of one moment.

use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::iter;
use weir_stream::{Ancestor, Refusal};
use weir_types::{ReadFrom, StreamKey};

use crate::core::Core;
use crate::message::{Answer, CallId, InheritedRequest, Lead, Page, Peer, RecordBatch, Request, Response, ShardError};
use crate::read::page::Plan;
use crate::write::job::LocalGroup;

/// Holders that are asked at a time, for one page.
const HOLDERS_ASKED: usize = 32;

/// What one ancestor holds of a page.
struct Part {
    start: u64,
    end: u64,
    /// Whether it goes up to where the next ancestor's begins.
    is_whole: bool,
    chunks: Vec<Bytes>,
}

impl Part {
    fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// What is to be asked of whom for a page. All of it is known beforehand, so they can be asked at once.
fn held_parts(inherited: &[Ancestor], start: u64, bytes_max: usize) -> Vec<InheritedRequest> {
    let begins = [start].into_iter().chain(inherited.iter().map(|ancestor| ancestor.upto));
    let parts = inherited.iter().zip(begins).map(|(ancestor, begin)| {
        let left = bytes_max.saturating_sub((begin - start) as usize);
        InheritedRequest::of(ancestor, begin..ancestor.upto, left)
    });
    parts.take_while(|part| part.range.start == start || part.bytes_max > 0).collect()
}

impl Plan {
    /// The first of what an ancestor holds of what is planned, and not beyond `until`, if an ancestor does.
    pub(crate) fn inherited(&self, until: u64) -> Option<InheritedRequest> {
        let first = self.inherited.first()?;
        Some(InheritedRequest::of(first, self.start..first.upto.min(until), self.bytes_max))
    }
}

impl Core {
    /// Reads a page that begins with what a fork inherits.
    pub(crate) async fn read_inherited(
        self: &Rc<Self>,
        group: &LocalGroup,
        key: &StreamKey,
        plan: Plan,
        is_live: bool,
    ) -> Result<Page, ShardError> {
        let begin = plan.inherited.last().map_or(0, |last| last.upto);
        let (tail, start, bytes_max) = (plan.stream.next.position, plan.start, plan.bytes_max);
        let mut page = self.read_ancestors(plan, is_live).await?;
        let left = bytes_max.saturating_sub((page.next.position - start) as usize);
        if page.next.position == begin && (left > 0 || begin == tail) {
            let from = ReadFrom::At(page.next);
            let again = || self.plan(group, key, from, left);
            let own = async {
                let plan = again()?;
                let claimed = self.claim_page(&plan, is_live)?;
                self.load_page(group, plan, again, is_live, claimed).await
            };
            match own.await {
                Ok(own) if own.incarnation != page.incarnation => {}
                Ok(own) if (own.next.position - own.start.position) as usize > left => {}
                Ok(own) => {
                    page.chunks.extend(own.chunks);
                    (page.next, page.up_to_date, page.closed) = (own.next, own.up_to_date, own.closed);
                }
                // Who reads on from here is told.
                Err(_) => {}
            }
        }
        Ok(page)
    }

    /// Reads what ancestors hold of a page: up to where the fork's own bytes begin, or as much as fits.
    async fn read_ancestors(self: &Rc<Self>, plan: Plan, is_live: bool) -> Result<Page, ShardError> {
        let Plan { stream, inherited, start, bytes_max, .. } = plan;
        let at = |position: u64| stream.offset(position);
        let mut page = Page {
            incarnation: stream.incarnation,
            content_type: stream.content_type.clone(),
            start: at(start),
            next: at(start),
            chunks: Vec::new(),
            up_to_date: false,
            closed: false,
            expiry: stream.expiry,
            earliest: stream.earliest,
        };
        let parts = iter(held_parts(&inherited, start, bytes_max)).map(|request| self.read_part(request, is_live));
        let mut parts = pin!(parts.buffered(HOLDERS_ASKED));
        while let Some(part) = parts.next().await {
            let taken = (page.next.position - start) as usize;
            let part = match part {
                Ok(part) => part,
                // Who reads on from here is told.
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            };
            if taken > 0 && taken + part.bytes() > bytes_max {
                break;
            }
            page.next = at(part.end);
            page.chunks.extend(part.chunks);
            if !part.is_whole {
                break;
            }
        }
        Ok(page)
    }

    /// Reads all that one ancestor holds of a page, or as much as fits: at least one record.
    async fn read_part(self: &Rc<Self>, mut request: InheritedRequest, is_live: bool) -> Result<Part, ShardError> {
        let (range, bytes_max) = (request.range.clone(), request.bytes_max);
        let mut part = Part { start: range.start, end: range.start, is_whole: false, chunks: Vec::new() };
        loop {
            let page = match self.ask_holder(&request, is_live).await {
                Ok(page) => page,
                Err(error) if part.bytes() == 0 => return Err(error),
                Err(_) => return Ok(part),
            };
            let end = page.next.position;
            if end <= part.end || end > range.end {
                let reason = format!("{} has no record that begins at {}", request.key, part.end);
                return Err(ShardError::Corrupt(reason.into()));
            }
            if part.bytes() > 0 && (end - part.end) as usize > request.bytes_max {
                return Ok(part);
            }
            part.end = end;
            part.chunks.extend(page.chunks);
            part.is_whole = end == range.end;
            if part.is_whole || part.bytes() >= bytes_max {
                return Ok(part);
            }
            (request.range.start, request.bytes_max) = (end, bytes_max - part.bytes());
        }
    }

    async fn ask_holder(self: &Rc<Self>, request: &InheritedRequest, is_live: bool) -> Result<Page, ShardError> {
        let group = self.topology.group_of(request.key.slot());
        if self.topology.owner_of(group) == self.id && self.leaders.of(group) == Lead::Here {
            // Without the way through the dispatch, which is long for a short part of a page.
            return self.read_held(request, is_live).await;
        }
        match self.request(Request::ReadInherited(request.clone(), is_live)).await? {
            Answer::Page(page) => Ok(*page),
            _ => unreachable!("a read is answered with a page"),
        }
    }

    /// Reads records of what a fork inherits.
    pub(crate) async fn read_inherited_records(
        self: &Rc<Self>,
        request: InheritedRequest,
        records_max: usize,
    ) -> Result<RecordBatch, ShardError> {
        match self.request(Request::InheritedRecords(request, records_max)).await? {
            Answer::Records(batch) => Ok(*batch),
            _ => unreachable!("it is answered with records"),
        }
    }

    /// Reads a page of what a stream of this shard holds for a fork, for another shard. No use of the stream.
    pub(crate) fn begin_held_read(
        self: &Rc<Self>,
        origin: Peer,
        call: CallId,
        request: InheritedRequest,
        is_live: bool,
    ) {
        let group = self.local_group(&request.key);
        match self.plan_held(&group, &request) {
            Ok(plan) => {
                let again = move |core: &Core, group: &LocalGroup| core.plan_held(group, &request);
                let answer = |_: &Core, page: Result<Page, ShardError>| page.map(|page| Answer::Page(Box::new(page)));
                self.begin_page((origin, call), group, plan, again, is_live, answer);
            }
            Err(error) => self.respond(origin, call, Err(error)),
        }
    }

    /// As [`Core::begin_held_read`], for this shard.
    async fn read_held(self: &Rc<Self>, request: &InheritedRequest, is_live: bool) -> Result<Page, ShardError> {
        // Mail to the other shards leaves first, and others have their turn between one lot of these and the next.
        tokio::task::yield_now().await;
        let group = self.local_group(&request.key);
        let again = || self.plan_held(&group, request);
        let plan = again()?;
        let claimed = self.claim_page(&plan, is_live)?;
        self.load_page(&group, plan, again, is_live, claimed).await
    }

    /// Reads records of what a stream of this shard holds for a fork.
    pub(crate) async fn read_held_records(self: &Rc<Self>, request: InheritedRequest, records_max: usize) -> Response {
        let group = self.local_group(&request.key);
        let again = || self.plan_held(&group, &request);
        let batch = self.load_records(&group, again()?, again, request.range.end, records_max).await?;
        Ok(Answer::Records(Box::new(batch)))
    }

    /// Decides a page of what is held for a fork. It ends where that does: a record does, so a page that has no more bytes than are
    /// left until there never goes beyond.
    fn plan_held(&self, group: &LocalGroup, request: &InheritedRequest) -> Result<Plan, ShardError> {
        let InheritedRequest { key, incarnation, range, bytes_max } = request;
        let state = group.leading()?;
        // Without it, the fork is gone, too.
        let stream = state.life(key, *incarnation).ok_or(Refusal::NotFound)?;
        let is_held = stream.held() <= range.start && range.end <= stream.tail().position;
        if !is_held || range.is_empty() {
            return Err(Refusal::NotFound.into());
        }
        let bytes_max = self.config.pages.page_bytes_max(*bytes_max).min((range.end - range.start) as usize);
        Ok(Plan::of(group, &state, stream, range.start, bytes_max))
    }
}
