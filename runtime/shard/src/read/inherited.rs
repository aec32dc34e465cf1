//! What a fork has of its ancestors: read from them, page by page, and put together with what it has itself.
//!
//! An ancestor may be on another shard, and may be gone for everybody else. What a fork has of it never changes, and is kept for
//! it; so no two of these reads have to be of one moment.

use std::rc::Rc;

use weir_stream::Refusal;
use weir_types::{ReadFrom, StreamKey};

use crate::core::Core;
use crate::message::{Answer, InheritedRequest, Lead, Page, RecordBatch, Request, Response, ShardError};
use crate::read::page::Plan;
use crate::write::job::LocalGroup;

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
        for ancestor in &inherited {
            while page.next.position < ancestor.upto {
                let (position, taken) = (page.next.position, (page.next.position - start) as usize);
                if taken >= bytes_max.max(1) {
                    return Ok(page);
                }
                let left = bytes_max.saturating_sub(taken);
                let request = InheritedRequest::of(ancestor, position..ancestor.upto, left);
                let holder = self.topology.group_of(request.key.slot());
                let is_here = self.topology.owner_of(holder) == self.id && self.leaders.of(holder) == Lead::Here;
                let answer = match is_here {
                    // Without the way through the dispatch, which is long for a short part of a page.
                    true => self.read_held(request, is_live).await,
                    false => self.request(Request::ReadInherited(request, is_live)).await,
                };
                let more = match answer {
                    Ok(Answer::Page(more)) => more,
                    Ok(_) => unreachable!("a read is answered with a page"),
                    // Who reads on from here is told.
                    Err(_) if taken > 0 => return Ok(page),
                    Err(error) => return Err(error),
                };
                let end = more.next.position;
                if end <= position || end > ancestor.upto {
                    let reason = format!("{} has no record that begins at {position}", ancestor.key);
                    return Err(ShardError::Corrupt(reason.into()));
                }
                let bytes = (end - position) as usize;
                if taken > 0 && bytes > left {
                    return Ok(page);
                }
                page.next = at(end);
                page.chunks.extend(more.chunks);
            }
        }
        let taken = (page.next.position - start) as usize;
        let (from, left) = (ReadFrom::At(page.next), bytes_max.saturating_sub(taken));
        if left == 0 && page.next.position < stream.next.position {
            return Ok(page);
        }
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
        Ok(page)
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

    /// Reads a page of what a stream of this shard holds for a fork. No use of the stream.
    pub(crate) async fn read_held(self: &Rc<Self>, request: InheritedRequest, is_live: bool) -> Response {
        let group = self.local_group(&request.key);
        let again = || self.plan_held(&group, &request);
        let plan = again()?;
        let claimed = self.claim_page(&plan, is_live)?;
        self.load_page(&group, plan, again, is_live, claimed).await.map(|page| Answer::Page(Box::new(page)))
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
