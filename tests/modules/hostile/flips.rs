//! A real module with a few bits changed: what is still valid may be used, and what is not is refused.

use weir_testkit::{Request, guest};

use crate::{MODULE, is_well, kept, on_disk, sentence, upload};

const COPIES: u64 = 500;

/// splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_module_with_bits_flipped_is_refused_or_works_or_traps() {
    let mut setup = on_disk();
    let mut server = setup.start();
    let mut client = server.client();
    let whole = guest("accepts_all");
    let mut state = 1;
    let mut refused = 0;
    for copy in 0..COPIES {
        let mut wasm = whole.clone();
        for _ in 0..=copy % 3 {
            let at = random(&mut state) as usize % wasm.len();
            wasm[at] ^= 1 << (random(&mut state) % 8);
        }
        let answer = client.send(upload(MODULE, &wasm));
        assert!(server.is_running(), "{copy}: {}", setup.log());
        if answer.status == 422 {
            let _ = sentence(&answer);
            refused += 1;
        } else {
            assert!(matches!(answer.status, 200..=202), "{copy}: {answer:?}");
            let binding = r#"{"streams":"**","module":"m","role":"validator"}"#;
            let bind = Request::put("/hostile/-/bindings/v").body("application/json", binding);
            let bound = client.send(bind).status;
            assert!(matches!(bound, 201 | 409 | 422), "{copy}: {bound}");
            let _ = client.send(Request::put("/hostile/s").header("Content-Type", "text/plain"));
            let appended = client.send(Request::post("/hostile/s").body("text/plain", "a")).status;
            assert!(matches!(appended, 204 | 422 | 500 | 503), "{copy}: {appended}");
            let _ = client.send(Request::delete("/hostile/-/bindings/v"));
            let _ = client.send(Request::delete(MODULE)).expect(204);
        }
        assert_eq!(kept(&setup), Vec::<String>::new(), "{copy}");
    }
    assert!((1..COPIES).contains(&refused), "{refused} of {COPIES}");
    is_well(&mut client);
}

#[test]
fn a_name_leads_nowhere_else() {
    let mut setup = on_disk();
    let server = setup.start();
    let mut client = server.client();
    let wasm = guest("accepts_all");
    let long = "a".repeat(65);
    let names = [
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fevil",
        "%2fetc%2fpasswd",
        "a%00b",
        "a%0ab",
        "a%1bb",
        "A",
        "a.b",
        "a%5cb",
        "",
        &long,
        "%ff",
    ];
    for name in names {
        // A connection of its own: what is refused before it is read may end it.
        let answer = server.client().send(upload(&format!("/hostile/-/modules/{name}"), &wasm));
        assert!(matches!(answer.status, 400 | 404 | 405), "{name}: {answer:?}");
    }
    assert_eq!(kept(&setup), Vec::<String>::new());
    is_well(&mut client);
}
