//! `#[validator]`: a function becomes an implementation of `Validator`, on a type of the function's name.
//!
//! Types and functions have namespaces of their own, so the two share the name without getting in each other's way.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Error, FnArg, ItemFn, Result, Type, TypeReference, parse2};

/// What a parameter is filled with.
enum Parameter {
    /// The record, read as this type.
    Record(Box<Type>),
    /// All records of the append.
    Batch,
    /// The context.
    Context,
    /// The config, of this type.
    Config(Box<Type>),
}

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[validator] takes no arguments"));
    }
    let function: ItemFn = parse2(item)
        .map_err(|error| Error::new(error.span(), "#[validator] goes on a function, `fn check(record: …)`"))?;
    let parameters = parameters(&function)?;
    let config = config(&parameters)?;
    let call = call(&function, &parameters)?;
    let (name, vis) = (&function.sig.ident, &function.vis);
    let doc = format!("The validator that the function [`{name}`]({name}()) is.");
    Ok(quote! {
        #function

        #[doc = #doc]
        #[allow(non_camel_case_types)]
        #vis enum #name {}

        impl ::weir_sdk::Validator for #name {
            type Config = #config;

            fn validate(
                __batch: ::weir_sdk::Batch<'_>,
                __context: &::weir_sdk::Context<'_>,
                __config: &Self::Config,
            ) -> ::weir_sdk::BatchVerdict {
                #call
            }
        }

        #[cfg(target_family = "wasm")]
        ::weir_sdk::__export_validator!(#name);
        // Natively nothing but tests calls it, and it is not dead code all the same.
        #[cfg(not(target_family = "wasm"))]
        const _: () = ::weir_sdk::testing::exported::<#name>();
    })
}

fn parameters(function: &ItemFn) -> Result<Vec<Parameter>> {
    let signature = &function.sig;
    for unwanted in [&signature.asyncness as &dyn quote::ToTokens, &signature.unsafety, &signature.abi] {
        if !quote!(#unwanted).is_empty() {
            return Err(Error::new_spanned(unwanted, "a validator is a plain function"));
        }
    }
    if signature.generics.type_params().next().is_some() {
        return Err(Error::new_spanned(&signature.generics, "a validator has no type parameters"));
    }
    signature.inputs.iter().map(parameter).collect()
}

fn parameter(argument: &FnArg) -> Result<Parameter> {
    let FnArg::Typed(argument) = argument else {
        return Err(Error::new_spanned(argument, "a validator is a free function, it has no `self`"));
    };
    Ok(match argument.ty.as_ref() {
        Type::Reference(TypeReference { mutability: Some(mutability), .. }) => {
            let why = "a validator has no memory: another instance may judge the next append";
            return Err(Error::new_spanned(mutability, why));
        }
        Type::Reference(reference) if is_named(&reference.elem, "Context") => Parameter::Context,
        Type::Reference(reference) if is_named(&reference.elem, "Batch") || is_named(&reference.elem, "Record") => {
            return Err(Error::new_spanned(reference, "take a record or a batch by value, without `&`"));
        }
        Type::Reference(reference) => Parameter::Config(reference.elem.clone()),
        by_value if is_named(by_value, "Context") => {
            return Err(Error::new_spanned(by_value, "take the context by reference, `&Context`"));
        }
        by_value if is_named(by_value, "Batch") => Parameter::Batch,
        by_value => Parameter::Record(Box::new(by_value.clone())),
    })
}

fn is_named(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

fn config(parameters: &[Parameter]) -> Result<TokenStream> {
    let mut configs = parameters.iter().filter_map(|parameter| match parameter {
        Parameter::Config(ty) => Some(ty),
        _ => None,
    });
    match (configs.next(), configs.next()) {
        (None, _) => Ok(quote!(::weir_sdk::NoConfig)),
        (Some(config), None) => Ok(quote!(#config)),
        (Some(_), Some(second)) => Err(Error::new_spanned(second, "a validator has one config")),
    }
}

/// The body of `Validator::validate`.
fn call(function: &ItemFn, parameters: &[Parameter]) -> Result<TokenStream> {
    let name = &function.sig.ident;
    let has_batch = parameters.iter().any(|parameter| matches!(parameter, Parameter::Batch));
    let has_record = parameters.iter().any(|parameter| matches!(parameter, Parameter::Record(_)));
    if has_batch == has_record {
        let why =
            "a validator takes either the record (`Record<'_>`, `Text<'_>`, `Json<T>`) or all of them (`Batch<'_>`)";
        return Err(Error::new_spanned(&function.sig, why));
    }
    let mut reads = Vec::new();
    let mut arguments = Vec::new();
    for (index, parameter) in parameters.iter().enumerate() {
        arguments.push(match parameter {
            Parameter::Batch => quote!(__batch),
            Parameter::Context => quote!(__context),
            Parameter::Config(_) => quote!(__config),
            Parameter::Record(ty) => {
                let read = format_ident!("__record_{index}");
                reads.push(quote! {
                    let #read = match <#ty as ::weir_sdk::FromRecord<'_>>::from_record(__record) {
                        Ok(read) => read,
                        Err(rejection) => return ::weir_sdk::Verdict::Reject(rejection),
                    };
                });
                quote!(#read)
            }
        });
    }
    Ok(if has_batch {
        quote!(#name(#(#arguments),*))
    } else {
        quote! {
            ::weir_sdk::validator::each(__batch, |__record| {
                #(#reads)*
                #name(#(#arguments),*)
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(item: TokenStream) -> String {
        expand(TokenStream::new(), item).expect_err("the item is no validator").to_string()
    }

    #[test]
    fn what_is_no_validator_is_told_why() {
        assert_eq!(
            refusal(quote!(
                struct Check;
            )),
            "#[validator] goes on a function, `fn check(record: …)`"
        );
        assert_eq!(
            refusal(quote!(
                async fn check(record: Record<'_>) -> Verdict {}
            )),
            "a validator is a plain function"
        );
        assert_eq!(
            refusal(quote!(
                fn check(context: &Context) -> Verdict {}
            )),
            "a validator takes either the record (`Record<'_>`, `Text<'_>`, `Json<T>`) or all of them (`Batch<'_>`)"
        );
        assert_eq!(
            refusal(quote!(
                fn check(record: Record<'_>, context: Context<'_>) -> Verdict {}
            )),
            "take the context by reference, `&Context`"
        );
        assert_eq!(
            refusal(quote!(
                fn check(record: &Record<'_>) -> Verdict {}
            )),
            "take a record or a batch by value, without `&`"
        );
        assert_eq!(
            refusal(quote!(
                fn check(record: Record<'_>, one: &One, two: &Two) -> Verdict {}
            )),
            "a validator has one config"
        );
        assert_eq!(
            refusal(quote!(
                fn check(record: Record<'_>, seen: &mut Seen) -> Verdict {}
            )),
            "a validator has no memory: another instance may judge the next append"
        );
    }
}
