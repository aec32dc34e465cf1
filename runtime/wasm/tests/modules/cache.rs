//! Compiled code is kept, and loaded only when it is what was kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cap_std::fs::Dir;
use weir_types::Role;
use weir_wasm::{
    CompileError, CompileLimits, Compiler, FileStore, Host, HostConfig, InProcess, Lane, ModuleStore, Stop, digest_of,
};

use crate::support::{Kit, guest, key, run};

/// A store on disk, and how often anything was compiled for it.
struct Node {
    _folder: tempfile::TempDir,
    dir: Dir,
    compilations: Arc<Counting>,
}

#[derive(Default)]
struct Counting(AtomicUsize);

impl Compiler for Counting {
    fn inspect(&self, wasm: &[u8], limits: &CompileLimits, stop: &Stop) -> Result<Vec<Role>, CompileError> {
        InProcess.inspect(wasm, limits, stop)
    }

    fn compile(&self, wasm: &[u8], limits: &CompileLimits, stop: &Stop) -> Result<Vec<u8>, CompileError> {
        self.0.fetch_add(1, Relaxed);
        InProcess.compile(wasm, limits, stop)
    }
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::tempdir().expect("there is a folder for tests");
        let dir = Dir::open_ambient_dir(folder.path(), cap_std::ambient_authority()).expect("it can be opened");
        Node { _folder: folder, dir, compilations: Arc::default() }
    }

    /// Starts the node anew and makes a guest ready; the answer is how many compilations that took.
    fn start(&self, name: &str) -> usize {
        let store = FileStore::new(self.dir.try_clone().expect("a handle can be copied")).expect("it can be read");
        let host = Host::new(Arc::new(store), self.compilations.clone(), HostConfig::default()).expect("it can start");
        let digest = host.store(&guest(name)).expect("it can be stored");
        let before = self.compilations.0.load(Relaxed);
        host.prepare(digest).expect("it can be made ready");
        let lane = Lane::start(host.clone(), "lane").expect("there can be a thread");
        let kit = Kit { host, lane };
        run(async { assert_eq!(kit.validate(&key("demo", digest), &[r#"{"qty":1}"#]).await, "accept") });
        self.compilations.0.load(Relaxed) - before
    }

    /// The file with a guest's compiled code.
    fn cached(&self, name: &str) -> String {
        let digest = digest_of(&guest(name)).to_string();
        let store = FileStore::new(self.dir.try_clone().expect("a handle can be copied")).expect("it can be read");
        let names = store.list().expect("it can be read");
        let mut names = names.into_iter().filter(|name| name.starts_with(&digest) && name.ends_with(".cwasm"));
        names.next().expect("the code was kept")
    }
}

#[test]
fn a_restart_does_not_compile_again() {
    let node = Node::new();
    assert_eq!(node.start("accepts_all"), 1);
    assert_eq!(node.start("accepts_all"), 0);
}

#[test]
fn code_with_any_byte_changed_is_compiled_again() {
    let node = Node::new();
    assert_eq!(node.start("accepts_all"), 1);
    let name = node.cached("accepts_all");
    let whole = node.dir.read(&name).expect("the code was kept");
    for at in [0, 31, 32, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        node.dir.write(&name, changed).expect("it can be written");
        assert_eq!(node.start("accepts_all"), 1, "byte {at}");
        assert_eq!(node.start("accepts_all"), 0, "it was kept again");
    }
    for bytes in [0, 31, 32, whole.len() - 1] {
        node.dir.write(&name, &whole[..bytes]).expect("it can be written");
        assert_eq!(node.start("accepts_all"), 1, "{bytes} bytes");
    }
}

#[test]
fn code_of_another_module_or_another_node_is_compiled_again() {
    let node = Node::new();
    assert_eq!(node.start("accepts_all") + node.start("rejects_bad"), 2);
    let (accepts, rejects) = (node.cached("accepts_all"), node.cached("rejects_bad"));
    node.dir.copy(&accepts, &node.dir, &rejects).expect("it can be copied");
    assert_eq!(node.start("rejects_bad"), 1);
    let other = Node::new();
    assert_eq!(other.start("accepts_all"), 1);
    node.dir.copy(&accepts, &other.dir, &accepts).expect("it can be copied");
    assert_eq!(other.start("accepts_all"), 1);
}

#[test]
fn code_of_another_engine_is_removed() {
    let node = Node::new();
    assert_eq!(node.start("accepts_all"), 1);
    let foreign = format!("{}-0123456789abcdef.cwasm", digest_of(&guest("accepts_all")));
    node.dir.write(&foreign, b"other code").expect("it can be written");
    assert_eq!(node.start("accepts_all"), 0);
    assert!(!node.dir.exists(&foreign));
}

#[test]
fn the_key_is_for_the_owner_alone_and_replaced_when_damaged() {
    use cap_std::fs::PermissionsExt as _;
    let node = Node::new();
    assert_eq!(node.start("accepts_all"), 1);
    let mode = node.dir.metadata("cache.key").expect("there is a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    node.dir.write("cache.key", b"short").expect("it can be written");
    assert_eq!(node.start("accepts_all"), 1);
    assert_eq!(node.start("accepts_all"), 0);
}

#[test]
fn damaged_module_bytes_are_not_compiled() {
    let kit = Kit::new();
    assert!(matches!(kit.host.prepare(digest_of(b"")), Err(CompileError::NotStored(_))));
    let node = Node::new();
    let wasm = guest("accepts_all");
    let digest = digest_of(&wasm);
    node.dir.write(format!("{digest}.wasm"), &wasm[1..]).expect("it can be written");
    let store = FileStore::new(node.dir.try_clone().expect("a handle can be copied")).expect("it can be read");
    let host = Host::new(Arc::new(store), Arc::new(InProcess), HostConfig::default()).expect("it can start");
    assert!(matches!(host.prepare(digest), Err(CompileError::Damaged(_))));
    // An upload of the same bytes mends it.
    assert_eq!(host.store(&wasm).expect("it can be stored"), digest);
    host.prepare(digest).expect("it can be made ready");
}
