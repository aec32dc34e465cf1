//! What openraft is told of answers to requests that overtake each other.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use openraft::alias::EntryOf;
use openraft::vote::leader_id_std::LeaderId;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use weir_storage::EntryId;

use super::*;
use crate::config::log_id;

/// Answers when the test says so.
#[derive(Default)]
struct Silent {
    asked: RefCell<VecDeque<oneshot::Sender<Message>>>,
}

impl Silent {
    /// Answers the first request that has no answer; breaks it off where there is none to give.
    fn answer(&self, response: Option<AppendEntriesResponse<TypeConfig>>) {
        let asked = self.asked.borrow_mut().pop_front().expect("something was asked");
        if let Some(response) = response {
            asked.send(wire::encode_append_response(&response)).expect("it is waited for");
        }
    }
}

impl Peers for Silent {
    fn call(&self, node: NodeId, _: Lane, _: Message) -> LocalBoxFuture<'static, Result<Message, CallError>> {
        let (sender, answered) = oneshot::channel();
        self.asked.borrow_mut().push_back(sender);
        async move { answered.await.map_err(|_| CallError::Broken { node, reason: "it is gone".into() }) }.boxed_local()
    }

    fn fail(&self, _: NodeId, _: Lane, _: &str) {}
}

/// A request with the entries behind `prev`, up to `last`.
fn request(prev: u64, last: u64) -> AppendEntriesRequest<TypeConfig> {
    let id = |index| log_id(EntryId { index, term: 1 });
    AppendEntriesRequest {
        vote: VoteOf::<TypeConfig> { leader_id: LeaderId { term: 1, voted_for: 1 }, committed: true },
        prev_log_id: Some(id(prev)),
        entries: (prev + 1..=last).map(|index| EntryOf::<TypeConfig>::new_blank(id(index))).collect(),
        leader_commit: None,
    }
}

#[test]
fn an_answer_does_not_stand_for_a_later_request_without_entries() {
    let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(async {
        for is_answered in [true, false] {
            let peers = Rc::new(Silent::default());
            let network = Network::new(GroupId(0), Some(peers.clone()));
            let mut client = Client { network, node: 2, lane: Lane::Data(GroupId(0)) };
            let (requests, input) = mpsc::unbounded_channel();
            let input = futures_util::stream::unfold(input, |mut input: mpsc::UnboundedReceiver<_>| async move {
                input.recv().await.map(|request| (request, input))
            });
            let option = RPCOption::new(Duration::from_secs(1));
            let results = client.stream_append(Box::pin(input), option).await;
            let mut results = results.unwrap_or_else(|error| panic!("{error}"));
            let matched = |result: Option<Option<Answer<StreamAppendResult<TypeConfig>>>>| {
                let result =
                    result.expect("there is one").expect("it goes on").unwrap_or_else(|error| panic!("{error}"));
                result.expect("it has succeeded").expect("an entry").index
            };
            let success = || Some(AppendEntriesResponse::Success);
            for (prev, last) in [(5, 7), (7, 9), (9, 9)] {
                requests.send(request(prev, last)).expect("it is taken");
            }
            assert!(results.next().now_or_never().is_none());
            assert_eq!(peers.asked.borrow().len(), 3, "they do not wait for each other");
            peers.answer(success());
            assert_eq!(matched(results.next().now_or_never()), 7, "nobody else is up to the same entry");
            peers.answer(success());
            assert!(results.next().now_or_never().is_none(), "the one without entries may never arrive");
            peers.answer(is_answered.then_some(AppendEntriesResponse::Success));
            if is_answered {
                assert_eq!(matched(results.next().now_or_never()), 9);
                requests.send(request(9, 10)).expect("it is taken");
                assert!(results.next().now_or_never().is_none());
                peers.answer(success());
                assert_eq!(matched(results.next().now_or_never()), 10);
            } else {
                assert!(matches!(results.next().now_or_never(), Some(Some(Err(_)))));
            }
        }
    });
}
