//! A cluster as its operator sees and changes it: `weir cluster`.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_testkit::{Request, wait_until};

use crate::nodes::{Cluster, PATIENCE, again};

/// What a run of `weir cluster` has printed, and its exit code.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `weir cluster` with these arguments, asking a node.
pub(crate) fn weir_cluster(cluster: &Cluster, node: usize, args: &[&str]) -> Ran {
    let admin = format!("http://{}", cluster.server(node).admin());
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let run = command.arg("cluster").args(args).args(["--admin", &admin]).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: run.status.code(), out: text(run.stdout), err: text(run.stderr) }
}

/// The cluster's state, as a node says it.
pub(crate) fn status(cluster: &Cluster, node: usize) -> Value {
    let ran = weir_cluster(cluster, node, &["status", "--json"]);
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {} {}", ran.out, ran.err))
}

/// The node that leads a group, from 1 on.
pub(crate) fn leader(status: &Value, group: usize) -> Option<u64> {
    status["groups"][group]["leader"].as_u64()
}

/// Waits until nothing is wrong, and nothing is on its way.
pub(crate) fn wait_well(cluster: &Cluster, node: usize) {
    wait_until("all is well", PATIENCE, || {
        let status = status(cluster, node);
        status["is_settled"] == true && status["troubles"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn an_operator_sees_what_is_wrong_and_moves_leaders() {
    let mut cluster = Cluster::form([0, 1, 2], &[]);
    wait_well(&cluster, 0);
    let seen = weir_cluster(&cluster, 1, &["status"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    assert!(seen.out.starts_with("test, as node 2 sees it: 3 nodes, 3 groups: all is well\n"), "{}", seen.out);

    let before = leader(&status(&cluster, 0), 1).expect("it is led");
    let next = before % 3 + 1;
    // Asked on a node that leads it neither before nor then.
    let other = (next % 3) as usize;
    let moved = weir_cluster(&cluster, other, &["transfer", "1", &next.to_string()]);
    assert_eq!((moved.code, moved.out.trim()), (Some(0), &*format!("group 1 goes to node {next}")), "{}", moved.err);
    wait_until("it leads", PATIENCE, || leader(&status(&cluster, other), 1) == Some(next));
    // A new cluster gave it back within 0.2 s once, because its nodes did not lead evenly any more.
    let moved_at = Instant::now();
    while moved_at.elapsed() < Duration::from_millis(500) {
        assert_eq!(leader(&status(&cluster, other), 1), Some(next), "it leads as long as nothing happens");
    }
    for (args, reason) in [(["9", "1"], "there is no group 9"), (["1", "9"], "node 9 does not vote in group 1")] {
        let refused = weir_cluster(&cluster, 0, &["transfer", args[0], args[1]]);
        assert!(refused.code == Some(1) && refused.err.contains(reason), "{}", refused.err);
    }

    let _ = again(&mut cluster.client(0), || Request::put("/b/s").header("Content-Type", "text/plain")).expect(201);
    cluster.kill(2);
    wait_until("it is missed", PATIENCE, || {
        let status = status(&cluster, 0);
        status["troubles"].as_array().is_some_and(|troubles| {
            troubles.iter().any(|trouble| trouble.as_str().is_some_and(|trouble| trouble.starts_with("node 3 ")))
        })
    });
    let seen = weir_cluster(&cluster, 0, &["status"]);
    assert!(seen.code == Some(8) && seen.out.starts_with("WRONG: "), "{} {}", seen.out, seen.err);
    cluster.restart(2);
    wait_well(&cluster, 0);
}
