//! Content types: comparing them, and keeping one copy of each however many streams have it.
//!
//! Two content types are the same when their media types are, letter case and parameters aside: a stream created as
//! `text/plain` takes `Text/Plain; charset=utf-8`. Conformance: "Case-Insensitivity" and "content-type with charset".

use std::collections::BTreeMap;
use std::sync::Arc;

/// The media type without its parameters.
fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether both name the same media type.
pub(crate) fn same(a: &str, b: &str) -> bool {
    // Most clients send what the stream was created with.
    a == b || media_type(a).eq_ignore_ascii_case(media_type(b))
}

/// Whether streams of this type are in JSON mode.
pub(crate) fn is_json(content_type: &str) -> bool {
    media_type(content_type).eq_ignore_ascii_case("application/json")
}

/// Whether a request may have had it.
pub(crate) fn is_valid(content_type: &str) -> bool {
    !content_type.is_empty() && content_type.bytes().all(|byte| byte == b'\t' || matches!(byte, b' '..=b'~'))
}

/// The content types of a group's streams, each once, with the number of streams that use it.
#[derive(Debug, Default)]
pub(crate) struct ContentTypes {
    uses: BTreeMap<Arc<str>, usize>,
    texts_bytes: usize,
}

/// What a type takes besides its text, about: a place in the tree, and the counts of its shared text.
const TYPE_BYTES: usize = 64;

impl ContentTypes {
    /// Takes one more use of `content_type`.
    pub(crate) fn intern(&mut self, content_type: &str) -> Arc<str> {
        if let Some((known, _)) = self.uses.get_key_value(content_type) {
            let known = known.clone();
            self.uses.entry(known.clone()).and_modify(|uses| *uses += 1);
            return known;
        }
        let new: Arc<str> = content_type.into();
        self.texts_bytes += new.len();
        self.uses.insert(new.clone(), 1);
        new
    }

    /// Gives one use back; the last one frees the text.
    pub(crate) fn release(&mut self, content_type: &str) {
        let uses = self.uses.get_mut(content_type).expect("a stream's content type was interned when it was created");
        assert!(*uses > 0, "a type without uses is forgotten");
        *uses -= 1;
        if *uses == 0 {
            self.uses.remove(content_type);
            self.texts_bytes -= content_type.len();
        }
    }

    /// Types in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.uses.len()
    }

    /// Memory of the types.
    pub(crate) fn bytes(&self) -> usize {
        self.uses.len() * TYPE_BYTES + self.texts_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_types_are_kept_once_and_freed_with_their_last_use() {
        let mut types = ContentTypes::default();
        let first = types.intern("text/plain");
        assert!(Arc::ptr_eq(&first, &types.intern("text/plain")));
        types.intern("Text/Plain");
        types.release("text/plain");
        assert_eq!((types.uses.len(), types.bytes()), (2, 2 * (10 + TYPE_BYTES)));
        types.release("text/plain");
        types.release("Text/Plain");
        assert_eq!((types.uses.len(), types.bytes()), (0, 0));
    }
}
