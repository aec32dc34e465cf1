//! Mail from other nodes. All that one shard of a node says arrives at one shard of this one, in order, and is passed on from there
//! to the shards that it is for; see [`crate::nodes::outgoing`] for the other side.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use send_wrapper::SendWrapper;
use weir_cluster::{Accepted, Incoming, Message, NodeId};
use weir_stream::Group;
use weir_types::{GroupId, ShardId};

use crate::budget;
use crate::core::{Core, Shard};
use crate::message::{
    Addressee, Answer, AppendRequest, CallId, CreateRequest, Letter, LetterError, Limit, Mail, Peer, Request, Response,
    ShardError, decode,
};
use crate::nodes::salute::{self, Hearer, MAIL, REFUSED, Salute, TAKEN};
use crate::write::append::is_large;

/// Why a connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("it has sent what is no mail of this version")]
    Malformed,
    #[error("it has {theirs} groups, and this node has {ours}")]
    Groups { ours: u16, theirs: u16 },
    #[error(transparent)]
    Letter(#[from] LetterError),
}

impl Shard {
    /// Takes the mail of one shard of another node, whose connection this is, for as long as it lasts. All connections of that
    /// shard's lane are to come to the same shard.
    pub(crate) fn take_mail(&self, accepted: Accepted) {
        let core = (*self.0).clone();
        let Some(nodes) = &core.nodes else { return };
        let hello = accepted.hello;
        let weir_cluster::Lane::Mail(shard) = hello.lane else { unreachable!("mail has a lane of its own") };
        let lane = (hello.identity.node, shard);
        // Of the connection before, nothing is read any more.
        if let Some(task) = core.lanes.borrow_mut().entry(lane).or_default().task.take() {
            task.abort();
        }
        core.lose_lane(lane);
        let mut incoming = Incoming::new(accepted, BytesMut::with_capacity, &nodes.endpoint.config);
        let of_task = core.clone();
        let task = core.spawn_request(async move {
            while let Some((message, responder)) = incoming.next().await {
                match of_task.take_message(lane, message) {
                    Ok(reply) => responder.send(reply),
                    Err(error) => {
                        let (node, shard) = (lane.0.get(), lane.1.0);
                        tracing::warn!(node, shard, %error, "mail of another node cannot be taken");
                        break;
                    }
                }
            }
            of_task.lose_lane(lane);
        });
        core.lanes.borrow_mut().entry(lane).or_default().task = Some(task);
    }
}

impl Core {
    /// Hands the letters of a message to those that they are for.
    pub(crate) fn take_message(
        self: &Rc<Self>,
        lane: (NodeId, ShardId),
        message: Message,
    ) -> Result<Message, LaneError> {
        if message.kind != MAIL {
            return Err(LaneError::Malformed);
        }
        let Salute { life, session, lost, to, groups, letters } = salute::head(&message).ok_or(LaneError::Malformed)?;
        if groups != self.topology.groups {
            return Err(LaneError::Groups { ours: self.topology.groups, theirs: groups });
        }
        let own_life = self.nodes.as_ref().map_or(0, |nodes| nodes.life);
        let (heard, before) = (Some((life, session)), self.lanes.borrow_mut().entry(lane).or_default().heard);
        if heard != before {
            if before.is_none() && lost.contains(&own_life) {
                self.tell_lost(lane);
            }
            self.lose_lane(lane);
            self.lanes.borrow_mut().entry(lane).or_default().heard = heard;
        }
        let hearer = Hearer { life: own_life, epoch: self.lanes.borrow()[&lane].epoch };
        match to {
            Some(to) if to != hearer || (self.is_leaving.get() && letters > 0) => {
                return Ok(salute::message(REFUSED, &hearer, Vec::new()));
            }
            None if letters > 0 => return Err(LaneError::Malformed),
            _ => {}
        }
        let letters = decode(letters.into(), message.bodies)?;
        let (node, shard) = lane;
        let from = Peer::Away(node, Addressee { shard, life });
        letters.into_iter().try_for_each(|letter| self.take_letter(from, letter))?;
        Ok(salute::message(TAKEN, &hearer, Vec::new()))
    }

    fn take_letter(self: &Rc<Self>, from: Peer, letter: Letter) -> Result<(), LaneError> {
        let (to, mail) = match letter {
            Letter::Request { call, request } => {
                let group = request.group(self.topology);
                (self.owner_of_any(group)?, Mail::Request { origin: from, call, request })
            }
            Letter::Cancel { group, call } => (self.owner_of_any(group)?, Mail::Cancel { origin: from, call }),
            Letter::Response { to, call, response } => {
                (self.meant(to)?, Mail::Response { owner: from, call, response: self.claimed(response) })
            }
            Letter::Advanced { to, advance } => (self.meant(to)?, Mail::Advanced { owner: from, advance }),
            Letter::Ended { to, incarnation } => (self.meant(to)?, Mail::Ended { owner: from, incarnation }),
            Letter::Unwatch { to, incarnation, answered } => {
                (self.meant(to)?, Mail::Unwatch { origin: from, incarnation, answered })
            }
        };
        if let Some(to) = to {
            self.post.pass_on(to, mail);
        }
        Ok(())
    }

