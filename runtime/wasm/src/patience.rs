//! What the machine does not give at once, and gives a moment later.

use std::io;

/// How often an instance is tried to be made.
const START_ATTEMPTS: usize = 4;

/// Makes an instance with `start`, and asks again for what the machine did not give at once: it takes a moment to seal the
/// image of a module's memory while something else of the machine holds its pages, and is refused after that.
///
/// # Errors
/// The first that is not `is_of_machine`, or the last.
pub(crate) fn start_patiently<T, E>(
    mut start: impl FnMut() -> Result<T, E>,
    is_of_machine: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..START_ATTEMPTS {
        match start() {
            Err(error) if is_of_machine(&error) => {}
            started => return started,
        }
    }
    start()
}

/// Whether making an instance failed for want of something that the machine has to give, and not by the module.
pub(crate) fn is_of_machine(error: &wasmtime::Error) -> bool {
    error.root_cause().is::<io::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> wasmtime::Error {
        wasmtime::Error::from(io::Error::from(io::ErrorKind::ResourceBusy)).context("cannot add seals to the memfd")
    }

    #[test]
    fn what_the_machine_does_not_give_at_once_is_asked_for_again() {
        let attempts = |results: Vec<wasmtime::Result<u32>>| {
            let mut results = results.into_iter();
            let started = start_patiently(|| results.next().expect("it gives up in time"), is_of_machine);
            (started.map_err(|error| error.to_string()), results.len())
        };
        assert_eq!(attempts(vec![Err(busy()), Err(busy()), Ok(7)]), (Ok(7), 0));
        assert_eq!(attempts(vec![Err(wasmtime::Error::msg("trap")), Ok(7)]), (Err("trap".to_string()), 1));
        let (started, left) = attempts((0..=START_ATTEMPTS).map(|_| Err(busy())).collect());
        assert_eq!((started.is_err(), left), (true, 1));
    }
}
