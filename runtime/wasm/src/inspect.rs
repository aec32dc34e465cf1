//! What a module must be: valid, with names on its surface that the contract has.
//!
//! Runs in the [child process](crate::child): parsing is where hostile input does its harm.
//!
//! Two forms are accepted. A *component* names interfaces: `weir:module/log@0.1.0`. A *core module*, as cargo makes for
//! `wasm32-unknown-unknown`, names functions by the same interfaces: it imports `log` from module
//! `weir:module/log@0.1.0` and exports `weir:module/validator@0.1.0#validate`; what it needs for its own resources it
//! imports from `[export]weir:module/summary@0.1.0`. Its section `component-type` describes these names; with it, it is made
//! into a component.

use std::collections::BTreeSet;

use wasmparser::{BinaryReaderError, Parser, Payload, Validator, WasmFeatures};
use weir_types::Role;

use crate::batch::MESSAGE_BYTES_MAX;
use crate::contract::{PACKAGE, SUPPORTED, is_version_served};
use crate::standins::NAMESPACE;

/// Exports that a refusal names at most.
const EXPORTS_NAMED_MAX: usize = 8;
/// Bytes of a name that a refusal repeats: names may have a hundred thousand.
const NAME_BYTES_MAX: usize = 120;
/// What the names of the sections begin with that describe a core module's world.
const COMPONENT_TYPE: &str = "component-type";
/// How such a section comes about.
const EMBED: &str = "`wasm-tools component embed weir-module.wit --world validator-module IN.wasm -o OUT.wasm`";

/// Why a module is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Neither a core module nor a component.
    #[error("this is not WebAssembly: a module begins with the bytes 00 61 73 6d")]
    NotWasm,
    /// Truncated, malformed, or in need of a proposal that is off.
    #[error("this is not valid WebAssembly: {0}")]
    Invalid(String),
    /// It wants what guests do not have.
    #[error("the module imports `{name}`, which is not provided: {hint}")]
    UnknownImport {
        /// The import.
        name: String,
        /// Where it may have come from.
        hint: &'static str,
    },
    /// It exports nothing that could be called.
    #[error("the module exports neither world; it exports {found}, and supported are {SUPPORTED}")]
    NoWorld {
        /// What it exports instead.
        found: String,
    },
    /// It was made for another version of the contract.
    #[error("the module uses `{found}`; supported are {SUPPORTED}")]
    Version {
        /// An interface of the other version.
        found: String,
    },
    /// A core module that does not say what its functions mean.
    #[error(
        "the module is a core module and has no section `component-type`, which describes its world: {EMBED} adds it (or \
         summary-module), with wit/0.1.0/weir-module.wit of Weir's sources"
    )]
    NoComponentType,
    /// A core module whose description is not what it is.
    #[error(
        "no component can be made of this core module: {reason}; its section `component-type` must describe all that it \
         imports and exports (see `wasm-tools component embed`), or build it as a component, as wasm32-wasip2 does"
    )]
    NotEncodable {
        /// What was found.
        reason: String,
    },
}

/// The names on a module's outside.
#[derive(Default)]
struct Surface {
    imports: BTreeSet<String>,
    exports: Vec<String>,
    has_component_type: bool,
}

/// What a component that is [valid](validate) can be used as: at least one role.
///
/// # Errors
/// The first reason not to accept it.
pub(crate) fn inspect(component: &[u8]) -> Result<Vec<Role>, Refusal> {
    check(&surface(component).map_err(invalid)?)
}

/// Checks a core module that is [valid](validate): whether a component can be made of it that [`inspect`] would take. The
/// roles are those that its exports promise.
///
/// # Errors
/// The first reason not to accept it.
pub(crate) fn check_core(wasm: &[u8]) -> Result<Vec<Role>, Refusal> {
    let surface = surface(wasm).map_err(invalid)?;
    let roles = check(&surface)?;
    if surface.has_component_type { Ok(roles) } else { Err(Refusal::NoComponentType) }
}

fn check(surface: &Surface) -> Result<Vec<Role>, Refusal> {
    for import in &surface.imports {
        check_import(import)?;
    }
    roles(&surface.exports)
}

/// Checks validity: what must be true before any other code may look at the bytes.
pub(crate) fn validate(wasm: &[u8]) -> Result<(), Refusal> {
    if !Parser::is_core_wasm(wasm) && !Parser::is_component(wasm) {
        return Err(Refusal::NotWasm);
    }
    Validator::new_with_features(features()).validate_all(wasm).map(drop).map_err(invalid)
}

