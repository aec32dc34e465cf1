//! A server that may not use `io_uring`, as container runtimes have it, appends and restarts like any other.

use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use weir_testkit::{Request, Setup, metric};

const APPENDS: usize = 50;

#[test]
fn a_server_without_io_uring_is_none_the_less_durable() {
    // What this thread starts is as confined as itself.
    thread::spawn(|| {
        refuse_io_uring();
        let mut setup = Setup::new(env!("CARGO_BIN_EXE_weir"));
        let server = setup.start();
        let mut client = server.client();
        let _ = client.send(Request::put("/b/s").header("Content-Type", "text/plain")).expect(201);
        for number in 0..APPENDS {
            let _ = client.send(Request::post("/b/s").body("text/plain", format!("{number}\n"))).expect(204);
        }
        assert_eq!(metric(&server, "weir_wal_io_uring"), 0.0, "the kernel has refused it");
        server.kill();

        let server = setup.start();
        let stored = server.client().send(Request::get("/b/s")).expect(200).text();
        assert_eq!(stored.lines().count(), APPENDS);
        assert_eq!(server.stop().code, Some(0));
    })
    .join()
    .expect("as above");
}

fn refuse_io_uring() {
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a processor that Weir runs on");
    let rules = [(libc::SYS_io_uring_setup, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
    apply_filter(&BpfProgram::try_from(filter).expect("a program")).expect("this kernel filters calls");
}
