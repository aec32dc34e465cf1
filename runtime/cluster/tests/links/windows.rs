//! What a link holds is bounded, on both sides.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use weir_cluster::LinkConfig;

use crate::support::{NextIncoming, message, number, pair, run, settle};

fn config() -> LinkConfig {
    LinkConfig { window_bytes: 10_000, ..LinkConfig::default() }
}

#[test]
fn requests_beyond_the_window_wait_in_order() {
    run(async || {
        let mut pair = pair(config());
        let mut incoming = pair.connect().await;
        let link = Rc::new(pair.link);
        let begun = Rc::new(RefCell::new(Vec::new()));
        // The fourth is small and would fit, but the third has been waiting.
        for (i, body_bytes) in [(1, 4000), (2, 4000), (3, 9000), (4, 10), (5, 100_000), (6, 10)] {
            let (link, begun) = (link.clone(), begun.clone());
            tokio::task::spawn_local(async move {
                let answer = link.begin(message(i, body_bytes)).await.expect("is taken");
                begun.borrow_mut().push(i);
                assert_eq!(number(&answer.await.expect("is answered")), i);
            });
        }
        // Each is answered when nothing more would come without it. The fifth is larger than the window, and alone.
        for expected in [vec![1, 2], vec![3, 4], vec![5], vec![6]] {
            settle().await;
            assert_eq!(begun.take(), expected);
            let mut responders = Vec::new();
            for &i in &expected {
                let (request, responder) = incoming.next().await.expect("a request");
                assert_eq!(number(&request), i);
                responders.push((i, responder));
            }
            responders.into_iter().for_each(|(i, responder)| responder.send(message(i, 0)));
        }
        settle().await;
        assert_eq!(link.unanswered_bytes(), 0);
    });
}

#[test]
fn whoever_waits_for_the_window_and_leaves_is_passed_over() {
    run(async || {
        let mut pair = pair(config());
        let mut incoming = pair.connect().await;
        let first = pair.link.begin(message(1, 9000)).await.expect("is taken");
        let waiting = tokio::time::timeout(Duration::from_millis(1), pair.link.begin(message(2, 9000))).await;
        assert!(waiting.is_err());
        incoming.next().await.expect("a request").1.send(message(1, 0));
        first.await.expect("is answered");
        let _third = pair.link.begin(message(3, 9000)).await.expect("is taken");
        assert_eq!(number(&incoming.next().await.expect("a request").0), 3);
    });
}

#[test]
fn the_receiver_reads_no_more_than_its_own_window() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let first = pair.link.begin(message(0, 1000));
        let (first, mut incoming) = tokio::join!(first, pair.acceptor.incoming(config()));
        let mut answers = vec![first.expect("is taken")];
        for i in 1..100 {
            answers.push(pair.link.begin(message(i, 1000)).await.expect("is taken"));
        }
        settle().await;
        // The window, a frame that it did not fill, and what both ends of the connection hold.
        let written = pair.net.tap().written();
        assert!(written < 10_000 + 1_300 + (16 << 10) + (8 << 10), "{written} bytes were taken from the sender");
        for i in 0..100 {
            let (request, responder) = incoming.next().await.expect("a request");
            assert_eq!(number(&request), i);
            responder.send(message(i, 0));
        }
        for answer in answers {
            answer.await.expect("is answered");
        }
    });
}
