//! What guests get that insist on `wasi:*`, which standard libraries of other languages do.
//!
//! - Clocks and randomness are answered, and always alike: see [`Surroundings`].
//! - Arguments, environment and folders are empty, standard input is at its end, nothing is a terminal, and what would wait
//!   need not.
//! - What is written to standard output and standard error is in the guest's log.
//! - All other functions of WASI 0.2 exist, and trap when they are called, with a sentence that names the function.
//!
//! They are defined under the very names that a module imports, whatever its patch of WASI 0.2. Their resources hold nothing:
//! a handle's number is all there is.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType};
use wasmtime::{Engine, StoreContextMut};

use crate::contract::validator::weir::module::log::{Host as LogHost, Level};
use crate::guest::Guest;

/// What the names of all of them begin with.
pub(crate) const NAMESPACE: &str = "wasi:";
/// Random bytes that a guest may ask for at once. More are more than a seed.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// Bytes that a guest may write at once.
const WRITE_BYTES_MAX: u64 = 4 << 10;
const NANOS_PER_MS: u64 = 1_000_000;

/// What the stand-ins ask of the data of an instance's store.
pub(crate) trait Surroundings: LogHost + Send + 'static {
    /// The time of the records at hand (the first of a batch), in milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// The next of a fixed sequence of numbers.
    fn random(&mut self) -> u64;
}

impl Surroundings for Guest {
    fn now_ms(&self) -> u64 {
        Guest::now_ms(self)
    }

    fn random(&mut self) -> u64 {
        Guest::random(self)
    }
}

/// The record `datetime` of `wasi:clocks/wall-clock`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// The variant `stream-error` of `wasi:io/streams`.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "the type has it, and no stream of ours fails so")]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<Failure>),
    #[component(name = "closed")]
    Closed,
}

/// Resource `error` of `wasi:io/error`: there is none.
struct Failure;
/// Resource `pollable`: always ready.
struct Pollable;
/// Resource `input-stream`: at its end.
struct Input;
/// Resource `output-stream`: [`STDOUT`] or [`STDERR`].
struct Output;
/// Resource `descriptor` of `wasi:filesystem/types`: there is none.
struct Descriptor;
/// Resource `terminal-input`: there is none.
struct TerminalInput;
/// Resource `terminal-output`: there is none.
struct TerminalOutput;
/// Any other resource: there is none.
struct Other;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// A guest that calls: what every function here gets first.
type Caller<'a, T> = StoreContextMut<'a, T>;

/// Defines one imported interface of WASI 0.2.
///
/// # Errors
/// A sentence, when it holds what no interface holds.
pub(crate) fn define<T: Surroundings>(
    engine: &Engine,
    linker: &mut Linker<T>,
    name: &str,
    item: &ComponentItem,
) -> Result<(), String> {
    let ComponentItem::ComponentInstance(instance) = item else {
        return Err(format!("the module imports `{name}`, which is no interface"));
    };
    let (interface, _) = name.split_once('@').unwrap_or((name, ""));
    let mut define = || -> wasmtime::Result<()> {
        let mut linker = linker.instance(name)?;
        for (export, item) in instance.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(_) => function(&mut linker, interface, export)?,
                ComponentItem::Resource(_) => linker.resource(export, resource(export), |_, _| Ok(()))?,
                // Types are part of the functions.
                _ => {}
            }
        }
        Ok(())
    };
    define().map_err(|error| format!("the module imports `{name}`, which cannot be provided: {error:#}"))
}

/// The resource of this name.
fn resource(name: &str) -> ResourceType {
    match name {
        "error" => ResourceType::host::<Failure>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<Input>(),
        "output-stream" => ResourceType::host::<Output>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        _ => ResourceType::host::<Other>(),
    }
}

/// Defines a function of an interface.
fn function<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match interface {
        "wasi:random/random" | "wasi:random/insecure" | "wasi:random/insecure-seed" => random(linker, interface, name),
        "wasi:clocks/wall-clock" | "wasi:clocks/monotonic-clock" => clock(linker, interface, name),
        "wasi:io/poll" | "wasi:io/streams" => io(linker, interface, name),
        "wasi:filesystem/preopens" | "wasi:cli/environment" => nothing(linker, interface, name),
        "wasi:cli/stdin" | "wasi:cli/stdout" | "wasi:cli/stderr" => stdio(linker, interface, name),
        "wasi:cli/terminal-stdin" | "wasi:cli/terminal-stdout" | "wasi:cli/terminal-stderr" => {
            terminal(linker, interface, name)
        }
        _ => absent(linker, interface, name),
    }
}

fn random<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-random-bytes" | "get-insecure-random-bytes" => linker.func_wrap(name, random_bytes),
        "get-random-u64" | "get-insecure-random-u64" => {
            linker.func_wrap(name, |mut guest: Caller<'_, T>, (): ()| Ok((guest.data_mut().random(),)))
        }
        "insecure-seed" | "get-insecure-seed" => linker.func_wrap(name, |mut guest: Caller<'_, T>, (): ()| {
            let guest = guest.data_mut();
            Ok(((guest.random(), guest.random()),))
        }),
        _ => absent(linker, interface, name),
    }
}

