//! Validator: a good one, but for an import, `launch` of `rockets`, that no server has.

use weir_sdk::{Batch, BatchVerdict, validator};

#[expect(unsafe_code, reason = "an import is declared this way, and this one is never called in earnest")]
mod rockets {
    #[link(wasm_import_module = "rockets")]
    unsafe extern "C" {
        pub(crate) safe fn launch();
    }
}

#[validator]
fn check(_batch: Batch<'_>) -> BatchVerdict {
    rockets::launch();
    BatchVerdict::Accept
}
