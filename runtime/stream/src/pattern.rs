//! Patterns over stream names: which streams of its bucket a binding is for.
//!
//! A name is matched segment by segment. `*` stands for any characters within one segment, or for a whole segment, and
//! `**` for any number of segments, also none: `orders/**` is for `orders`, `orders/7` and `orders/7/items`.
//!
//! Apply matches patterns, so a name is looked at a few times at most, whatever a pattern looks like:
//! - Parts of a segment between its stars are looked for one behind the other, each in time that is linear.
//! - What is before the first `**` and behind the last has its place. What is between two of them may be anywhere, and is compared at
//!   every segment, so it is short ([`BETWEEN_MAX`]).
//!
//! Source: the rules of subscriptions, Durable Streams Protocol, section 6; within a segment `*` goes beyond them.

use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use weir_types::limits::{NAME_BYTES_MAX, PATTERN_BYTES_MAX};

/// Segments between two `**`.
const BETWEEN_MAX: usize = 4;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is too long, or not divided into segments.
    #[error(
        "a pattern is 1 to {PATTERN_BYTES_MAX} bytes of segments, none of them empty; '**' is a segment of its own, as in \
         'orders/**'"
    )]
    Malformed,
    /// Too much of it may be anywhere.
    #[error("a pattern has at most {BETWEEN_MAX} segments between a '**' and the next")]
    Between,
}

/// A pattern, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Box<str>", into = "Box<str>")]
pub struct Pattern(Box<str>);

/// A segment of a pattern that is not `**`.
#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Literal(&'a str),
    /// What is before the first star, between the first and the last, and behind that.
    Starred {
        begin: &'a str,
        between: &'a str,
        end: &'a str,
    },
}

impl TryFrom<Box<str>> for Pattern {
    type Error = PatternError;

    fn try_from(text: Box<str>) -> Result<Pattern, PatternError> {
        Pattern::kept(&text)
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
    /// [`PatternError::Malformed`] when it is empty, too long, has an empty segment, or `**` with something beside it;
    /// [`PatternError::Between`].
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let pattern = Pattern::kept(text)?;
        if pattern.between_max() <= BETWEEN_MAX { Ok(pattern) } else { Err(PatternError::Between) }
    }

    /// As [`Pattern::new`], for what an earlier version may have accepted.
    pub(crate) fn kept(text: &str) -> Result<Pattern, PatternError> {
        let is_segment = |segment: &str| !segment.is_empty() && (segment == "**" || !segment.contains("**"));
        if text.len() <= PATTERN_BYTES_MAX && text.split('/').all(is_segment) {
            Ok(Pattern(text.into()))
        } else {
            Err(PatternError::Malformed)
        }
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the stream `name`, without its bucket, is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.look(name, &mut 0)
    }

    /// Segments and bytes that are compared at most to match any name: its own, and those of a name as often as that is looked through.
    pub fn steps_max(&self) -> usize {
        let is_searched =
            |text: &str| matches!(Segment::of(text), Segment::Starred { between, .. } if !between.is_empty());
        let searched = self.0.split('/').any(|text| text != "**" && is_searched(text));
        let looks = self.between_max().max(usize::from(searched));
        self.0.len() + 1 + looks * (NAME_BYTES_MAX + 1)
    }

    /// The most segments that are between two `**`.
    fn between_max(&self) -> usize {
        let (_, between, _) = self.parts();
        between
            .into_iter()
            .flat_map(|between| between.split("**"))
            .map(|group| segments(group).count())
            .max()
            .unwrap_or(0)
    }

    /// What is before the first `**`, between that and the last, and behind it.
    fn parts(&self) -> (&str, Option<&str>, Option<&str>) {
        let Some((first, behind)) = self.0.split_once("**") else { return (&self.0, None, None) };
        let (between, last) = behind.rsplit_once("**").map_or((None, behind), |(between, last)| (Some(between), last));
        (first, between, Some(last))
    }

