//! Forks, killed at every step of their coming and going. Source and fork are in different groups, so each step is one command in
//! one of two logs. Whatever the step was: what streams hold is right, the same request again has the right answer, what the kill
//! has left is finished, and in the end nothing is left of anything.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weir_testkit::{Client, Connection, Request, Response, S3, Server, Setup, metric, wait_until};

use crate::setup;
use crate::steps::{Kind, Logs, Step};

/// How long what a kill has left may take: a pin waits half a minute for its fork.
const PATIENCE: Duration = Duration::from_secs(90);
/// Kills at each step.
const ROUNDS: usize = 6;
/// Bytes of each record.
const RECORD_BYTES: usize = 3000;

/// Bytes of what is written to have logs go on: not much less than a body may have.
const FILLER_BYTES: usize = 100 << 10;

/// Where the bytes are that a fork inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Log,
    Chunks,
    Both,
}

const TIERS: [Tier; 3] = [Tier::Log, Tier::Chunks, Tier::Both];

/// Where chunks are.
enum Store {
    Folder,
    Bucket(S3),
}

impl Store {
    /// A server that has its chunks here.
    fn told(&self, setup: Setup) -> Setup {
        let Store::Bucket(s3) = self else { return setup };
        setup
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("WEIR_COLD_URL", "s3://weir/forks")
            .env("WEIR_COLD_ENDPOINT", s3.endpoint())
            .env("WEIR_COLD_ALLOW_HTTP", true)
    }

    /// How many there are of a server with this data directory.
    fn chunks(&self, data_dir: &Path) -> usize {
        match self {
            Store::Folder => {
                let files = fs::read_dir(data_dir.join("cold")).expect("a folder").flatten();
                files.filter(|file| file.path().extension().is_some_and(|extension| extension == "chunk")).count()
            }
            Store::Bucket(s3) => s3.chunks().len(),
        }
    }
}

/// A source, its fork, and the fork of that, by `bucket/name`: each in another group than the one before.
#[derive(Clone, Debug)]
struct Tree {
    tier: Tier,
    source: String,
    fork: String,
    leaf: String,
}

impl Tree {
    /// What its source holds.
    fn text(&self) -> String {
        let record = |number: usize| format!("{number} {} {}\n", self.source, "x".repeat(RECORD_BYTES));
        (0..3).map(record).collect()
    }

    fn keys(&self) -> [&String; 3] {
        [&self.source, &self.fork, &self.leaf]
    }
}

/// A server over its lives.
struct Run {
    /// How it is started so that it moves bytes into chunks at once.
    flushing: Setup,
    /// How it is started so that bytes stay where they are.
    resting: Setup,
    store: Store,
    server: Option<Server>,
    logs: Logs,
    names: usize,
    trees: Vec<Tree>,
}

impl Run {
    /// A server with the sources of `count` trees.
    fn new(count: usize, store: Store) -> Run {
        let resting = store.told(setup("2"));
        let mut flushing = resting.clone().env("WEIR_COLD_FLUSH_AGE_MS", 1);
        let server = flushing.start();
        // It may have had to find other ports.
        let resting = resting.listen(server.address()).admin_listen(server.admin());
        let mut client = server.client();
        for bucket in ["source", "fork", "leaf"] {
            let _ = client.send(Request::put(&format!("/{bucket}"))).expect(201);
        }
        let logs = Logs::of(flushing.data_dir());
        let mut run = Run { flushing, resting, store, server: Some(server), logs, names: 0, trees: Vec::new() };
        for number in 0..count {
            let (tier, group) = (TIERS[number % 3], (number / 3 % 2) as u16);
            let [source, fork, leaf] = [("source", group), ("fork", 1 - group), ("leaf", group)]
                .map(|(bucket, group)| run.place(bucket, group));
            run.trees.push(Tree { tier, source, fork, leaf });
        }
        for tree in run.trees.clone().iter().filter(|tree| tree.tier != Tier::Log) {
            let text = tree.text();
            let first = if tree.tier == Tier::Both { text.len() / 3 * 2 } else { text.len() };
            let create = Request::put(&target(&tree.source)).body("text/plain", &text.as_bytes()[..first]);
            let _ = run.client().send(create).expect(201);
        }
        wait_until("all is in chunks", PATIENCE, || metric(run.server(), "weir_hot_bytes") == 0.0);
        assert!(run.store.chunks(run.flushing.data_dir()) > 0, "chunks are in the store");
        run.server.take().expect("it runs").kill();
        run.restart();
        for tree in run.trees.clone() {
            let text = tree.text();
            let first = text.len() / 3 * 2;
            let _ = match tree.tier {
                Tier::Chunks => continue,
                Tier::Log => {
                    run.client().send(Request::put(&target(&tree.source)).body("text/plain", text)).expect(201)
                }
                Tier::Both => {
                    let more = &text.as_bytes()[first..];
                    run.client().send(Request::post(&target(&tree.source)).body("text/plain", more)).expect(204)
                }
            };
        }
        run
    }

