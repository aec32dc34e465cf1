//! Starts that are refused: the exit code, and what the sentence says.

use weir_testkit::{S3, Setup, ports};

use crate::ledger::Ledger;
use crate::{URL, append, setup, setup_at, wait_cold};

/// Asserts that the server ends with `code` by itself and tells all of `words` in one sentence.
#[track_caller]
pub(crate) fn assert_refused(setup: &Setup, code: i32, words: &[&str]) {
    let exit = setup.run();
    assert_eq!(exit.code, Some(code), "{exit:?}");
    let sentence = exit.log.lines().find(|line| line.starts_with("weir: ")).unwrap_or_default();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}; log:\n{}", exit.log);
    }
}

#[test]
fn a_bucket_that_is_not_there_is_refused() {
    let s3 = S3::start();
    let setup = setup(&s3).env("WEIR_COLD_URL", "s3://other/test");
    assert_refused(&setup, 7, &["cold.url", "s3://other/test", &s3.endpoint(), "there is no such bucket"]);
}

#[test]
fn credentials_that_the_store_does_not_know_are_refused() {
    let s3 = S3::start();
    s3.accept_only("another");
    assert_refused(&setup(&s3), 7, &["cold.url", URL, &s3.endpoint(), "denied", "InvalidAccessKeyId"]);
    s3.accept_only("key");
    setup(&s3).start().kill();
}

#[test]
fn an_endpoint_where_nobody_listens_is_refused_by_a_new_node() {
    let endpoint = format!("http://{}", ports::free());
    assert_refused(&setup_at(&endpoint), 7, &["cold.url", URL, &endpoint, "Connection refused"]);
}

#[test]
fn a_store_that_another_node_has_claimed_is_refused() {
    let s3 = S3::start();
    let (mut first, second) = (setup(&s3), setup(&s3));
    let server = first.start();
    assert_refused(&second, 7, &["cold.url", URL, &s3.endpoint(), "another cluster's"]);
    server.kill();
    assert_refused(&second, 7, &["cold.url", URL, &s3.endpoint(), "another cluster's"]);
    // Under another prefix it is another store.
    let server = second.env("WEIR_COLD_URL", "s3://weir/second").start();
    first.start().kill();
    server.kill();
}

#[test]
fn a_store_that_is_not_where_the_old_bytes_are_is_refused() {
    let s3 = S3::start();
    let mut setup = setup(&s3);
    setup.start().kill();
    let other = setup.clone().env("WEIR_COLD_URL", "s3://other/test");
    assert_refused(&other, 7, &["cold.url", "s3://other/test", URL, "old bytes"]);
    for url in ["s3://weir/second", "local", "off"] {
        assert_refused(&setup.clone().env("WEIR_COLD_URL", url), 7, &["cold.url", url, URL]);
    }
    // A bucket of the same name somewhere else.
    let elsewhere = S3::start();
    let other = setup.clone().env("WEIR_COLD_ENDPOINT", elsewhere.endpoint());
    assert_refused(&other, 7, &["cold.url", URL, &elsewhere.endpoint(), "now it is another one"]);
    assert!(elsewhere.objects().is_empty(), "a store that is refused is changed");
    setup.start().kill();
}

#[test]
fn chunks_of_which_nothing_says_whose_they_are_are_refused() {
    let s3 = S3::start();
    let mut ledger = Ledger::new("/cold/unmarked", 4096);
    let server = setup(&s3).start();
    ledger.create(&server);
    append(&server, &mut ledger, 1);
    wait_cold(&server, std::slice::from_ref(&ledger));
    server.kill();
    s3.objects().retain(|key, _| key.ends_with(".chunk"));
    let before = s3.objects().clone();
    assert_refused(&setup(&s3), 7, &["cold.url", URL, &s3.endpoint(), "weir-cluster"]);
    assert!(*s3.objects() == before, "a store that is refused is changed");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let s3 = S3::start();
    for url in ["gs://weir/test", "https://weir/test", "s3://", "s3:///test"] {
        assert_refused(&setup(&s3).env("WEIR_COLD_URL", url), 2, &["cold.url", url]);
    }
    let without_tls = setup(&s3).env("WEIR_COLD_ALLOW_HTTP", false);
    assert_refused(&without_tls, 2, &["cold.endpoint", &s3.endpoint(), "cold.allow_http"]);
}