    /// Matches, and counts the bytes and segments that are compared.
    fn look(&self, name: &str, steps: &mut usize) -> bool {
        let (first, between, last) = self.parts();
        let mut rest = Some(name);
        for segment in segments(first) {
            if !take_first(&mut rest).is_some_and(|of_name| Segment::of(segment).is(of_name, steps)) {
                return false;
            }
        }
        let Some(last) = last else { return rest.is_none() };
        for segment in segments(last).rev() {
            if !take_last(&mut rest).is_some_and(|of_name| Segment::of(segment).is(of_name, steps)) {
                return false;
            }
        }
        let Some(between) = between else { return true };
        let names: SmallVec<[&str; 8]> = rest.iter().flat_map(|rest| rest.split('/')).collect();
        let mut names = &names[..];
        between.split("**").all(|group| {
            let group: SmallVec<[Segment<'_>; BETWEEN_MAX]> = segments(group).map(Segment::of).collect();
            let mut is_here =
                |names: &[&str]| group.iter().zip(names).all(|(segment, of_name)| segment.is(of_name, steps));
            let begins = 0..(names.len() + 1).saturating_sub(group.len());
            // Where it is first leaves the most to the others.
            let begin = begins.into_iter().find(|&begin| is_here(&names[begin..]));
            begin.is_some_and(|begin| {
                names = &names[begin + group.len()..];
                true
            })
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The segments of what is beside a `**`.
fn segments(group: &str) -> impl DoubleEndedIterator<Item = &str> {
    group.split('/').filter(|segment| !segment.is_empty())
}

/// Takes the first segment off a name; `None` if there is none.
fn take_first<'a>(rest: &mut Option<&'a str>) -> Option<&'a str> {
    let name = (*rest)?;
    let (first, others) = name.split_once('/').map_or((name, None), |(first, others)| (first, Some(others)));
    *rest = others;
    Some(first)
}

/// Takes the last segment off a name; `None` if there is none.
fn take_last<'a>(rest: &mut Option<&'a str>) -> Option<&'a str> {
    let name = (*rest)?;
    let (others, last) = name.rsplit_once('/').map_or((None, name), |(others, last)| (Some(others), last));
    *rest = others;
    Some(last)
}

impl<'a> Segment<'a> {
    fn of(text: &'a str) -> Segment<'a> {
        let Some((begin, behind)) = text.split_once('*') else { return Segment::Literal(text) };
        let (between, end) = behind.rsplit_once('*').unwrap_or(("", behind));
        Segment::Starred { begin, between, end }
    }

    /// Whether it is for this segment of a name.
    fn is(self, of_name: &str, steps: &mut usize) -> bool {
        *steps += 1;
        match self {
            Segment::Literal(text) => {
                *steps += text.len().min(of_name.len());
                text == of_name
            }
            Segment::Starred { begin, between, end } => {
                *steps += (begin.len() + end.len()).min(of_name.len());
                let Some(mut rest) = of_name.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)) else {
                    return false;
                };
                *steps += if between.is_empty() { 0 } else { rest.len() };
                // Each where it is first, which leaves the most to the others. The search is linear in what it passes.
                between.split('*').filter(|part| !part.is_empty()).all(|part| match rest.find(part) {
                    Some(at) => {
                        rest = &rest[at + part.len()..];
                        true
                    }
                    None => false,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            assert_eq!(Pattern::new(text), Err(PatternError::Malformed), "{text}");
        }
    }

    #[test]
    fn little_of_a_pattern_may_be_anywhere() {
        for text in ["**/a/b/c/d/**", "a/b/c/d/e/**/a/**/a/b/c/d/e", "**/**/a", "a/b/c/d/e"] {
            let pattern = Pattern::new(text).expect("a pattern");
            assert_eq!(Pattern::kept(text), Ok(pattern));
        }
        let many = "**/a/b/*/c/d/**";
        assert_eq!(Pattern::new(many), Err(PatternError::Between));
        let kept = Pattern::kept(many).expect("an earlier version took it");
        assert!(kept.matches("x/a/b/c/c/d") && !kept.matches("a/b/c/d"));
    }

    /// Names and patterns of few letters, so that much is alike.
    fn texts(letters: &'static str) -> impl Strategy<Value = String> {
        let segment = proptest::string::string_regex(letters).expect("an expression");
        proptest::collection::vec(segment, 1..7).prop_map(|segments| segments.join("/"))
    }

    /// What a pattern means, said as simply as can be.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], _) => name.is_empty(),
            (["**", rest @ ..], _) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            (_, []) => false,
            ([first, rest @ ..], [of_name, names @ ..]) => {
                naive_segment(first.as_bytes(), of_name.as_bytes()) && naive(rest, names)
            }
        }
    }

    fn naive_segment(pattern: &[u8], segment: &[u8]) -> bool {
        match (pattern, segment) {
            ([], _) => segment.is_empty(),
            ([b'*', rest @ ..], _) => (0..=segment.len()).any(|taken| naive_segment(rest, &segment[taken..])),
            (_, []) => false,
            ([first, rest @ ..], [byte, bytes @ ..]) => first == byte && naive_segment(rest, bytes),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_matches_is_what_a_naive_matcher_says(
            text in texts(r"(\*\*|(\*?[abä]){0,2}\*?[abä]\*?|\*)"),
            name in texts(r"[abä]{1,4}"),
        ) {
            let pattern = Pattern::kept(&text).expect("a pattern");
            let split = |text: &'static str| text.split('/').collect::<Vec<_>>();
            let expected = naive(&split(text.clone().leak()), &split(name.clone().leak()));
            prop_assert_eq!(pattern.matches(&name), expected, "{} for {}", text, name);
            let mut steps = 0;
            pattern.look(&name, &mut steps);
            prop_assert!(steps <= pattern.steps_max(), "{}: {} for {}", steps, text, name);
        }
    }

    #[test]
    fn the_worst_pattern_looks_at_a_name_a_few_times() {
        let name_of = |part: &str| part.repeat(NAME_BYTES_MAX / part.len()).trim_end_matches('/').to_string();
        let mut most = 0;
        for text in [
            "*a".repeat(500),
            format!("*{}b", "a".repeat(512)),
            format!("*{}b*", "a".repeat(512)),
            format!("*{}b*", "a*".repeat(500)),
            "**/a/".repeat(200) + "b",
            "**/a/a/a/b/**".to_string(),
            "**/*a*/*a*/*a*/*b*/**".to_string(),
            "**/a/a/a/a/".repeat(90) + "**/b",
            "a/".repeat(511) + "b",
            "**/".to_string() + &"a/".repeat(500) + "b",
        ] {
            let pattern = Pattern::new(&text).expect("a pattern");
            for name in ["a/", "aa/", "aaaaaaaaaaaaaaa/", "a", "ab", "b/a/"].map(name_of) {
                let mut steps = 0;
                pattern.look(&name, &mut steps);
                assert!(steps <= pattern.steps_max(), "{steps} for {text}");
                most = most.max(steps);
            }
        }
        // A name is looked at four times, segments and bytes: it were 263,000 when every star could be asked again.
        assert!((4_000..=5_125).contains(&most), "{most}");
        assert_eq!(Pattern::new("orders/*").expect("a pattern").steps_max(), 9);
    }
}
