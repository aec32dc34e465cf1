//! The ready-made modules that the binary carries: built for wasm by `build.rs`, bound as `builtin:<name>`.

use weir_shard::Builtin;

/// All of them.
pub(crate) static BUILTINS: [Builtin; 2] = [
    Builtin { name: "json-schema", wasm: include_bytes!(concat!(env!("OUT_DIR"), "/json_schema.wasm")) },
    Builtin { name: "stats", wasm: include_bytes!(concat!(env!("OUT_DIR"), "/stats.wasm")) },
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_types::Role;
    use weir_wasm::{Host, HostConfig, InProcess, MemoryStore};

    use super::*;

    #[test]
    fn they_are_modules_that_an_upload_would_take() {
        let host = Host::new(Arc::new(MemoryStore::default()), Arc::new(InProcess), HostConfig::default());
        let host = host.expect("the engine runs");
        let roles = |builtin: &Builtin| (builtin.name, host.inspect(builtin.wasm).expect("a module").roles);
        let all: Vec<_> = BUILTINS.iter().map(roles).collect();
        assert_eq!(all, [("json-schema", vec![Role::Validator]), ("stats", vec![Role::Summary])]);
    }
}
