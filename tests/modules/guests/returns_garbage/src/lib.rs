//! Both roles: answers what the contract forbids, which garbage is chosen by the first record or the query's path.
//!
//! Written on the bare bindings, because the SDK does not let such things out.
#![cfg(target_family = "wasm")]

#[expect(unsafe_code, reason = "generated from wit/")]
mod validator_module {
    wit_bindgen::generate!({ path: "../../../../wit/0.1.0", world: "weir:module/validator-module", generate_all });

    export!(Export with_types_in self);
    use super::Export;
}

#[expect(unsafe_code, reason = "generated from wit/")]
mod summary_module {
    wit_bindgen::generate!({ path: "../../../../wit/0.1.0", world: "weir:module/summary-module", generate_all });

    export!(Export with_types_in self);
    use super::Export;
}

use summary_module::exports::weir::module::summary::{self, Fold, View};
use validator_module::exports::weir::module::validator::{self, AppendContext, Rejection, Verdict};
use validator_module::weir::module::types::Batch;

struct Export;

impl validator::Guest for Export {
    fn configure(_bucket: String, _config: String) -> Result<(), String> {
        Ok(())
    }

    /// The first record says what: `falling` and `short` ends, `empty`, `index`, `code`, `text`; ends beyond the data
    /// for any other.
    fn validate(_context: AppendContext, input: Batch) -> Verdict {
        let reject =
            |index, code: &str, message: String| Verdict::Reject(Rejection { index, code: code.to_owned(), message });
        let replace = |ends: &[u32]| {
            let (first_offset, times) = (input.first_offset, input.times.clone());
            Verdict::Replace(Batch { first_offset, ends: ends.to_vec(), times, data: b"abc".to_vec() })
        };
        match &input.data[..input.ends[0] as usize] {
            b"falling" | br#""falling""# => replace(&[2, 1, 3]),
            b"short" | br#""short""# => replace(&[1, 2]),
            b"empty" | br#""empty""# => replace(&[]),
            b"index" | br#""index""# => reject(u32::MAX, "code", "no record has this index".to_owned()),
            b"code" | br#""code""# => reject(0, "Bad Code\r\nX: y", "a code with a line in it".to_owned()),
            b"text" | br#""text""# => reject(0, "code", not_utf8()),
            _ => replace(&[1, 2, u32::MAX]),
        }
    }
}

struct Nothing;

impl summary::Guest for Export {
    type Fold = Nothing;

    fn configure(_bucket: String, _config: String) -> Result<(), String> {
        Ok(())
    }
}

impl summary::GuestFold for Nothing {
    fn new() -> Nothing {
        Nothing
    }

    fn apply(&self, _input: summary::Batch) -> Result<(), String> {
        Ok(())
    }

    /// `/body` has a body that is not what its type says, `/header` a type with a line in it; any other is not UTF-8.
    fn query(&self, path: String, _params: Vec<(String, String)>) -> Result<View, String> {
        let view =
            |content_type: &str, body: &[u8]| View { content_type: content_type.to_owned(), body: body.to_vec() };
        Ok(match path.as_str() {
            "/body" => view("application/json", b"\xff\xfe"),
            "/header" => view("text/plain\r\nX-Injected: yes", b""),
            _ => View { content_type: not_utf8(), body: Vec::new() },
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        b"\xff".to_vec()
    }

    fn restore(_snapshot: Vec<u8>) -> Result<Fold, String> {
        Err("this module cannot read its own snapshots".to_owned())
    }
}

fn not_utf8() -> String {
    #[expect(unsafe_code, reason = "a `String` that is none is what the test is about")]
    // SAFETY: none, on purpose. The string is only ever copied out to the server, which has to find out.
    unsafe {
        String::from_utf8_unchecked(b"\xff\xfe".to_vec())
    }
}
