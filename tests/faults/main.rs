//! Three nodes with a bucket, and whatever can happen to them: killed, stopped, cut off, one way or both, slow, with a slow or a full
//! disk, with a flipped bit, without the bucket, all at once, and started again in any order; replaced for good. What was
//! acknowledged is there, once, in order, wherever it is read, and nobody who asks for a stream's end is told of an earlier one.
//!
//! `WEIR_FAULT_ROUNDS` says how many faults, `WEIR_FAULT_SEED` which, and `WEIR_FAULT_ONLY` has the same happen over and over. Needs
//! `unshare`, `nsenter`, `ip`, `nft` and `bindfs`, and a kernel on which users may have namespaces of their own.

mod load;
mod network;
mod nodes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weir_testkit::history::{History, Outcome};
use weir_testkit::streams::{Kind, Stream};
use weir_testkit::{Connection, Fault as BucketFault, Random, Request, S3};

use crate::load::Load;
use crate::network::{HOSTS, Network};
use crate::nodes::{GROUPS, Nodes};

/// Faults, if nobody says how many: each once.
const ROUNDS: usize = FAULTS.len();
/// Faults until all is checked, and begins anew with other streams.
const ROUNDS_PER_PART: usize = FAULTS.len();
/// Streams: some in each group.
const STREAMS: usize = 6;
/// How long it may take until appends to every stream are acknowledged again. The machine may be busy.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);
/// How long chunks of deleted streams may stay in the bucket.
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
/// A share of unknown outcomes beyond which a run proves little.
const UNKNOWN_MAX: f64 = 0.3;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillLeader,
    Isolate,
    KillAll,
    CutOneWay,
    HandOver,
    Pause,
    LosePackets,
    Replace,
    FlapLinks,
    StopInOrder,
    SlowNode,
    LoseBucket,
    SlowDisk,
    FullDisk,
    FlipBit,
    KillTheCutOff,
}

const FAULTS: [Fault; 16] = [
    Fault::KillLeader,
    Fault::Isolate,
    Fault::KillAll,
    Fault::CutOneWay,
    Fault::HandOver,
    Fault::Pause,
    Fault::LosePackets,
    Fault::Replace,
    Fault::FlapLinks,
    Fault::StopInOrder,
    Fault::SlowNode,
    Fault::LoseBucket,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::FlipBit,
    Fault::KillTheCutOff,
];

/// When something happened, on the test's clock.
struct Round {
    fault: Fault,
    begun: Duration,
    recovered: Duration,
}

fn main() {
    network::enter();
    // Clients go on for as long as they are not told to end; a failure ends all of them, and the nodes.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(1);
    }));
    let number = |name: &str, default: usize| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    };
    let (rounds, seed) = (number("WEIR_FAULT_ROUNDS", ROUNDS), number("WEIR_FAULT_SEED", 1));
    let only = std::env::var("WEIR_FAULT_ONLY").ok().map(|name| {
        let named = FAULTS.into_iter().find(|fault| format!("{fault:?}") == name);
        named.unwrap_or_else(|| panic!("{name} is none of {FAULTS:?}"))
    });
    let network = Network::new();
    let s3 = S3::start_at(network::near(0));
    let mut run = Run {
        only,
        network,
        nodes: Nodes::start(&s3),
        s3,
        random: Random(seed as u64),
        clock: Instant::now(),
        outages: BTreeMap::new(),
        appends: 0,
        unknown: 0,
        found: (0, 0),
    };
    let mut done = 0;
    while done < rounds {
        let part = ROUNDS_PER_PART.min(rounds - done);
        run.part(done, part);
        done += part;
        println!("{done} rounds, {} appends, {} unknown", run.appends, run.unknown);
    }
    run.leave_nothing();
    run.report();
}

struct Run {
    /// What happens, if it is always the same.
    only: Option<Fault>,
    network: Network,
    s3: S3,
    nodes: Nodes,
    random: Random,
    clock: Instant,
    /// The longest time without an acknowledged append to some stream, of each round.
    outages: BTreeMap<Fault, Vec<Duration>>,
    appends: usize,
    unknown: usize,
    /// Flipped bits that were found at the start, of so many.
    found: (usize, usize),
}

