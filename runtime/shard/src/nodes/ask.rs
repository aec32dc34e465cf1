//! Whom a request goes to: the shard of its group, on the node that leads the group.
//!
//! A node that does not lead a group says so and passes nothing on. So whoever asks waits until it knows a leader, and when that one
//! has done nothing, because it does not lead any more or was not reached, it looks again, until the request's time is over. What
//! may have been done is not done again; only what changes nothing is.

use std::rc::Rc;
use std::time::Duration;

use send_wrapper::SendWrapper;
use tokio::time::{Instant, timeout, timeout_at};
use weir_cluster::NodeId;
use weir_types::GroupId;

use crate::calls::{Asked, Call};
use crate::core::{Core, Shard};
use crate::message::{Lead, Limit, Request, Response, ShardError};
use crate::nodes::losses::Loss;

/// How long it waits before it asks again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

impl Shard {
    /// Asks the shard of the request's stream or group, on this node or the one that leads, and waits for the answer.
    pub(crate) async fn ask(&self, request: Request) -> Response {
        let group = request.group(self.0.topology);
        if self.0.is_alone() {
            // The call alone is kept while it waits: it may be, where what it asks may not leave this thread.
            return self.0.call(self.0.topology.owner_of(group), request).await;
        }
        let core = Rc::clone(&self.0);
        SendWrapper::new(Box::pin(core.ask_leader(group, request))).await
    }
}

impl Core {
    /// As [`Shard::ask`], for this shard's own tasks.
    pub(crate) async fn request(self: &Rc<Self>, request: Request) -> Response {
        let group = request.group(self.topology);
        if self.is_alone() {
            return self.call(self.topology.owner_of(group), request).await;
        }
        Box::pin(self.clone().ask_leader(group, request)).await
    }

    async fn ask_leader(self: Rc<Self>, group: GroupId, request: Request) -> Response {
        let deadline = Instant::now() + self.config.write_deadline;
        let kept = request.clone();
        let mut next = Some(request);
        let (mut asked, mut pause) = (Lead::Nowhere, PAUSE.0);
        loop {
            let lead = self.lead_of(group, deadline).await?;
            if lead != asked {
                // One that has just been elected leads in a moment.
                (asked, pause) = (lead, PAUSE.0);
            }
            let request = next.take().unwrap_or_else(|| kept.clone());
            let response = match lead {
                Lead::Away(node) => {
                    match self.call_away(node, group, request) {
                        // It is answered there by its own deadline.
                        Ok(call) if kept.is_prompt() => {
                            timeout(2 * self.config.write_deadline, call).await.unwrap_or(Err(ShardError::Unknown))
                        }
                        Ok(call) => call.await,
                        Err(error) => Err(error),
                    }
                }
                Lead::Here | Lead::Nowhere => self.call(self.topology.owner_of(group), request).await,
            };
            match &response {
                Ok(answer) if kept.is_answered_by(answer) => return response,
                Ok(_) => return Err(ShardError::Unknown),
                Err(ShardError::Unavailable) => {}
                Err(ShardError::Unknown) if kept.is_read() => {}
                Err(_) => return response,
            }
            if Instant::now() + pause >= deadline {
                return response;
            }
            // Whoever leads next is found out soon.
            let _ = timeout(pause, self.leaders.changed()).await;
            pause = (2 * pause).min(PAUSE.1);
        }
    }

    /// Asks another node what any node answers, led or not, and waits no longer than `within`.
    pub(crate) async fn ask_node(&self, node: NodeId, request: Request, within: Duration) -> Response {
        let asked = request.clone();
        let call = self.call_away(node, GroupId::META, request)?;
        match timeout(within, call).await.unwrap_or(Err(ShardError::Unknown)) {
            Ok(answer) if !asked.is_answered_by(&answer) => Err(ShardError::Unknown),
            response => response,
        }
    }

    /// Where a group is led, once that is known.
    async fn lead_of(&self, group: GroupId, deadline: Instant) -> Result<Lead, ShardError> {
        loop {
            match self.leaders.of(group) {
                Lead::Nowhere => {}
                lead => return Ok(lead),
            }
            timeout_at(deadline, self.leaders.changed()).await.map_err(|_| ShardError::Unavailable)?;
        }
    }

    fn call_away(&self, node: NodeId, group: GroupId, request: Request) -> Result<Call, ShardError> {
        // A node that nobody has told this one of yet.
        let outgoing = self.post.node(node).ok_or(ShardError::Unavailable)?;
        let told = request.ends_with_client().then_some(Asked::Away(node, group));
        let call = self.calls.begin_away(told, &outgoing, node);
        outgoing.ask(call.id(), request);
        Ok(call)
    }
}

/// Ends what waits for other nodes in vain. Runs for the shard's life.
pub(crate) async fn end_lost(core: Rc<Core>) {
    loop {
        for loss in core.losses.take().await {
            match loss {
                Loss::Unsent(node, calls) => {
                    let unsent = || Err(ShardError::Unavailable);
                    calls.into_iter().for_each(|call| core.calls.answer_from(node, call, unsent()));
                }
                Loss::Crowded(node, call) => {
                    core.calls.answer_from(node, call, Err(ShardError::Limit(Limit::InFlight)));
                }
                Loss::Calls(node, era) => core.calls.lose(node, era),
                Loss::Node(node, debts) => {
                    core.feeds.lose_mirrors(node);
                    core.feeds.forget_peers_of(node, |_| true);
                    debts.end_loss(core.calls.cancel_of(node, |_| true));
                }
            }
        }
    }
}