    /// A name for a stream that falls into this group.
    fn place(&mut self, bucket: &str, group: u16) -> String {
        loop {
            self.names += 1;
            let key = format!("{bucket}/{}", self.names);
            let _ = self.client().send(Request::put(&target(&key))).expect(201);
            let _ = self.client().send(Request::delete(&target(&key))).expect(204);
            self.logs.look();
            let found = self.logs.find(&Step::Of(Kind::Create, key.clone())).expect("it was created");
            if found == group {
                return key;
            }
        }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    fn client(&self) -> Client {
        self.server().client()
    }

    fn status(&self, key: &str) -> u16 {
        self.client().send(Request::head(&target(key))).status
    }

    fn restart(&mut self) {
        self.server = Some(self.resting.start());
        self.logs = Logs::of(self.resting.data_dir());
        self.logs.forget();
    }

    fn make_fork(&self, source: &str, fork: &str) -> Response {
        self.client().send(fork_of(source, fork))
    }

    /// Sends a request, kills the server at the step or when `is_over` says so, and starts it again. Returns the answer, if it
    /// has come, and what was in the logs.
    fn kill_at(
        &mut self,
        request: Request,
        step: Option<&Step>,
        is_over: impl Fn(&JoinHandle<io::Result<Response>>) -> bool,
    ) -> (Option<Response>, Logs) {
        let server = self.server.take().expect("it runs");
        let mut connection = Connection::open(server.address()).expect("it listens");
        let asked = thread::spawn(move || connection.send(&request));
        let steps = step.map_or(&[][..], std::slice::from_ref);
        self.logs.kill_at(server, steps, || is_over(&asked));
        let answer = asked.join().expect("it is answered or not").ok();
        let mut logs = Logs::of(self.resting.data_dir());
        std::mem::swap(&mut logs, &mut self.logs);
        self.restart();
        (answer, logs)
    }

    #[track_caller]
    fn assert_holds(&self, key: &str, text: &str) {
        let stored = self.client().read_all(&target(key));
        assert!(stored == text.as_bytes(), "{key} holds {} bytes, and not {}", stored.len(), text.len());
    }

    /// Deletes all that there is, and waits until nothing is left: no stream, no byte, no chunk.
    fn end(mut self) {
        self.server.take().expect("it runs").kill();
        self.server = Some(self.flushing.start());
        for tree in &self.trees {
            for key in tree.keys().into_iter().rev() {
                let gone = self.client().send(Request::delete(&target(key)));
                assert!(matches!(gone.status, 204 | 404 | 410), "{gone:?}");
            }
        }
        for tree in &self.trees {
            for key in tree.keys() {
                wait_until(&format!("the end of {key}"), PATIENCE, || self.status(key) == 404);
            }
        }
        self.wait_logs_renewed();
        for name in ["weir_streams", "weir_hot_bytes", "weir_cold_bytes", "weir_cold_chunks"] {
            wait_until(name, PATIENCE, || metric(self.server(), name) == 0.0);
        }
        wait_until("the store is empty", PATIENCE, || self.store.chunks(self.flushing.data_dir()) == 0);
        // While a snapshot is made, it keeps what streams took before.
        wait_until("no memory is taken for streams", PATIENCE, || {
            metric(self.server(), "weir_hot_index_bytes") == metric(self.server(), "weir_wal_index_bytes")
        });
        let mut client = self.client();
        for bucket in ["source", "fork", "leaf"] {
            let _ = client.send(Request::delete(&format!("/{bucket}"))).expect(204);
        }
        drop(client);
        assert_eq!(self.server.take().expect("it runs").stop().code, Some(0));
    }

    /// Writes to both logs until none has a file that it has now.
    fn wait_logs_renewed(&mut self) {
        let fillers = [0, 1].map(|group| target(&self.place("leaf", group)));
        self.logs = Logs::of(self.flushing.data_dir());
        let last = self.logs.last_segments();
        wait_until("the logs have given back all that they had", PATIENCE, || {
            for filler in &fillers {
                let create = Request::put(filler).body("text/plain", vec![b'x'; FILLER_BYTES]);
                let _ = self.client().send(create).expect(201);
                let _ = self.client().send(Request::delete(filler)).expect(204);
            }
            self.logs.first_segments().iter().zip(&last).all(|(first, last)| first > last)
        });
    }
}

fn target(key: &str) -> String {
    format!("/{key}")
}

fn fork_of(source: &str, fork: &str) -> Request {
    Request::put(&target(fork)).header("Stream-Forked-From", target(source))
}

/// When it is killed while a fork is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Soon after the request.
    Asked,
    Pinned,
    Created,
    Answered,
}

