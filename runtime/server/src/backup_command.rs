//! `weir backup`: has a running node copy all it has to another store, and shows how far it is.

use std::io::{self, IsTerminal as _, Write as _};

use crate::admin_client::{AdminClient, AdminError};
use crate::backup::{BackupRequest, Line, Totals};
use crate::exit::Exit;
use crate::output::Output;

/// Backs up the node at `admin` to a place that the node can reach.
///
/// # Errors
/// [`Exit::BackupFailed`] when it could not be made, others when it was not asked for.
pub(crate) fn back_up(admin: &AdminClient, to: String, output: Output) -> Result<(), Exit> {
    let request = serde_json::to_string(&BackupRequest { to }).expect("plain values can be written");
    let shows_progress = output == Output::Text && io::stderr().is_terminal();
    for line in admin.post("/backup", &request)? {
        let text = line.map_err(|error| AdminError::Answer(error.to_string()))?;
        let line = serde_json::from_str(&text).map_err(|_| AdminError::Answer(text.clone()))?;
        if output == Output::Json {
            writeln!(io::stdout(), "{text}").map_err(Exit::Output)?;
        }
        let totals = match line {
            Line::Failed { reason } => return Err(Exit::BackupFailed(reason)),
            Line::Progress(totals) => {
                if shows_progress {
                    show(&totals);
                }
                continue;
            }
            Line::End(totals) => totals,
        };
        if shows_progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        if output == Output::Text {
            let Totals { chunks, bytes, copied_bytes, .. } = totals;
            writeln!(
                io::stdout(),
                "{chunks} chunks, {} MiB, of which {} MiB were copied",
                bytes >> 20,
                copied_bytes >> 20
            )
            .map_err(Exit::Output)?;
        }
        return Ok(());
    }
    Err(AdminError::Answer("there is no last line".to_string()).into())
}

/// Who cannot see it misses nothing.
fn show(totals: &Totals) {
    let percent = (totals.bytes * 100).checked_div(totals.bytes_all).unwrap_or(0);
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K{percent:3} %  {} of {} chunks", totals.chunks, totals.chunks_all);
    let _ = stderr.flush();
}
