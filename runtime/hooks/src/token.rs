//! Tokens: what whoever was woken shows when it answers. A token names one wake of one subscription and ends some time.
//!
//! It is `[number u64][generation u64][wake u64][expires_ms u64]`, all big-endian, and HMAC-SHA-256 over that, as base64url.

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// So that a signature over something else is no token.
const PURPOSE: &[u8] = b"weir callback and claim tokens";
const CLAIMS_BYTES: usize = 32;

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The subscription's number.
    pub number: u64,
    /// The wake's generation.
    pub generation: u64,
    /// The wake's own number.
    pub wake: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

fn key(seed: &[u8; 32]) -> Key {
    let derived = hmac::sign(&Key::new(HMAC_SHA256, seed), PURPOSE);
    Key::new(HMAC_SHA256, derived.as_ref())
}

/// A token that is proved by the key made of `seed`.
pub fn issue(seed: &[u8; 32], claims: Claims) -> String {
    let Claims { number, generation, wake, expires_ms } = claims;
    let mut token: Vec<u8> = [number, generation, wake, expires_ms].into_iter().flat_map(u64::to_be_bytes).collect();
    let proof = hmac::sign(&key(seed), &token);
    token.extend_from_slice(proof.as_ref());
    URL_SAFE_NO_PAD.encode(token)
}

/// What a token says, if a key made of one of `seeds` proves it and it has not ended.
pub fn verify<'a>(seeds: impl IntoIterator<Item = &'a [u8; 32]>, token: &str, now_ms: u64) -> Option<Claims> {
    let token = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (said, proof) = token.split_at_checked(CLAIMS_BYTES)?;
    seeds.into_iter().find(|seed| hmac::verify(&key(seed), said, proof).is_ok())?;
    let mut numbers = said.chunks_exact(8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight of them")));
    let mut next = || numbers.next().expect("there are four");
    let claims = Claims { number: next(), generation: next(), wake: next(), expires_ms: next() };
    (now_ms < claims.expires_ms).then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_believed_for_its_time_and_by_its_key() {
        let (old, new) = ([1; 32], [2; 32]);
        let claims = Claims { number: 3, generation: 7, wake: u64::MAX, expires_ms: 1000 };
        let token = issue(&old, claims);
        assert_eq!(verify([&new, &old], &token, 999), Some(claims));
        assert_eq!(verify([&old], &token, 1000), None, "it has ended");
        assert_eq!(verify([&new], &token, 0), None, "another key");
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            // The last character of some base64 has bits that stand for nothing; decoding refuses those.
            assert_eq!(verify([&old], &other, 0), None, "{at}");
        }
        for text in ["", "a", "a.b.c", &token[1..], &format!("{token}A")] {
            assert_eq!(verify([&old], text, 0), None, "{text}");
        }
    }
}
