//! How commands ask a running node for something that lasts.

use std::io::{self, Write as _};

use serde::de::DeserializeOwned;

use crate::admin_client::{AdminClient, AdminError};
use crate::exit::Exit;
use crate::output::Output;

/// Has the node at `admin` do something, told as JSON, and has `take` have each line that it answers with, until that gives
/// what comes of it. Prints the lines as they are if `output` is JSON.
///
/// # Errors
/// What `take` says; [`Exit::Admin`] when the node refuses or does not answer to the end, [`Exit::Output`].
pub(crate) fn ask<L: DeserializeOwned, T>(
    admin: &AdminClient,
    (path, body): (&str, &str),
    output: Output,
    mut take: impl FnMut(L) -> Result<Option<T>, Exit>,
) -> Result<T, Exit> {
    for line in admin.post(path, body)? {
        let text = line.map_err(|error| AdminError::Answer(error.to_string()))?;
        let line = serde_json::from_str(&text).map_err(|_| AdminError::Answer(text.clone()))?;
        if output == Output::Json {
            writeln!(io::stdout(), "{text}").map_err(Exit::Output)?;
        }
        if let Some(end) = take(line)? {
            return Ok(end);
        }
    }
    Err(AdminError::Answer("there is no last line".to_string()).into())
}
