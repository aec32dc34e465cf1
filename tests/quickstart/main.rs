//! The tour that the README shows, run as it stands.

use std::path::Path;
use std::process::Command;

use weir_testkit::Setup;

#[test]
fn the_tour_runs_as_written() {
    let tour = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart/tour.sh");
    let server = Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory"]).start();
    let run = Command::new("bash").arg(&tour).arg(server.url()).output();
    let run = run.unwrap_or_else(|e| panic!("bash is needed to run {}: {e}", tour.display()));
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}\n{stdout}\n{stderr}", run.status);
}
