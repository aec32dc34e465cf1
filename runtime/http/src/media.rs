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

/// Whether text of this type is in UTF-8, as it is unless it says otherwise.
pub(crate) fn is_utf8(content_type: &str) -> bool {
    let charset = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    charset.is_none_or(|charset| ["utf-8", "utf8", "us-ascii"].iter().any(|utf8| charset.eq_ignore_ascii_case(utf8)))
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
    fn text_says_how_it_is_coded() {
        for utf8 in ["text/plain", "text/plain; charset=UTF-8", "text/html;a=b; Charset=\"utf-8\""] {
            assert!(is_utf8(utf8), "{utf8}");
        }
        assert!(!is_utf8("text/plain; charset=iso-8859-1"));
    }

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
