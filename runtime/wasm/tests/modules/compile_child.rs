//! The compiler child alone, as `weir compile-module` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_wasm::compile_child()
}
