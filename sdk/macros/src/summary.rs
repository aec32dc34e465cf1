//! `#[summary]`: completes an `impl Summary for …` with the defaults that a trait itself could not have, because they
//! ask more of the type (`Default`, `Serialize`) than a summary that does without them must offer.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, Ident, ImplItem, ItemImpl, LitInt, Result, Token, parse::Parser, parse2};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let why = "#[summary] goes above `impl Summary for …`";
    let mut item: ItemImpl = parse2(item).map_err(|error| Error::new(error.span(), why))?;
    let of_trait = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
    if of_trait.is_none_or(|name| name.ident != "Summary") {
        return Err(Error::new_spanned(&item.self_ty, why));
    }
    if item.generics.type_params().next().is_some() {
        return Err(Error::new_spanned(&item.generics, "a summary has no type parameters"));
    }
    let state_version = state_version(arguments)?;
    let has = |name: &str| item.items.iter().any(|item| name_of(item).is_some_and(|ident| ident == name));
    if has("STATE_VERSION") {
        return Err(Error::new_spanned(&item.self_ty, "say `#[summary(state_version = …)]` in place of the constant"));
    }
    let mut defaults = quote! {
        const STATE_VERSION: u32 = #state_version;
        fn the_attribute_summary_is_missing_above_this_impl() {}
    };
    if !has("Config") {
        defaults.extend(quote! {
            type Config = ::weir_sdk::NoConfig;
        });
    }
    if !has("new") {
        defaults.extend(quote! {
            fn new(_config: &Self::Config) -> Self {
                ::core::default::Default::default()
            }
        });
    }
    match (has("snapshot"), has("restore")) {
        (true, true) => {}
        (false, false) => defaults.extend(quote! {
            fn snapshot(&self) -> ::std::vec::Vec<u8> {
                ::weir_sdk::summary::snapshot_json(self)
            }

            fn restore(
                state_version: u32,
                snapshot: &[u8],
                _config: &Self::Config,
            ) -> ::core::result::Result<Self, ::std::string::String> {
                ::weir_sdk::summary::restore_json(state_version, snapshot)
            }
        }),
        _ => {
            return Err(Error::new_spanned(
                &item.self_ty,
                "`snapshot` and `restore` go together: write both or neither",
            ));
        }
    }
    let mut whole = parse2::<ItemImpl>(quote!(impl Defaults { #defaults }))?;
    item.items.append(&mut whole.items);
    let summary = &item.self_ty;
    Ok(quote! {
        #item

        #[cfg(target_family = "wasm")]
        ::weir_sdk::__export_summary!(#summary);
        // Natively nothing but tests makes one, and it is not dead code all the same.
        #[cfg(not(target_family = "wasm"))]
        const _: () = ::weir_sdk::testing::exported::<#summary>();
    })
}

fn state_version(arguments: TokenStream) -> Result<u32> {
    if arguments.is_empty() {
        return Ok(1);
    }
    let parser = |input: syn::parse::ParseStream<'_>| {
        let name: Ident = input.parse()?;
        if name != "state_version" {
            return Err(Error::new(name.span(), "#[summary] knows `state_version = …` only"));
        }
        input.parse::<Token![=]>()?;
        input.parse::<LitInt>()?.base10_parse()
    };
    parser.parse2(arguments)
}

fn name_of(item: &ImplItem) -> Option<&Ident> {
    match item {
        ImplItem::Const(item) => Some(&item.ident),
        ImplItem::Fn(item) => Some(&item.sig.ident),
        ImplItem::Type(item) => Some(&item.ident),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: TokenStream, item: TokenStream) -> String {
        expand(arguments, item).expect_err("the item is no summary").to_string()
    }

    #[test]
    fn what_is_no_summary_is_told_why() {
        let none = TokenStream::new;
        assert_eq!(
            refusal(
                none(),
                quote!(
                    struct Totals;
                )
            ),
            "#[summary] goes above `impl Summary for …`"
        );
        assert_eq!(refusal(none(), quote!(impl Totals {})), "#[summary] goes above `impl Summary for …`");
        assert_eq!(
            refusal(quote!(version = 1), quote!(impl Summary for Totals {})),
            "#[summary] knows `state_version = …` only"
        );
        let only_snapshot = quote!(impl Summary for Totals { fn snapshot(&self) -> Vec<u8> {} });
        assert_eq!(refusal(none(), only_snapshot), "`snapshot` and `restore` go together: write both or neither");
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let whole = quote!(impl Summary for Totals {
            type Config = Limits;
            fn new(config: &Limits) -> Self {}
            fn snapshot(&self) -> Vec<u8> {}
            fn restore(state_version: u32, snapshot: &[u8], config: &Limits) -> Result<Self, String> {}
        });
        let expanded = expand(quote!(state_version = 3), whole).expect("a whole summary").to_string();
        assert_eq!(expanded.matches("fn new").count(), 1);
        assert_eq!(expanded.matches("fn restore").count(), 1);
        assert!(expanded.contains("STATE_VERSION : u32 = 3u32"));
    }
}
