//! What the operators of both nodes read when nodes do not meet.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::time::advance;
use weir_cluster::{Acceptor, Link, LinkConfig, Secret, Security};

use crate::support::{LANE, Net, NextIncoming, endpoint, message, node, plain, run};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has what is logged on this thread go to a text.
fn logged() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[test]
fn a_node_that_was_not_reached_a_moment_ago_says_why_it_is_refused_now() {
    let (log, _logged) = logged();
    run(async || {
        let (net, config) = (Net::default(), LinkConfig::default());
        let link = Link::new(endpoint(1, &net, config), node(2), "two".into(), LANE, plain);
        let error = link.call(message(1, 1)).await.expect_err("nobody listens").to_string();
        assert!(error.contains("cannot be reached"), "{error}");
        advance(config.backoff_max).await;
        let why = "node 1 was removed from the cluster for ever";
        let mut two = endpoint(2, &net, config);
        two.admission = Arc::new(move |_: &weir_cluster::Hello| Err(why.to_string()));
        let mut acceptor = Acceptor::new(two, net.listen("two"));
        let accepting = tokio::task::spawn_local(async move { acceptor.incoming(config).await.hello().lane });
        for _ in 0..20 {
            let error = link.call(message(1, 1)).await.expect_err("it is refused").to_string();
            assert_eq!(error, format!("not sent to node 2: two: refused by the other end: {why}"));
            advance(config.backoff_max).await;
        }
        let log = log.text();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a link is down")).collect();
        let says = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!((lines.len(), says("cannot be reached"), says(why)), (2, 1, 1), "{log}");
        accepting.abort();
    });
}

#[test]
fn both_nodes_say_now_and_then_why_they_do_not_meet_and_never_the_secret() {
    let (log, _logged) = logged();
    run(async || {
        let net = Net::default();
        let config = LinkConfig::default();
        let secrets = ["a secret of the first node", "a secret of the second node"];
        let [mut one, mut two] = [endpoint(1, &net, config), endpoint(2, &net, config)];
        for (endpoint, secret) in [&mut one, &mut two].into_iter().zip(secrets) {
            endpoint.security = Security::Secret(Secret::new(secret.as_bytes()).expect("long enough"));
        }
        let mut acceptor = Acceptor::new(two, net.listen("two"));
        let accepting = tokio::task::spawn_local(async move { acceptor.incoming(config).await.hello().lane });
        let link = Link::new(one, node(2), "two".into(), LANE, plain);
        let why = "node 2 and node 1 do not have the same secret";
        for _ in 0..20 {
            let error = link.call(message(1, 1)).await.expect_err("they do not meet").to_string();
            assert_eq!(error, format!("not sent to node 2: two: refused by the other end: {why}"));
            advance(config.backoff_max).await;
        }
        let log = log.text();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(net.tries().len(), 20);
        let is_dialers = |line: &&&str| line.contains("a link is down") && line.contains("node=2 lane=data of group 3");
        assert_eq!(lines.iter().filter(is_dialers).count(), 1, "{log}");
        let is_acceptors = |line: &&&str| line.contains("was refused") && line.contains("from=\"a test\"");
        assert!((2..=3).contains(&lines.iter().filter(is_acceptors).count()), "{log}");
        assert!(lines.iter().all(|line| line.contains(why)), "{log}");
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
        accepting.abort();
    });
}
