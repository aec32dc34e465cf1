//! The child that looks at modules alone, as `weir module-child` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_wasm::module_child()
}
