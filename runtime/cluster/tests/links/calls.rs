//! Calls that go well, or are given up.

use weir_cluster::{CallError, Incoming, Link, LinkConfig};

use crate::support::{LANE, NextIncoming, echo, endpoint, message, node, number, pair, plain, run};

#[test]
fn requests_arrive_in_order_and_replies_find_theirs_in_any() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let mut answers = Vec::new();
        for i in 0..100 {
            answers.push(pair.link.begin(message(i, 300)).await.expect("is taken"));
        }
        // None was answered, and all are there.
        let mut responders = Vec::new();
        for i in 0..100 {
            let (request, responder) = incoming.next().await.expect("a request");
            assert_eq!(request, message(i, 300));
            responders.push((i, responder));
        }
        while let Some((i, responder)) = responders.pop() {
            responder.send(message(i + 1000, 10));
        }
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await.expect("is answered"), message(i as u32 + 1000, 10));
        }
    });
}

#[test]
fn a_request_that_is_let_go_has_no_answer_and_others_have() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let first = pair.link.begin(message(1, 1)).await.expect("is taken");
        let second = pair.link.begin(message(2, 1)).await.expect("is taken");
        let (_, first_responder) = incoming.next().await.expect("a request");
        let (_, second_responder) = incoming.next().await.expect("a request");
        drop(first_responder);
        second_responder.send(message(2, 0));
        assert_eq!(first.await, Err(CallError::Unanswered { node: node(2) }));
        assert_eq!(number(&second.await.expect("is answered")), 2);
    });
}

#[test]
fn a_caller_that_leaves_leaves_nothing_behind() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        // Before it was written: it never is.
        drop(pair.link.begin(message(1, 1000)).await.expect("is taken"));
        assert_eq!(pair.link.unanswered_bytes(), 0);
        let kept = pair.link.begin(message(2, 1000)).await.expect("is taken");
        let left = pair.link.begin(message(3, 1000)).await.expect("is taken");
        let (request, kept_responder) = incoming.next().await.expect("a request");
        assert_eq!(number(&request), 2);
        // After it was written: it counts until it is answered, for the other side has it.
        let (request, left_responder) = incoming.next().await.expect("a request");
        assert_eq!(number(&request), 3);
        drop(left);
        assert!(pair.link.unanswered_bytes() > 2000);
        left_responder.send(message(3, 100_000));
        kept_responder.send(message(2, 0));
        assert_eq!(number(&kept.await.expect("is answered")), 2);
        assert_eq!(pair.link.unanswered_bytes(), 0);
    });
}

#[test]
fn a_link_that_is_closed_ends_its_calls() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let written = pair.link.begin(message(1, 1)).await.expect("is taken");
        let (_, _responder) = incoming.next().await.expect("a request");
        let unwritten = pair.link.begin(message(2, 1)).await.expect("is taken");
        drop(pair.link);
        assert!(written.await.expect_err("is not answered").may_have_arrived());
        assert!(!unwritten.await.expect_err("is not answered").may_have_arrived());
        assert!(incoming.next().await.is_none());
    });
}

#[test]
fn many_small_calls_pass() {
    run(async || {
        let pair = pair(LinkConfig::default());
        let echo = tokio::task::spawn_local(echo(pair.acceptor, pair.config));
        let mut answers = std::collections::VecDeque::new();
        for i in 0..20_000 {
            answers.push_back(pair.link.begin(message(i, 100)).await.expect("is taken"));
            if answers.len() > 1000 {
                answers.pop_front().expect("there is one").await.expect("is answered");
            }
        }
        for answer in answers {
            answer.await.expect("is answered");
        }
        assert_eq!(pair.net.tries().len(), 1, "one connection carried them all");
        echo.abort();
    });
}

#[test]
fn lanes_have_connections_of_their_own_and_a_second_link_takes_the_first_ones_place() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut first = pair.connect().await;
        assert_eq!((first.hello().identity.node, first.hello().lane), (node(1), LANE));
        let other = weir_cluster::Lane::Mail(weir_types::ShardId(3));
        let mut links = Vec::new();
        let mut incoming: Vec<Incoming> = Vec::new();
        for lane in [other, LANE] {
            let link = Link::new(endpoint(1, &pair.net, pair.config), node(2), "two".into(), lane, plain);
            let (answer, next) = tokio::join!(link.begin(message(1, 1)), pair.acceptor.incoming(pair.config));
            incoming.push(next);
            links.push((link, answer.expect("is taken")));
        }
        assert!(first.next().await.is_none(), "there is another");
        for (incoming, (_, answer)) in incoming.iter_mut().zip(&mut links) {
            incoming.next().await.expect("a request").1.send(message(5, 5));
            assert_eq!(number(&answer.await.expect("is answered")), 5);
        }
        drop(pair.acceptor);
        let answer = links[0].0.begin(message(1, 1)).await.expect("is taken");
        incoming[0].next().await.expect("it does not need the acceptor").1.send(message(6, 6));
        assert_eq!(number(&answer.await.expect("is answered")), 6);
    });
}
