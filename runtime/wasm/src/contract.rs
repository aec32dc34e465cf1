//! The contract of `wit/0.1.0` as Rust types, and which versions of it are served.
//!
//! Before 1.0 the minor version is the breaking one, so a module made for any `0.1` is served. What a later patch adds
//! and this host lacks is found when the module is linked.

/// The package of all interfaces.
pub(crate) const PACKAGE: &str = "weir:module/";
/// What is served, for refusals.
pub(crate) const SUPPORTED: &str = "weir:module/validator@0.1 and weir:module/summary@0.1";

/// Whether `version`, which follows the `@` of an interface's name, is served.
pub(crate) fn is_version_served(version: &str) -> bool {
    let mut parts = version.split('.');
    let is_line = (parts.next(), parts.next()) == (Some("0"), Some("1"));
    is_line && parts.next().is_some_and(|patch| patch.parse::<u32>().is_ok()) && parts.next().is_none()
}

/// World `validator-module`.
pub(crate) mod validator {
    wasmtime::component::bindgen!({
        path: "../../wit/0.1.0",
        world: "validator-module",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// World `summary-module`.
pub(crate) mod summary {
    wasmtime::component::bindgen!({
        path: "../../wit/0.1.0",
        world: "summary-module",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: { "weir:module/log@0.1.0": crate::contract::validator::weir::module::log },
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_patch_of_the_line_is_served() {
        for served in ["0.1.0", "0.1.7"] {
            assert!(is_version_served(served), "{served}");
        }
        for other in ["", "0", "0.1", "0.2.0", "1.1.0", "0.1.0.0", "0.1.0-rc", "0.1.-1"] {
            assert!(!is_version_served(other), "{other}");
        }
    }
}
