//! No room: appends are refused with a status and a code, reads go on, nothing acknowledged is lost, and a disk that has
//! room again is used again without a restart.

mod no_ring;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use weir_testkit::{Client, Request, Response, Server, Setup, metric, wait_until};

const SEGMENT_BYTES: u64 = 2 << 20;
const RECORD_BYTES: usize = 50_000;
const TARGET: &str = "/limits/s";
/// Far more appends than fit anywhere here.
const APPENDS_MAX: usize = 2000;
/// Kills in a row of a server that has no room.
const RESTARTS: usize = 5;
const RESUMES_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_log_at_its_configured_size_refuses_appends_and_serves_reads() {
    let mut setup = setup().env("WEIR_WAL_BUDGET_BYTES", 4 * SEGMENT_BYTES);
    let server = setup.start();
    let mut client = server.client();
    create(&mut client);
    let (stored, refusal) = fill(&mut client, 0);
    assert_eq!((refusal.status, refusal.code().as_str()), (507, "wal_full"), "{refusal:?}");
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    assert!(stored > 10, "only {stored} appends fit {} segments", 4);
    assert_stored(&mut client, stored);
    // Closing and creating need room too; they are refused alike, and the server lives.
    let _ = client.send(Request::put("/limits/other").header("Content-Type", "text/plain"));
    let _ = client.send(Request::get("/limits/-/streams")).expect(200);
    server.kill();

    let server = setup.start();
    let mut client = server.client();
    assert_stored(&mut client, stored);
    let again = client.send(append(stored));
    assert!(matches!(again.status, 204 | 507), "{again:?}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_log_filled_to_its_last_block_restarts_as_often_as_need_be() {
    // With a cold tier it would be emptied meanwhile.
    let mut setup = setup().env("WEIR_WAL_BUDGET_BYTES", 3 * SEGMENT_BYTES).env("WEIR_COLD_URL", "off");
    let server = setup.start();
    let stored = fill_with_bytes(&server, "wal_full");
    server.kill();
    restart_and_read(&mut setup, &stored, "wal_full");
}

/// Needs a file system that can really be filled: mounting one is root's to do.
#[test]
fn a_full_disk_refuses_appends_until_there_is_room() {
    let mut setup = setup();
    let Some(disk) = Disk::mount(setup.home().join("disk"), 32 << 20) else {
        eprintln!("not run: a file system of our own can only be mounted by root");
        return;
    };
    setup = setup.data_dir_at(&disk.path.join("data"));
    let ballast = disk.path.join("ballast");
    fs::write(&ballast, vec![1; 16 << 20]).expect("the ballast fits");
    let server = setup.start();
    let mut client = server.client();
    create(&mut client);
    let (stored, refusal) = fill(&mut client, 0);
    assert_eq!((refusal.status, refusal.code().as_str()), (507, "disk_full"), "{refusal:?}");
    assert_stored(&mut client, stored);
    // The log is long enough for a snapshot, which takes a block.
    wait_until("a snapshot is taken", RESUMES_WITHIN, || metric(&server, "weir_snapshots_total") > 0.0);
    // What is left is others' to use, however often a segment is asked for.
    let left = disk.bytes_left();
    for _ in 0..30 {
        thread::sleep(Duration::from_millis(100));
        assert_eq!(disk.bytes_left(), left, "the rest of the disk is filled to see if it is enough");
    }

    fs::remove_file(&ballast).expect("the ballast was there");
    let deadline = Instant::now() + RESUMES_WITHIN;
    while client.send(append(stored)).status != 204 {
        assert!(Instant::now() < deadline, "no append succeeds {RESUMES_WITHIN:?} after there is room again");
        thread::sleep(Duration::from_millis(50));
    }
    let (stored, refusal) = fill(&mut client, stored + 1);
    assert_eq!((refusal.status, refusal.code().as_str()), (507, "disk_full"), "{refusal:?}");
    server.kill();

    // A restart while the disk is full must not need room to serve what is there.
    let server = setup.start();
    assert_stored(&mut server.client(), stored);
    server.kill();
}

/// As above: needs a file system of its own.
#[test]
fn a_disk_filled_to_its_last_block_restarts_as_often_as_need_be() {
    let mut setup = setup();
    let Some(disk) = Disk::mount(setup.home().join("disk"), 3 * SEGMENT_BYTES + (1 << 20)) else {
        eprintln!("not run: a file system of our own can only be mounted by root");
        return;
    };
    setup = setup.data_dir_at(&disk.path.join("data"));
    let server = setup.start();
    let stored = fill_with_bytes(&server, "disk_full");
    fill_disk(&disk.path.join("ballast"));
    server.kill();
    restart_and_read(&mut setup, &stored, "disk_full");
}

/// Appends single bytes, each an entry of its own, until there is no block left; gives back what the stream holds.
fn fill_with_bytes(server: &Server, code: &str) -> String {
    let mut client = server.client();
    create(&mut client);
    let mut stored = String::new();
    loop {
        let byte = char::from(b'a' + (stored.len() % 26) as u8);
        let response = client.send(Request::post(TARGET).body("text/plain", byte.to_string()));
        if response.status != 204 {
            assert_eq!((response.status, response.code().as_str()), (507, code), "{response:?}");
            assert!(stored.len() > 300, "a segment takes more than {} bytes", stored.len());
            return stored;
        }
        stored.push(byte);
    }
}

/// Kills and restarts the server, each time to find everything there and no room for more.
fn restart_and_read(setup: &mut Setup, stored: &str, code: &str) {
    for restart in 0..RESTARTS {
        let server = setup.start();
        let mut client = server.client();
        assert_eq!(client.read_all(TARGET), stored.as_bytes(), "restart {restart}");
        let refusal = client.send(Request::post(TARGET).body("text/plain", "x"));
        assert_eq!((refusal.status, refusal.code().as_str()), (507, code), "restart {restart}: {refusal:?}");
        server.kill();
    }
}

/// Takes whatever space the disk still has.
fn fill_disk(ballast: &Path) {
    let mut file = fs::File::create(ballast).expect("a file");
    while file.write_all(&[1; 4096]).is_ok() {}
}

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"))
        .args(&["--shards", "1"])
        .env("WEIR_HTTP_BODY_BYTES_MAX", 1 << 16)
        .env("WEIR_WAL_SEGMENT_BYTES", SEGMENT_BYTES)
}

