//! Nodes of one cluster, as processes.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use weir_testkit::{Client, Request, Response, Server, Setup, metric, ports, wait_until};

/// How often a write is sent again that the server asks to be sent again.
const TRIES: usize = 40;
const TRY_EVERY: Duration = Duration::from_millis(50);

/// How long anything may take, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take until leaders are even, also if the cluster is not known to be new any more.
const EVEN_WITHIN: Duration = Duration::from_secs(90);

/// The nodes of a cluster, by number from 1 on; `None` for one that was killed or stopped.
pub(crate) struct Cluster {
    pub(crate) setups: Vec<Setup>,
    pub(crate) servers: Vec<Option<Server>>,
    /// Where they listen for each other.
    pub(crate) addresses: Vec<SocketAddr>,
    variables: Vec<(String, String)>,
}

impl Cluster {
    /// Forms a cluster of three, its nodes started in the order `order` with these variables, and waits until each leads a group.
    pub(crate) fn form(order: [usize; 3], variables: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::new(variables);
        cluster.start(&order);
        let leads_one = |node| metric(cluster.server(node), "weir_group_leading") == 1.0;
        wait_until("leaders are even", EVEN_WITHIN, || (0..3).all(leads_one));
        cluster
    }

    /// The nodes of a cluster of three, none of which runs yet.
    pub(crate) fn new(variables: &[(&str, &str)]) -> Cluster {
        let addresses: Vec<SocketAddr> = (0..3).map(|_| ports::free()).collect();
        let setup = |node: usize| {
            let number = (node + 1).to_string();
            let own = addresses[node].to_string();
            let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&[
                "--node-id",
                &number,
                "--cluster-id",
                "test",
                "--cluster-listen",
                &own,
                "--shards",
                "2",
            ]);
            for (name, value) in variables {
                setup = setup.env(name, value);
            }
            for other in (0..3).filter(|other| *other != node) {
                setup = setup.args(&["--peer", &format!("{}={}", other + 1, addresses[other])]);
            }
            setup
        };
        let (setups, servers) = ((0..3).map(setup).collect(), vec![None, None, None]);
        Cluster { setups, servers, addresses, variables: owned(variables) }
    }

    /// Starts these nodes, one soon after the other, and waits until they are ready.
    pub(crate) fn start(&mut self, order: &[usize]) {
        let starting = |node: &usize| {
            let mut setup = self.setups[*node].clone();
            let starting = thread::spawn(move || (setup.start(), setup));
            thread::sleep(Duration::from_millis(100));
            (*node, starting)
        };
        for (node, starting) in order.iter().map(starting).collect::<Vec<_>>() {
            let (server, setup) = starting.join().expect("it is ready");
            (self.servers[node], self.setups[node]) = (Some(server), setup);
        }
    }

    /// A node that is alone, which becomes the first of a cluster whose nodes have these variables.
    pub(crate) fn of_one(variables: &[(&str, &str)], prepare: impl FnOnce(&Server)) -> Cluster {
        let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--shards", "2"]);
        for (name, value) in variables {
            setup = setup.env(name, value);
        }
        let alone = setup.start();
        prepare(&alone);
        assert_eq!(alone.stop().code, Some(0));
        let address = ports::free();
        let mut setup = setup.args(&["--cluster-id", "test", "--cluster-listen", &address.to_string()]);
        let server = setup.start();
        let variables = owned(variables);
        Cluster { setups: vec![setup], servers: vec![Some(server)], addresses: vec![address], variables }
    }

    /// How a new node is started that waits to be taken in, and joins by asking another one.
    pub(crate) fn newcomer(&mut self, number: u64, asked: usize) -> Setup {
        let address = ports::free();
        assert_eq!(number as usize, self.addresses.len() + 1, "nodes are numbered one after the other");
        self.addresses.push(address);
        self.servers.push(None);
        let (own, join) = (address.to_string(), self.addresses[asked].to_string());
        let setup = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--node-id", &number.to_string()]);
        let mut setup =
            setup.args(&["--cluster-id", "test", "--cluster-listen", &own, "--shards", "2", "--join", &join]);
        for (name, value) in &self.variables {
            setup = setup.env(name, value);
        }
        self.setups.push(setup.clone());
        setup
    }

    /// Starts a new node and has the cluster take it in; `add` gets its number and address.
    pub(crate) fn join(&mut self, number: u64, asked: usize, add: impl FnOnce(&Cluster, &str)) {
        let mut setup = self.newcomer(number, asked);
        let address = self.addresses[number as usize - 1].to_string();
        let starting = thread::spawn(move || (setup.start(), setup));
        add(self, &address);
        let (server, setup) = starting.join().expect("it is ready");
        let at = number as usize - 1;
        (self.servers[at], self.setups[at]) = (Some(server), setup);
    }

    /// A client of a node.
    pub(crate) fn client(&self, node: usize) -> Client {
        self.server(node).client()
    }

    pub(crate) fn server(&self, node: usize) -> &Server {
        self.servers[node].as_ref().expect("it runs")
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.servers[node].take().expect("it runs").kill();
    }

    /// Starts a node again, where it was.
    pub(crate) fn restart(&mut self, node: usize) {
        self.servers[node] = Some(self.setups[node].start());
    }

    /// The node that leads a stream's group: the one that counts an append to it.
    pub(crate) fn leader_of(&self, stream: &str) -> usize {
        let counts = || {
            let of =
                |server: &Option<Server>| server.as_ref().map_or(0.0, |server| metric(server, "weir_appends_total"));
            self.servers.iter().map(of).collect::<Vec<f64>>()
        };
        let mut client = self.client(self.servers.iter().position(Option::is_some).expect("a node runs"));
        let before = counts();
        let _ = append(&mut client, stream, "who leads? ").expect(204);
        let mut leader = None;
        wait_until("the append is counted", PATIENCE, || {
            leader = counts().iter().zip(&before).position(|(now, before)| now > before);
            leader.is_some()
        });
        leader.expect("somebody leads")
    }

    /// Waits until a node has applied as much of every group as another.
    pub(crate) fn wait_caught_up(&self, node: usize, with: usize) {
        let applied = |node: usize, group: usize| {
            metric(self.server(node), &format!("weir_group_applied_index{{group=\"{group}\"}}"))
        };
        wait_until("the node has caught up", PATIENCE, || {
            (0..3).all(|group| applied(node, group) >= applied(with, group))
        });
    }
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Appends, as often as the server asks for it.
pub(crate) fn append(client: &mut Client, stream: &str, text: &str) -> Response {
    let request = || Request::post(stream).body("text/plain", text);
    again(client, request)
}

/// Sends a request until it is answered with something else than 503.
pub(crate) fn again(client: &mut Client, request: impl Fn() -> Request) -> Response {
    for _ in 0..TRIES {
        let response = client.send(request());
        if response.status != 503 {
            return response;
        }
        thread::sleep(TRY_EVERY);
    }
    client.send(request())
}
