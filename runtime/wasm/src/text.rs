//! What guests say, made fit for logs and sentences where it enters: one line of bounded length, in which nothing can
//! command a terminal or pass for a line of its own.

/// Bytes of a guest's sentence that are kept.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// `text` as one line of at most [`MESSAGE_BYTES_MAX`] bytes: control characters, line separators and the marks that turn
/// the direction of writing are escaped, as in `\n` and `\u{1b}`.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MESSAGE_BYTES_MAX));
    for c in text.trim_end().chars() {
        let before = line.len();
        if is_dangerous(c) {
            line.extend(c.escape_debug())
        } else {
            line.push(c)
        }
        if line.len() > MESSAGE_BYTES_MAX {
            // An escape is kept whole or not at all.
            line.truncate(before);
            break;
        }
    }
    line
}

fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_one_line_without_commands() {
        for (said, line) in [
            ("plain \"text\" with 'quotes' and ö", "plain \"text\" with 'quotes' and ö"),
            ("two\nlines\r\n", "two\\nlines"),
            ("\u{1b}[2Jred\u{9b}", "\\u{1b}[2Jred\\u{9b}"),
            ("a\u{2028}b\u{202e}c\0", "a\\u{2028}b\\u{202e}c\\0"),
        ] {
            assert_eq!(one_line(said), line);
        }
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(one_line(&"ö".repeat(1000)), "ö".repeat(512));
        assert_eq!(one_line(&format!("a{}", "\u{1b}".repeat(1000))), format!("a{}", "\\u{1b}".repeat(170)));
    }
}
