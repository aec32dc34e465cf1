//! Whatever happens to a link: no call is without an outcome, and none has a wrong one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::advance;
use weir_cluster::{Acceptor, CallError, Incoming, LinkConfig, Message, Responder};

use crate::support::{NextIncoming, Pair, message, number, pair, run, settle};

#[derive(Clone, Debug)]
enum Step {
    /// Calls, with so many bytes.
    Call(usize),
    /// Lets go of the call that is so far from the oldest.
    Leave(usize),
    /// Answers the request that is so far from the oldest.
    Answer(usize),
    /// Lets go of it.
    Ignore(usize),
    /// The other node closes the connection.
    Close,
    /// The connection's other end vanishes.
    Cut,
    /// Somebody gives the link up.
    Fail,
    /// So many milliseconds pass.
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop_oneof![0..200usize, 3000..9000usize].prop_map(Step::Call),
        2 => (0..9usize).prop_map(Step::Leave),
        6 => (0..9usize).prop_map(Step::Answer),
        1 => (0..9usize).prop_map(Step::Ignore),
        1 => Just(Step::Close),
        1 => Just(Step::Cut),
        1 => Just(Step::Fail),
        3 => prop_oneof![0..100u64, 0..1500u64].prop_map(Step::Pass),
    ];
    vec(step, 1..60)
}

/// What the other node has seen.
#[derive(Default)]
struct Far {
    /// In the order in which they came, over all connections.
    arrived: Vec<u32>,
    /// Those that wait for an answer.
    waiting: Vec<(u32, Responder)>,
    answered: BTreeSet<u32>,
    ignored: BTreeSet<u32>,
    /// What reads the current connection.
    reading: Option<JoinHandle<()>>,
}

/// Takes every connection, and every request on it.
async fn accept(mut acceptor: Acceptor, config: LinkConfig, far: Rc<RefCell<Far>>) {
    loop {
        let incoming = acceptor.incoming(config).await;
        let reading = tokio::task::spawn_local(take(incoming, far.clone()));
        far.borrow_mut().reading = Some(reading);
    }
}

async fn take(mut incoming: Incoming, far: Rc<RefCell<Far>>) {
    while let Some((request, responder)) = incoming.next().await {
        let mut far = far.borrow_mut();
        far.arrived.push(number(&request));
        far.waiting.push((number(&request), responder));
    }
}

/// What has become of calls, by number.
type Outcomes = Rc<RefCell<BTreeMap<u32, Result<Message, CallError>>>>;

async fn play(steps: Vec<Step>) {
    let config = LinkConfig { window_bytes: 20_000, ..LinkConfig::default() };
    let Pair { net, link, acceptor, .. } = pair(config);
    let far = Rc::new(RefCell::new(Far::default()));
    let accepting = tokio::task::spawn_local(accept(acceptor, config, far.clone()));
    let link = Rc::new(link);
    let outcomes = Outcomes::default();
    let mut calls: BTreeMap<u32, JoinHandle<()>> = BTreeMap::new();
    let mut left = BTreeSet::new();
    for step in steps {
        match step {
            Step::Call(bytes) => {
                let (i, link, outcomes) = ((calls.len() + left.len()) as u32, link.clone(), outcomes.clone());
                let call = async move {
                    let outcome = link.call(message(i, bytes)).await;
                    outcomes.borrow_mut().insert(i, outcome);
                };
                calls.insert(i, tokio::task::spawn_local(call));
            }
            Step::Leave(nth) => {
                if let Some((&i, _)) = calls.iter().filter(|(i, _)| !outcomes.borrow().contains_key(i)).nth(nth) {
                    calls.remove(&i).expect("it is there").abort();
                    left.insert(i);
                }
            }
            Step::Answer(nth) | Step::Ignore(nth) if nth < far.borrow().waiting.len() => {
                let (i, responder) = far.borrow_mut().waiting.remove(nth);
                if matches!(step, Step::Answer(_)) {
                    far.borrow_mut().answered.insert(i);
                    responder.send(message(i, 10));
                } else {
                    far.borrow_mut().ignored.insert(i);
                    drop(responder);
                }
            }
            Step::Answer(_) | Step::Ignore(_) => {}
            Step::Close => {
                if let Some(reading) = far.borrow_mut().reading.take() {
                    reading.abort();
                }
            }
            Step::Cut if !net.tries().is_empty() => net.tap().cut(),
            Step::Cut => {}
            Step::Fail => link.fail("a test"),
            Step::Pass(ms) => advance(Duration::from_millis(ms)).await,
        }
        settle().await;
        assert!(link.unanswered_bytes() <= 20_000);
    }
    // Nothing is answered any more, so everything comes to an end.
    for _ in 0..4 {
        advance(config.stall).await;
        settle().await;
    }
    assert_eq!(link.unanswered_bytes(), 0);
    accepting.abort();

    let far = far.borrow();
    let outcomes = outcomes.borrow();
    assert!(far.arrived.is_sorted() && far.arrived.iter().collect::<BTreeSet<_>>().len() == far.arrived.len());
    for i in calls.keys() {
        match outcomes.get(i).expect("every call has an outcome") {
            Ok(reply) => assert!(number(reply) == *i && far.answered.contains(i)),
            Err(CallError::Unanswered { .. }) => assert!(far.ignored.contains(i)),
            Err(CallError::NotSent { .. }) => assert!(!far.arrived.contains(i), "{i} was sent"),
            Err(CallError::Broken { .. }) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_call_has_the_right_outcome(steps in steps()) {
        run(async || play(steps).await);
    }
}