impl Run {
    /// Some rounds with streams of their own, and then the check.
    fn part(&mut self, first: usize, rounds: usize) {
        let streams: Vec<Stream> = (0..STREAMS)
            .map(|number| Stream { target: format!("/faults/p{first}-{number}"), kind: Kind::Text })
            .collect();
        let nodes: Vec<_> = (0..HOSTS).map(|host| network::address(host, 4437)).collect();
        for stream in &streams {
            self.again(201, || stream.create());
        }
        let acked_ms = streams.iter().map(|_| AtomicU64::new(0)).collect();
        let load = Load { clock: self.clock, nodes, is_over: AtomicBool::new(false), acked_ms };
        let mut histories: Vec<History> = streams.iter().map(|_| History::default()).collect();
        let (mut seen, mut stored) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            let load = &load;
            let mut seeds = self.random.clone();
            let mut next = || Random(seeds.below(u64::from(u32::MAX)));
            let (mut writing, mut reading, mut following) = (Vec::new(), Vec::new(), Vec::new());
            for (at, stream) in streams.iter().enumerate() {
                let (of_writer, of_producer, of_reader, of_follower) = (next(), next(), next(), next());
                writing.push(scope.spawn(move || (at, load.write(at, stream, &format!("w{at}"), of_writer))));
                writing.push(scope.spawn(move || (at, load.produce(at, stream, &format!("p{at}"), of_producer))));
                reading.push(scope.spawn(move || (at, load.read(stream, of_reader))));
                following.push(scope.spawn(move || (at, load.follow(stream, of_follower))));
            }
            let rounds: Vec<Round> = (first..first + rounds).map(|round| self.round(round, load)).collect();
            load.is_over.store(true, Ordering::Relaxed);
            for (at, attempts) in writing.into_iter().map(|writer| writer.join().expect("a writer")) {
                histories[at].attempts.extend(attempts);
            }
            for (at, (reads, tails)) in reading.into_iter().map(|reader| reader.join().expect("a reader")) {
                histories[at].reads.extend(reads);
                histories[at].tails.extend(tails);
            }
            self.nodes.wait_caught_up();
            assert!(!self.s3.chunks().is_empty(), "no byte has left the nodes");
            for stream in &streams {
                stored.push(self.read_everywhere(stream));
                self.again(204, || Request::delete(&stream.target));
            }
            for (at, reads) in following.into_iter().map(|follower| follower.join().expect("a follower")) {
                histories[at].reads.extend(reads);
            }
            seen = rounds;
        });
        for (history, (stream, stored)) in histories.iter().zip(streams.iter().zip(&stored)) {
            if let Err(violation) = history.check(stored) {
                panic!("{}: {violation}\n{}", stream.target, self.nodes.logs());
            }
            self.appends += history.attempts.len();
            self.unknown += history.attempts.iter().filter(|of| of.outcome == Outcome::Unknown).count();
        }
        for round in seen {
            let outage = histories.iter().map(|history| outage(history, &round)).max().unwrap_or_default();
            self.outages.entry(round.fault).or_default().push(outage);
        }
    }

    /// One fault, and the time until it is over for everybody.
    fn round(&mut self, number: usize, load: &Load) -> Round {
        thread::sleep(self.random.millis(200, 1000));
        // Each once, and then whichever.
        let at = if number < FAULTS.len() { number } else { self.random.below(FAULTS.len() as u64) as usize };
        let fault = self.only.unwrap_or(FAULTS[at]);
        let begun = self.clock.elapsed();
        self.strike(fault);
        self.nodes.check_running();
        let healed = self.clock.elapsed();
        let is_recovered = |acked: &AtomicU64| acked.load(Ordering::Relaxed) > healed.as_millis() as u64;
        while !load.acked_ms.iter().all(is_recovered) {
            let since = self.clock.elapsed() - healed;
            assert!(since < RECOVERED_WITHIN, "no appends for {since:?} after {fault:?}:\n{}", self.nodes.logs());
            self.nodes.check_running();
            thread::sleep(Duration::from_millis(10));
        }
        let recovered = self.clock.elapsed();
        println!("round {number}: {fault:?} for {:?}, over after {:?}", healed - begun, recovered - healed);
        Round { fault, begun, recovered }
    }

    /// Lets a fault happen, and ends it.
    fn strike(&mut self, fault: Fault) {
        let node = self.random.below(HOSTS as u64) as usize;
        let others = [(node + 1) % HOSTS, (node + 2) % HOSTS];
        match fault {
            Fault::KillLeader => {
                let group = self.random.below(GROUPS as u64) as usize;
                let node = self.nodes.leader(group).unwrap_or(node);
                self.nodes.kill(node);
                thread::sleep(self.random.millis(1000, 4000));
                self.nodes.restart(node);
            }
            Fault::KillAll => {
                (0..HOSTS).for_each(|node| self.nodes.kill(node));
                for node in [others[0], node, others[1]] {
                    thread::sleep(self.random.millis(0, 1500));
                    self.nodes.restart(node);
                }
            }
            Fault::StopInOrder => {
                for node in [node, others[0], others[1]] {
                    self.nodes.stop(node);
                    self.nodes.restart(node);
                    self.nodes.wait_caught_up();
                }
            }
            Fault::Pause => {
                self.nodes.signal(node, Signal::STOP);
                thread::sleep(self.random.millis(300, 6000));
                self.nodes.signal(node, Signal::CONT);
            }
            Fault::Isolate => {
                self.isolate(node, true);
                thread::sleep(self.random.millis(1000, 5000));
                self.isolate(node, false);
            }
            Fault::CutOneWay => {
                let (from, to) = if self.random.below(2) == 0 { (node, others[0]) } else { (others[0], node) };
                self.network.cut(from, to);
                thread::sleep(self.random.millis(1000, 5000));
                self.network.mend(from, to);
            }
            Fault::LosePackets => {
                self.network.lose(1 + self.random.below(30));
                thread::sleep(self.random.millis(1000, 5000));
                self.network.lose(0);
            }
            Fault::FlapLinks => {
                for _ in 0..40 {
                    let from = self.random.below(HOSTS as u64) as usize;
                    let to = (from + 1 + self.random.below(HOSTS as u64 - 1) as usize) % HOSTS;
                    self.network.cut(from, to);
                    thread::sleep(self.random.millis(5, 100));
                    self.network.mend(from, to);
                    thread::sleep(self.random.millis(5, 100));
                }
            }
            Fault::SlowNode => {
                for _ in 0..60 {
                    self.nodes.signal(node, Signal::STOP);
                    thread::sleep(self.random.millis(10, 60));
                    self.nodes.signal(node, Signal::CONT);
                    thread::sleep(self.random.millis(1, 20));
                }
            }
            Fault::SlowDisk => {
                for _ in 0..30 {
                    self.nodes.signal_disk(node, Signal::STOP);
                    thread::sleep(self.random.millis(10, 200));
                    self.nodes.signal_disk(node, Signal::CONT);
                    thread::sleep(self.random.millis(1, 20));
                }
            }
            Fault::LoseBucket => {
                self.s3.fail(BucketFault::Away);
                thread::sleep(self.random.millis(1000, 5000));
                self.s3.heal();
            }
            Fault::HandOver => {
                for _ in 0..5 {
                    let group = self.random.below(GROUPS as u64) as usize;
                    let to = self.random.below(HOSTS as u64) as usize;
                    self.nodes.transfer(node, group, to);
                    thread::sleep(self.random.millis(0, 500));
                }
            }
            Fault::Replace => {
                self.nodes.kill(node);
                thread::sleep(self.random.millis(0, 2000));
                self.nodes.replace(node);
            }
            Fault::FullDisk => {
                let ballast = self.nodes.fill_disk(node);
                thread::sleep(self.random.millis(1000, 5000));
                drop(ballast);
            }
            Fault::FlipBit => {
                self.found.0 += usize::from(self.nodes.flip(node, &mut self.random));
                self.found.1 += 1;
                // What was cut off as a torn end comes back from the others.
                self.nodes.wait_caught_up();
            }
            Fault::KillTheCutOff => {
                self.isolate(node, true);
                thread::sleep(self.random.millis(500, 2000));
                self.nodes.kill(node);
                self.nodes.kill(others[0]);
                self.isolate(node, false);
                thread::sleep(self.random.millis(0, 1000));
                self.nodes.restart(node);
                thread::sleep(self.random.millis(0, 1000));
                self.nodes.restart(others[0]);
            }
        }
    }

    /// Cuts a node off from the others, or ends that.
    fn isolate(&self, node: usize, is_cut: bool) {
        for other in (0..HOSTS).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                if is_cut {
                    self.network.cut(from, to);
                } else {
                    self.network.mend(from, to);
                }
            }
        }
    }

    /// Sends a request to one node after the other until it is answered with `status`, or a try before had been done.
    fn again(&self, status: u16, request: impl Fn() -> Request) {
        let begun = Instant::now();
        for host in (0..HOSTS).cycle() {
            let connection = Connection::open_within(network::address(host, 4437), Duration::from_secs(6));
            let answer = connection.and_then(|mut connection| connection.send(&request()));
            if answer.is_ok_and(|response| [status, 200, 404].contains(&response.status)) {
                return;
            }
            assert!(begun.elapsed() < RECOVERED_WITHIN, "{:?} is not done:\n{}", request(), self.nodes.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is stored, the same through every node.
    fn read_everywhere(&self, stream: &Stream) -> Vec<String> {
        let read = |host: usize| {
            let mut connection = Connection::open(network::address(host, 4437)).expect("the node runs");
            stream.all(&mut connection)
        };
        let stored = read(0);
        for host in 1..HOSTS {
            assert_eq!(read(host).len(), stored.len(), "{} through node {host}", stream.target);
        }
        stored
    }

    /// Every stream was deleted: whoever leads next finds what is left of them in the bucket.
    fn leave_nothing(&mut self) {
        self.strike(Fault::StopInOrder);
        let begun = Instant::now();
        while !self.s3.chunks().is_empty() {
            let left = self.s3.chunks();
            assert!(begun.elapsed() < EMPTY_WITHIN, "nobody has deleted {left:?}:\n{}", self.nodes.logs());
            thread::sleep(Duration::from_millis(100));
        }
        println!("the bucket is empty after {:?}", begun.elapsed());
    }

    fn report(&self) {
        println!("{} of {} flipped bits were found when the node began", self.found.0, self.found.1);
        for (fault, outages) in &self.outages {
            let mut outages = outages.clone();
            outages.sort_unstable();
            let (median, worst) = (outages[outages.len() / 2], outages[outages.len() - 1]);
            println!(
                "{fault:?}: {} times, without appends for {median:.1?} (median), {worst:.1?} (worst)",
                outages.len()
            );
        }
        let share = self.unknown as f64 / self.appends as f64;
        println!("{} appends, {:.2} % unknown", self.appends, 100.0 * share);
        assert!(share < UNKNOWN_MAX, "too little is known");
    }
}

/// The longest time in a round in which no append to a stream was acknowledged.
fn outage(history: &History, round: &Round) -> Duration {
    let is_acked = |outcome| matches!(outcome, Outcome::Acked { .. } | Outcome::AckedAgain { .. });
    let acked = history.attempts.iter().filter(|attempt| is_acked(attempt.outcome));
    let mut times: Vec<Duration> = acked.map(|attempt| attempt.answered).collect();
    times.retain(|at| (round.begun..=round.recovered).contains(at));
    times.extend([round.begun, round.recovered]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
