//! The ready-made modules that the binary carries: built for wasm by `build.rs`, bound as `builtin:<name>`.

use weir_shard::Builtin;
use weir_types::Role;

/// All of them.
pub(crate) static BUILTINS: [Builtin; 2] = [
    Builtin {
        name: "json-schema",
        wasm: include_bytes!(concat!(env!("OUT_DIR"), "/json_schema.wasm")),
        roles: &[Role::Validator],
    },
    Builtin { name: "stats", wasm: include_bytes!(concat!(env!("OUT_DIR"), "/stats.wasm")), roles: &[Role::Summary] },
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_wasm::{Host, HostConfig, InProcess, MemoryStore};

    use super::*;

    #[test]
    fn they_are_modules_that_an_upload_would_take() {
        let host = Host::new(Arc::new(MemoryStore::default()), Arc::new(InProcess), HostConfig::default());
        let host = host.expect("the engine runs");
        for builtin in &BUILTINS {
            let inspected = host.inspect(builtin.wasm).expect("a module");
            assert_eq!(inspected.roles, builtin.roles, "{}", builtin.name);
        }
    }
}
