//! The attributes of `weir-sdk`, which re-exports them and documents what they are for.
//!
//! Both keep the item that they stand on as it is, implement the trait of its role, and export it when the crate is built
//! for wasm. They decide by how types are written, because that is all that an attribute sees.

mod summary;
mod validator;

use proc_macro::TokenStream;

/// Makes a function a validator: `fn(record, &Config, &Context) -> Verdict`, called once per record.
///
/// The parameters are told apart by their types, in any order:
/// - `Record<'_>`, `Text<'_>`, `Json<T>`, or any other `FromRecord`: the record;
/// - `&Context`: where and when it is to be appended; may be left out;
/// - `&C` for any other `C`: the binding's config; may be left out, and a config is then refused.
///
/// With `Batch<'_>` in place of the record the function is called once per append and returns a `BatchVerdict`.
///
/// Beside the function there is then a type of the same name, which names the validator in tests:
/// `ValidatorHarness::<check>::new()`.
#[proc_macro_attribute]
pub fn validator(arguments: TokenStream, item: TokenStream) -> TokenStream {
    validator::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Goes above `impl Summary for …`: writes what the `impl` leaves out and exports the summary.
///
/// `#[summary(state_version = 2)]` says which form the snapshots have; 1 unless said. `apply` and `query` have to be
/// there; `Config`, `new`, and `snapshot` together with `restore` have the defaults that the trait documents.
#[proc_macro_attribute]
pub fn summary(arguments: TokenStream, item: TokenStream) -> TokenStream {
    summary::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
