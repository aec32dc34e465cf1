//! The architecture that the manifests prove: which crate may know which, and what a crate's root looks like.

mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Every crate of `runtime/` and the crates of `runtime/` that it uses. The binary may use them all.
const ARROWS: [(&str, &[&str]); 10] = [
    ("weir-types", &[]),
    ("weir-stream", &["weir-types"]),
    ("weir-storage", &["weir-types"]),
    ("weir-cold", &["weir-types"]),
    ("weir-cluster", &["weir-types"]),
    ("weir-hooks", &[]),
    ("weir-wasm", &["weir-types"]),
    ("weir-raft", &["weir-cluster", "weir-storage", "weir-stream", "weir-types"]),
    (
        "weir-shard",
        &[
            "weir-cluster",
            "weir-cold",
            "weir-hooks",
            "weir-raft",
            "weir-storage",
            "weir-stream",
            "weir-types",
            "weir-wasm",
        ],
    ),
    ("weir-http", &["weir-shard", "weir-stream", "weir-types"]),
];

const BINARY: &str = "weir";

/// A crate from elsewhere, and the only crates of `runtime/` that may name it.
const KNOWN_BY: [(&str, &[&str]); 7] = [
    ("openraft", &["weir-raft"]),
    ("moka", &["weir-cold"]),
    ("hyper", &["weir-http"]),
    ("hyper-util", &["weir-http"]),
    ("reqwest", &["weir-hooks"]),
    // The admin listener is the binary's own.
    ("axum", &["weir-http", "weir"]),
    ("wasmtime", &["weir-wasm"]),
];

/// What a pure crate cannot even name.
const IMPURE: [&str; 4] = ["tokio", "wasmtime", "rustix", "cap-std"];

/// Code lines of a `lib.rs`: it is a map of its crate, not a part of it.
const MAP_LINES_MAX: usize = 60;

#[test]
fn arrows_point_where_the_design_says() {
    let metadata = metadata();
    let runtime = runtime(&metadata);
    let names: BTreeSet<&str> = runtime.keys().copied().collect();
    let designed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).chain([BINARY]).collect();
    assert_eq!(names, designed, "the crates of runtime/");
    for (name, arrows) in ARROWS {
        let actual: BTreeSet<&str> = uses(runtime[name]).filter(|used| names.contains(used)).collect();
        assert_eq!(actual, arrows.iter().copied().collect(), "what {name} uses");
    }
    for (name, package) in &runtime {
        assert!(!uses(package).any(|used| used == BINARY), "{name} uses the binary");
    }
}

#[test]
fn engines_are_known_by_one_crate_each() {
    let metadata = metadata();
    for (name, package) in runtime(&metadata) {
        for (engine, known_by) in KNOWN_BY {
            assert!(!uses(package).any(|used| used == engine) || known_by.contains(&name), "{name} uses {engine}");
        }
    }
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for (name, package) in runtime(&metadata()) {
        let source = package.manifest_path.parent().expect("a manifest lies in a folder").join("src");
        let imports = circles::imports(source.as_std_path());
        assert!(imports.len() > 2, "{name} has files");
        circles.extend(circles::find(&imports).map(|circle| format!("{name}: {}", circle.join(" -> "))));
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn streams_and_types_are_pure() {
    let metadata = metadata();
    let runtime = runtime(&metadata);
    for name in ["weir-types", "weir-stream"] {
        for used in uses(runtime[name]) {
            assert!(!IMPURE.contains(&used), "{name} uses {used}");
        }
    }
}

#[test]
fn the_root_of_a_crate_is_its_map() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let Some(root) = package.targets.iter().find(|target| target.is_lib()) else { continue };
        let source = fs::read_to_string(&root.src_path).expect("cargo names files that are there");
        assert!(source.starts_with("//!"), "{} has no module documentation", root.src_path);
        let code = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        let lines = code.count();
        assert!(lines <= MAP_LINES_MAX, "{} has {lines} lines of code: it is the map of its crate", root.src_path);
    }
}

#[test]
fn close_travels_one_road() {
    for stop in ["runtime/stream/src/close.rs", "runtime/http/src/routes/close.rs"] {
        assert!(workspace().join(stop).is_file(), "{stop} is missing");
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn metadata() -> Metadata {
    // Without the packages from elsewhere: nothing has to be resolved or fetched.
    let manifest = workspace().join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo describes the workspace")
}

/// The crates of `runtime/` by name.
fn runtime(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    let folder = metadata.workspace_root.join("runtime");
    let packages = metadata.workspace_packages().into_iter();
    packages.filter(|p| p.manifest_path.starts_with(&folder)).map(|p| (p.name.as_str(), p)).collect()
}

/// What a crate names in its manifest, tests aside.
fn uses(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development).map(|d| d.name.as_str())
}
