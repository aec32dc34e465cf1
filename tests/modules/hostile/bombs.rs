//! Uploads that look for the parser that they end or hold.

use weir_testkit::compile_bomb;

use crate::encode::{COMPONENT, component, core, functions, items, leb, name, section};
use crate::{MODULE, is_well, kept, on_disk, sentence, upload};

/// Types nested in types: `kind` is 0x41 for component types, 0x42 for instance types.
fn nested_types(kind: u8, depth: usize) -> Vec<u8> {
    // Each holds one declaration: a type, the next one.
    let mut body = vec![1];
    body.extend([kind, 1, 1].repeat(depth));
    body.extend([kind, 0]);
    body
}

/// Components in components.
fn nested_components(depth: usize) -> Vec<u8> {
    // From the inside out; the bytes are put together back to front.
    let mut backwards: Vec<u8> = COMPONENT.iter().rev().copied().collect();
    for _ in 0..depth {
        let head = [vec![4], leb(backwards.len())].concat();
        backwards.extend(head.iter().rev());
        backwards.extend(COMPONENT.iter().rev());
    }
    backwards.reverse();
    backwards
}

/// Type `n + 1` is made of two of type `n`, as `item` writes it.
fn doubling(levels: usize, item: impl Fn(u8) -> Vec<u8>) -> Vec<u8> {
    let types: Vec<u8> = (0..levels).flat_map(|n| item(n as u8)).collect();
    component(&[section(7, &[leb(levels + 1), vec![0x6f, 1, 0x7d], types].concat())])
}

/// A function type with 1,000 parameters and as many results, and functions that call each other.
fn wide_calls(calls: usize) -> Vec<u8> {
    let wide = [vec![0x60], items(1_000, b"\x7f"), items(1_000, b"\x7f")].concat();
    let code = [b"\x00".to_vec(), b"\x00".to_vec(), b"\x10\x00".repeat(calls), vec![0x0b]].concat();
    let code = [leb(code.len()), code].concat();
    core(&[section(1, &[leb(1), wide].concat()), section(3, b"\x01\0"), section(10, &[leb(1), code].concat())])
}

/// Jumps to many labels, each with 1,000 values.
pub(crate) fn wide_jumps(jumps: usize) -> Vec<u8> {
    let wide = [vec![0x60, 0], items(1_000, b"\x7f")].concat();
    // Behind what is never reached there are as many values as any label wants.
    let jump = [b"\x00\x41\x00\x0e".to_vec(), items(jumps, b"\0"), vec![0]].concat();
    let code = [b"\x00\x02\x00".to_vec(), jump, b"\x0b\x0b".to_vec()].concat();
    let code = [leb(code.len()), code].concat();
    core(&[section(1, &[leb(1), wide].concat()), section(3, b"\x01\0"), section(10, &[leb(1), code].concat())])
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let import_of_type = |kind: u8, depth| {
        let import = [&[1, 0][..], &name(b"a"), &[5, 0]].concat();
        component(&[section(7, &nested_types(kind, depth)), section(10, &import)])
    };
    let long_name = name(&vec![b'x'; 100_000]);
    let empty_import = |module: &[u8]| [name(module), name(b"f"), vec![0, 0]].concat();
    let segment = [vec![1], items(1 << 10, b"\0")].concat();
    vec![
        ("component types, 762 deep", component(&[section(7, &nested_types(0x41, 762))])),
        ("component types, 1,000 deep", component(&[section(7, &nested_types(0x41, 1_000))])),
        ("component types, a million deep", component(&[section(7, &nested_types(0x41, 1_000_000))])),
        ("instance types, 1,000 deep", component(&[section(7, &nested_types(0x42, 1_000))])),
        ("an import of instance types, 126 deep", import_of_type(0x42, 126)),
        ("an import of instance types, 400 deep", import_of_type(0x42, 400)),
        ("components, 101 deep", nested_components(101)),
        ("components, 20,000 deep", nested_components(20_000)),
        ("components, 200,000 deep", nested_components(200_000)),
        ("tuples that double", doubling(100, |n| vec![0x6f, 2, n, n])),
        (
            "variants that double",
            doubling(100, |n| [vec![0x71, 2], name(b"a"), vec![1, n, 0], name(b"b"), vec![1, n, 0]].concat()),
        ),
        ("records that double", doubling(100, |n| [vec![0x72, 2], name(b"a"), vec![n], name(b"b"), vec![n]].concat())),
        ("lists, 120 deep", doubling(120, |n| vec![0x70, n])),
        ("a tuple of a million", component(&[section(7, &[vec![1, 0x6f], items(1_000_000, b"\x7d")].concat())])),
        ("flags of a million", component(&[section(7, &[vec![1, 0x6e], items(1_000_000, b"\x01a")].concat())])),
        ("wide calls", wide_calls(2_000_000)),
        ("wide jumps", wide_jumps(1_000_000)),
        ("blocks, 100,000 deep", functions(1, b"\0", &[b"\x02\x40".repeat(100_000), vec![0x0b; 100_000]].concat())),
        (
            "blocks, 2,000,000 deep",
            functions(1, b"\0", &[b"\x02\x40".repeat(2_000_000), vec![0x0b; 2_000_000]].concat()),
        ),
        ("50,001 locals", functions(1, &[vec![1], leb(50_001), vec![0x7f]].concat(), b"")),
        ("2^32 locals", functions(1, b"\x02\xff\xff\xff\xff\x0f\x7f\xff\xff\xff\xff\x0f\x7e", b"")),
        ("500 functions of 50,000 locals", functions(500, &[vec![1], leb(50_000), vec![0x7f]].concat(), b"")),
        ("a million functions", functions(1_000_000, b"\0", b"")),
        ("a million types", core(&[section(1, &items(1_000_000, b"\x60\0\0"))])),
        ("a million imports", core(&[section(1, b"\x01\x60\0\0"), section(2, &items(1_000_000, &empty_import(b"m")))])),
        (
            "100 long names",
            core(&[
                section(1, b"\x01\x60\0\0"),
                section(2, &[leb(100), [long_name.clone(), name(b"f"), vec![0, 0]].concat().repeat(100)].concat()),
            ]),
        ),
        (
            "an export with a long name",
            [functions(1, b"\0", b""), section(7, &[vec![1], long_name, vec![0, 0]].concat())].concat(),
        ),
        ("a million memories", core(&[section(5, &items(1_000_000, b"\0\0"))])),
        ("a table of 2^32", core(&[section(4, b"\x01\x70\x00\xff\xff\xff\xff\x0f")])),
        ("a million data segments", core(&[section(11, &items(1_000_000, b"\x01\0"))])),
        ("data segments of a kilobyte", core(&[section(11, &[leb(20_000), segment.repeat(20_000)].concat())])),
        (
            "a constant of a million terms",
            core(&[section(6, &[&b"\x01\x7f\0\x41\0"[..], &b"\x41\0\x6a".repeat(1_000_000), b"\x0b"].concat())]),
        ),
        ("a million custom sections", core(&[section(0, b"\x01a").repeat(1_000_000)])),
        ("a custom section of 31 MiB", core(&[section(0, &[name(b"a"), vec![0; 31 << 20]].concat())])),
        ("a section longer than the file", [core(&[]), b"\x01\xff\xff\xff\xff\x0f".to_vec()].concat()),
        ("a number without an end", [core(&[]), vec![0x01], vec![0x80; 1 << 20]].concat()),
        ("a world that is none", core(&[section(0, &[name(b"component-type:a"), vec![0xff; 1 << 20]].concat())])),
        ("nothing", Vec::new()),
        ("text", b"#!/bin/sh\n".to_vec()),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec()),
        ("a version to come", b"\0asm\x02\0\0\0".to_vec()),
        ("32 MiB of zeros", vec![0; 32 << 20]),
    ]
}

