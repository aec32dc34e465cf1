//! What guests get that insist on `wasi:*`, which standard libraries of other languages do.
//!
//! Clocks and randomness are answered, and always alike: the time is that of the records at hand (the first of a batch),
//! and random numbers are one fixed sequence. All other functions of `wasi:*` exist, and trap when they are called.
//!
//! - How a stream is cut into batches is not fixed, so a summary that asks for the time within a batch may see another one
//!   when it is computed again. The times in the batch itself are exact.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower};

use crate::guest::Guest;

/// Random bytes that a guest may ask for at once. More are more than a seed.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// The record `datetime` of `wasi:clocks/wall-clock`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Defines the stand-ins. Later patches of these interfaces are matched by these names, too.
pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut random = linker.instance("wasi:random/random@0.2.0")?;
    random.func_wrap("get-random-bytes", random_bytes)?;
    random.func_wrap("get-random-u64", random_u64)?;
    let mut insecure = linker.instance("wasi:random/insecure@0.2.0")?;
    insecure.func_wrap("get-insecure-random-bytes", random_bytes)?;
    insecure.func_wrap("get-insecure-random-u64", random_u64)?;
    let mut seed = linker.instance("wasi:random/insecure-seed@0.2.0")?;
    seed.func_wrap("insecure-seed", |mut guest: StoreContextMut<'_, Guest>, (): ()| {
        let guest = guest.data_mut();
        Ok(((guest.random(), guest.random()),))
    })?;
    let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.0")?;
    wall.func_wrap("now", |guest: StoreContextMut<'_, Guest>, (): ()| Ok((datetime(guest.data().now_ms()),)))?;
    wall.func_wrap("resolution", |_: StoreContextMut<'_, Guest>, (): ()| Ok((datetime(1),)))?;
    let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.0")?;
    monotonic.func_wrap("now", |guest: StoreContextMut<'_, Guest>, (): ()| {
        Ok((guest.data().now_ms().saturating_mul(NANOS_PER_MS),))
    })?;
    monotonic.func_wrap("resolution", |_: StoreContextMut<'_, Guest>, (): ()| Ok((NANOS_PER_MS,)))?;
    Ok(())
}

const NANOS_PER_MS: u64 = 1_000_000;

fn datetime(ms: u64) -> Datetime {
    Datetime { seconds: ms / 1000, nanoseconds: (ms % 1000) as u32 * NANOS_PER_MS as u32 }
}

fn random_u64(mut guest: StoreContextMut<'_, Guest>, (): ()) -> wasmtime::Result<(u64,)> {
    Ok((guest.data_mut().random(),))
}

fn random_bytes(mut guest: StoreContextMut<'_, Guest>, (len,): (u64,)) -> wasmtime::Result<(Vec<u8>,)> {
    if len > RANDOM_BYTES_MAX {
        return Err(wasmtime::Error::msg(format!("a guest may ask for {RANDOM_BYTES_MAX} random bytes at once")));
    }
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while bytes.len() < len as usize {
        bytes.extend(guest.data_mut().random().to_le_bytes());
    }
    bytes.truncate(len as usize);
    Ok((bytes,))
}
