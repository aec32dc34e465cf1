//! Other ends that are met properly, and then say what no node says.

use proptest::collection::vec;
use proptest::prelude::*;
use weir_cluster::LinkConfig;

use crate::support::{message, number, pair, run};

/// A frame's header: bytes, checksum, role, kind, bodies, head, number.
fn header(bytes: u32, role: u8, number: u64) -> Vec<u8> {
    let mut header = vec![];
    header.extend(bytes.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    header.extend([role, 0, 0, 0]);
    header.extend(0u32.to_le_bytes());
    header.extend(number.to_le_bytes());
    header
}

#[test]
fn an_answer_to_what_was_not_asked_ends_the_connection() {
    run(async || {
        let mut sealed = header(24, 3, 77);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&sealed[..4]), &sealed[8..]);
        sealed[4..8].copy_from_slice(&crc.to_le_bytes());
        let damaged = header(24, 3, 0);
        let huge = header(u32::MAX, 2, 0);
        let cases = [
            (sealed, "it answered what it was not asked"),
            (damaged, "a damaged frame"),
            (huge, "a frame of 4294967295 bytes with a head of 0 and 0 bodies is too large"),
            (vec![0; 24], "a frame that no version of weir wrote"),
        ];
        for (bytes, expected) in cases {
            let mut pair = pair(LinkConfig::default());
            let _incoming = pair.connect().await;
            let answer = pair.link.begin(message(1, 1)).await.expect("is taken");
            pair.net.tap().inject(&bytes);
            let error = answer.await.expect_err("is not answered").to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    });
}

#[test]
fn garbage_ends_a_connection_and_not_the_node() {
    proptest!(ProptestConfig::with_cases(200), |(garbage in vec(any::<u8>(), 1..300), role in 0..5u8, bytes in 0..70_000u32)| {
        run(async || {
            let mut pair = pair(LinkConfig::default());
            let _incoming = pair.connect().await;
            let answer = pair.link.begin(message(1, 1)).await.expect("is taken");
            pair.net.tap().inject(&header(bytes, role, 1));
            pair.net.tap().inject(&garbage);
            assert!(answer.await.expect_err("is not answered").may_have_arrived());
            // And it is met again.
            let _incoming = pair.connect().await;
            let answer = pair.link.begin(message(2, 1));
            assert!(answer.await.is_ok());
        });
    });
}

#[test]
fn garbage_of_a_node_that_calls_ends_its_connection() {
    proptest!(ProptestConfig::with_cases(200), |(garbage in vec(any::<u8>(), 1..300), role in 0..5u8, bytes in 0..70_000u32)| {
        run(async || {
            let mut pair = pair(LinkConfig::default());
            let mut incoming = pair.connect().await;
            pair.net.far_tap().inject(&header(bytes, role, 1));
            pair.net.far_tap().inject(&garbage);
            assert!(incoming.next().await.is_none());
            let mut incoming = pair.connect().await;
            let answer = pair.link.begin(message(2, 1)).await.expect("is taken");
            incoming.next().await.expect("a request").1.send(message(3, 1));
            assert_eq!(number(&answer.await.expect("is answered")), 3);
        });
    });
}

#[test]
fn a_request_in_the_place_of_an_answer_is_none() {
    run(async || {
        let mut pair = pair(LinkConfig::default());
        let mut incoming = pair.connect().await;
        let answer = pair.link.begin(message(9, 1)).await.expect("is taken");
        let (request, _responder) = incoming.next().await.expect("a request");
        assert_eq!(number(&request), 9);
        let mut request = header(24, 1, 1);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&request[..4]), &request[8..]);
        request[4..8].copy_from_slice(&crc.to_le_bytes());
        pair.net.tap().inject(&request);
        assert!(answer.await.expect_err("is not answered").may_have_arrived());
    });
}