#[test]
fn a_bomb_is_refused_with_a_sentence_and_ends_nothing() {
    let mut setup = on_disk().env("WEIR_MODULES_COMPILE_TIMEOUT_MS", 1_000);
    let mut server = setup.start();
    let mut client = server.client();
    for (kind, wasm) in bombs() {
        let refusal = client.send(upload(MODULE, &wasm));
        assert!(server.is_running(), "{kind}: {}", setup.log());
        assert_eq!(refusal.status, 422, "{kind}: {refusal:?}");
        let _ = sentence(&refusal);
        is_well(&mut client);
        assert_eq!(kept(&setup), Vec::<String>::new(), "{kind}");
    }
    assert_eq!(client.send(weir_testkit::Request::get("/hostile")).expect(404).code(), "bucket_not_found");
}

#[test]
fn a_module_that_starts_for_ever_is_refused_at_upload() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    // A core module with a start function that loops, and an instance of it beside one that has the validator's name.
    let looping = core(&[
        section(1, b"\x01\x60\0\0"),
        section(3, b"\x01\0"),
        section(8, b"\0"),
        section(10, b"\x01\x07\0\x03\x40\x0c\0\x0b\x0b"),
    ]);
    let export = [&[1, 0][..], &name(b"weir:module/validator@0.1.0"), &[5, 0, 0]].concat();
    let wasm =
        component(&[section(1, &looping), section(2, b"\x01\0\0\0"), section(5, b"\x01\x01\0"), section(11, &export)]);
    let refusal = client.send(upload(MODULE, &wasm));
    let _ = sentence(&refusal);
    assert_eq!(kept(&setup), Vec::<String>::new());
    is_well(&mut client);
}

#[test]
fn the_bombs_of_one_bucket_hold_up_no_other() {
    let mut setup = on_disk().env("WEIR_MODULES_UPLOAD_WAIT_MS", 1).env("WEIR_MODULES_COMPILE_TIMEOUT_MS", 20_000);
    let server = setup.start();
    let mut client = server.client();
    let mut accepted = 0;
    for n in 0..12 {
        let target = format!("/evil/-/modules/m{n}");
        let answer = client.send(upload(&target, &[compile_bomb(4 << 20), section(0, &name(&leb(n)))].concat()));
        match answer.status {
            202 => accepted += 1,
            503 => assert!(answer.text().contains("try again when one is ready"), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    assert!((4..=8).contains(&accepted), "a bucket has places, but not all: {accepted}");
    // Another bucket's module is ready, bound and asked while those of the first are compiled.
    let wasm = weir_testkit::guest("accepts_all");
    let _ = client.send(upload("/good/-/modules/m", &wasm)).expect(202);
    weir_testkit::wait_until("the other bucket's module is ready", std::time::Duration::from_secs(15), || {
        client.send(weir_testkit::Request::get("/good/-/modules/m")).json()["status"] == "ready"
    });
    let binding = r#"{"streams":"**","module":"m","role":"validator"}"#;
    let bind = weir_testkit::Request::put("/good/-/bindings/v").body("application/json", binding);
    let _ = client.send(bind).expect(201);
    let first = client.send(weir_testkit::Request::get("/evil/-/modules/m7"));
    assert_ne!(first.json()["status"], "ready", "{first:?}");
}
