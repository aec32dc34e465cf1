//! Patterns over stream names: which streams of its bucket a binding is for.
//!
//! A name is matched segment by segment. `*` stands for any characters within one segment, or for a whole segment, and
//! `**` for any number of segments, also none: `orders/**` is for `orders`, `orders/7` and `orders/7/items`.
//!
//! Source: the rules of subscriptions, Durable Streams Protocol, section 6; within a segment `*` goes beyond them.

use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use weir_types::limits::PATTERN_BYTES_MAX;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pattern is 1 to {PATTERN_BYTES_MAX} bytes of segments, none of them empty; '**' is a segment of its own, as in \
     'orders/**'"
)]
pub struct PatternError;

/// A pattern, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Box<str>", into = "Box<str>")]
pub struct Pattern(Box<str>);

impl TryFrom<Box<str>> for Pattern {
    type Error = PatternError;

    fn try_from(text: Box<str>) -> Result<Pattern, PatternError> {
        Pattern::new(&text)
    }
}

impl From<Pattern> for Box<str> {
    fn from(pattern: Pattern) -> Box<str> {
        pattern.0
    }
}

impl Pattern {
    /// Checks `text` and takes it as a pattern.
    ///
    /// # Errors
    /// [`PatternError`] when it is empty, too long, has an empty segment, or `**` with something beside it.
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let is_segment = |segment: &str| !segment.is_empty() && (segment == "**" || !segment.contains("**"));
        if text.len() <= PATTERN_BYTES_MAX && text.split('/').all(is_segment) {
            Ok(Pattern(text.into()))
        } else {
            Err(PatternError)
        }
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the stream `name`, without its bucket, is meant.
    pub fn matches(&self, name: &str) -> bool {
        let pattern: SmallVec<[&str; 8]> = self.0.split('/').collect();
        let segments: SmallVec<[&str; 8]> = name.split('/').collect();
        wild(&pattern, &segments, |segment| *segment == "**", |segment, of_name| segment_matches(segment, of_name))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn segment_matches(pattern: &str, segment: &str) -> bool {
    if pattern.contains('*') {
        wild(pattern.as_bytes(), segment.as_bytes(), |byte| *byte == b'*', |byte, of_segment| byte == of_segment)
    } else {
        pattern == segment
    }
}

/// Whether `items` are what `pattern` describes, in which a star stands for any number of them.
///
/// A star that has taken too few takes one more, and the one before it is never asked again: so the time is at most the
/// product of both lengths, whatever a pattern looks like.
fn wild<P, T>(pattern: &[P], items: &[T], is_star: impl Fn(&P) -> bool, is_same: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut item) = (0, 0);
    // The last star: its place, and where the items begin that it has not taken.
    let mut star = None;
    while item < items.len() {
        match pattern.get(at) {
            Some(part) if is_star(part) => {
                star = Some((at, item));
                at += 1;
            }
            Some(part) if is_same(part, &items[item]) => {
                at += 1;
                item += 1;
            }
            _ => {
                let Some((place, taken_to)) = star else { return false };
                star = Some((place, taken_to + 1));
                at = place + 1;
                item = taken_to + 1;
            }
        }
    }
    pattern[at..].iter().all(is_star)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, matching: &[&str], other: &[&str]) {
        let pattern = Pattern::new(pattern).expect("a pattern");
        for name in matching {
            assert!(pattern.matches(name), "{pattern} is for {name}");
        }
        for name in other {
            assert!(!pattern.matches(name), "{pattern} is not for {name}");
        }
    }

    #[test]
    fn stars_stand_for_segments_and_for_parts_of_one() {
        check("orders", &["orders"], &["order", "orders/7", "a/orders"]);
        check("orders/*", &["orders/7"], &["orders", "orders/7/items"]);
        check("orders/**", &["orders", "orders/7", "orders/7/items"], &["ordersx", "a/orders"]);
        check("**", &["a", "a/b/c"], &[]);
        check("**/items", &["items", "a/items", "a/b/items"], &["items/a"]);
        check("a/**/z", &["a/z", "a/b/z", "a/z/z", "a/b/c/z"], &["a", "a/z/y"]);
        check("*/log-*", &["a/log-1", "b/log-"], &["log-1", "a/log", "a/b/log-1"]);
        check("a*b*c", &["abc", "axbyc", "abbcc"], &["ab", "acb"]);
        check("**/a/**/b", &["a/b", "x/a/y/b", "a/a/b/b"], &["b/a", "a"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "/a", "a/", "a//b", "a**", "**a/b", "a/b**c", "***", &"a".repeat(PATTERN_BYTES_MAX + 1)] {
            assert_eq!(Pattern::new(text), Err(PatternError), "{text}");
        }
    }

    #[test]
    fn many_stars_take_no_more_than_the_product_of_lengths() {
        let pattern = "*a".repeat(500);
        check(&pattern, &[&"a".repeat(1024)], &[&("a".repeat(1023) + "b")]);
        let segments = "**/a/".repeat(200) + "b";
        check(&segments, &[], &["a/".repeat(511).trim_end_matches('/')]);
    }
}
