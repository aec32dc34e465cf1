//! Every command of `runtime/OPERATIONS.md`, in its order, on one machine: each address there is a port here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use weir_testkit::ports;

/// How long a command may fail: what comes before it takes effect by and by.
const PATIENCE: Duration = Duration::from_secs(120);

/// The machines of the text.
#[derive(Default)]
struct Machines {
    addresses: BTreeMap<String, SocketAddr>,
    running: BTreeMap<String, Child>,
    /// How each node was started.
    served: BTreeMap<String, Vec<String>>,
    homes: BTreeMap<String, tempfile::TempDir>,
}

impl Machines {
    /// A text with its addresses as they are here.
    fn here(&mut self, text: &str) -> String {
        let words = text.split(' ').map(|word| {
            let (before, address) = word.split_at(word.find("10.0.0.").unwrap_or(word.len()));
            match address {
                "" => word.to_string(),
                address => format!("{before}{}", self.addresses.entry(address.into()).or_insert_with(ports::free)),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// `weir` on a machine.
    fn weir(&mut self, machine: &str) -> Command {
        let home = self.homes.entry(machine.into()).or_insert_with(|| tempfile::tempdir().expect("a directory"));
        let data_dir = home.path().join("data");
        let (listen, admin) = (self.here(&format!("{machine}:4437")), self.here(&format!("{machine}:4438")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.env("WEIR_LISTEN", listen).env("WEIR_ADMIN_LISTEN", admin).env("WEIR_DATA_DIR", data_dir);
        command.env("WEIR_SHARDS", "2").env("WEIR_CLUSTER_SECRET", "what only its nodes know");
        command
    }

    fn serve(&mut self, machine: &str, args: Vec<String>) {
        let mut command = self.weir(machine);
        let path = self.homes[machine].path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(path).expect("a log");
        let child = command.args(&args).stdin(Stdio::null()).stderr(log).spawn().expect("it starts");
        self.running.insert(machine.into(), child);
        self.served.insert(machine.into(), args);
    }

    fn run(&mut self, machine: &str, line: &str) {
        let here = self.here(line);
        let args = |text: &str| text.split_whitespace().skip(1).map(str::to_string).collect::<Vec<_>>();
        match line {
            line if line.starts_with("weir serve ") => self.serve(machine, args(&here)),
            "systemctl stop weir" => {
                let mut child = self.running.remove(machine).expect("it runs");
                let pid = Pid::from_raw(child.id() as i32).expect("a process");
                kill_process(pid, Signal::TERM).expect("it runs");
                child.wait().expect("it ends");
            }
            "systemctl start weir" => {
                let args = self.served[machine].clone();
                self.serve(machine, args);
            }
            line if line.starts_with("weir cluster ") => self.ask(machine, args(&here)),
            line => panic!("nothing runs {line}"),
        }
    }

    /// Gives a command until it is done; a status, until all is well and nothing is on its way.
    fn ask(&mut self, machine: &str, args: Vec<String>) {
        let begun = Instant::now();
        loop {
            // Whoever leads now; another voter than that.
            let args = args.iter().map(|arg| match arg.as_str() {
                "LEADER" => self.follower(machine),
                arg => arg.to_string(),
            });
            let args: Vec<String> = args.collect();
            let ran = self.weir(machine).args(&args).output().expect("it runs");
            let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            let is_moving = out.lines().any(|line| line.starts_with("waiting:") || line.starts_with("moving:"));
            if ran.status.success() && !is_moving {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "on {machine}, {args:?} still says:\n{out}{err}\n{}",
                self.log(machine)
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A node that votes in group 0 and does not lead it.
    fn follower(&mut self, machine: &str) -> String {
        let ran = self.weir(machine).args(["cluster", "status", "--json"]).output().expect("it runs");
        let status: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        let (group, leader) = (&status["groups"][0], status["groups"][0]["leader"].as_u64());
        let voters = group["voters"][0].as_array().cloned().unwrap_or_default();
        let other = voters.iter().filter_map(|node| node.as_u64()).find(|node| Some(*node) != leader);
        other.unwrap_or(0).to_string()
    }

    fn log(&self, machine: &str) -> String {
        std::fs::read_to_string(self.homes[machine].path().join("log")).unwrap_or_default()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn every_command_for_operators_works() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../OPERATIONS.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let (mut machines, mut machine, mut is_shell, mut commands) = (Machines::default(), String::new(), false, 0);
    for line in text.lines() {
        match line {
            "```sh" => is_shell = true,
            "```" => is_shell = false,
            _ if !is_shell => {}
            line => match line.strip_prefix("# on ") {
                Some(on) => machine = on.to_string(),
                None => {
                    machines.run(&machine, line);
                    commands += 1;
                }
            },
        }
    }
    assert!(commands > 20, "{commands} commands");
}