#[test]
fn killed_at_every_step_of_a_forks_creation() {
    kill_at_every_step_of_a_forks_creation(Store::Folder);
}

#[test]
fn killed_at_every_step_of_a_forks_creation_with_a_bucket() {
    kill_at_every_step_of_a_forks_creation(Store::Bucket(S3::start()));
}

fn kill_at_every_step_of_a_forks_creation(store: Store) {
    // Pins without a fork come last, so that they are there when their time is over.
    let moments = [Moment::Asked, Moment::Answered, Moment::Created, Moment::Pinned];
    let mut run = Run::new(moments.len() * ROUNDS, store);
    let trees = run.trees.clone();
    for (moment, trees) in moments.into_iter().zip(trees.chunks(ROUNDS)) {
        let mut met = 0;
        for (round, tree) in trees.iter().enumerate() {
            met += usize::from(is_killed_at(&mut run, moment, round, tree));
        }
        println!("{moment:?}: {met} of {ROUNDS}");
        assert!(met > 0, "no kill was between {moment:?} and what follows");
    }
    settle(&mut run, &trees);
    for tree in &trees {
        run.assert_holds(&tree.source, &tree.text());
    }
    run.end();
}

/// Kills the server when a fork has come that far. Returns whether it has come no further.
fn is_killed_at(run: &mut Run, moment: Moment, round: usize, tree: &Tree) -> bool {
    let Tree { source, fork, .. } = tree;
    let (pin, create) = (Step::Of(Kind::Pin, source.clone()), Step::Of(Kind::Create, fork.clone()));
    let request = fork_of(source, fork);
    let looks = Cell::new(0);
    let (answer, logs) = match moment {
        Moment::Asked => run.kill_at(request, None, |_| looks.replace(looks.get() + 1) == round),
        Moment::Pinned => run.kill_at(request, Some(&pin), |_| false),
        Moment::Created => run.kill_at(request, Some(&create), |_| false),
        Moment::Answered => run.kill_at(request, None, JoinHandle::is_finished),
    };
    let (is_pinned, is_created) = (logs.find(&pin).is_some(), logs.find(&create).is_some());
    let is_answered = answer.is_some();
    if let Some(answer) = answer {
        let _ = answer.expect(201);
        assert!(is_created, "nothing is acknowledged that is not in the log");
    }
    let when = format!("{moment:?}, {tree:?}, pinned {is_pinned}, created {is_created}, answered {is_answered}");
    run.assert_holds(source, &tree.text());
    let found = run.status(fork);
    assert!(matches!(found, 200 | 404), "{found} {when}");
    assert!(found == 404 || is_created, "{when}");
    assert!(found == 200 || !is_answered, "what was acknowledged is lost: {when}");
    // Some clients ask again, and some do not come back.
    if round < 3 || moment == Moment::Answered {
        let again = run.make_fork(source, fork);
        assert_eq!(again.status, if found == 200 { 200 } else { 201 }, "{when}");
    }
    if found == 200 || round < 3 {
        run.assert_holds(fork, &tree.text());
        let _ = run.client().send(Request::post(&target(fork)).body("text/plain", "own")).expect(204);
        run.assert_holds(fork, &(tree.text() + "own"));
        run.assert_holds(source, &tree.text());
    }
    match moment {
        Moment::Asked => !is_pinned,
        Moment::Pinned => is_pinned && !is_created,
        Moment::Created => is_created && !is_answered,
        Moment::Answered => is_answered,
    }
}

/// Kills the server while it finds out about pins, at each step of that.
fn settle(run: &mut Run, trees: &[Tree]) {
    let of = |kind, key: fn(&Tree) -> &String| -> Vec<Step> {
        trees.iter().map(|tree| Step::Of(kind, key(tree).clone())).collect()
    };
    for steps in [
        of(Kind::ForkDecide, |tree| &tree.fork),
        of(Kind::PinSettle, |tree| &tree.source),
        of(Kind::Unpin, |tree| &tree.source),
    ] {
        let server = run.server.take().expect("it runs");
        let step = run.logs.kill_at(server, &steps, || false);
        println!("killed at {step:?}");
        run.restart();
    }
}

#[test]
fn killed_at_every_step_of_a_deletion() {
    kill_at_every_step_of_a_deletion(Store::Folder);
}

#[test]
fn killed_at_every_step_of_a_deletion_with_a_bucket() {
    kill_at_every_step_of_a_deletion(Store::Bucket(S3::start()));
}

