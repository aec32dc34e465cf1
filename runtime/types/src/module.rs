//! The words of modules: what one is called, what names its bytes, and what it can be used as.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::key::is_word;

/// Why a text is no module's or binding's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a module's or binding's name is 1 to 64 of a-z, 0-9, '_' and '-', and begins with a letter or digit")]
pub struct ModuleNameError;

/// The name of a module or of a binding within its bucket: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Box<str>", into = "Box<str>")]
pub struct ModuleName(Box<str>);

impl ModuleName {
    /// Checks `text` and takes it as a name.
    ///
    /// # Errors
    /// [`ModuleNameError`] when it does not match the pattern.
    pub fn new(text: &str) -> Result<ModuleName, ModuleNameError> {
        if is_word(text) { Ok(ModuleName(text.into())) } else { Err(ModuleNameError) }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<Box<str>> for ModuleName {
    type Error = ModuleNameError;

    fn try_from(text: Box<str>) -> Result<ModuleName, ModuleNameError> {
        ModuleName::new(&text)
    }
}

impl From<ModuleName> for Box<str> {
    fn from(name: ModuleName) -> Box<str> {
        name.0
    }
}

/// SHA-256 of a module's bytes as they were uploaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        // One spelling only, because a digest is also a file's name.
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(DigestError),
        };
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| DigestError)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest(bytes))
    }
}

/// What a module can be used as. One module may be both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Decides what may enter a stream.
    Validator,
    /// Folds a stream into a state that can be asked.
    Summary,
}

impl Role {
    /// Both roles.
    pub const ALL: [Role; 2] = [Role::Validator, Role::Summary];

    /// The role's word: in a binding, and as the interface that a module exports to have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Validator => "validator",
            Role::Summary => "summary",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_spelling() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = text.parse().expect("64 digits");
        assert_eq!(digest.to_string(), text);
        let upper = text.to_uppercase();
        for wrong in ["", &text[1..], &upper, "é", &"é".repeat(32), &format!("{text}0")] {
            assert_eq!(wrong.parse::<Digest>(), Err(DigestError), "{wrong}");
        }
    }

    #[test]
    fn names_are_words() {
        for name in ["a", "7", "json-schema", "a_b", &"n".repeat(64)] {
            assert!(ModuleName::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "_", "A", "a.b", "a/b", "é", &"n".repeat(65)] {
            assert_eq!(ModuleName::new(name), Err(ModuleNameError), "{name}");
        }
    }
}
