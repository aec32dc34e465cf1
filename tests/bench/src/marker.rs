//! Markers: when a payload was sent, written into it, so that whoever receives it knows how long it took.
//!
//! A marker is `@` and a fixed number of digits, nanoseconds since a moment that both sides know. No other `@` occurs
//! in payloads, nor in what servers put around them.

use std::time::Instant;

const SIGN: u8 = b'@';
const DIGITS: usize = 19;

/// A payload of `bytes` bytes, or of as many as the marker has, of text without line ends.
pub(crate) fn payload(origin: Instant, bytes: usize) -> Vec<u8> {
    let mut payload = format!("@{:0DIGITS$}", origin.elapsed().as_nanos()).into_bytes();
    let letters = (b'a'..=b'z').cycle();
    payload.extend(letters.take(bytes.saturating_sub(payload.len())));
    payload
}

/// Finds markers in bytes that arrive in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scanner {
    /// Digits still to come; zero between markers.
    digits_left: usize,
    nanoseconds: u64,
}

impl Scanner {
    /// Gives the time in every marker that `bytes` complete to `found`.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut found: impl FnMut(u64)) {
        while !bytes.is_empty() {
            if self.digits_left == 0 {
                let Some(at) = bytes.iter().position(|&byte| byte == SIGN) else { return };
                bytes = &bytes[at + 1..];
                *self = Scanner { digits_left: DIGITS, nanoseconds: 0 };
                continue;
            }
            let (digits, rest) = bytes.split_at(bytes.len().min(self.digits_left));
            self.nanoseconds = digits.iter().fold(self.nanoseconds, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            self.digits_left -= digits.len();
            bytes = rest;
            if self.digits_left == 0 {
                found(self.nanoseconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_however_they_are_cut() {
        let text = b"data:@0000000000000000042abc@1234567890123456789";
        for cut in 0..text.len() {
            let (mut scanner, mut times) = (Scanner::default(), Vec::new());
            scanner.scan(&text[..cut], |time| times.push(time));
            scanner.scan(&text[cut..], |time| times.push(time));
            assert_eq!(times, [42, 1_234_567_890_123_456_789]);
        }
    }

    #[test]
    fn a_payload_has_the_size_that_was_asked_for() {
        assert_eq!(payload(Instant::now(), 256).len(), 256);
        assert_eq!(payload(Instant::now(), 1).len(), 1 + DIGITS);
    }
}