    fn owner_of_any(&self, group: GroupId) -> Result<Option<ShardId>, LaneError> {
        match group.0 < self.topology.groups {
            true => Ok(Some(self.topology.owner_of(group))),
            false => Err(LaneError::Malformed),
        }
    }

    /// The shard that a letter is for; none for one of an earlier life, in which somebody else may have asked the same.
    fn meant(&self, to: Addressee) -> Result<Option<ShardId>, LaneError> {
        match self.nodes.as_ref() {
            Some(nodes) if nodes.life == to.life && to.shard.0 < self.topology.shards => Ok(Some(to.shard)),
            Some(nodes) if nodes.life == to.life => Err(LaneError::Malformed),
            _ => Ok(None),
        }
    }

    /// An answer whose bytes are counted among those that clients have not taken yet.
    fn claimed(&self, response: Response) -> Response {
        let claim = |bytes| self.config.pages.claim(bytes).ok_or(ShardError::Limit(Limit::Reads));
        match response? {
            Answer::Page(mut page) => {
                if let Some(last) = page.chunks.pop() {
                    let bytes = last.len() + page.chunks.iter().map(Bytes::len).sum::<usize>();
                    // The last one goes last.
                    page.chunks.push(budget::keep(last, claim(bytes)?));
                }
                Ok(Answer::Page(page))
            }
            Answer::View(mut view) => {
                let claim = claim(budget::with_encoded(view.body.len()))?;
                view.body = budget::keep(view.body, claim);
                Ok(Answer::View(view))
            }
            other => Ok(other),
        }
    }

    /// What was heard on a lane may not be all that was said, or nothing more is.
    fn lose_lane(&self, (node, shard): (NodeId, ShardId)) {
        let was_heard = {
            let mut lanes = self.lanes.borrow_mut();
            let lane = lanes.entry((node, shard)).or_default();
            lane.epoch += 1;
            lane.heard.take().is_some()
        };
        if was_heard {
            self.tell_lost((node, shard));
        }
    }

    /// Takes nothing more on a lane.
    pub(crate) fn close_lane(&self, lane: (NodeId, ShardId)) {
        if let Some(task) = self.lanes.borrow_mut().get_mut(&lane).and_then(|lane| lane.task.take()) {
            task.abort();
        }
        self.lose_lane(lane);
        self.lanes.borrow_mut().remove(&lane);
    }

    fn tell_lost(&self, (node, shard): (NodeId, ShardId)) {
        self.post.mail_all(|| Mail::Lost(node, shard));
        self.post.pass_on(self.id, Mail::Lost(node, shard));
    }

    /// Ends what rests on what a shard of another node has said: it has lost that, too, or is about to.
    pub(crate) fn lose_peer(&self, node: NodeId, shard: ShardId) {
        if let Some(outgoing) = self.post.node(node) {
            outgoing.begin_anew();
        }
        self.feeds.lose_mirrors(node);
        self.feeds.forget_peers_of(node, |of| of == shard);
        // Who has lost what it had to say waits for nothing any more.
        drop(self.calls.cancel_of(node, |of| of == shard));
    }

    /// Carries out a request of another node. A large body is cut into messages first, on another thread: what the other node has
    /// found is not believed.
    pub(crate) fn serve_away(self: &Rc<Self>, origin: Peer, call: CallId, mut request: Request) {
        let (content_type, body) = match &mut request {
            Request::Append(_, AppendRequest { content_type: Some(content_type), body, .. }) => (&**content_type, body),
            Request::Create(_, CreateRequest { content_type, body, .. }) => (&**content_type, body),
            // Cuts it itself, once it knows what its source holds.
            Request::Fork(_, request) => ("", &mut request.body),
            _ => return (self.serve)(self, origin, call, request),
        };
        if body.len() > self.config.body_bytes_max {
            return self.respond(origin, call, Err(ShardError::Limit(Limit::InFlight)));
        }
        if !is_large(body) || !Group::is_json(content_type) {
            return (self.serve)(self, origin, call, request);
        }
        let (content_type, mut body) = (Box::<str>::from(content_type), std::mem::take(body));
        let core = self.clone();
        self.spawn_request(async move {
            let shard = Shard(SendWrapper::new(core.clone()));
            if let Err(error) = shard.cut(&content_type, &mut body).await {
                return core.respond(origin, call, Err(error));
            }
            *request.body_mut().expect("it had one") = body;
            (core.serve)(&core, origin, call, request);
        });
    }
}