/// The refusal of a core module that could not be made a component, for this reason.
pub(crate) fn not_encodable(reason: &str) -> Refusal {
    Refusal::NotEncodable { reason: cut(reason, MESSAGE_BYTES_MAX).to_string() }
}

/// The proposals that [`engine`](crate::config::engine) leaves on.
fn features() -> WasmFeatures {
    WasmFeatures::WASM2 | WasmFeatures::EXTENDED_CONST | WasmFeatures::MULTI_MEMORY | WasmFeatures::COMPONENT_MODEL
}

fn invalid(error: BinaryReaderError) -> Refusal {
    Refusal::Invalid(format!("{} (at byte {})", cut(error.message(), MESSAGE_BYTES_MAX), error.offset()))
}

/// Reads the outermost names, of a module or of a component.
fn surface(wasm: &[u8]) -> Result<Surface, BinaryReaderError> {
    let mut surface = Surface::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            Payload::CustomSection(section) => {
                surface.has_component_type |= section.name().starts_with(COMPONENT_TYPE);
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    surface.imports.insert(core_import(import.module, import.name));
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    surface.exports.push(export?.name.to_string());
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    surface.imports.insert(import?.name.name.to_string());
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    surface.exports.push(export?.name.name.to_string());
                }
            }
            _ => {}
        }
    }
    Ok(surface)
}

/// A core import, named by its interface where it has one, else by both its names.
fn core_import(module: &str, name: &str) -> String {
    let interface = module.strip_prefix("[export]").unwrap_or(module);
    if interface.contains('/') { interface.to_string() } else { format!("{module}::{name}") }
}

/// Refuses what is neither the contract's nor of WASI 0.2, which gets stand-ins.
pub(crate) fn check_import(name: &str) -> Result<(), Refusal> {
    let unknown = |hint| Err(Refusal::UnknownImport { name: cut(name, NAME_BYTES_MAX).to_string(), hint });
    if let Some(wasi) = name.strip_prefix(NAMESPACE) {
        let (interface, version) = wasi.split_once('@').unwrap_or((wasi, ""));
        let package = interface.split('/').next().unwrap_or_default();
        if !["cli", "clocks", "filesystem", "http", "io", "random", "sockets"].contains(&package) {
            return unknown("WASI 0.2 has no such package");
        }
        if !version.starts_with("0.2.") {
            return unknown(
                "stand-ins are provided for WASI 0.2 only; use a toolchain that targets it (wasm32-wasip2)",
            );
        }
        return Ok(());
    }
    if let Some(ours) = name.strip_prefix(PACKAGE) {
        let (interface, version) = ours.split_once('@').unwrap_or((ours, ""));
        if !["log", "types", "validator", "summary"].contains(&interface) {
            return unknown("the contract has no such interface");
        }
        if !is_version_served(version) {
            return Err(version_refused(name));
        }
        return Ok(());
    }
    let hint = if name.starts_with("wasi_snapshot_preview1") {
        "build for wasm32-unknown-unknown or wasm32-wasip2 instead of wasm32-wasip1"
    } else if name.starts_with("__wbindgen") {
        "a dependency was built for a web browser; turn off its feature `js` or `wasm_js`"
    } else {
        "a module may import only weir:module/log"
    };
    unknown(hint)
}

fn version_refused(interface: &str) -> Refusal {
    Refusal::Version { found: cut(interface, NAME_BYTES_MAX).to_string() }
}

/// The roles that a module's exports give it.
fn roles(exports: &[String]) -> Result<Vec<Role>, Refusal> {
    let mut roles = BTreeSet::new();
    for export in exports {
        let interface = export.split_once('#').map_or(export.as_str(), |(interface, _)| interface);
        let Some((name, version)) = interface.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@')) else {
            continue;
        };
        for role in Role::ALL {
            if name == role.as_str() {
                if !is_version_served(version) {
                    return Err(version_refused(interface));
                }
                roles.insert(role);
            }
        }
    }
    if roles.is_empty() {
        return Err(Refusal::NoWorld { found: listed(exports) });
    }
    Ok(roles.into_iter().collect())
}

/// The first exports, for a sentence.
fn listed(exports: &[String]) -> String {
    if exports.is_empty() {
        return "nothing".to_string();
    }
    let names: Vec<String> =
        exports.iter().take(EXPORTS_NAMED_MAX).map(|name| format!("`{}`", cut(name, NAME_BYTES_MAX))).collect();
    let more = exports.len().saturating_sub(EXPORTS_NAMED_MAX);
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}