fn random_bytes<T: Surroundings>(mut guest: Caller<'_, T>, (len,): (u64,)) -> wasmtime::Result<(Vec<u8>,)> {
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

fn clock<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match (interface, name) {
        ("wasi:clocks/wall-clock", "now") => {
            linker.func_wrap(name, |guest: Caller<'_, T>, (): ()| Ok((datetime(guest.data().now_ms()),)))
        }
        ("wasi:clocks/wall-clock", "resolution") => linker.func_wrap(name, |_, (): ()| Ok((datetime(1),))),
        (_, "now") => linker
            .func_wrap(name, |guest: Caller<'_, T>, (): ()| Ok((guest.data().now_ms().saturating_mul(NANOS_PER_MS),))),
        (_, "resolution") => linker.func_wrap(name, |_, (): ()| Ok((NANOS_PER_MS,))),
        (_, "subscribe-instant" | "subscribe-duration") => linker.func_wrap(name, |_, (_,): (u64,)| pollable()),
        _ => absent(linker, interface, name),
    }
}

fn datetime(ms: u64) -> Datetime {
    Datetime { seconds: ms / 1000, nanoseconds: (ms % 1000) as u32 * NANOS_PER_MS as u32 }
}

fn pollable() -> wasmtime::Result<(Resource<Pollable>,)> {
    Ok((Resource::new_own(0),))
}

fn io<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "poll" => linker.func_wrap(name, |_, (pollables,): (Vec<Resource<Pollable>>,)| {
            Ok(((0..pollables.len() as u32).collect::<Vec<u32>>(),))
        }),
        "[method]pollable.ready" => linker.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok((true,))),
        "[method]pollable.block" => linker.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok(())),
        "[method]input-stream.subscribe" => linker.func_wrap(name, |_, (_,): (Resource<Input>,)| pollable()),
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => linker
            .func_wrap(name, |_, (_, _): (Resource<Input>, u64)| {
                Ok((Err::<Vec<u8>, StreamError>(StreamError::Closed),))
            }),
        "[method]output-stream.subscribe" => linker.func_wrap(name, |_, (_,): (Resource<Output>,)| pollable()),
        "[method]output-stream.check-write" => {
            linker.func_wrap(name, |_, (_,): (Resource<Output>,)| Ok((Ok::<u64, StreamError>(WRITE_BYTES_MAX),)))
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            linker.func_wrap(name, |mut guest: Caller<'_, T>, (to, bytes): (Resource<Output>, Vec<u8>)| {
                write(guest.data_mut(), to.rep(), &bytes);
                Ok((Ok::<(), StreamError>(()),))
            })
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            linker.func_wrap(name, |_, (_,): (Resource<Output>,)| Ok((Ok::<(), StreamError>(()),)))
        }
        _ => absent(linker, interface, name),
    }
}

/// What a guest prints is a message of its log, without the line's end.
fn write<T: Surroundings>(guest: &mut T, to: u32, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end();
    if !text.is_empty() {
        guest.log(if to == STDERR { Level::Error } else { Level::Info }, text.to_string());
    }
}

fn nothing<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-directories" => linker.func_wrap(name, |_, (): ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),))),
        "get-environment" => linker.func_wrap(name, |_, (): ()| Ok((Vec::<(String, String)>::new(),))),
        "get-arguments" => linker.func_wrap(name, |_, (): ()| Ok((Vec::<String>::new(),))),
        "initial-cwd" => linker.func_wrap(name, |_, (): ()| Ok((None::<String>,))),
        _ => absent(linker, interface, name),
    }
}

fn stdio<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-stdin" => linker.func_wrap(name, |_, (): ()| Ok((Resource::<Input>::new_own(0),))),
        "get-stdout" => linker.func_wrap(name, |_, (): ()| Ok((Resource::<Output>::new_own(STDOUT),))),
        "get-stderr" => linker.func_wrap(name, |_, (): ()| Ok((Resource::<Output>::new_own(STDERR),))),
        _ => absent(linker, interface, name),
    }
}

fn terminal<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-terminal-stdin" => linker.func_wrap(name, |_, (): ()| Ok((None::<Resource<TerminalInput>>,))),
        "get-terminal-stdout" | "get-terminal-stderr" => {
            linker.func_wrap(name, |_, (): ()| Ok((None::<Resource<TerminalOutput>>,)))
        }
        _ => absent(linker, interface, name),
    }
}

/// A function that is there to be imported, not to be called.
fn absent<T: Surroundings>(linker: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    let sentence = match (interface, name) {
        ("wasi:cli/exit", _) => "the module has ended itself".to_string(),
        _ => format!(
            "the module called `{interface}#{name}`, which no module has: there are no files, no network, no processes"
        ),
    };
    linker.func_new(name, move |_, _, _, _| Err(wasmtime::Error::msg(sentence.clone())))
}
