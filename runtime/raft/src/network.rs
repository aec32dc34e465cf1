//! openraft's calls to other replicas, as messages to [`Peers`].

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::alias::{LogIdOf, SnapshotOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory};
use send_wrapper::SendWrapper;
use tokio::time::timeout;
use weir_cluster::{CallError, Lane, Message, NodeId};
use weir_types::GroupId;

use crate::config::TypeConfig;
use crate::local::Local;
use crate::peers::Peers;
use crate::state_machine::SnapshotData;
use crate::wire;

/// Requests to append that a replica has not answered yet. Each has some megabytes at most.
const APPENDS_MAX: usize = 4;

#[cfg(test)]
mod tests;

type Answer<T> = Result<T, RPCError<TypeConfig>>;

/// A message on its way.
type Call = SendWrapper<LocalBoxFuture<'static, Result<Message, CallError>>>;

/// The peers of one group; none where it has no voters but this node.
#[derive(Clone)]
pub(crate) struct Network {
    group: GroupId,
    peers: Option<SendWrapper<Rc<dyn Peers>>>,
}

impl Network {
    pub(crate) fn new(group: GroupId, peers: Option<Rc<dyn Peers>>) -> Network {
        Network { group, peers: peers.map(SendWrapper::new) }
    }

    /// Asks the group's replica on a node, which is another one, at once.
    pub(crate) fn ask(&self, node: u64, message: Message) -> Call {
        self.call(node, Lane::Control(self.group), message)
    }

    /// Waits no longer for a node to take entries.
    pub(crate) fn fail(&self, node: u64, reason: &str) {
        if let (Some(peers), Some(node)) = (&self.peers, NodeId::new(node)) {
            peers.fail(node, Lane::Data(self.group), reason);
        }
    }

    /// As [`Network::ask`], on any of the group's lanes.
    pub(crate) fn call(&self, node: u64, lane: Lane, message: Message) -> Call {
        let node = NodeId::new(node).expect("node ids are drawn from 1 on");
        let alone = || CallError::NotSent { node, reason: "this group has no other replicas".into() };
        SendWrapper::new(match &self.peers {
            Some(peers) => peers.call(node, lane, message),
            None => std::future::ready(Err(alone())).boxed_local(),
        })
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        Client { network: self.clone(), node: target, lane: Lane::Data(self.group) }
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        Client { network: self.clone(), node: target, lane: Lane::Control(self.group) }
    }
}

/// The way to one replica. Votes always take the control lane.
#[derive(Clone)]
pub(crate) struct Client {
    network: Network,
    node: u64,
    /// For appends.
    lane: Lane,
}

impl Client {
    /// Asks on the control lane, for as long as openraft waits.
    async fn ask<T>(
        &self,
        message: Message,
        option: &RPCOption,
        decode: impl FnOnce(bytes::Bytes) -> std::io::Result<T>,
    ) -> Answer<T> {
        match timeout(option.soft_ttl(), self.network.ask(self.node, message)).await {
            Ok(answer) => decoded(answer, decode),
            Err(late) => Err(NetworkError::new(&late).into()),
        }
    }

    fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> impl Future<Output = Answer<Appended>> + Send + use<> {
        let prev = request.prev_log_id;
        let call = self.network.call(self.node, self.lane, wire::encode_append(request));
        async move { decoded(call.await, wire::decode_append_response).map(|response| Appended { prev, response }) }
    }
}

/// What became of a request to append the entries behind `prev`.
struct Appended {
    prev: Option<LogIdOf<TypeConfig>>,
    response: AppendEntriesResponse<TypeConfig>,
}

/// The entry up to which a follower has the leader's log when a request has succeeded.
fn last_of(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogIdOf<TypeConfig>> {
    request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id)
}

fn decoded<T>(
    answer: Result<Message, CallError>,
    decode: impl FnOnce(bytes::Bytes) -> std::io::Result<T>,
) -> Answer<T> {
    match answer {
        Ok(message) => decode(message.head).map_err(|error| NetworkError::new(&error).into()),
        Err(error) if error.may_have_arrived() => Err(NetworkError::new(&error).into()),
        Err(error) => Err(Unreachable::new(&error).into()),
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Answer<AppendEntriesResponse<TypeConfig>> {
        self.append(request).await.map(|appended| appended.response)
    }

    /// Sends requests before those ahead of them are answered, and ends with the first that does not succeed.
    ///
    /// openraft takes an answer for that of every request up to the same entry, and a leader's lease for as long as if the last of
    /// them had arrived. But one without entries may follow later, and never arrive. So an answer is not told while a request up to
    /// the same entry is under way: that one's tells the same.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> futures_util::future::BoxFuture<
        's,
        Answer<futures_util::stream::BoxStream<'s, Answer<StreamAppendResult<TypeConfig>>>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let client = self.clone();
        let begun = Local::new(VecDeque::new());
        let asked = begun.clone();
        let results = input.map(move |request| {
            begun.borrow_mut().push_back(last_of(&request));
            client.append(request)
        });
        let results = results.buffered(APPENDS_MAX).scan(false, move |has_ended, appended| {
            if *has_ended {
                return std::future::ready(None);
            }
            let last = asked.borrow_mut().pop_front().expect("what is answered was asked");
            let is_told_later = asked.borrow().front() == Some(&last);
            let result = appended.map(|Appended { prev, response }| {
                *has_ended = !response.is_success();
                response.into_stream_result(prev, last)
            });
            *has_ended |= result.is_err();
            std::future::ready(Some((*has_ended || !is_told_later).then_some(result)))
        });
        std::future::ready(Ok(results.filter_map(std::future::ready).boxed())).boxed()
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Answer<VoteResponse<TypeConfig>> {
        let message = wire::encode_vote_request(wire::VOTE, &request);
        self.ask(message, &option, wire::decode_vote_response).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Answer<VoteResponse<TypeConfig>> {
        let message = wire::encode_vote_request(wire::PRE_VOTE, &request);
        self.ask(message, &option, wire::decode_vote_response).await
    }

    /// Whatever fails is tried again, with a newer snapshot if there is one: after a while, unless it has waited for that one.
    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Taken(shipment) = snapshot.snapshot else {
            unreachable!("what is sent is this replica's own")
        };
        let sending = SendWrapper::new(async {
            shipment.send(self.node, vote, |message| self.network.call(self.node, self.lane, message)).await
        });
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::debug!(group = self.network.group.0, node = self.node, %error, "a snapshot has not arrived");
                    if error.is_of_snapshot() {
                        return Err(NetworkError::new(&error).into());
                    }
                    Err(Unreachable::new(&error).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Answer<TransferLeaderResponse<TypeConfig>> {
        self.ask(wire::encode_transfer(&request), &option, wire::decode_transfer_response).await
    }
}
