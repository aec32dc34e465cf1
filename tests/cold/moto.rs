//! The cold tier in a bucket of a server that others have written: moto, installed below `target/` once per pinned version.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weir_testkit::{Client, Connection, Request, ports, tools, wait_until};

use crate::{MOVES_WITHIN, URL, assert_whole, history, setup_at};

/// What pip is asked for, and what says that it is installed.
const MOTO: &str = "moto[server]==5.2.5";
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STREAMS: usize = 3;
const RECORDS: usize = 40;
const RECORD_BYTES: usize = 256 << 10;

fn install() -> PathBuf {
    tools::install_python(Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto"), MOTO)
}

/// A running server; killed when dropped.
pub(crate) struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    pub(crate) fn start() -> Moto {
        let folder = install();
        let address = ports::free();
        let mut command = Command::new(folder.join("bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let moto = Moto { child: child.expect("moto_server starts"), address };
        wait_until("moto listens", STARTS_WITHIN, || Connection::open(address).is_ok());
        moto
    }

    /// Its endpoint, when it has the bucket.
    pub(crate) fn with_bucket(&self) -> String {
        let _ = Client::new(self.address).send(Request::put("/weir")).expect(200);
        format!("http://{}", self.address)
    }

    /// Chunks that are there.
    fn chunks(&self) -> usize {
        let list = Client::new(self.address).send(Request::get("/weir?list-type=2&max-keys=1000")).expect(200).text();
        assert!(list.contains("<Key>test/weir-cluster</Key>"), "{list}");
        list.matches(".chunk</Key>").count()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // Nothing to do about a failure here: the process is gone or about to be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn streams_go_to_a_bucket_of_moto_and_come_back_and_leave_it() {
    let moto = Moto::start();
    let mut setup = setup_at(&moto.with_bucket()).env("WEIR_COLD_FLUSH_AGE_MS", 200);
    let server = setup.start();
    let ledgers = history(&server, "moto", STREAMS, RECORDS, RECORD_BYTES);
    assert!(moto.chunks() > 0, "{URL} has no chunks");
    server.kill();

    let server = setup.start();
    for ledger in &ledgers {
        assert_whole(&server, ledger);
    }
    let mut client = server.client();
    for ledger in &ledgers {
        let _ = client.send(Request::delete(ledger.target())).expect(204);
    }
    wait_until("all chunks are gone", MOVES_WITHIN, || moto.chunks() == 0);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn the_example_loses_a_node_and_recovers_it() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/s3/run.sh");
    let port = || ports::free().port().to_string();
    let mut command = Command::new("bash");
    command.arg(&example).env("WEIR", env!("CARGO_BIN_EXE_weir")).env("MOTO", install());
    command.env("S3_PORT", port()).env("PORT", port()).env("ADMIN_PORT", port());
    let run = command.output().unwrap_or_else(|e| panic!("bash is needed to run {}: {e}", example.display()));
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && stdout.contains("all of it"), "{}\n{stdout}\n{stderr}", run.status);
}

#[test]
fn the_example_of_three_nodes_loses_two_of_them_and_no_line() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cluster/run.sh");
    // Ten for each node, and ten before.
    let port = ports::free_row(40).port();
    let mut command = Command::new("bash");
    command.arg(&example).env("WEIR", env!("CARGO_BIN_EXE_weir")).env("MOTO", install());
    let run = command.env("PORT", port.to_string()).output();
    let run = run.unwrap_or_else(|e| panic!("bash is needed to run {}: {e}", example.display()));
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(
        run.status.success() && stdout.contains("nobody who reads has noticed"),
        "{}\n{stdout}\n{stderr}",
        run.status
    );
}
