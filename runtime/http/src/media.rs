//! Media types, and how stored messages become one body.

use bytes::Bytes;

/// A type without its parameters, as sent.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether a stream of this type keeps messages (protocol, section 9.1).
pub(crate) fn is_json(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case("application/json")
}

/// Stored messages, `message,message,`, as an array.
pub(crate) fn array(mut messages: Vec<Bytes>) -> Vec<Bytes> {
    if let Some(last) = messages.iter_mut().rev().find(|chunk| !chunk.is_empty()) {
        debug_assert_eq!(last.last(), Some(&b','), "a range ends at a message's end");
        last.truncate(last.len() - 1);
    }
    let mut chunks = Vec::with_capacity(messages.len() + 2);
    chunks.push(Bytes::from_static(b"["));
    chunks.append(&mut messages);
    chunks.push(Bytes::from_static(b"]"));
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_messages_become_an_array() {
        let text = |chunks: &[&'static str]| {
            let chunks = array(chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect());
            String::from_utf8(chunks.concat()).expect("UTF-8")
        };
        assert_eq!(text(&[]), "[]");
        assert_eq!(text(&["1,"]), "[1]");
        assert_eq!(text(&["1,2,", "[3,4],", ""]), "[1,2,[3,4]]");
    }
}
