//! The cold tier of a cluster: a bucket that all nodes have.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use weir_testkit::{Client, Connection, Fault, Request, S3, Setup, metric, wait_until};

use crate::grown::{ordered, wait_settled};
use crate::nodes::{Cluster, again};
use crate::operated::weir_cluster;

const URL: &str = "s3://weir/test";
/// How long bytes may take into the bucket.
const MOVES_WITHIN: Duration = Duration::from_secs(60);
const STREAMS: usize = 4;
/// Together three times of what the logs of a node take.
const RECORDS: usize = 160;
const RECORD_BYTES: usize = 256 << 10;
const BUDGET_BYTES: usize = 48 << 20;
/// Records that are more than goes with a snapshot to another node without anybody trying to have less of it.
const HEAVY_RECORDS: usize = 72;
/// Records of each stream that a node has when it leaves its group.
const LEFT: usize = 10;
/// How soon appends go on when there is a majority again: an election, and a snapshot that is sent.
const GOES_ON_WITHIN: Duration = Duration::from_secs(8);

/// What a node on `s3` is told, which moves bytes at once and has little room for logs.
fn variables(s3: &S3) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", "key".to_string()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_string()),
        ("WEIR_COLD_URL", URL.to_string()),
        ("WEIR_COLD_ENDPOINT", s3.endpoint()),
        ("WEIR_COLD_ALLOW_HTTP", "true".to_string()),
        ("WEIR_COLD_FLUSH_AGE_MS", "500".to_string()),
        ("WEIR_COLD_FLUSH_BYTES", (2 << 20).to_string()),
        ("WEIR_HTTP_BODY_BYTES_MAX", (1 << 20).to_string()),
        ("WEIR_WAL_SEGMENT_BYTES", (4 << 20).to_string()),
        ("WEIR_WAL_BUDGET_BYTES", BUDGET_BYTES.to_string()),
    ]
}

fn on(s3: &S3) -> Cluster {
    with(s3, &[])
}

