//! Forks, while the node dies that leads their source or them: killed as soon as a step is in its log, it may have told the others of it
//! or not.

use std::thread;
use std::time::Duration;

use weir_testkit::{Connection, Request, Response, metric, wait_until};

use crate::nodes::{Cluster, PATIENCE};
use crate::steps::{Kind, Logs, Step};

/// A pin waits half a minute for its fork.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
const TEXT: &str = "inherited ";

/// Streams in two groups, by `bucket/name`, and the nodes that lead these.
struct Pair {
    source: String,
    fork: String,
    source_leader: usize,
    fork_leader: usize,
}

/// A name for a stream of one of the groups that `fits`, and the group.
fn place(cluster: &Cluster, names: &mut usize, fits: impl Fn(u16) -> bool) -> (String, u16) {
    loop {
        *names += 1;
        let key = format!("f/{names}");
        let created = ask(cluster, 0, &Request::put(&format!("/{key}"))).status;
        assert!(matches!(created, 200 | 201), "{created}");
        let _ = ask(cluster, 0, &Request::delete(&format!("/{key}")));
        // Two of three nodes have it for sure.
        let step = Step::Of(Kind::Create, key.clone());
        let found = (0..3).find_map(|node| Logs::of(cluster.setups[node].data_dir()).find(&step));
        let group = found.expect("it was created");
        if fits(group) {
            return (key, group);
        }
    }
}

/// Waits until somebody leads a group.
fn leader_of(cluster: &Cluster, group: u16) -> usize {
    let name = format!("weir_group_leading{{group=\"{group}\"}}");
    let mut leader = None;
    wait_until("somebody leads", PATIENCE, || {
        leader = (0..3).find(|node| metric(cluster.server(*node), &name) == 1.0);
        leader.is_some()
    });
    leader.expect("somebody leads")
}

impl Pair {
    fn new(cluster: &Cluster, names: &mut usize) -> Pair {
        let (source, group) = place(cluster, names, |_| true);
        let (fork, fork_group) = place(cluster, names, |other| other != group);
        let created = ask(cluster, 0, &Request::put(&format!("/{source}")).body("text/plain", TEXT)).status;
        assert!(matches!(created, 200 | 201), "{created}");
        let (source_leader, fork_leader) = (leader_of(cluster, group), leader_of(cluster, fork_group));
        Pair { source, fork, source_leader, fork_leader }
    }

    fn make_fork(&self) -> Request {
        Request::put(&format!("/{}", self.fork)).header("Stream-Forked-From", format!("/{}", self.source))
    }
}

/// Sends a request through another node than `leader`, which is killed when the step is in its log. Returns the answer, and a node that
/// lives.
fn kill_at(cluster: &mut Cluster, leader: usize, request: &Request, step: &Step) -> (Option<Response>, usize) {
    let other = (leader + 1) % 3;
    let mut logs = Logs::of(cluster.setups[leader].data_dir());
    let mut connection = Connection::open(cluster.server(other).address()).expect("it listens");
    let request = request.clone();
    let asked = thread::spawn(move || connection.send(&request));
    let server = cluster.servers[leader].take().expect("it runs");
    logs.kill_at(server, std::slice::from_ref(step), || false);
    (asked.join().expect("it is answered or not").ok(), other)
}

/// Asks until it is known what became of it.
fn ask(cluster: &Cluster, node: usize, request: &Request) -> Response {
    let mut answer = None;
    wait_until("an answer", PATIENCE, || {
        let said = cluster.client(node).send(request.clone());
        let is_said = !matches!(said.status, 503 | 504);
        answer = Some(said);
        is_said
    });
    answer.expect("it was answered")
}

fn read(cluster: &Cluster, node: usize, key: &str) -> String {
    ask(cluster, node, &Request::get(&format!("/{key}"))).expect(200).text()
}

#[test]
fn a_fork_is_made_and_deleted_whichever_leader_dies() {
    let mut cluster = Cluster::form([0, 1, 2], &[]);
    let mut names = 0;
    let mut pairs = Vec::new();
    for dies in 0..5 {
        let pair = Pair::new(&cluster, &mut names);
        let Pair { source, fork, source_leader, fork_leader } = &pair;
        let (make, delete) = (pair.make_fork(), Request::delete(&format!("/{fork}")));
        let of = |kind, key: &String| Step::Of(kind, key.clone());
        let (leader, step) = match dies {
            0 => (*source_leader, of(Kind::Pin, source)),
            1 => (*fork_leader, of(Kind::Create, fork)),
            2 => (*fork_leader, of(Kind::Delete, fork)),
            3 => (*source_leader, of(Kind::Unpin, source)),
            _ => {
                let made = ask(&cluster, 0, &make).status;
                assert!(matches!(made, 200 | 201), "{made}");
                let logs = Logs::of(cluster.setups[*fork_leader].data_dir());
                (*fork_leader, Step::Released(logs.life(fork).expect("it was created")))
            }
        };
        let is_deleted = dies >= 2;
        if is_deleted && dies < 4 {
            let made = ask(&cluster, 0, &make).status;
            assert!(matches!(made, 200 | 201), "{made}");
        }
        let request = if is_deleted { &delete } else { &make };
        let (answer, node) = kill_at(&mut cluster, leader, request, &step);
        let said = answer.map(|answer| answer.status);
        println!("{step:?} at node {leader}: {said:?}");
        let done = if is_deleted { 204 } else { 201 };
        assert!(said.is_none_or(|said| said == done || matches!(said, 503 | 504)), "{said:?} at {step:?}");
        // Two of three are enough to go on.
        let again = ask(&cluster, node, request).status;
        let is_done = said == Some(done);
        match is_deleted {
            false => assert!(again == 200 || (again == 201 && !is_done), "{again} after {said:?} at {step:?}"),
            true => assert!(again == 404 || (again == 204 && !is_done), "{again} after {said:?} at {step:?}"),
        }
        assert_eq!(read(&cluster, node, source), TEXT);
        if !is_deleted {
            assert_eq!(read(&cluster, node, fork), TEXT);
        }
        cluster.restart(leader);
        pairs.push(pair);
    }
    for pair in &pairs {
        for key in [&pair.source, &pair.fork] {
            let gone = ask(&cluster, 0, &Request::delete(&format!("/{key}"))).status;
            assert!(matches!(gone, 204 | 404 | 410), "{gone}");
        }
    }
    for key in pairs.iter().flat_map(|pair| [&pair.source, &pair.fork]) {
        wait_until(&format!("the end of {key}"), SETTLED_WITHIN, || {
            ask(&cluster, 0, &Request::head(&format!("/{key}"))).status == 404
        });
    }
    for node in 0..3 {
        for name in ["weir_streams", "weir_hot_bytes"] {
            wait_until(name, PATIENCE, || metric(cluster.server(node), name) == 0.0);
        }
    }
}