fn kill_at_every_step_of_a_deletion(store: Store) {
    let mut run = Run::new(3 * 12, store);
    let mut trees = run.trees.clone().into_iter();
    for step in 0..12 {
        let mut met = 0;
        for _ in TIERS {
            let tree = trees.next().expect("there are enough");
            met += usize::from(match step {
                0..4 => is_deleted(&mut run, step, &tree),
                4..6 => is_source_deleted(&mut run, step - 4, &tree),
                _ => is_tree_deleted(&mut run, step - 6, &tree),
            });
        }
        println!("step {step}: {met} of {}", TIERS.len());
        assert!(met > 0, "no kill was between step {step} and what follows");
    }
    run.end();
}

/// Kills the server while a fork is deleted.
fn is_deleted(run: &mut Run, step: usize, tree: &Tree) -> bool {
    let Tree { source, fork, .. } = tree;
    let _ = run.make_fork(source, fork).expect(201);
    run.logs.look();
    let life = run.logs.life(fork).expect("it was created");
    let deleted = Step::Of(Kind::Delete, fork.clone());
    let unpinned = Step::Of(Kind::Unpin, source.clone());
    let released = Step::Released(life);
    let request = Request::delete(&target(fork));
    let (answer, logs) = match step {
        0 => run.kill_at(request, Some(&deleted), |_| false),
        1 => run.kill_at(request, None, JoinHandle::is_finished),
        2 => run.kill_at(request, Some(&unpinned), |_| false),
        _ => run.kill_at(request, Some(&released), |_| false),
    };
    let is_answered = answer.is_some_and(|answer| answer.expect(204).status == 204);
    let again = run.client().send(Request::delete(&target(fork))).status;
    assert!(again == 404 || (again == 204 && !is_answered), "{again} at {step} of {tree:?}");
    assert_eq!(run.status(fork), 404);
    run.assert_holds(source, &tree.text());
    let there = [&unpinned, &released].map(|step| logs.find(step).is_some());
    match step {
        0 => !is_answered,
        1 => !there[0],
        2 => !there[1],
        _ => there[1],
    }
}

/// Kills the server while a source is deleted that its fork keeps.
fn is_source_deleted(run: &mut Run, step: usize, tree: &Tree) -> bool {
    let Tree { source, fork, .. } = tree;
    let _ = run.make_fork(source, fork).expect(201);
    let request = Request::delete(&target(source));
    let (answer, _) = match step {
        0 => run.kill_at(request, Some(&Step::Of(Kind::Delete, source.clone())), |_| false),
        _ => run.kill_at(request, None, JoinHandle::is_finished),
    };
    let is_answered = answer.is_some_and(|answer| answer.expect(204).status == 204);
    let again = run.client().send(Request::delete(&target(source))).status;
    assert!(again == 410 || (again == 204 && !is_answered), "{again} at {step} of {tree:?}");
    assert_eq!((run.status(source), run.status(fork)), (410, 200));
    run.assert_holds(fork, &tree.text());
    let _ = run.client().send(Request::delete(&target(fork))).expect(204);
    wait_until("the source goes with its fork", PATIENCE, || run.status(source) == 404);
    is_answered == (step == 1)
}

/// Kills the server while the last of a tree is deleted, which takes all others along.
fn is_tree_deleted(run: &mut Run, step: usize, tree: &Tree) -> bool {
    let Tree { source, fork, leaf, .. } = tree;
    let _ = run.make_fork(source, fork).expect(201);
    let _ = run.client().send(Request::post(&target(fork)).body("text/plain", "own")).expect(204);
    let _ = run.make_fork(fork, leaf).expect(201);
    for key in [source, fork] {
        let _ = run.client().send(Request::delete(&target(key))).expect(204);
    }
    run.assert_holds(leaf, &(tree.text() + "own"));
    run.logs.look();
    let [fork_life, leaf_life] = [fork, leaf].map(|key| run.logs.life(key).expect("it was created"));
    let steps = [
        Step::Of(Kind::Delete, leaf.clone()),
        Step::Of(Kind::Unpin, fork.clone()),
        Step::Released(leaf_life),
        Step::Of(Kind::Unpin, source.clone()),
        Step::Released(fork_life),
    ];
    let request = Request::delete(&target(leaf));
    let (answer, logs) = match steps.get(step) {
        Some(step) => run.kill_at(request, Some(step), |_| false),
        None => run.kill_at(request, None, JoinHandle::is_finished),
    };
    let is_answered = answer.is_some_and(|answer| answer.expect(204).status == 204);
    let again = run.client().send(Request::delete(&target(leaf))).status;
    assert!(again == 404 || (again == 204 && !is_answered), "{again} at {step} of {tree:?}");
    for key in [fork, source] {
        wait_until("what only forks kept goes with the last", PATIENCE, || run.status(key) == 404);
    }
    steps.get(step + 1).is_none_or(|next| logs.find(next).is_none())
}