/// Nodes on `s3` that have these numbers in place of the others'.
fn with(s3: &S3, numbers: &[(&'static str, usize)]) -> Cluster {
    let mut variables = variables(s3);
    variables.extend(numbers.iter().map(|(name, number)| (*name, number.to_string())));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Cluster::new(&variables)
}

fn target(stream: usize) -> String {
    format!("/tier/s{stream}")
}

/// Record `number` of a stream: no two are alike, and none is all of one letter.
fn record(stream: usize, number: usize) -> String {
    format!("{stream}-{number:04}|").repeat(RECORD_BYTES / 7)
}

/// Writes record `number` of each stream, and again until it is written: a producer's number says that it is the same.
fn write(client: &mut Client, number: usize) {
    for stream in 0..STREAMS {
        let (target, record) = (target(stream), record(stream, number));
        let request = || {
            let request = Request::post(&target).body("text/plain", record.clone());
            request.header("Producer-Id", "p").header("Producer-Epoch", 0).header("Producer-Seq", number)
        };
        wait_until("the record is written", MOVES_WITHIN, || {
            let response = again(client, request);
            match response.status {
                200 | 204 => true,
                // Nobody knows, or the log is full until something has left it.
                504 | 507 => false,
                _ => panic!("{response:?}"),
            }
        });
    }
}

#[track_caller]
fn assert_whole(client: &mut Client, records: usize, what: &str) {
    for stream in 0..STREAMS {
        let expected: String = (0..records).map(|number| record(stream, number)).collect();
        let read = client.read_all(&target(stream));
        assert!(read == expected.as_bytes(), "{} {what}: {} bytes of {}", target(stream), read.len(), expected.len());
    }
}

fn weir(s3: &S3, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.envs(variables(s3)).args(args).output().expect("it runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Sums a figure of all nodes.
fn sum(cluster: &Cluster, name: &str) -> f64 {
    cluster.servers.iter().flatten().map(|server| metric(server, name)).sum()
}

#[test]
fn far_more_than_the_logs_take_goes_to_the_bucket_whoever_leads() {
    let s3 = S3::start();
    let mut cluster = on(&s3);
    cluster.start(&[2, 0, 1]);
    for target in (0..STREAMS).map(target).chain(["/tier/probe".to_string()]) {
        let create = || Request::put(&target).header("Content-Type", "text/plain");
        let _ = again(&mut cluster.client(0), create).expect(201);
    }
    let mut away = 0;
    for number in 0..RECORDS {
        match number {
            // It is away so long that the log goes on without it.
            20 => {
                away = cluster.leader_of("/tier/probe");
                cluster.kill(away);
            }
            90 => cluster.restart(away),
            120 => {
                let leader = cluster.leader_of("/tier/probe");
                cluster.kill(leader);
                cluster.restart(leader);
            }
            _ => {}
        }
        let node = (number..).map(|turn| turn % 3).find(|node| cluster.servers[*node].is_some()).expect("two run");
        write(&mut cluster.client(node), number);
    }
    const { assert!(STREAMS * RECORDS * RECORD_BYTES > 3 * BUDGET_BYTES, "the logs could have it all") };
    for node in 0..3 {
        cluster.wait_caught_up(node, (node + 1) % 3);
        assert_whole(&mut cluster.client(node), RECORDS, &format!("through node {}", node + 1));
    }
    assert!(
        cluster.setups[away].log().contains("goes on from a snapshot of another node"),
        "it was sent what it lacked"
    );
    let chunks = s3.chunks();
    let terms: BTreeSet<_> =
        chunks.iter().map(|chunk| chunk.rsplit('/').next().and_then(|name| name.split('-').nth(1))).collect();
    assert!(terms.len() > 1, "only one leader has put chunks: {terms:?}");

    // All nodes at once, and all of them again.
    (0..3).for_each(|node| cluster.kill(node));
    cluster.start(&[1, 2, 0]);
    wait_until("everything is in the bucket", MOVES_WITHIN, || sum(&cluster, "weir_hot_bytes") == 0.0);
    assert_whole(&mut cluster.client(1), RECORDS, "after a restart of all nodes");
    check_and_back_up(&s3, &cluster);
    assert_eq!(sum(&cluster, "weir_cold_reads_damaged_total"), 0.0);

    // All nodes are lost: what the bucket has is one node.
    wait_quiet(&s3);
    (0..3).for_each(|node| cluster.kill(node));
    let home = cluster.setups[0].home().join("recovered");
    let recover = ["recover", "--from", URL, "--take-over", "--data-dir", &home.to_string_lossy()];
    let recovered = weir(&s3, &recover);
    assert_eq!(recovered.status.code(), Some(0), "{}", said(&recovered));
    let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).data_dir_at(&home);
    for (name, value) in variables(&s3) {
        setup = setup.env(name, value);
    }
    let server = setup.start();
    assert_whole(&mut server.client(), RECORDS, "recovered");
    server.kill();
    // The nodes of before are not let in any more.
    assert_refused(&cluster.setups[0], &["cold.url", URL, "another cluster's"]);
}

/// Waits until no snapshot has come to the bucket for ten times as long as one may take to come.
fn wait_quiet(s3: &S3) {
    let snapshots = || {
        let objects = s3.objects();
        objects.keys().filter(|object| object.ends_with(".snapshot")).cloned().collect::<BTreeSet<_>>()
    };
    let (mut before, mut since) = (snapshots(), Instant::now());
    wait_until("the bucket is quiet", MOVES_WITHIN, || {
        let now = snapshots();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(5)
    });
}

/// Each node looks at what it leads, and says what it has not looked at.
fn check_and_back_up(s3: &S3, cluster: &Cluster) {
    let admins: Vec<String> = (0..3).map(|node| format!("http://{}", cluster.server(node).admin())).collect();
    let checks: Vec<String> = admins
        .iter()
        .map(|admin| {
            let check = weir(s3, &["cold", "check", "--admin", admin]);
            assert_eq!(check.status.code(), Some(0), "{}", said(&check));
            said(&check)
        })
        .collect();
    let not_checked: usize = checks.iter().map(|said| said.matches("which another node leads").count()).sum();
    assert_eq!(not_checked, 2 * 3, "each group is checked by one node: {checks:?}");
    let to = format!("file://{}", cluster.setups[0].home().join("backup").display());
    let backups: Vec<Output> =
        admins.iter().map(|admin| weir(s3, &["backup", "--to", &to, "--admin", admin])).collect();
    let codes: Vec<_> = backups.iter().map(|backup| backup.status.code()).collect();
    let last = backups.last().expect("there are three");
    assert_eq!(last.status.code(), Some(0), "{}", said(last));
    let is_told = said(last).contains("are as those nodes have backed them up last");
    let leads_all = !said(last).contains("which other nodes lead");
    assert!(is_told || leads_all, "{codes:?} {}", said(last));
    let missing = backups.iter().filter(|backup| backup.status.code() != Some(0)).map(said).collect::<Vec<_>>();
    assert!(missing.iter().all(|said| said.contains("make a backup to it, too")), "{missing:?}");
    let home = cluster.setups[0].home().join("restored");
    let restored = weir(s3, &["restore", "--from", &to, "--data-dir", &home.to_string_lossy()]);
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    let server = restored_at(&home).start();
    assert_whole(&mut server.client(), RECORDS, "restored");
    server.kill();
}

fn restored_at(home: &Path) -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir")).data_dir_at(home)
}

#[track_caller]
fn assert_refused(setup: &Setup, words: &[&str]) {
    let exit = setup.run();
    assert_eq!(exit.code, Some(7), "{exit:?}");
    let sentence = exit.log.lines().find(|line| line.starts_with("weir: ")).unwrap_or_default();
    assert!(words.iter().all(|word| sentence.contains(word)), "{words:?} in {sentence:?}; log:\n{}", exit.log);
}

#[test]
fn nodes_that_have_another_bucket_or_another_disk_are_not_let_in() {
    let s3 = S3::start();
    let mut cluster = on(&s3);
    cluster.setups[2] = cluster.setups[2].clone().env("WEIR_COLD_URL", "s3://weir/other");
    let stray = {
        let mut setup = cluster.setups[2].clone();
        // It is never ready, and ends with the test's patience.
        thread::spawn(move || drop(setup.try_start()))
    };
    cluster.start(&[0, 1]);
    let create = || Request::put("/tier/s").body("text/plain", "two are enough");
    let _ = again(&mut cluster.client(0), create).expect(201);
    let has_met = |node: usize| {
        let log = cluster.setups[node].log();
        log.contains("the clusters have other names, or other cold tiers")
    };
    wait_until("both sides say why", MOVES_WITHIN, || has_met(2) && (has_met(0) || has_met(1)));
    assert_eq!(cluster.client(1).read_all("/tier/s"), b"two are enough");

    // Another cluster that is called the same.
    let twin = on(&s3);
    assert_refused(&twin.setups[0], &["cold.url", URL, "node 1 of a cluster of this name has used it before"]);
    // And a node that is alone.
    let mut alone = Setup::new(env!("CARGO_BIN_EXE_weir"));
    for (name, value) in variables(&s3) {
        alone = alone.env(name, value);
    }
    assert_refused(&alone, &["cold.url", URL, "another cluster's", " test"]);
    assert!(stray.join().is_err(), "it is not ready while nobody lets it in");
}

#[test]
fn a_node_that_waits_to_be_taken_in_finds_the_bucket_when_the_cluster_has_claimed_it() {
    let s3 = S3::start();
    let mut cluster = on(&s3);
    let early = cluster.newcomer(4, 0);
    cluster.servers[3] = Some(early.spawn());
    wait_until("it asks", MOVES_WITHIN, || cluster.setups[3].log().contains("this node is not taken in yet"));
    assert!(s3.objects().is_empty(), "nobody has claimed the bucket");
    cluster.start(&[0, 1, 2]);
    wait_until("it is refused by its number", MOVES_WITHIN, || {
        cluster.setups[3].log().contains("node 4 is not one of the cluster's nodes")
    });
    let address = cluster.addresses[3].to_string();
    wait_until("it is added", MOVES_WITHIN, || weir_cluster(&cluster, 0, &["add", "4", &address]).code == Some(0));
    wait_settled(&cluster, 0, &[1, 2, 3, 4]);
    wait_until("it is ready", MOVES_WITHIN, || {
        let ready =
            Connection::open(cluster.server(3).admin()).and_then(|mut admin| admin.send(&Request::get("/readyz")));
        ready.is_ok_and(|ready| ready.status == 200)
    });
}

#[test]
fn a_folder_is_no_cold_tier_for_several_nodes_and_the_operator_is_told() {
    let cluster = Cluster::form([0, 1, 2], &[]);
    for node in 0..3 {
        assert!(cluster.setups[node].log().contains("a folder is no cold tier for several nodes"));
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["backup", "--to", "file:///nowhere", "--admin", &format!("http://{}", cluster.server(0).admin())])
        .output()
        .expect("it runs");
    assert!(said(&refused).contains("there is no cold tier"), "{}", said(&refused));
}

#[test]
fn a_node_with_a_bucket_and_bindings_grows_to_three_and_can_be_lost() {
    const WRITTEN: usize = 20;
    let s3 = S3::start();
    let variables = variables(&s3);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let chunks = || s3.chunks().len();
    let mut cluster = Cluster::of_one(&variables, |alone| {
        let mut client = alone.client();
        let binding = json!({ "streams": "**", "module": "builtin:stats", "role": "summary" }).to_string();
        let _ = client.send(Request::put("/tier/-/bindings/totals").body("application/json", binding)).expect(201);
        for target in (0..STREAMS).map(target) {
            let _ = client.send(Request::put(&target).header("Content-Type", "text/plain")).expect(201);
        }
        (0..WRITTEN).for_each(|number| write(&mut client, number));
        wait_until("bytes are in the bucket", MOVES_WITHIN, || chunks() > 0);
    });
    assert_whole(&mut cluster.client(0), WRITTEN, "as one of one");
    for number in [2, 3] {
        let add = |cluster: &Cluster, address: &str| ordered(cluster, 0, &["add", &number.to_string(), address]);
        cluster.join(number, 0, add);
    }
    wait_settled(&cluster, 0, &[1, 2, 3]);
    write(&mut cluster.client(1), WRITTEN);
    cluster.kill(0);
    write(&mut cluster.client(2), WRITTEN + 1);
    for node in [1, 2] {
        let mut client = cluster.client(node);
        assert_whole(&mut client, WRITTEN + 2, "without the first node");
        let view = again(&mut client, || Request::get(&format!("{}?summary=totals", target(0)))).expect(200);
        assert_eq!(view.json()["count"], WRITTEN + 2);
    }
}

#[test]
fn a_node_that_lacks_what_the_logs_have_given_up_is_enough_for_a_majority_at_once() {
    is_enough_for_a_majority(false);
}

/// The leader has put a chunk, and what says so is not committed before the other node has its snapshot.
#[test]
fn a_node_that_lacks_what_the_logs_have_given_up_is_enough_for_a_majority_while_bytes_are_moved() {
    is_enough_for_a_majority(true);
}

/// A node was away for so long that it needs a snapshot, with which goes what the bucket has not taken; and the leader dies or, while it
/// moves bytes, the other node.
fn is_enough_for_a_majority(moves_bytes: bool) {
    let s3 = S3::start();
    let mut cluster = with(&s3, &[("WEIR_WAL_BUDGET_BYTES", 4 * BUDGET_BYTES)]);
    cluster.start(&[0, 1, 2]);
    let (target, body) = (target(0), record(0, 0));
    let create = || Request::put(&target).body("text/plain", "begun ");
    assert_eq!(again(&mut cluster.client(0), create).status, 201);
    let leader = cluster.leader_of(&target);
    let [other, away] = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.kill(away);
    let write = |cluster: &Cluster| {
        for _ in 0..HEAVY_RECORDS {
            let append = Request::post(&target).body("text/plain", body.clone());
            let _ = cluster.client(leader).send(append).expect(204);
        }
    };
    write(&cluster);
    wait_until("all has left the logs", MOVES_WITHIN, || metric(cluster.server(leader), "weir_hot_bytes") == 0.0);
    s3.fail(Fault::Away);
    write(&cluster);
    let (dies, stays) = if moves_bytes { (other, leader) } else { (leader, other) };
    if moves_bytes {
        let hot_bytes = metric(cluster.server(leader), "weir_hot_bytes");
        s3.heal();
        wait_until("some are moved", MOVES_WITHIN, || metric(cluster.server(leader), "weir_hot_bytes") < hot_bytes);
    }
    cluster.kill(dies);
    let begun = Instant::now();
    cluster.restart(away);
    let append = || Request::post(&target).body("text/plain", "go on");
    wait_until("appends go on", MOVES_WITHIN, || again(&mut cluster.client(stays), append).status == 204);
    assert!(begun.elapsed() < GOES_ON_WITHIN, "nothing was appended for {:?}", begun.elapsed());
    s3.heal();
    let expected = ["begun ", "who leads? ", &body.repeat(2 * HEAVY_RECORDS), "go on"].concat();
    for node in [stays, away] {
        assert!(cluster.client(node).read_all(&target) == expected.as_bytes(), "through node {node}");
    }
}

/// Nobody moves bytes of a group out of the log of a node that has left it, and the log goes from its front only.
#[test]
fn what_a_node_has_of_a_group_that_it_has_left_does_not_fill_its_log() {
    let s3 = S3::start();
    // Bytes leave the logs when those are short of space, and not before.
    let mut cluster = with(&s3, &[("WEIR_COLD_FLUSH_AGE_MS", 3_600_000), ("WEIR_COLD_FLUSH_BYTES", 16 << 20)]);
    cluster.start(&[0, 1, 2]);
    for target in (0..STREAMS).map(target) {
        let create = || Request::put(&target).header("Content-Type", "text/plain");
        let _ = again(&mut cluster.client(0), create).expect(201);
    }
    const { assert!(LEFT * STREAMS * RECORD_BYTES < BUDGET_BYTES / 4, "it stays in the logs") };
    for number in 0..LEFT {
        write(&mut cluster.client(number % 3), number);
    }
    cluster.join(4, 0, |cluster, address| ordered(cluster, 1, &["add", "4", address]));
    let settled = wait_settled(&cluster, 0, &[1, 2, 3, 4]);
    let has = |node: usize, group: usize| {
        let voters = settled["groups"][group]["voters"][0].as_array().expect("a set");
        voters.contains(&(node + 1).into())
    };
    // Groups 0 and 2 are on one shard, and so in one log.
    assert!((0..3).any(|node| has(node, 0) != has(node, 2)), "{settled:#}");
    for number in LEFT..RECORDS {
        write(&mut cluster.client(number % 4), number);
    }
    for (node, wal) in (0..4).flat_map(|node| [(node, 0), (node, 1)]) {
        let figure = |name: &str| metric(cluster.server(node), &format!("{name}{{wal=\"{wal}\"}}"));
        wait_until(&format!("log {wal} of node {} has space", node + 1), MOVES_WITHIN, || {
            figure("weir_wal_used_bytes") < figure("weir_wal_used_bytes_max") * 0.75
        });
    }
    for node in 0..4 {
        assert_whole(&mut cluster.client(node), RECORDS, &format!("through node {}", node + 1));
    }
}