/// At most `bytes_max` bytes of a text that a module has made.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: &[u8] = b"\0asm\x01\0\0\0";

    fn check(wasm: &[u8]) -> String {
        match validate(wasm).and_then(|()| check_core(wasm)) {
            Ok(roles) => format!("{roles:?}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    /// A core module that imports a function, or exports one.
    fn core(import: Option<(&str, &str)>, export: Option<&str>) -> Vec<u8> {
        fn name(name: &str) -> Vec<u8> {
            [&[name.len() as u8], name.as_bytes()].concat()
        }
        fn section(id: u8, body: &[u8]) -> Vec<u8> {
            [&[id, body.len() as u8], body].concat()
        }
        let mut wasm = [CORE, &section(1, &[1, 0x60, 0, 0])].concat();
        if let Some((module, item)) = import {
            wasm.extend(section(2, &[&[1][..], &name(module), &name(item), &[0, 0]].concat()));
        }
        if let Some(export) = export {
            wasm.extend(section(3, &[1, 0]));
            wasm.extend(section(7, &[&[1][..], &name(export), &[0, 0]].concat()));
            wasm.extend(section(10, &[1, 2, 0, 0x0b]));
        }
        wasm.extend(section(0, &name("component-type:test")));
        wasm
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert_eq!(check(b""), Refusal::NotWasm.to_string());
        assert_eq!(check(b"#!/bin/sh"), Refusal::NotWasm.to_string());
        assert_eq!(check(&CORE[..7]), Refusal::NotWasm.to_string());
        let whole = core(None, Some("weir:module/validator@0.1.0#validate"));
        assert_eq!(check(&whole), "[Validator]");
        for bytes in 8..whole.len() {
            let part = &whole[..bytes];
            let refusal = validate(part).and_then(|()| check_core(part)).expect_err("a part is not the whole");
            let is_expected =
                matches!(refusal, Refusal::Invalid(_) | Refusal::NoWorld { .. } | Refusal::NoComponentType);
            assert!(is_expected, "{refusal}");
        }
    }

    #[test]
    fn a_core_module_must_describe_itself() {
        let whole = core(None, Some("weir:module/validator@0.1.0#validate"));
        let section_bytes = 3 + "component-type:test".len();
        let sentence = check(&whole[..whole.len() - section_bytes]);
        assert!(sentence.contains("wasm-tools component embed") && sentence.contains("component-type"), "{sentence}");
    }

    #[test]
    fn unknown_imports_are_named() {
        let sentence = check(&core(Some(("env", "abort")), None));
        assert!(sentence.contains("`env::abort`") && sentence.contains("weir:module/log"), "{sentence}");
        let sentence = check(&core(Some(("wasi_snapshot_preview1", "fd_write")), None));
        assert!(sentence.contains("`wasi_snapshot_preview1::fd_write`") && sentence.contains("wasip2"), "{sentence}");
        let sentence = check(&core(Some(("weir:module/clock@0.1.0", "now")), None));
        assert!(sentence.contains("`weir:module/clock@0.1.0`"), "{sentence}");
        let sentence = check(&core(Some(("wasi:nn/inference@0.2.0", "f")), None));
        assert!(sentence.contains("`wasi:nn/inference@0.2.0`") && sentence.contains("no such package"), "{sentence}");
        let sentence = check(&core(Some(("wasi:clocks/system-clock@0.3.0", "now")), None));
        assert!(sentence.contains("`wasi:clocks/system-clock@0.3.0`") && sentence.contains("WASI 0.2"), "{sentence}");
        let sentence = check(&core(Some(("weir:module/log@0.9.0", "log")), None));
        assert!(sentence.contains("`weir:module/log@0.9.0`") && sentence.contains(SUPPORTED), "{sentence}");
    }

    #[test]
    fn a_missing_world_is_named_with_what_there_is() {
        assert!(check(CORE).contains("it exports nothing, and supported are weir:module/validator@0.1"));
        assert!(check(&core(None, Some("main"))).contains("it exports `main`"));
        let sentence = check(&core(None, Some("weir:module/summary@0.2.0#configure")));
        assert!(sentence.contains("`weir:module/summary@0.2.0`"), "{sentence}");
    }

    #[test]
    fn a_summary_may_import_its_own_resource_and_wasi() {
        let summary = "weir:module/summary@0.1.0#configure";
        for module in ["[export]weir:module/summary@0.1.0", "weir:module/log@0.1.3", "wasi:random/random@0.2.6"] {
            assert_eq!(check(&core(Some((module, "f")), Some(summary))), "[Summary]");
        }
    }
}
