//! `weir cold check`: has a running node verify its cold tier, and repair it where it can, and says what it finds.

use std::io::{self, Write as _};

use crate::admin_client::AdminClient;
use crate::ask::ask;
use crate::check::{CheckRequest, Line, Totals};
use crate::exit::Exit;
use crate::output::{Output, Progress};

/// Checks the cold tier of the node at `admin`, as it is asked for.
///
/// # Errors
/// [`Exit::ChunksDamaged`] and [`Exit::ChunksUnread`] say what was found, others why there was no check.
pub(crate) fn check(admin: &AdminClient, request: CheckRequest, output: Output) -> Result<(), Exit> {
    let progress = Progress::new(output == Output::Text);
    let print = |line: String| match output {
        Output::Json => Ok(()),
        Output::Text => {
            progress.clear();
            writeln!(io::stdout(), "{line}").map_err(Exit::Output)
        }
    };
    let request = serde_json::to_string(&request).expect("plain values can be written");
    let totals = ask(admin, ("/cold/check", &request), output, |line| {
        match line {
            Line::Progress(Totals { chunks, chunks_all, bytes, bytes_all, .. }) => {
                progress.show((bytes * 100).checked_div(bytes_all).unwrap_or(0), chunks, chunks_all);
            }
            Line::Damaged { chunk, reason, streams, stream_bytes, unrepaired, .. } => {
                let unrepaired = unrepaired.map_or_else(String::new, |why| format!("; not repaired, {why}"));
                let lost = format!("{stream_bytes} bytes of {streams} streams are in it");
                print(format!("damaged: {chunk}: {reason}; {lost}{unrepaired}"))?;
            }
            Line::Repaired { chunk, reason, .. } => {
                print(format!("repaired: {chunk}: {reason}; it was built again from the log"))?;
            }
            Line::Unread { chunk, reason } => print(format!("not checked: {chunk}: {reason}"))?,
            Line::Elsewhere { group } => print(format!("not checked: group {group}, which another node leads"))?,
            Line::End(totals) => return Ok(Some(totals)),
        }
        Ok(None)
    })?;
    let Totals { chunks, bytes, damaged, repaired, unread, .. } = totals;
    let repaired = if repaired > 0 { format!(", {repaired} repaired") } else { String::new() };
    print(format!("{chunks} chunks, {} MiB: {damaged} damaged, {unread} not checked{repaired}", bytes >> 20))?;
    match (damaged, unread) {
        (0, 0) => Ok(()),
        (0, chunks) => Err(Exit::ChunksUnread { chunks }),
        (chunks, _) => Err(Exit::ChunksDamaged { chunks }),
    }
}
