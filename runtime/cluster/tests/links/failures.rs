//! Links that fail, and what becomes of their calls.

use std::time::Duration;

use tokio::time::{Instant, advance, timeout};
use weir_cluster::{CallError, LinkConfig};

use crate::support::{NextIncoming, echo, message, number, pair, run, settle};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_node_that_answers_nothing_for_two_seconds_is_given_up() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        advance(ms(60_000)).await;
        let begun = Instant::now();
        let first = pair.link.begin(message(1, 100)).await.expect("is taken");
        let (_, responder) = incoming.next().await.expect("a request");
        advance(ms(1500)).await;
        let second = pair.link.begin(message(2, 100)).await.expect("is taken");
        let error = first.await.expect_err("is not answered");
        assert_eq!(
            error.to_string(),
            "node 2 was asked, and the link broke before it answered: nothing was heard for 2000 ms"
        );
        assert!(second.await.expect_err("is not answered").may_have_arrived());
        let waited = begun.elapsed();
        assert!((ms(2000)..ms(2010)).contains(&waited), "{waited:?}");
        assert_eq!(pair.link.unanswered_bytes(), 0, "nothing is held for it any more");
        assert!(incoming.next().await.is_none(), "the connection is closed");
        // Too late, and no harm.
        responder.send(message(1, 0));
    });
}

#[test]
fn a_node_that_answers_slowly_is_not_given_up_while_it_is_heard() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let mut answers = Vec::new();
        for i in 0..10 {
            answers.push(pair.link.begin(message(i, 1)).await.expect("is taken"));
        }
        for answer in answers {
            let (request, responder) = incoming.next().await.expect("a request");
            advance(ms(1900)).await;
            responder.send(request);
            answer.await.expect("is answered");
        }
    });
}

#[test]
fn a_node_that_takes_a_large_request_slowly_is_not_given_up_until_it_stops() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let tap = pair.net.tap();
        tap.allow(1000);
        let mut answer = pair.link.begin(message(1, 10_000)).await.expect("is taken");
        for _ in 0..8 {
            assert!(timeout(ms(1900), &mut answer).await.is_err(), "it goes on");
            tap.allow(1000);
        }
        let stopped = Instant::now();
        assert!(answer.await.expect_err("is not answered").may_have_arrived());
        assert!(stopped.elapsed() <= ms(2010));
        assert!(incoming.next().await.is_none());
    });
}

#[test]
fn an_end_that_has_vanished_is_noticed_by_the_next_call() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let _incoming = pair.connect().await;
        pair.net.tap().cut();
        advance(ms(3_600_000)).await;
        let begun = Instant::now();
        let error = pair.link.call(message(1, 1)).await.expect_err("is not answered");
        assert!(error.may_have_arrived() && begun.elapsed() < ms(2010));
        // It had worked, so it is tried again at once.
        tokio::task::spawn_local(echo(pair.acceptor, pair.config));
        assert_eq!(number(&pair.link.call(message(2, 1)).await.expect("is answered")), 2);
    });
}

#[test]
fn a_connection_that_was_closed_while_idle_costs_no_call() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        for _ in 0..5 {
            drop(pair.connect().await);
            advance(ms(1)).await;
        }
        assert_eq!(pair.net.tries().len(), 5);
    });
}

#[test]
fn what_was_not_written_was_not_sent() {
    run(async || {
        let mut pair = pair(LinkConfig { window_bytes: 1 << 20, ..LinkConfig::default() });
        let incoming = pair.connect().await;
        // Neither side takes much: some requests are with the connection, others are not, and one waits for the window.
        pair.net.tap().allow(5000);
        let mut answers = Vec::new();
        for i in 0..10 {
            answers.push(pair.link.begin(message(i, 100_000)).await.expect("is taken"));
        }
        let waiting = async {
            let error = pair.link.begin(message(10, 100_000)).await.err().expect("the link fails");
            assert_eq!(error.to_string(), "not sent to node 2: the link failed while the request waited");
        };
        let broken = async {
            advance(ms(100)).await;
            drop(incoming);
            // What is written now is lost; the connection says so when it takes the next byte.
            pair.net.tap().allow(5000);
        };
        tokio::join!(waiting, broken);
        let mut outcomes = Vec::new();
        for answer in answers {
            outcomes.push(answer.await.expect_err("is not answered").may_have_arrived());
        }
        assert_eq!(outcomes, [true, false, false, false, false, false, false, false, false, false]);
    });
}

