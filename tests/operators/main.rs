//! What operators are given, judged by the programs that they give it to: Prometheus's `promtool`, systemd, and what knows
//! Kubernetes' resources.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_testkit::{Client, Request, Setup, tools};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a program that has nothing to say about a good file, with `input`.
#[track_caller]
fn passes(command: &mut Command, input: &str) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input.as_bytes()).and_then(|()| file.rewind()).expect("it is written");
    let run = command.stdin(file).output().unwrap_or_else(|e| panic!("{command:?} is needed: {e}"));
    let said = [run.stdout, run.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(run.status.success(), "{command:?}: {}\n{said}", run.status);
    let is_complaint = |line: &&str| !line.is_empty() && !line.contains("SUCCESS") && !line.starts_with("Checking ");
    let complaints: Vec<&str> = said.lines().filter(is_complaint).collect();
    assert!(complaints.is_empty(), "{command:?} has to say:\n{}", complaints.join("\n"));
}

#[test]
fn prometheus_takes_the_metrics_and_the_rules() {
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let mut client = server.client();
    let _ = client.send(Request::put("/demo/s").header("Content-Type", "text/plain")).expect(201);
    let _ = client.send(Request::post("/demo/s").body("text/plain", "x")).expect(204);
    let metrics = Client::new(server.admin()).send(Request::get("/metrics")).expect(200).text();
    passes(Command::new("promtool").args(["check", "metrics"]), &metrics);
    passes(
        Command::new("promtool").args(["check", "rules"]).arg(repository().join("examples/monitoring/rules.yml")),
        "",
    );
}

#[test]
fn systemd_takes_the_unit() {
    // It looks for the binary where the unit has it.
    let home = tempfile::tempdir().expect("a directory");
    let unit = std::fs::read_to_string(repository().join("packaging/weir.service")).expect("the unit");
    let unit = unit.replace("/usr/bin/weir", env!("CARGO_BIN_EXE_weir"));
    // Manual pages that are not installed here are no fault of the unit's.
    let unit: String =
        unit.lines().filter(|line| !line.starts_with("Documentation=")).map(|line| format!("{line}\n")).collect();
    let path = home.path().join("weir.service");
    std::fs::write(&path, unit).expect("it is written");
    passes(Command::new("systemd-analyze").arg("verify").arg(&path), "");
}

#[test]
fn kubernetes_takes_the_manifest_and_its_nodes_their_configuration() {
    let manifest = repository().join("packaging/kubernetes/cluster.yaml");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-validate");
    let folder = tools::install_python(folder, "kubernetes-validate==1.37.0");
    let mut validate = Command::new(folder.join("bin/kubernetes-validate"));
    passes(validate.args(["--strict", "--quiet", "--kubernetes-version", "1.31"]).arg(&manifest), "");

    // What the container runs, with what it is given.
    let manifest = std::fs::read_to_string(manifest).expect("the manifest");
    let (_, rest) = manifest.split_once("            - |\n").expect("a script");
    let (script, _) = rest.split_once("          env:").expect("and variables");
    assert!(script.contains("exec /usr/bin/weir serve"), "{script}");
    let check = format!("exec {} config check", env!("CARGO_BIN_EXE_weir"));
    let script = script.replace("exec /usr/bin/weir serve", &check);
    let run = |node: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).env("WEIR_CLUSTER_NODE_ID", node).env("WEIR_CLUSTER_ID", "weir");
        shell.env("WEIR_CLUSTER_LISTEN", ":4439").env("WEIR_CLUSTER_SECRET", "16 bytes or more");
        shell.env("WEIR_LISTEN", ":4437").env("WEIR_INSECURE", "true").output().expect("a shell")
    };
    for node in ["1", "3", "4"] {
        let ran = run(node);
        assert!(ran.status.success(), "node {node}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    assert!(!run("0").status.success(), "nodes have numbers from 1 on");
}
