//! Config: what a binding tells the module that it binds. Use any type with `serde::Deserialize`.
//!
//! - A binding without a config counts as `{}`, so a struct whose fields all have defaults needs none.
//! - Put `#[serde(deny_unknown_fields)]` on the struct: a misspelt field is then an error when the binding is made.
//! - Put expensive setup (a table, a compiled pattern) into the config type, with `#[serde(try_from = "…")]`: it is
//!   built once per instance, and its error refuses the binding.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, Visitor};

/// The config of a module that takes none: anything but an empty config is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoConfig;

impl<'de> serde::Deserialize<'de> for NoConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NoConfig, D::Error> {
        struct Nothing;

        impl<'de> Visitor<'de> for Nothing {
            type Value = NoConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no config, because this module takes none")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<NoConfig, A::Error> {
                match fields.next_key::<String>()? {
                    None => Ok(NoConfig),
                    Some(field) => Err(A::Error::custom(format!("unknown field `{field}`, this module takes none"))),
                }
            }
        }

        deserializer.deserialize_any(Nothing)
    }
}

/// Reads a binding's config, given as JSON text.
///
/// # Errors
/// A sentence for the person who makes the binding.
pub fn read<C: DeserializeOwned>(text: &str) -> Result<C, String> {
    let text = if text.trim() == "null" { "{}" } else { text };
    serde_json::from_str(text).map_err(|error| format!("the config does not fit the module: {error}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        #[serde(default)]
        bytes_max: u32,
    }

    fn check<C: DeserializeOwned + fmt::Debug>(text: &str, expected: &str) {
        let actual = read::<C>(text).map_or_else(|error| error, |config| format!("{config:?}"));
        assert_eq!(actual, expected, "{text}");
    }

    #[test]
    fn a_missing_config_is_read_as_an_empty_one() {
        assert_eq!(read("null"), Ok(Limits { bytes_max: 0 }));
        assert_eq!(read(r#"{"bytes_max":3}"#), Ok(Limits { bytes_max: 3 }));
        check::<NoConfig>("null", "NoConfig");
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused_with_a_sentence() {
        check::<Limits>(
            r#"{"bytes":3}"#,
            "the config does not fit the module: unknown field `bytes`, expected `bytes_max` at line 1 column 8",
        );
        check::<NoConfig>(
            r#"{"bytes":3}"#,
            "the config does not fit the module: unknown field `bytes`, this module takes none at line 1 column 8",
        );
        check::<NoConfig>(
            "3",
            "the config does not fit the module: invalid type: integer `3`, expected no config, because this module takes \
             none at line 1 column 1",
        );
    }
}
