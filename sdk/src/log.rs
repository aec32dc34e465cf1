//! Log lines for the operator: [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info),
//! [`debug!`](crate::debug) and [`trace!`](crate::trace), written like `format!`.
//!
//! The server cuts a line at 1 KiB and drops lines that come too fast. In native tests, lines go to standard error
//! and to [`logs`](crate::testing).

use std::fmt;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// To follow every step.
    Trace,
    /// To find a mistake in the module.
    Debug,
    /// Worth knowing.
    Info,
    /// Somebody should look at this.
    Warn,
    /// The module could not do its job.
    Error,
}

/// Writes one line. The macros call this.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    #[cfg(target_family = "wasm")]
    crate::glue::log(level, &message.to_string());
    #[cfg(not(target_family = "wasm"))]
    crate::testing::log(level, message.to_string());
}

/// Logs at [`Level::Error`].
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Error, ::std::format_args!($($message)+)) };
}

/// Logs at [`Level::Warn`].
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Warn, ::std::format_args!($($message)+)) };
}

/// Logs at [`Level::Info`].
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Info, ::std::format_args!($($message)+)) };
}

/// Logs at [`Level::Debug`].
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Debug, ::std::format_args!($($message)+)) };
}

/// Logs at [`Level::Trace`].
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Trace, ::std::format_args!($($message)+)) };
}
