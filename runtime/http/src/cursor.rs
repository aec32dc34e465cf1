//! Cursors: numbers in live responses that clients send back, so that caches see another URL as time goes on.
//!
//! Time is cut into intervals of 20 s counted from 2024-10-09T00:00:00Z; a cursor is the number of an interval. A
//! client that sends the current one (or a later one) gets a number that is greater by up to an hour's worth, so that
//! it never reads its own cached answer again. The protocol wants that jump to be random; a hash of the time and of
//! the client's number spreads clients as well, and keeps a simulated run repeatable.
//!
//! Source: Durable Streams Protocol, section 10.1.

const EPOCH_MS: u64 = 1_728_432_000_000;
const INTERVAL_MS: u64 = 20_000;
/// An hour of intervals.
const JUMP_MAX: u64 = 180;
/// Nothing comes after cursors from here on: they are ignored.
const CLIENT_MAX: u64 = u64::MAX - JUMP_MAX;

/// The cursor for a response at `now_ms` (milliseconds since 1970) to a client that sent `client`.
pub(crate) fn cursor(now_ms: u64, client: Option<u64>) -> u64 {
    let current = now_ms.saturating_sub(EPOCH_MS) / INTERVAL_MS;
    match client.filter(|&client| client >= current && client < CLIENT_MAX) {
        Some(client) => client + 1 + mix(now_ms ^ client.rotate_left(32)) % JUMP_MAX,
        None => current,
    }
}

/// The finalizer of SplitMix64: every bit of the input changes half of those of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_the_interval_since_the_epoch() {
        assert_eq!(cursor(EPOCH_MS, None), 0);
        assert_eq!(cursor(EPOCH_MS + 20_000 * 1000 + 19_999, None), 1000);
        assert_eq!(cursor(0, None), 0);
    }

    #[test]
    fn a_cursor_is_always_after_the_clients() {
        let now = EPOCH_MS + 20_000 * 1000;
        assert_eq!(cursor(now, Some(7)), 1000);
        for client in [1000, 1001, 5000, 1 << 53, CLIENT_MAX - 1] {
            let given = cursor(now, Some(client));
            assert!(given > client && given <= client + JUMP_MAX, "{client} then {given}");
        }
        assert_eq!(cursor(now, Some(u64::MAX)), 1000);
    }
}