#[test]
fn a_link_that_somebody_gives_up_ends_its_calls() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let answer = pair.link.begin(message(1, 1)).await.expect("is taken");
        let (_, _responder) = incoming.next().await.expect("a request");
        pair.link.fail("the log is full");
        let error = answer.await.expect_err("is not answered");
        assert!(matches!(&error, CallError::Broken { reason, .. } if &**reason == "the log is full"), "{error}");
        let incoming = pair.connect().await;
        assert_eq!(incoming.hello().meant.map(weir_cluster::NodeId::get), Some(2));
    });
}

#[test]
fn a_node_that_is_not_there_is_tried_less_and_less_often() {
    run(async || {
        let pair = pair(LinkConfig::default());
        pair.net.close("two");
        let begun = Instant::now();
        let mut pace = tokio::time::interval(ms(1));
        while begun.elapsed() < ms(5000) {
            pace.tick().await;
            let asked = Instant::now();
            let error = pair.link.call(message(1, 1)).await.expect_err("nobody listens");
            assert_eq!(error.to_string(), "not sent to node 2: two cannot be reached: connection refused");
            assert_eq!(asked.elapsed(), ms(0), "it fails at once");
        }
        let tries = pair.net.tries();
        let waits: Vec<u128> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        // The number that was drawn is the largest.
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000, 1000]);

        // It is back, and the next time it is missed only for a moment.
        let acceptor =
            weir_cluster::Acceptor::new(crate::support::endpoint(2, &pair.net, pair.config), pair.net.listen("two"));
        let serving = tokio::task::spawn_local(echo(acceptor, pair.config));
        advance(ms(1000)).await;
        assert_eq!(number(&pair.link.call(message(1, 1)).await.expect("is answered")), 1);
        serving.abort();
    });
}

#[test]
fn a_call_waits_for_a_connection_that_is_being_made_but_not_for_long() {
    run(async || {
        let pair = pair(LinkConfig::default());
        pair.net.set_deaf(true);
        let begun = Instant::now();
        let error = pair.link.call(message(1, 1)).await.expect_err("is not taken");
        assert_eq!(error.to_string(), "not sent to node 2: two did not take a connection within 500 ms");
        assert_eq!(begun.elapsed(), ms(500));
        // The attempt goes on for three seconds, and the next begins after the shortest wait.
        let (early, late) = tokio::join!(pair.link.call(message(2, 1)), async {
            advance(ms(100)).await;
            pair.link.call(message(3, 1)).await
        });
        assert!(!early.expect_err("is not taken").may_have_arrived());
        assert!(!late.expect_err("is not taken").may_have_arrived());
        assert_eq!(pair.net.tries().len(), 1);
        advance(ms(3000)).await;
        settle().await;
        pair.net.set_deaf(false);
        advance(ms(50)).await;
        tokio::task::spawn_local(echo(pair.acceptor, pair.config));
        assert_eq!(number(&pair.link.call(message(4, 1)).await.expect("is answered")), 4);
        assert_eq!(pair.net.tries().len(), 2);
    });
}

#[test]
fn a_reply_that_nobody_takes_ends_the_connection_on_its_own_side() {
    run(async || {
        let mut pair = pair(LinkConfig { stall: ms(60_000), ..LinkConfig::default() });
        let called = pair.link.begin(message(1, 1));
        let (answer, mut incoming) = tokio::join!(called, pair.acceptor.incoming(LinkConfig::default()));
        let _answer = answer.expect("is taken");
        let (_, responder) = incoming.next().await.expect("a request");
        pair.net.tap().cut();
        responder.send(message(1, 1 << 20));
        let begun = Instant::now();
        assert!(incoming.next().await.is_none());
        assert!((ms(2000)..ms(2010)).contains(&begun.elapsed()));
    });
}
