//! Randomness for crates that insist on it: always the same, because a verdict must be the same wherever it is reached.
//!
//! `jsonschema` seeds its hash maps with it and uses it for nothing else. The price is that a hostile record could be
//! made of keys that collide, which the fuel of a call bounds.

use getrandom::Error;

/// Fills `len` bytes at `dest`. Called by `getrandom`, which names it and gives it this form.
#[expect(unsafe_code, reason = "getrandom looks its custom backend up by this symbol")]
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(dest: *mut u8, len: usize) -> Result<(), Error> {
    // SAFETY: getrandom's only call passes the pointer and the length of one `&mut [MaybeUninit<u8>]`, which may be
    // written whole and to which nothing else refers meanwhile.
    unsafe { dest.write_bytes(0x42, len) };
    Ok(())
}
