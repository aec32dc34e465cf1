//! Which file of a crate imports which, as its `use` says, and whether any of them do so in a circle.
//!
//! A path is followed to the deepest file that it names: `crate::live::feed::Feeds` is an import of `live/feed.rs`. What only
//! says which files there are and passes names on (`mod.rs`, `lib.rs`) is followed to the file that a name comes from. Tests
//! and the trees of modules themselves (`mod`, `super::super` of a test) are not imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// By module path (`live::feed`): the modules of the crate that it imports.
pub(crate) type Imports = BTreeMap<String, BTreeSet<String>>;

/// The imports of the crate whose sources are in `source`.
pub(crate) fn imports(source: &Path) -> Imports {
    let mut files = BTreeMap::new();
    read(source, "", &mut files);
    let passed_on: BTreeMap<&str, BTreeMap<String, String>> =
        files.iter().map(|(module, text)| (module.as_str(), reexports(module, text))).collect();
    let resolve = |path: &str| resolve(path, &files, &passed_on);
    let mut imports = Imports::new();
    for (module, text) in &files {
        let used = paths(text).into_iter().filter_map(|path| absolute(module, &path)).filter_map(|path| resolve(&path));
        imports.insert(module.clone(), used.filter(|used| used != module).collect());
    }
    // What passes names on is looked through, so it is no import of its own.
    for module in files.keys().filter(|module| is_map(source, module)) {
        imports.remove(module);
        for used in imports.values_mut() {
            used.remove(module);
        }
    }
    imports
}

/// Modules that import each other in a circle, the first again at the end.
pub(crate) fn find(imports: &Imports) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| search(module, imports, &mut Vec::new(), &mut done))
}

fn search<'a>(
    module: &'a str,
    imports: &'a Imports,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(at) = path.iter().position(|other| *other == module) {
        let circle = path[at..].iter().chain([&module]);
        return Some(circle.map(|module| (*module).to_string()).collect());
    }
    if !done.insert(module) {
        return None;
    }
    path.push(module);
    let found = imports.get(module)?.iter().find_map(|used| search(used, imports, path, done));
    path.pop();
    found
}

fn read(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a crate has sources") {
        let path = entry.expect("a folder can be read").path();
        let stem = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let module = if prefix.is_empty() { stem.clone() } else { format!("{prefix}::{stem}") };
        if path.is_dir() {
            read(&path, &module, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "tests" {
            let module = match stem.as_str() {
                "lib" | "main" => String::new(),
                "mod" => prefix.to_string(),
                _ => module,
            };
            let text = fs::read_to_string(&path).expect("a source is text");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            files.insert(module, code.to_string());
        }
    }
}

/// Whether a module is a map of others: the crate's root, or the `mod.rs` of a folder.
fn is_map(source: &Path, module: &str) -> bool {
    module.is_empty() || source.join(module.replace("::", "/")).join("mod.rs").is_file()
}

/// Every path of every `use`, its braces opened.
fn paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in statements(text) {
        let path = statement.rsplit_once("use ").map_or("", |(_, path)| path);
        expand("", path, &mut paths);
    }
    paths
}

/// The `use` statements at the left margin, each as one line.
fn statements(text: &str) -> Vec<String> {
    let (mut statements, mut lines) = (Vec::new(), text.lines());
    while let Some(line) = lines.next() {
        let is_use =
            ["use ", "pub use ", "pub(crate) use ", "pub(super) use "].iter().any(|head| line.starts_with(head));
        if is_use {
            let mut statement = line.to_string();
            while !statement.ends_with(';') {
                statement.push_str(lines.next().expect("a statement ends").trim());
            }
            statements.push(statement.trim_end_matches(';').to_string());
        }
    }
    statements
}

fn expand(prefix: &str, path: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = path.split_once('{') else {
        let name = path.split(" as ").next().unwrap_or_default().trim();
        paths.push(format!("{prefix}{}", name.trim_end_matches("::self")));
        return;
    };
    let inner = rest.trim_end().strip_suffix('}').expect("braces are closed");
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[start..at].trim();
                if !part.is_empty() {
                    let part = if part == "self" { "" } else { part };
                    expand(&format!("{prefix}{}", head.trim()), part, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// A path from the crate's root, without `crate`; `None` for one of another crate.
fn absolute(module: &str, path: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return Some(rest.trim_end_matches("::").to_string());
    }
    let (mut base, mut rest) = (module, path.strip_prefix("self::").unwrap_or(path));
    if rest == path && !path.starts_with("super::") {
        return None;
    }
    while let Some(above) = rest.strip_prefix("super::") {
        base = base.rsplit_once("::").map_or("", |(base, _)| base);
        rest = above;
    }
    Some(format!("{base}::{rest}").trim_start_matches("::").to_string())
}

/// Names that a module passes on, and the paths that they have.
fn reexports(module: &str, text: &str) -> BTreeMap<String, String> {
    let passed = statements(text).into_iter().filter(|statement| statement.starts_with("pub"));
    let mut names = BTreeMap::new();
    for statement in passed {
        let mut paths = Vec::new();
        expand("", statement.rsplit_once("use ").map_or("", |(_, path)| path), &mut paths);
        for path in paths {
            let name = path.rsplit("::").next().unwrap_or_default().to_string();
            let below = format!("{module}::{path}").trim_start_matches("::").to_string();
            names.insert(name, absolute(module, &path).unwrap_or(below));
        }
    }
    names
}

/// The module that a path leads to: the deepest that there is, or the one that a map has the name from.
fn resolve(
    path: &str,
    files: &BTreeMap<String, String>,
    passed_on: &BTreeMap<&str, BTreeMap<String, String>>,
) -> Option<String> {
    let mut module = path;
    loop {
        if files.contains_key(module) {
            break;
        }
        module = module.rsplit_once("::").map_or("", |(module, _)| module);
        if module.is_empty() {
            break;
        }
    }
    let name = path[module.len()..].trim_start_matches("::").split("::").next().unwrap_or_default();
    match passed_on.get(module).and_then(|names| names.get(name)) {
        Some(further) if further != path => resolve(further, files, passed_on),
        _ => files.contains_key(module).then(|| module.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Imports {
        edges.iter().map(|(module, used)| (module.to_string(), used.iter().map(|u| u.to_string()).collect())).collect()
    }

    #[test]
    fn a_circle_is_found_and_a_diamond_is_none() {
        assert_eq!(find(&graph(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])])), None);
        let circle = find(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]));
        assert_eq!(circle, Some(["b", "c", "b"].map(String::from).to_vec()));
    }

    #[test]
    fn braces_are_opened_and_relative_paths_found() {
        let found = paths("use crate::{a, b::{C, D as E}};\npub(crate) use super::f::G;\nuse std::fmt;\n");
        assert_eq!(found, ["crate::a", "crate::b::C", "crate::b::D", "super::f::G", "std::fmt"]);
        assert_eq!(absolute("x::y", "super::f::G").as_deref(), Some("x::f::G"));
        assert_eq!(absolute("x::y", "std::fmt"), None);
    }
}