fn create(client: &mut Client) {
    let _ = client.send(Request::put(TARGET).header("Content-Type", "text/plain")).expect(201);
}

/// Record `number`, its own and of a fixed length.
fn record(number: usize) -> String {
    format!("{number:0RECORD_BYTES$}")
}

fn append(number: usize) -> Request {
    Request::post(TARGET).body("text/plain", record(number))
}

/// Appends from record `first` on until one is refused; gives back how many records the stream has, and the refusal.
fn fill(client: &mut Client, first: usize) -> (usize, Response) {
    for number in first..first + APPENDS_MAX {
        let response = client.send(append(number));
        if response.status != 204 {
            return (number, response);
        }
    }
    panic!("{APPENDS_MAX} appends of {RECORD_BYTES} bytes fit");
}

/// Asserts that the stream holds the records 0 to `count` and nothing else.
fn assert_stored(client: &mut Client, count: usize) {
    let bytes = client.read_all(TARGET);
    assert_eq!(bytes.len(), count * RECORD_BYTES, "{count} records are stored");
    for (number, stored) in bytes.chunks(RECORD_BYTES).enumerate() {
        assert!(stored == record(number).as_bytes(), "record {number} is another one");
    }
}

/// A small file system in memory, gone when dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts it at `path`; `None` where that is not permitted.
    fn mount(path: PathBuf, bytes: u64) -> Option<Disk> {
        fs::create_dir(&path).expect("a directory of this test");
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        mount.is_ok_and(|run| run.status.success()).then_some(Disk { path })
    }
}

impl Disk {
    fn bytes_left(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.path).expect("it is mounted");
        disk.f_bavail * disk.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    // Lazily, because a server may still be ending; there is nothing to do about a failure here.
    let _ = Command::new("umount").arg("--lazy").arg(path).status();
}
