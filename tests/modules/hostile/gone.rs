//! An inspection ends with its client and with its server.

use std::fs;
use std::time::{Duration, Instant};

use weir_testkit::{Request, Server, wait_until};

use crate::bombs::wide_jumps;
use crate::{MODULE, is_well, on_disk, upload};

/// Less than an inspection may take, so that it is not its time that ends one.
const SOON: Duration = Duration::from_secs(8);

/// So many that no inspection is done with them in its time.
const JUMPS: usize = 8_000_000;

/// The processes that `parent` has started and that still run.
fn children(parent: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").expect("there is /proc").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let child = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold anything; state and parent follow.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, of) = (fields.next()?, fields.next()?);
        (state != "Z" && of.parse() == Ok(parent)).then_some(pid)
    };
    pids.filter_map(|pid| child(pid.parse().ok()?)).collect()
}

/// Sends a bomb, and waits until a process inspects it.
fn inspecting(server: &Server) -> (weir_testkit::Connection, u32) {
    let mut connection = server.connect();
    let request = upload(MODULE, &wide_jumps(JUMPS)).to_bytes(&server.address().to_string());
    connection.write(&request).expect("the server reads it");
    let mut pids = Vec::new();
    wait_until("the bomb is inspected", SOON, || {
        pids = children(server.pid());
        !pids.is_empty()
    });
    (connection, pids[0])
}

#[test]
fn an_inspection_ends_with_its_client() {
    let mut setup = on_disk();
    let server = setup.start();
    let (connection, _) = inspecting(&server);
    drop(connection);
    wait_until("the inspection ends", SOON, || children(server.pid()).is_empty());
    is_well(&mut server.client());
}

#[test]
fn an_inspection_ends_with_a_server_that_is_killed() {
    let mut setup = on_disk();
    let server = setup.start();
    let (_connection, child) = inspecting(&server);
    server.kill();
    wait_until("the inspection ends", SOON, || !fs::exists(format!("/proc/{child}")).expect("there is /proc"));
}

#[test]
fn a_server_ends_when_it_is_asked_to_whatever_it_inspects_and_compiles() {
    let mut setup = on_disk().env("WEIR_MODULES_UPLOAD_WAIT_MS", 1);
    let server = setup.start();
    let compiling = upload("/other/-/modules/m", &weir_testkit::compile_bomb(16 << 20));
    let _ = server.client().send(compiling).expect(202);
    let _inspecting: Vec<_> = (0..2).map(|_| inspecting(&server)).collect();
    let asked = Instant::now();
    let exit = server.stop();
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(asked.elapsed() < SOON, "after {:?}: {}", asked.elapsed(), exit.log);
    // What was announced is still being compiled after the next start.
    let server = setup.start();
    let status = server.client().send(Request::get("/other/-/modules/m")).expect(200).json();
    assert_eq!(status["status"], "compiling");
}
